//! The halves of a block for a few rows, as the kernels of `segment.cu` with attention between them.
//!
//! Not: many rows, quantised weights, norms of heads; `supports` refuses what the graph says of
//! these, `FewRows` what a call's lengths say.

use std::any::Any;
use std::sync::Arc;

use bytemuck::{Pod, Zeroable};
use metallic::Result;
use metallic::dispatch::{ExecCx, KernelInvocable, Reason, Support};
use metallic::graph::{
    Executable, Feed, Graph, LinearNode, Node, NodeId, RmsNormNode, RopeNode, SdpaNode,
};
use metallic::op::{Op, RopePairing};
use metallic::tensor::{DType, Layout, Shape, Tensor};

use super::sdpa::{Feeds, Plan, Types};
use crate::cuda::buffer::device_ptr;
use crate::cuda::error::device_error;
use crate::cuda::gpu::{Gpu, Kernel};
use crate::cuda::module::{LaunchShape, Param};
use crate::cuda::view::View;
use crate::sdpa_graph::{scalar, tensor};

/// Rows of x that one pass over W serves.
const MAX_ROWS: usize = 8;
/// Warps of a block, and blocks of a multiprocessor: `WARPS` and the launch bounds of `segment.cu`.
const WARPS: usize = 8;
const BLOCKS: usize = 2;

/// `struct Segment` of `segment.cu`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    x: u64,
    pending: u64,
    norm: u64,
    input: u64,
    weights: [u64; 3],
    biases: [u64; 3],
    out: u64,
    cos: u64,
    sin: u64,
    starts: u64,
    fault: u64,
    caches: [View; 2],
    widths: [u32; 3],
    dims: [u32; 2],
    m: u32,
    k: u32,
    pairs: u32,
    split: u32,
    len: u32,
    interleaved: u32,
    aligned: u32,
    eps: f32,
    unused: u32,
}

/// The place of an input among the feeds.
fn place(graph: &Graph, id: NodeId) -> Option<usize> {
    graph.inputs().position(|(input, _)| input == id)
}

fn dtype_of(graph: &Graph, id: NodeId) -> DType {
    graph.inputs().find(|(input, _)| *input == id).map_or(DType::F32, |(_, input)| input.dtype)
}

/// A norm of the stream, after adding what is pending.
#[derive(Debug)]
struct Opening {
    x: usize,
    pending: Option<usize>,
    weight: usize,
    eps: f32,
}

impl Opening {
    fn of(graph: &Graph, norm: NodeId) -> Option<Self> {
        let Node::RmsNorm(RmsNormNode { x, weight, eps, .. }) = *graph.node(norm) else {
            return None;
        };
        let weight = place(graph, weight)?;
        let (x, pending) = match graph.node(x) {
            Node::Add(sum) => (place(graph, sum.a)?, Some(place(graph, sum.b)?)),
            _ => (place(graph, x)?, None),
        };
        Some(Self { x, pending, weight, eps })
    }
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
        let alike = qkv.iter().all(|product| product.node.x == normed)
            && (turn.pairs, turn.pairing) == (turn_k.pairs, turn_k.pairing)
            && keys.starts == values.starts
            && node.mask.is_none();
        alike.then_some(())?;
        let offset = match node.offset {
            Some(offset) => Some(place(graph, offset)?),
            None => None,
        };
        Some(Self {
            opening: Opening::of(graph, normed)?,
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
        (gate_up[1].node.x == normed).then_some(Self { opening, gate_up, down })
    }
}

/// A half of a block.
enum Half {
    Attention(Box<Attention>, Plan),
    Mlp(Mlp),
}

/// A compiled half of a block.
pub(super) struct SegmentPlan(Half);

/// Whether the products can be had from `segment.cu`.
fn supports_products(fused: &[Product], last: &Product) -> Support {
    for product in fused.iter().chain([last]) {
        let got = product.dtype;
        if !matches!(got, DType::F32 | DType::F16 | DType::Bf16) || got != fused[0].dtype {
            let supported = "one of f32, f16 and bf16 for all";
            return Support::No(Reason::DType { binding: "weight", got, supported });
        }
        if !product.node.in_features.is_multiple_of(8) {
            return Support::No(Reason::Missing {
                feature: "rows of weights that are no multiple of 8 elements",
            });
        }
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
        let dtype = match &half {
            Half::Attention(attention, _) => attention.o.dtype,
            Half::Mlp(mlp) => mlp.down.dtype,
        };
        // What does not compile is to fail here, where another kernel can still be chosen.
        gpu.function(kernel(dtype, Name::Project, 1).0)?;
        Ok(Some(Self(half)))
    }

    /// Puts one run on the stream.
    ///
    /// # Errors
    /// As the launches report; no memory.
    pub(super) fn run(&self, gpu: &Gpu, feeds: &[Feed], out: &Tensor) -> Result<()> {
        let run = Run { gpu, feeds, out };
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

#[derive(Clone, Copy)]
enum Name {
    NormQkv,
    NormGateUp,
    Project,
}

/// The kernel for `m` rows, and the rows it is made for.
fn kernel(dtype: DType, name: Name, m: usize) -> (Kernel, usize) {
    let names = match name {
        Name::NormQkv => ["norm_qkv_1", "norm_qkv_2", "norm_qkv_4", "norm_qkv_8"],
        Name::NormGateUp => {
            ["norm_gate_up_1", "norm_gate_up_2", "norm_gate_up_4", "norm_gate_up_8"]
        }
        Name::Project => ["project_1", "project_2", "project_4", "project_8"],
    };
    let rows = m.clamp(1, MAX_ROWS).next_power_of_two();
    let variant = match dtype {
        DType::F16 => "-DWEIGHT=1",
        DType::Bf16 => "-DWEIGHT=2",
        _ => "-DWEIGHT=0",
    };
    (Kernel { source: "segment", variant, name: names[rows.ilog2() as usize] }, rows)
}

/// One run of a plan.
struct Run<'a> {
    gpu: &'a Gpu,
    feeds: &'a [Feed],
    out: &'a Tensor,
}

impl Run<'_> {
    fn feed(&self, place: usize) -> Result<&Tensor> {
        tensor(self.feeds, place).map_err(|reason| device_error(self.gpu.id(), "run", reason))
    }

    fn address(&self, place: Option<usize>) -> Result<u64> {
        place.map_or(Ok(0), |place| self.feed(place).map(device_ptr))
    }

    /// A dense f32 tensor for what passes between two kernels.
    fn scratch(&self, shape: &[usize]) -> Result<Tensor> {
        let shape = Shape::new(shape);
        let bytes = shape.elements() * size_of::<f32>();
        let buffer = Arc::new(self.gpu.workspace(bytes)?);
        Tensor::new(buffer, DType::F32, Layout::contiguous(shape))
    }

    fn params(&self, opening: &Opening, products: &[Product], m: usize) -> Result<Params> {
        let mut params = Params::zeroed();
        params.x = self.address(Some(opening.x))?;
        params.pending = self.address(opening.pending)?;
        params.norm = self.address(Some(opening.weight))?;
        params.eps = opening.eps;
        params.m = m as u32;
        params.k = products[0].node.in_features as u32;
        params.fault = self.gpu.fault();
        for (at, product) in products.iter().enumerate() {
            params.weights[at] = self.address(Some(product.weight))?;
            params.biases[at] = self.address(product.bias)?;
            params.widths[at] = product.node.out_features as u32;
        }
        params.aligned = u32::from(params.weights.iter().all(|start| start.is_multiple_of(16)));
        Ok(params)
    }

    fn launch(&self, name: Name, dtype: DType, mut params: Params, pairs: usize) -> Result<()> {
        let (kernel, rows) = kernel(dtype, name, params.m as usize);
        let multiprocessors = self.gpu.stream.properties().multiprocessors as usize;
        let resident = multiprocessors * BLOCKS;
        let split = [4, 2].into_iter().find(|split| pairs * split <= resident * WARPS).unwrap_or(1);
        let blocks = pairs.div_ceil(WARPS / split);
        // As many blocks as make every one walk over equally many pairs.
        let blocks = blocks.div_ceil(blocks.div_ceil(resident));
        (params.pairs, params.split) = (pairs as u32, split as u32);
        let shared = match name {
            Name::Project => 0,
            Name::NormQkv | Name::NormGateUp => rows * params.k as usize * size_of::<f32>(),
        };
        let shape = LaunchShape {
            shared_bytes: shared as u32,
            ..LaunchShape::linear(blocks, 32 * WARPS as u32)
        };
        let function = self.gpu.function(kernel)?;
        if shared > 48 << 10 {
            function.allow_shared(shared as u32)?;
        }
        // SAFETY: the op checked every shape; scratch has the shapes of the graph's values; before
        // it waits for the launch before it, the kernel reads weights alone, which nobody writes.
        unsafe { function.launch_early(shape, &[Param::new(&params)]) }
    }

    /// The last product of a half, and the sum that the stream holds from then on.
    fn project(&self, opening: &Opening, last: &Product, input: &Tensor, m: usize) -> Result<()> {
        let mut params = self.params(opening, std::slice::from_ref(last), m)?;
        (params.input, params.out) = (device_ptr(input), device_ptr(self.out));
        self.launch(Name::Project, last.dtype, params, last.node.out_features.div_ceil(2))
    }

    fn mlp(&self, mlp: &Mlp) -> Result<()> {
        let Mlp { opening, gate_up, down } = mlp;
        let m = self.feed(opening.x)?.shape()[0];
        let ffn = down.node.in_features;
        let gated = self.scratch(&[m, ffn])?;
        let mut params = self.params(opening, gate_up, m)?;
        params.out = device_ptr(&gated);
        self.launch(Name::NormGateUp, down.dtype, params, ffn)?;
        self.project(opening, down, &gated, m)
    }

    fn attention(&self, attention: &Attention, plan: &Plan) -> Result<()> {
        let Attention { opening, qkv, node, o, .. } = attention;
        let SdpaNode { q_heads, head_dim, v_dim, .. } = *node;
        let shape = self.feed(opening.x)?.shape();
        let [batch, len] = [shape[0], shape[1]];
        let m = batch * len;
        let [k_cache, v_cache] = [self.feed(attention.caches[0])?, self.feed(attention.caches[1])?];
        let q = self.scratch(&[batch, len, q_heads, head_dim])?;
        let attended = self.scratch(&[batch, len, q_heads, v_dim])?;
        let mut params = self.params(opening, qkv, m)?;
        params.out = device_ptr(&q);
        params.cos = self.address(Some(attention.cos))?;
        params.sin = self.address(Some(attention.sin))?;
        params.starts = self.address(Some(attention.starts))?;
        params.caches = [View::new(k_cache), View::new(v_cache)];
        params.dims = [head_dim as u32, v_dim as u32];
        params.len = len as u32;
        params.interleaved = u32::from(attention.turn.pairing == RopePairing::Interleaved);
        let pairs: usize = qkv.iter().map(|product| product.node.out_features.div_ceil(2)).sum();
        self.launch(Name::NormQkv, o.dtype, params, pairs)?;
        let offset = attention.offset.map(|place| scalar(self.feeds, place)).transpose();
        let offset = offset.map_err(|reason| device_error(self.gpu.id(), "run", reason))?;
        plan.run(
            self.gpu,
            &Feeds {
                q: &q.permute(&[0, 2, 1, 3])?,
                k: k_cache,
                v: v_cache,
                out: &attended.permute(&[0, 2, 1, 3])?,
                mask: None,
                kv_lens: Some(self.feed(attention.kv_lens)?),
                offset,
            },
        )?;
        self.project(opening, o, &attended, m)
    }
}

/// A kernel that takes calls of few rows alone. A graph that serves every length cannot say so.
pub(crate) struct FewRows<O: Op, K> {
    kernel: K,
    /// Rows of a call, and the width of the stream.
    size: fn(&O::Spec) -> (usize, usize),
    shared_bytes: usize,
}

impl<O: Op, K: KernelInvocable<O>> FewRows<O, K> {
    pub(crate) fn new(gpu: &Gpu, kernel: K, size: fn(&O::Spec) -> (usize, usize)) -> Self {
        // Other variables of a block take a little.
        let shared_bytes = gpu.stream.properties().shared_bytes as usize - 2048;
        Self { kernel, size, shared_bytes }
    }
}

impl<O: Op, K: KernelInvocable<O>> KernelInvocable<O> for FewRows<O, K> {
    fn supports(&self, spec: &O::Spec) -> Support {
        let (rows, width) = (self.size)(spec);
        let fits = self.shared_bytes / (width * size_of::<f32>()).max(1);
        let max = MAX_ROWS.min(if fits == 0 { 0 } else { 1 << fits.ilog2() });
        match rows {
            _ if rows > max => Support::No(Reason::Range { what: "rows", got: rows, max }),
            _ => self.kernel.supports(spec),
        }
    }

    fn run(&self, cx: &ExecCx<'_>, spec: &O::Spec, args: &O::Args) -> Result<()> {
        self.kernel.run(cx, spec, args)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::sources::Source;

    #[test]
    fn every_kernel_has_its_rows_and_variant() {
        assert_eq!(size_of::<Params>(), 15 * 8 + 2 * 64 + 14 * 4);
        for dtype in [DType::F32, DType::F16, DType::Bf16] {
            for (m, rows) in [(1, 1), (2, 2), (3, 4), (5, 8), (8, 8)] {
                let (kernel, made_for) = kernel(dtype, Name::Project, m);
                assert_eq!((made_for, kernel.name), (rows, &*format!("project_{rows}")));
                assert!(Source::named(kernel.source).takes(kernel.variant));
            }
        }
    }
}
