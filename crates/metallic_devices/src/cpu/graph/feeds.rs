//! What a plan knows of its feeds: which one is which.

use metallic::graph::{Feed, Graph, NodeId};
use metallic::tensor::Tensor;
use metallic::{Error, Result};

use crate::cpu::CPU;

/// The place of an input among the feeds; `None` when the node is no input.
pub(super) fn place(graph: &Graph, id: NodeId) -> Option<usize> {
    graph.inputs().position(|(input, _)| input == id)
}

/// The same for an operand that may be absent.
pub(super) fn optional_place(graph: &Graph, id: Option<NodeId>) -> Option<Option<usize>> {
    id.map_or(Some(None), |id| place(graph, id).map(Some))
}

pub(super) fn tensor(feeds: &[Feed], place: usize) -> Result<&Tensor> {
    match feeds.get(place) {
        Some(Feed::Tensor(tensor)) => Ok(tensor),
        other => Err(device_error("run", format!("feed {place} is {other:?}, not a tensor"))),
    }
}

pub(super) fn optional_tensor(feeds: &[Feed], place: Option<usize>) -> Result<Option<&Tensor>> {
    place.map(|place| tensor(feeds, place)).transpose()
}

pub(super) fn scalar(feeds: &[Feed], place: usize) -> Result<i64> {
    match feeds.get(place) {
        Some(Feed::Scalar(scalar)) => Ok(*scalar),
        other => Err(device_error("run", format!("feed {place} is {other:?}, not a number"))),
    }
}

pub(super) fn device_error(what: &'static str, reason: String) -> Error {
    Error::Device { device: CPU, what, reason }
}
