//! How an op becomes a graph, without any device.

use std::fmt;

use super::executor::Feed;
use super::node::Graph;
use crate::dispatch::{Reason, Support};
use crate::op::Op;
use crate::tensor::{DType, Tensor};

/// What an axis of a binding means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Axis {
    /// Sequences.
    Batch,
    /// Query heads.
    QHeads,
    /// Key and value heads.
    KvHeads,
    /// Query positions.
    QLen,
    /// Key positions.
    KvLen,
    /// Width of a query and a key.
    HeadDim,
    /// Width of a value.
    VDim,
    /// Rows of activations: tokens of all sequences.
    Rows,
    /// Width of the residual stream.
    Hidden,
    /// Width of a feed-forward layer.
    Ffn,
    /// Width of all query heads side by side.
    QWidth,
    /// Width of all keys of a position.
    KWidth,
    /// Width of all values of a position.
    VWidth,
    /// Width of what all query heads give.
    OWidth,
    /// Pairs that a rotation turns.
    Pairs,
}

impl fmt::Display for Axis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Axis::Batch => "batch",
            Axis::QHeads => "q_heads",
            Axis::KvHeads => "kv_heads",
            Axis::QLen => "q_len",
            Axis::KvLen => "kv_len",
            Axis::HeadDim => "head_dim",
            Axis::VDim => "v_dim",
            Axis::Rows => "rows",
            Axis::Hidden => "hidden",
            Axis::Ffn => "ffn",
            Axis::QWidth => "q_width",
            Axis::KWidth => "k_width",
            Axis::VWidth => "v_width",
            Axis::OWidth => "o_width",
            Axis::Pairs => "pairs",
        })
    }
}

/// One tensor a graph is fed with or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Its name, as `q`.
    pub name: &'static str,
    /// What each axis means, outermost first.
    pub axes: &'static [Axis],
    /// Whether a call may leave it out.
    pub optional: bool,
}

/// Which types a graph kernel stores and accumulates in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GraphKernelDtypePolicy {
    /// Accepted storage types.
    pub storage: &'static [DType],
    /// Their names, for the refusal.
    pub storage_names: &'static str,
    /// The accumulator.
    pub accumulator: DType,
}

impl GraphKernelDtypePolicy {
    /// Whether `got` may be stored in `binding`.
    pub fn check(&self, binding: &'static str, got: DType) -> Support {
        Support::when(self.storage.contains(&got), || Reason::DType {
            binding,
            got,
            supported: self.storage_names,
        })
    }
}

/// An op as a graph. One implementation serves every device.
pub trait GraphKernel<O: Op>: Send + Sync + 'static {
    /// The graph of a spec.
    fn build(&self, spec: &O::Spec) -> Graph;

    /// The bindings in feed order, the output last, with what their axes mean.
    fn signature(&self) -> &'static [Binding];

    /// Storage and accumulator types.
    fn dtype_policy(&self) -> GraphKernelDtypePolicy;

    /// Whether the types of `spec` fit [`GraphKernel::dtype_policy`].
    fn supports(&self, spec: &O::Spec) -> Support;

    /// The feeds of one call, in the order of the graph's inputs.
    fn feeds(&self, args: &O::Args) -> Vec<Feed>;

    /// The tensor the result is written into.
    fn output<'a>(&self, args: &'a O::Args) -> &'a Tensor;
}
