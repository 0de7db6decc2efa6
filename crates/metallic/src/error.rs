//! Everything that can go wrong between a call and its kernel.

use std::borrow::Cow;
use std::path::PathBuf;

use crate::device::DeviceId;
use crate::dispatch::{Backend, Reason};
use crate::tensor::{DType, Layout};

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, with the numbers.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor's axes do not fit the op or each other.
    #[error("{op}: {what} is {got}, expected {expected}")]
    Shape {
        /// The op's name.
        op: &'static str,
        /// Which axis of which tensor, as in `k axis 1 (kv_heads)`.
        what: String,
        /// What it should have been, and why.
        expected: String,
        /// What it was.
        got: String,
    },
    /// A tensor has an element type the op does not take.
    #[error("{op}: {binding} has element type {got}, expected {expected}")]
    DType {
        /// The op's name.
        op: &'static str,
        /// The tensor's name.
        binding: &'static str,
        /// The accepted types.
        expected: &'static str,
        /// The type it has.
        got: DType,
    },
    /// A number given to an op is out of its range.
    #[error("{op}: {what} is {got}, expected {expected}")]
    Parameter {
        /// The op's name.
        op: &'static str,
        /// The parameter's name.
        what: &'static str,
        /// Its range.
        expected: &'static str,
        /// Its value.
        got: f64,
    },
    /// A part of a segment does not take its share of the arguments, or failed at work.
    #[error("{op}: {part}: {error}")]
    Part {
        /// The segment's name.
        op: &'static str,
        /// The part, as `q projection`.
        part: &'static str,
        /// What the part's own check or kernel says.
        error: Box<Error>,
    },
    /// A view reaches past its buffer or splits a block.
    #[error("a {dtype} view of shape {} with strides {:?} at offset {} does not fit a buffer of {bytes} bytes", .layout.shape(), .layout.strides(), .layout.offset())]
    Layout {
        /// The element type.
        dtype: DType,
        /// The view.
        layout: Layout,
        /// The buffer's size.
        bytes: usize,
    },
    /// A view of a tensor cannot be had without moving data.
    #[error("cannot {what} a tensor of shape {} with strides {:?}", .layout.shape(), .layout.strides())]
    View {
        /// What was asked for.
        what: &'static str,
        /// The tensor's layout.
        layout: Layout,
    },
    /// A tensor lies on another device than the context that should run on it.
    #[error("{op}: {binding} lies on {got}, but the context runs on {expected}")]
    WrongDevice {
        /// The op's name, or what was done with the tensor.
        op: &'static str,
        /// The tensor's name.
        binding: &'static str,
        /// The context's device.
        expected: DeviceId,
        /// The tensor's device.
        got: DeviceId,
    },
    /// A backend was demanded that cannot do this call.
    #[error(
        "{op}: backend {backend} was demanded by {source_of_choice}, but cannot run here: {reason}; use `auto` to let another backend run"
    )]
    Unsupported {
        /// The op's name.
        op: &'static str,
        /// The demanded backend.
        backend: Backend,
        /// Where the demand came from.
        source_of_choice: String,
        /// Why not.
        reason: Reason,
    },
    /// A kernel takes calls of this spec, but not this one: its lengths, strides or addresses.
    #[error("{op}: {kernel} cannot run this call: {reason}")]
    Declined {
        /// The op's name.
        op: &'static str,
        /// The kernel's name among those of its backend.
        kernel: &'static str,
        /// Why not.
        reason: Reason,
    },
    /// No registered kernel can do this call.
    #[error("{op}: no backend on {device} can run this call: {reasons}")]
    NoBackend {
        /// The op's name.
        op: &'static str,
        /// The device.
        device: DeviceId,
        /// Each candidate with its reason.
        reasons: String,
    },
    /// Another backend ran than `--require-backend` asks for.
    #[error("{op}: backend {required} is required, but {selected} was selected ({reason})")]
    RequiredBackend {
        /// The op's name.
        op: &'static str,
        /// The required one.
        required: Backend,
        /// The selected one.
        selected: Backend,
        /// Why it was selected.
        reason: String,
    },
    /// A graph did not compile.
    #[error("compiling {key} failed: {reason}")]
    Compile {
        /// The cache key.
        key: String,
        /// The executor's words.
        reason: String,
    },
    /// A graph is not in a frozen cache.
    #[error("{key} is not compiled and the cache is frozen; warm it before freezing")]
    CacheFrozen {
        /// The cache key.
        key: String,
    },
    /// A setting has a value nobody knows.
    #[error("unknown value `{value}` for {setting}; accepted: {accepted}")]
    UnknownValue {
        /// The flag, variable or key.
        setting: String,
        /// The value given.
        value: String,
        /// The accepted values.
        accepted: Cow<'static, str>,
    },
    /// A configuration file cannot be used.
    #[error("configuration file {}: {reason}", .path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A device has not enough memory.
    #[error(
        "{device} cannot allocate {bytes} bytes; use a shorter context (-c), a smaller KV type (-ctk, -ctv) or a smaller model"
    )]
    OutOfMemory {
        /// The device.
        device: DeviceId,
        /// The size asked for.
        bytes: usize,
    },
    /// A file cannot be read by a device.
    #[error("cannot read {}: {reason}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's words.
        reason: String,
    },
    /// A device reported a failure of its own.
    #[error("{device}: {what}: {reason}")]
    Device {
        /// The device.
        device: DeviceId,
        /// What was being done.
        what: &'static str,
        /// The device's words.
        reason: String,
    },
}
