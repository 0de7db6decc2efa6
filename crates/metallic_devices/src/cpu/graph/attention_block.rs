//! The attention half of a block in four steps: one product for queries, keys and values by the
//! norm of the stream, which is taken while rows are rounded; one pass over positions that norms,
//! turns and stores heads; fused attention; the output product.

use std::ops::Range;
use std::sync::Arc;

use metallic::Result;
use metallic::graph::{Feed, Graph, Node, NodeId, RmsNormNode, RopeNode, SdpaNode};
use metallic::tensor::Tensor;

use super::feeds::{device_error, optional_place, place, tensor};
use super::sdpa::Plan;
use super::sdpa_node;
use super::segment::{Opening, Projection, Scratch};
use crate::cpu::attention::Attention;
use crate::cpu::buffer::{Pool, Rows, dense};
use crate::cpu::cores::Cpu;
use crate::cpu::kernels::convert::encode_row;
use crate::cpu::kernels::{rms_norm::rms_norm_in_place, rope::rope};
use crate::cpu::linear::{Input, products};
use crate::cpu::simd::Level;
use crate::cpu::view::View;

/// The plan of an `AttentionBlock`.
#[derive(Debug)]
pub(super) struct AttentionBlockPlan {
    opening: Opening,
    q: Projection,
    k: Projection,
    v: Projection,
    q_turn: Turn,
    k_turn: Turn,
    k_cache: usize,
    v_cache: usize,
    starts: usize,
    kv_lens: usize,
    offset: Option<usize>,
    node: SdpaNode,
    attention: Plan,
    o: Projection,
}

/// Norm and rotation of the heads of a row.
#[derive(Debug)]
struct Turn {
    norm: Option<HeadNorm>,
    cos: usize,
    sin: usize,
    node: RopeNode,
}

#[derive(Debug)]
struct HeadNorm {
    weight: usize,
    eps: f32,
}

impl Turn {
    /// The turn that ends in node `id`, the projection of its heads, and what that projects.
    fn of(graph: &Graph, id: NodeId) -> Option<(Self, Projection, NodeId)> {
        let Node::Rope(node) = *graph.node(id) else { return None };
        let (cos, sin) = (place(graph, node.cos)?, place(graph, node.sin)?);
        let (norm, heads) = match *graph.node(node.x) {
            Node::RmsNorm(RmsNormNode { x, weight, eps, .. }) => {
                (Some(HeadNorm { weight: place(graph, weight)?, eps }), x)
            }
            _ => (None, node.x),
        };
        let (projection, x) = split_projection(graph, heads)?;
        Some((Self { norm, cos, sin, node }, projection, x))
    }

    /// What norms and turns row `r` of `heads`: `[rows, width]`.
    fn run<'a>(
        &self,
        level: Level,
        feeds: &'a [Feed],
        (heads, width): (Rows<f32>, usize),
    ) -> Result<impl Fn(usize) + Sync + 'a> {
        let norm = match &self.norm {
            Some(norm) => Some((dense::<f32>(tensor(feeds, norm.weight)?), norm.eps)),
            None => None,
        };
        let cos: &[f32] = dense(tensor(feeds, self.cos)?);
        let sin: &[f32] = dense(tensor(feeds, self.sin)?);
        let RopeNode { pairing, dim, pairs, .. } = self.node;
        Ok(move |row: usize| {
            // SAFETY: a row of scratch that belongs to one task.
            let x = unsafe { heads.slice(row * width, width) };
            if let Some((weight, eps)) = norm {
                rms_norm_in_place(level, x, weight, eps);
            }
            let angles = row * pairs..(row + 1) * pairs;
            rope(level, pairing, x, dim, (&cos[angles.clone()], &sin[angles]));
        })
    }
}

/// The projection whose heads node `id` splits, and what it projects.
fn split_projection(graph: &Graph, id: NodeId) -> Option<(Projection, NodeId)> {
    let Node::SplitHeads(split) = graph.node(id) else { return None };
    Projection::of(graph, split.x)
}

impl AttentionBlockPlan {
    /// The plan of `graph`; `None` when it computes something else.
    pub(super) fn of(cpu: &Cpu, graph: &Graph) -> Option<Self> {
        let (o, merged) = Projection::of(graph, graph.output())?;
        let Node::MergeHeads(merge) = graph.node(merged) else { return None };
        let Node::Sdpa(node) = graph.node(merge.x) else { return None };
        let Node::KvAppend(keys) = graph.node(node.k) else { return None };
        let Node::KvAppend(values) = graph.node(node.v) else { return None };
        let (q_turn, q, normed) = Turn::of(graph, node.q)?;
        let (k_turn, k, normed_k) = Turn::of(graph, keys.new)?;
        let (v, normed_v) = split_projection(graph, values.new)?;
        let opening = Opening::of(graph, normed)?;
        // The two caches are updated besides the stream.
        let whole = normed_k == normed
            && normed_v == normed
            && keys.starts == values.starts
            && node.mask.is_none()
            && graph.updates().len() == opening.updates() + 2;
        whole.then_some(())?;
        Some(Self {
            opening,
            q,
            k,
            v,
            q_turn,
            k_turn,
            k_cache: place(graph, keys.cache)?,
            v_cache: place(graph, values.cache)?,
            starts: place(graph, keys.starts)?,
            kv_lens: place(graph, node.kv_lens?)?,
            offset: optional_place(graph, node.offset)?,
            attention: sdpa_node::plan(cpu, node),
            node: node.clone(),
            o,
        })
    }

    pub(super) fn run(
        &self,
        cpu: &Cpu,
        memory: &Arc<Pool>,
        feeds: &[Feed],
        out: &Tensor,
    ) -> Result<()> {
        let (level, shape) = (cpu.level, self.opening.x(feeds)?.shape());
        let [batch, len, hidden] = [shape[0], shape[1], shape[2]];
        let m = batch * len;
        let k_cache = Cache::new(feeds, (self.k_cache, self.starts), (len, self.node.kv_heads))?;
        let v_cache = Cache::new(feeds, (self.v_cache, self.starts), (len, self.node.kv_heads))?;
        let widths = [&self.q, &self.k, &self.v].map(Projection::out_features);
        let [q_width, k_width, v_width] = widths;
        let o_width = self.o.in_features();
        let floats = [hidden, q_width, k_width, v_width, o_width].map(|width| m * width);
        let scratch = Scratch::new(memory, floats)?;
        let [normed, q, k, v, attended] = scratch.parts;

        let normalise = self.opening.prepare(level, feeds, normed)?;
        let precision = self.q.precision();
        let prepare: Option<&(dyn Fn(Range<usize>) + Sync)> = Some(&normalise);
        let input = Input { x: normed.start(), m, k: hidden, prepare, precision, level };
        let parts = [self.q.part(feeds, q)?, self.k.part(feeds, k)?, self.v.part(feeds, v)?];
        // SAFETY: the scratch has these shapes and is this run's own.
        unsafe { products(&cpu.pool, &input, parts) };

        let turn_q = self.q_turn.run(level, feeds, (q, q_width))?;
        let turn_k = self.k_turn.run(level, feeds, (k, k_width))?;
        cpu.for_rows(m, q_width + k_width + v_width, &|first, rows| {
            for row in first..first + rows {
                turn_q(row);
                turn_k(row);
                // SAFETY: rows of scratch that this task alone writes, all before it reads them;
                // each row has a place of its own in the caches.
                unsafe {
                    k_cache.store(level, row, k.read(row * k_width, k_width));
                    v_cache.store(level, row, v.read(row * v_width, v_width));
                }
            }
        });

        let SdpaNode { q_heads, head_dim, v_dim, scale, softcap, .. } = self.node;
        let call = Attention {
            q: View::heads(q.start(), [batch, len], [q_heads, head_dim]),
            k: k_cache.view,
            v: v_cache.view,
            out: View::heads(attended.start(), [batch, len], [q_heads, v_dim]),
            mask: None,
            kv_lens: Some(View::input(tensor(feeds, self.kv_lens)?)),
            band: sdpa_node::band(&self.node, self.offset, feeds)?,
            scale,
            softcap,
        };
        self.attention.run(&cpu.pool, &call);

        let precision = self.o.precision();
        let input = Input { x: attended.start(), m, k: o_width, prepare: None, precision, level };
        let part = self.o.part(feeds, Rows::output(out))?;
        // SAFETY: as above; attention wrote every row, and `out` is this op's output, apart from
        // all it reads.
        unsafe { products(&cpu.pool, &input, [part]) };
        Ok(())
    }
}

/// A cache that new rows are stored into.
struct Cache<'a> {
    /// `[batch, kv_heads, kv_len, dim]`
    view: View,
    starts: &'a [i32],
    /// New positions of each sequence.
    len: usize,
    kv_heads: usize,
}

impl<'a> Cache<'a> {
    /// # Errors
    /// When a sequence would write past the view.
    fn new(
        feeds: &'a [Feed],
        (cache, starts): (usize, usize),
        (len, kv_heads): (usize, usize),
    ) -> Result<Self> {
        let view = View::output(tensor(feeds, cache)?);
        let starts: &[i32] = dense(tensor(feeds, starts)?);
        let kv_len = view.shape[2];
        let fits = |start: &i32| usize::try_from(*start).is_ok_and(|start| start + len <= kv_len);
        match starts.iter().find(|start| !fits(start)) {
            None => Ok(Self { view, starts, len, kv_heads }),
            Some(start) => {
                let reason = format!("{len} rows at position {start} of {kv_len}");
                Err(device_error("attention_block", reason))
            }
        }
    }

    /// Stores row `row` of `[batch · len, kv_heads · dim]`.
    ///
    /// # Safety
    /// No other task stores this row.
    unsafe fn store(&self, level: Level, row: usize, heads: &[f32]) {
        let (batch, position) = (row / self.len, row % self.len);
        let position = self.starts[batch] as usize + position;
        let dim = self.view.shape[3];
        let bytes = self.view.dtype.row_bytes(dim).expect("whole blocks");
        for (head, x) in heads.chunks_exact(dim).enumerate().take(self.kv_heads) {
            let to = self.view.row([batch, head, position]);
            // SAFETY: a row of the checked view, at a position that was compared with its length.
            let to = unsafe { std::slice::from_raw_parts_mut(to, bytes) };
            encode_row(level, self.view.dtype, x, to);
        }
    }
}
