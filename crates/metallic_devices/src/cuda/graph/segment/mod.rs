//! The halves of a block for a few rows, as the kernels of `segment.cu` and `segment_i8.cu` with
//! attention between them.
//!
//! Not: many rows, norms of heads, f32 activations over quantised weights; `supports` refuses what
//! the graph says of these, `FewRows` what a call's lengths say.

mod few_rows;
mod run;

use std::any::Any;

use metallic::Result;
use metallic::dispatch::{Reason, Support};
use metallic::graph::{Executable, Feed, Graph, LinearNode, Node, NodeId, RopeNode, SdpaNode};
use metallic::op::Precision;
use metallic::tensor::{DType, Tensor};

pub(crate) use few_rows::{FewRows, HalfSize};

use self::run::{Name, QUANTISED, Run, kernel};
use super::sdpa::{Plan, Types};
use crate::cuda::gpu::Gpu;
use crate::sdpa_graph::place;
use crate::segment_graph::Opening;

/// Rows of x that one pass over W serves.
const MAX_ROWS: usize = 8;

fn dtype_of(graph: &Graph, id: NodeId) -> DType {
    graph.inputs().find(|(input, _)| *input == id).map_or(DType::F32, |(_, input)| input.dtype)
}

/// A product.
#[derive(Debug)]
struct Product {
    weight: usize,
    bias: Option<usize>,
    dtype: DType,
    node: LinearNode,
}

impl Product {
    fn of(graph: &Graph, id: NodeId) -> Option<Self> {
        let Node::Linear(node) = *graph.node(id) else { return None };
        let bias = match node.bias {
            Some(bias) => Some(place(graph, bias)?),
            None => None,
        };
        let (weight, dtype) = (place(graph, node.weight)?, dtype_of(graph, node.weight));
        Some(Self { weight, bias, dtype, node })
    }

    /// That of the heads that node `id` splits.
    fn of_heads(graph: &Graph, id: NodeId) -> Option<Self> {
        let Node::SplitHeads(split) = graph.node(id) else { return None };
        Self::of(graph, split.x)
    }
}

/// The attention half.
#[derive(Debug)]
struct Attention {
    opening: Opening,
    qkv: [Product; 3],
    turn: RopeNode,
    cos: usize,
    sin: usize,
    caches: [usize; 2],
    starts: usize,
    kv_lens: usize,
    offset: Option<usize>,
    node: SdpaNode,
    types: Types,
    o: Product,
}

/// The feed-forward half.
#[derive(Debug)]
struct Mlp {
    opening: Opening,
    gate_up: [Product; 2],
    down: Product,
}

impl Attention {
    fn of(graph: &Graph) -> Option<Self> {
        let o = Product::of(graph, graph.output())?;
        let Node::MergeHeads(merge) = graph.node(o.node.x) else { return None };
        let Node::Sdpa(node) = graph.node(merge.x) else { return None };
        let Node::KvAppend(keys) = graph.node(node.k) else { return None };
        let Node::KvAppend(values) = graph.node(node.v) else { return None };
        let (Node::Rope(turn), Node::Rope(turn_k)) = (graph.node(node.q), graph.node(keys.new))
        else {
            return None;
        };
        let qkv = [
            Product::of_heads(graph, turn.x)?,
            Product::of_heads(graph, turn_k.x)?,
            Product::of_heads(graph, values.new)?,
        ];
        let normed = qkv[0].node.x;
        let opening = Opening::of(graph, normed)?;
        // The two caches are updated besides the stream.
        let alike = graph.updates().len() == opening.updates() + 2
            && qkv.iter().all(|product| product.node.x == normed)
            && (turn.pairs, turn.pairing) == (turn_k.pairs, turn_k.pairing)
            && keys.starts == values.starts
            && node.mask.is_none();
        alike.then_some(())?;
        let offset = match node.offset {
            Some(offset) => Some(place(graph, offset)?),
            None => None,
        };
        Some(Self {
            opening,
            turn: *turn,
            cos: place(graph, turn.cos)?,
            sin: place(graph, turn.sin)?,
            caches: [place(graph, keys.cache)?, place(graph, values.cache)?],
            starts: place(graph, keys.starts)?,
            kv_lens: place(graph, node.kv_lens?)?,
            offset,
            types: Types { q: DType::F32, kv: dtype_of(graph, keys.cache) },
            node: node.clone(),
            qkv,
            o,
        })
    }
}

impl Mlp {
    fn of(graph: &Graph) -> Option<Self> {
        let down = Product::of(graph, graph.output())?;
        let Node::SwiGlu(swiglu) = graph.node(down.node.x) else { return None };
        let gate_up = [Product::of(graph, swiglu.gate)?, Product::of(graph, swiglu.up)?];
        let normed = gate_up[0].node.x;
        let opening = Opening::of(graph, normed)?;
        let whole = gate_up[1].node.x == normed && graph.updates().len() == opening.updates();
        whole.then_some(Self { opening, gate_up, down })
    }
}

/// Types of the weights of one launch: of the first, and of the last.
fn weights_of(products: &[Product]) -> [DType; 2] {
    [products[0].dtype, products[products.len() - 1].dtype]
}

/// A half of a block.
enum Half {
    Attention(Box<Attention>, Plan),
    Mlp(Mlp),
}

/// A compiled half of a block.
pub(super) struct SegmentPlan(Half);

/// Whether the products can be had from `segment.cu` or `segment_i8.cu`: those of one input, and the
/// one after them.
fn supports_products(fused: &[Product], last: &Product) -> Support {
    for product in fused.iter().chain([last]) {
        let got = product.dtype;
        match got {
            DType::F32 | DType::F16 | DType::Bf16 => {
                if !product.node.in_features.is_multiple_of(8) {
                    return Support::No(Reason::Missing {
                        feature: "rows of weights that are no multiple of 8 elements",
                    });
                }
            }
            _ if QUANTISED.contains(&got) => {
                if product.node.precision == Precision::Exact {
                    return Support::No(Reason::Missing {
                        feature: "f32 activations over quantised weights",
                    });
                }
            }
            _ => {
                let supported = "f32, f16, bf16, q8_0, q4_0, q5_0, q4_k and q6_k";
                return Support::No(Reason::DType { binding: "weight", got, supported });
            }
        }
    }
    // Only the values' weight, the third, may differ, and only among quantised ones.
    let [first, second] = [fused[0].dtype, fused[1].dtype];
    let third = fused.get(2).map_or(first, |product| product.dtype);
    let apart = third != first && !(third.is_quantized() && first.is_quantized());
    if second != first || apart {
        let supported = "the type of the first weight of its half";
        let got = if second == first { third } else { second };
        return Support::No(Reason::DType { binding: "weight", got, supported });
    }
    Support::Yes
}

/// Whether there are kernels for `graph`, which is no lone attention.
pub(super) fn supports(graph: &Graph) -> Support {
    if let Some(mlp) = Mlp::of(graph) {
        return supports_products(&mlp.gate_up, &mlp.down);
    }
    let Some(attention) = Attention::of(graph) else {
        return Support::No(Reason::Missing {
            feature: "graphs other than attention and halves of a block without norms of heads",
        });
    };
    let Attention { qkv, turn, node, types, o, .. } = &attention;
    if 2 * turn.pairs != node.head_dim {
        return Support::No(Reason::Missing { feature: "rotations of a part of a head" });
    }
    for cache in &attention.caches {
        let got = graph.inputs().nth(*cache).map_or(DType::F32, |(_, input)| input.dtype);
        if got.is_quantized() {
            let supported = "f32, f16 and bf16";
            return Support::No(Reason::DType { binding: "cache", got, supported });
        }
    }
    match supports_products(qkv, o) {
        Support::Yes => Plan::supports(node, |id| if id == node.q { DType::F32 } else { types.kv }),
        no => no,
    }
}

impl SegmentPlan {
    /// The plan of a graph that [`supports`] agreed to; `None` for another.
    ///
    /// # Errors
    /// [`metallic::Error::Compile`] when a kernel does not compile.
    pub(super) fn new(gpu: &Gpu, graph: &Graph) -> Result<Option<Self>> {
        let half = if let Some(mlp) = Mlp::of(graph) {
            Half::Mlp(mlp)
        } else if let Some(attention) = Attention::of(graph) {
            let plan = Plan::new(gpu, attention.node.clone(), attention.types)?;
            Half::Attention(Box::new(attention), plan)
        } else {
            return Ok(None);
        };
        let (fused, name, last) = match &half {
            Half::Attention(attention, _) => (&attention.qkv[..], Name::NormQkv, &attention.o),
            Half::Mlp(mlp) => (&mlp.gate_up[..], Name::NormGateUp, &mlp.down),
        };
        // What does not compile is to fail here, where another kernel can still be chosen.
        for (weights, name) in [(weights_of(fused), name), ([last.dtype; 2], Name::Project)] {
            let Some((kernel, _)) = kernel(weights, name, 1) else { return Ok(None) };
            gpu.function(kernel)?;
        }
        Ok(Some(Self(half)))
    }

    /// Puts one run on the stream.
    ///
    /// # Errors
    /// As the launches report; no memory.
    pub(super) fn run(&self, gpu: &Gpu, feeds: &[Feed], out: &Tensor) -> Result<()> {
        let run = Run::new(gpu, feeds, out);
        match &self.0 {
            Half::Attention(attention, plan) => run.attention(attention, plan),
            Half::Mlp(mlp) => run.mlp(mlp),
        }
    }
}

impl Executable for SegmentPlan {
    fn bytes(&self) -> usize {
        let own = size_of::<Attention>();
        match &self.0 {
            Half::Attention(_, plan) => own + plan.bytes(),
            Half::Mlp(_) => own,
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
