//! Typed graphs of transformer-sized nodes, and the way from an op to a cached executable.
//!
//! A graph is no compiler IR: there is no node without two users, and each executor lowers the
//! nodes its own way.

mod builder;
mod cached;
mod display;
mod executor;
mod kernel;
pub mod kernels;
mod node;

pub use builder::GraphBuilder;
pub use cached::Cached;
pub use executor::{Executable, Feed, GraphExecutor, LengthPolicy};
pub use kernel::{Axis, Binding, GraphKernel, GraphKernelDtypePolicy};
pub use node::{
    AddNode, Dim, Graph, Input, KvAppendNode, LinearNode, MergeHeadsNode, Node, NodeId,
    RmsNormNode, RopeNode, SdpaNode, SplitHeadsNode, SwiGluNode, Update,
};
