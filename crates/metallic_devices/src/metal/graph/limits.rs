//! What one executable may be asked for, and how a call beyond it is cut.
//!
//! Only a graph of one attention node is cut: by sequences, key heads and rows of queries, never
//! by keys. Each part is the same graph with smaller lengths, so one executable runs them all.

use metallic::dispatch::{Reason, Support};
use metallic::graph::{Axis, Dim, Graph, GraphBuilder, Input, Node, NodeId, SdpaNode};

use super::form::Form;
use super::infer::Type;

/// Scores of one call of the native op: with heads · q · kv at 2³¹ and beyond the result was
/// garbage on one GPU, and below 1.9e9 it was right (measured by a third party).
const NATIVE_SCORES: usize = 1_900_000_000;
/// Scores of one call in memory, in f32: 512 MiB. MPSGraph's own limit is 4 GiB an array
/// (pytorch#143859), and several are alive at once.
const DECOMPOSED_SCORES: usize = 128 << 20;

/// Scores of one run at most, `asked` or what is known to be right.
pub(crate) fn max_scores(form: Form, asked: Option<usize>) -> usize {
    let right = match form {
        Form::Native => NATIVE_SCORES,
        Form::Decomposed => DECOMPOSED_SCORES,
    };
    asked.unwrap_or(right).min(right)
}

/// Lengths of one part of an attention call, as the graph of the part has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// Sequences.
    pub(crate) batch: usize,
    /// Key heads, each with its query heads.
    pub(crate) kv_heads: usize,
    /// Rows of queries of each head.
    pub(crate) q_len: usize,
}

/// Lengths of a whole attention call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Whole {
    /// Its sequences, key heads and rows of queries.
    pub(crate) all: Part,
    /// Query heads a key head.
    pub(crate) group: usize,
    /// Keys.
    pub(crate) kv_len: usize,
    /// Wider of a key and a value.
    pub(crate) width: usize,
}

/// The one attention node of a graph whose other nodes are inputs.
pub(crate) fn only_sdpa(graph: &Graph) -> Option<&SdpaNode> {
    let Node::Sdpa(node) = graph.node(graph.output()) else { return None };
    let others = graph.nodes().iter().filter(|node| !matches!(node, Node::Input(_))).count();
    (others == 1).then_some(node)
}

/// The lengths of an attention node, where the types of its graph's nodes say all of them.
pub(crate) fn whole(types: &[Type], node: &SdpaNode) -> Option<Whole> {
    let length = |id: NodeId, axis: usize| match types.get(id.index())?.dims.get(axis)? {
        Dim::Fixed(length) => Some(*length),
        Dim::Any => None,
    };
    let all =
        Part { batch: length(node.q, 0)?, kv_heads: node.kv_heads, q_len: length(node.q, 2)? };
    Some(Whole {
        all,
        group: node.q_heads / node.kv_heads,
        kv_len: length(node.k, 2)?,
        width: node.head_dim.max(node.v_dim),
    })
}

impl Whole {
    /// The largest part with at most `most` scores; `None` when a single row has more.
    pub(crate) fn part(&self, most: usize) -> Option<Part> {
        let mut part = self.all;
        while self.elements(part) > most {
            part = if part.batch > 1 {
                Part { batch: smaller_divisor(part.batch), ..part }
            } else if part.kv_heads > 1 {
                Part { kv_heads: smaller_divisor(part.kv_heads), ..part }
            } else if part.q_len > 1 {
                Part { q_len: smaller_divisor(part.q_len), ..part }
            } else {
                return None;
            };
        }
        Some(part)
    }

    /// Elements of the largest array of a part.
    fn elements(&self, part: Part) -> usize {
        let heads = part.batch.saturating_mul(part.kv_heads);
        let scores =
            heads.saturating_mul(self.group).saturating_mul(part.q_len).saturating_mul(self.kv_len);
        scores.max(heads.saturating_mul(self.kv_len).saturating_mul(self.width))
    }

    /// Whether parts can be small enough; a graph of more than one node is not cut.
    pub(crate) fn supports(&self, max: usize, cuts: bool) -> Support {
        let part = self.part(max).filter(|part| cuts || *part == self.all);
        let got = if cuts { self.elements(ONE) } else { self.elements(self.all) };
        Support::when(part.is_some(), || Reason::Range { what: "scores of one run", got, max })
    }
}

/// The smallest part there is.
const ONE: Part = Part { batch: 1, kv_heads: 1, q_len: 1 };

/// The largest divisor below `number`, which is more than 1.
fn smaller_divisor(number: usize) -> usize {
    let smallest = (2..=number).find(|divisor| number.is_multiple_of(*divisor));
    number / smallest.unwrap_or(number)
}

/// `graph`, which holds `node` alone, for one part.
pub(crate) fn part_of(graph: &Graph, node: &SdpaNode, whole: &Whole, part: Part) -> Graph {
    let mut builder = GraphBuilder::new();
    let mut ids = Vec::new();
    for (_, input) in graph.inputs() {
        let dims = input.axes.iter().zip(&input.dims).map(|(axis, dim)| {
            let (all, part) = match axis {
                Axis::Batch => (whole.all.batch, part.batch),
                Axis::KvHeads => (whole.all.kv_heads, part.kv_heads),
                Axis::QHeads => (whole.all.kv_heads * whole.group, part.kv_heads * whole.group),
                Axis::QLen => (whole.all.q_len, part.q_len),
                _ => return *dim,
            };
            // A mask that all sequences or heads share has length 1 there and keeps it.
            if *dim == Dim::Fixed(all) { Dim::Fixed(part) } else { *dim }
        });
        let dims = dims.collect();
        ids.push(builder.input(Input { dims, ..input.clone() }));
    }
    // Inputs come before the one node that takes them, so places among them are the same.
    let same = |id: NodeId| {
        let place = graph.inputs().position(|(input, _)| input == id);
        place.map_or(id, |place| ids[place])
    };
    let out = builder.sdpa(SdpaNode {
        q: same(node.q),
        k: same(node.k),
        v: same(node.v),
        mask: node.mask.map(same),
        kv_lens: node.kv_lens.map(same),
        offset: node.offset.map(same),
        q_heads: part.kv_heads * whole.group,
        kv_heads: part.kv_heads,
        ..node.clone()
    });
    builder.finish(out, graph.output_dtype())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(batch: usize, kv_heads: usize, q_len: usize, kv_len: usize) -> Whole {
        Whole { all: Part { batch, kv_heads, q_len }, group: 7, kv_len, width: 64 }
    }

    #[test]
    fn parts_are_small_enough_and_divide_the_whole() {
        for (batch, kv_heads, q_len, kv_len) in
            [(1, 2, 1, 512), (8, 4, 4096, 32768), (1, 2, 65536, 65536), (3, 5, 8192, 131072)]
        {
            let whole = whole(batch, kv_heads, q_len, kv_len);
            for form in [Form::Native, Form::Decomposed] {
                let most = max_scores(form, None);
                let part = whole.part(most).unwrap();
                assert!(whole.elements(part) <= most, "{whole:?} {part:?}");
                let all = whole.all;
                assert!(all.batch.is_multiple_of(part.batch));
                assert!(all.kv_heads.is_multiple_of(part.kv_heads));
                assert!(all.q_len.is_multiple_of(part.q_len));
            }
        }
        let small = whole(1, 2, 1, 512);
        assert_eq!(small.part(NATIVE_SCORES), Some(small.all));
        assert_eq!(whole(1, 1, 1, 1 << 30).part(NATIVE_SCORES), None);
        assert_eq!(max_scores(Form::Native, Some(1 << 40)), NATIVE_SCORES);
    }
}
