//! What plans of segments read off a graph, on every device.

use metallic::graph::{Graph, Node, NodeId, RmsNormNode, Update};

use crate::sdpa_graph::{optional_place, place};

/// `x ← x + pending`, then the norm of `x`: the places of its feeds.
#[derive(Debug)]
pub(crate) struct Opening {
    pub(crate) x: usize,
    pub(crate) pending: Option<usize>,
    pub(crate) weight: usize,
    pub(crate) eps: f32,
    pub(crate) width: usize,
}

impl Opening {
    /// The opening that ends in node `norm`; `None` when that is no norm of an input, or of a sum
    /// of two that updates the first.
    pub(crate) fn of(graph: &Graph, norm: NodeId) -> Option<Self> {
        let Node::RmsNorm(RmsNormNode { x, weight, eps, width }) = *graph.node(norm) else {
            return None;
        };
        let (x, pending) = match graph.node(x) {
            Node::Add(sum) => {
                let update = Update { input: sum.a, value: x };
                graph.updates().contains(&update).then_some((sum.a, Some(sum.b)))?
            }
            _ => (x, None),
        };
        let pending = optional_place(graph, pending)?;
        Some(Self { x: place(graph, x)?, pending, weight: place(graph, weight)?, eps, width })
    }

    /// Updates of feeds that the opening makes.
    pub(crate) fn updates(&self) -> usize {
        usize::from(self.pending.is_some())
    }
}
