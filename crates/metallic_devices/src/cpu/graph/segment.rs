//! What the plans of segments share: the opening norm, projections, and memory for a run.

use std::ops::Range;
use std::sync::Arc;

use metallic::graph::{Feed, Graph, LinearNode, Node, NodeId};
use metallic::op::Precision;
use metallic::tensor::Tensor;
use metallic::{Error, Result};

use super::feeds::{optional_place, optional_tensor, place, tensor};
use crate::cpu::CPU;
use crate::cpu::buffer::{CpuBuffer, Pool, Rows, dense, dense_bytes};
use crate::cpu::kernels::rms_norm::{AddRmsNorm, add_rms_norm, rms_norm};
use crate::cpu::linear::{LinearWeight, Part};
use crate::cpu::simd::Level;
pub(super) use crate::segment_graph::Opening;

impl Opening {
    /// The residual stream.
    pub(super) fn x<'a>(&self, feeds: &'a [Feed]) -> Result<&'a Tensor> {
        tensor(feeds, self.x)
    }

    /// What normalises rows of the stream into rows of `normed`: `[rows, width]`, after adding
    /// what is pending.
    pub(super) fn prepare<'a>(
        &self,
        level: Level,
        feeds: &'a [Feed],
        normed: Rows<f32>,
    ) -> Result<impl Fn(Range<usize>) + Sync + 'a> {
        let (x, pending) = (self.x(feeds)?, optional_tensor(feeds, self.pending)?);
        let weight: &[f32] = dense(tensor(feeds, self.weight)?);
        let (eps, width) = (self.eps, self.width);
        let x = if pending.is_some() { Rows::output(x) } else { Rows::input(x) };
        Ok(move |rows: Range<usize>| {
            let (start, len) = (rows.start * width, rows.len() * width);
            // SAFETY: each row is asked for once, nothing else touches it, and the op's check saw
            // that what is written lies apart from the rest.
            unsafe {
                let y = normed.slice(start, len);
                match pending {
                    None => rms_norm(level, x.read(start, len), weight, eps, y),
                    Some(pending) => {
                        let r = &dense::<f32>(pending)[start..start + len];
                        let x = x.slice(start, len);
                        add_rms_norm(level, AddRmsNorm { x, r, weight, eps, y });
                    }
                }
            }
        })
    }
}

/// A projection of a segment.
#[derive(Debug)]
pub(super) struct Projection {
    weight: usize,
    bias: Option<usize>,
    node: LinearNode,
}

impl Projection {
    /// The projection that node `id` is, and what it projects.
    pub(super) fn of(graph: &Graph, id: NodeId) -> Option<(Self, NodeId)> {
        let Node::Linear(node) = *graph.node(id) else { return None };
        let (weight, bias) = (place(graph, node.weight)?, optional_place(graph, node.bias)?);
        Some((Self { weight, bias, node }, node.x))
    }

    pub(super) fn in_features(&self) -> usize {
        self.node.in_features
    }

    pub(super) fn out_features(&self) -> usize {
        self.node.out_features
    }

    pub(super) fn precision(&self) -> Precision {
        self.node.precision
    }

    /// The product into `y`: `[rows, out_features]`.
    pub(super) fn part<'a>(&self, feeds: &'a [Feed], y: Rows<f32>) -> Result<Part<'a>> {
        let weight = tensor(feeds, self.weight)?;
        let weight = LinearWeight {
            dtype: weight.dtype(),
            rows: self.node.out_features,
            cols: self.node.in_features,
            bytes: dense_bytes(weight),
        };
        let bias = optional_tensor(feeds, self.bias)?.map(dense);
        Ok(Part { weight, bias, y: y.start() })
    }
}

/// Memory of one run, from the device's pool, cut into parts of so many floats.
pub(super) struct Scratch<const N: usize> {
    _buffer: CpuBuffer,
    pub(super) parts: [Rows<f32>; N],
}

impl<const N: usize> Scratch<N> {
    pub(super) fn new(memory: &Arc<Pool>, floats: [usize; N]) -> Result<Self> {
        // Whole cache lines, so that no two parts share one.
        let bytes = floats.map(|floats| floats.next_multiple_of(16) * size_of::<f32>());
        let total = bytes.iter().sum();
        let buffer =
            memory.allocate(total).ok_or(Error::OutOfMemory { device: CPU, bytes: total })?;
        let mut at = buffer.start();
        let parts = bytes.map(|bytes| {
            let start = at;
            at = at.wrapping_add(bytes);
            Rows::at(start.cast())
        });
        Ok(Self { _buffer: buffer, parts })
    }
}
