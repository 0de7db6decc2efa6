//! What a device must offer to run graphs.

use std::any::Any;
use std::sync::Arc;

use super::node::Graph;
use crate::dispatch::Support;
use crate::error::Result;
use crate::tensor::Tensor;

/// Whether executables are tied to lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LengthPolicy {
    /// One executable runs every length.
    Dynamic,
    /// One executable per length class: queries rounded up to a power of two, keys to a multiple
    /// of [`crate::op::KV_BUCKET`]. The graph's inputs carry the class; a feed may be shorter.
    Bucketed,
}

/// A value given to one run.
#[derive(Clone, Debug)]
pub enum Feed {
    /// A tensor.
    Tensor(Tensor),
    /// A number that changes from step to step.
    Scalar(i64),
}

/// A compiled graph.
pub trait Executable: Send + Sync {
    /// Memory it holds, in bytes.
    fn bytes(&self) -> usize;

    /// The executor's own type.
    fn as_any(&self) -> &dyn Any;
}

/// Compiles graphs and runs them, on one device.
pub trait GraphExecutor: Send + Sync {
    /// What must be equal for an executable to be valid: OS or driver build, instruction sets,
    /// flags. Part of every cache key.
    fn build_id(&self) -> &str;

    /// Whether executables are tied to lengths.
    fn lengths(&self) -> LengthPolicy;

    /// Whether every node of `graph` can be lowered.
    fn supports(&self, graph: &Graph) -> Support;

    /// Compiles `graph`.
    ///
    /// # Errors
    /// The executor's own failure; the cache turns it into [`crate::Error::Compile`].
    fn compile(&self, graph: &Graph) -> Result<Arc<dyn Executable>>;

    /// Encodes one run: `feeds` in the order of the graph's inputs, the result into `out`.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the device fails.
    fn run(&self, executable: &dyn Executable, feeds: &[Feed], out: &Tensor) -> Result<()>;
}
