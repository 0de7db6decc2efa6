//! The launches of one run of a half of a block.

use std::sync::Arc;

use bytemuck::{Pod, Zeroable};
use metallic::Result;
use metallic::graph::{Feed, SdpaNode};
use metallic::op::RopePairing;
use metallic::tensor::{DType, Layout, Shape, Tensor};

use super::super::sdpa::{Feeds, Plan};
use super::{Attention, MAX_ROWS, Mlp, Opening, Product, weights_of};
use crate::cuda::buffer::device_ptr;
use crate::cuda::error::device_error;
use crate::cuda::gpu::{Gpu, Kernel};
use crate::cuda::legacy::stage_bytes;
use crate::cuda::module::{LaunchShape, Param};
use crate::cuda::view::View;
use crate::sdpa_graph::{scalar, tensor};

/// Warps of a block, as in `segment.cuh`, and blocks of a multiprocessor that walk at once.
const WARPS: usize = 8;
const BLOCKS: usize = 2;

/// Elements of a row that a warp takes at once where weights are quantised.
const PIECE: usize = 1024;

/// `struct Segment` of `segment.cuh`.
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
    codes_at: u32,
}

/// What a launch does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Name {
    NormQkv,
    NormGateUp,
    Project,
}

/// Quantised types with kernels, in the order of [`VARIANTS`].
pub(super) const QUANTISED: [DType; 5] =
    [DType::Q8_0, DType::Q4_0, DType::Q5_0, DType::Q4K, DType::Q6K];

/// Variants of `segment_i8.cu` whose last weight has each of the types.
macro_rules! variants {
    ($weight:literal) => {
        [
            concat!("-DWEIGHT=", $weight, " -DLAST=5"),
            concat!("-DWEIGHT=", $weight, " -DLAST=6"),
            concat!("-DWEIGHT=", $weight, " -DLAST=8"),
            concat!("-DWEIGHT=", $weight, " -DLAST=12"),
            concat!("-DWEIGHT=", $weight, " -DLAST=14"),
        ]
    };
}

/// Variants of `segment_i8.cu` by the type of the first weight and the last.
const VARIANTS: [[&str; 5]; 5] =
    [variants!(5), variants!(6), variants!(8), variants!(12), variants!(14)];

/// The kernel for `m` rows and these weights, the first and the last, and the rows it is made for.
pub(super) fn kernel(weights: [DType; 2], name: Name, m: usize) -> Option<(Kernel, usize)> {
    let names = match name {
        Name::NormQkv => ["norm_qkv_1", "norm_qkv_2", "norm_qkv_4", "norm_qkv_8"],
        Name::NormGateUp => {
            ["norm_gate_up_1", "norm_gate_up_2", "norm_gate_up_4", "norm_gate_up_8"]
        }
        Name::Project => ["project_1", "project_2", "project_4", "project_8"],
    };
    let rows = m.clamp(1, MAX_ROWS).next_power_of_two();
    let name = names[rows.ilog2() as usize];
    let (source, variant) = match weights {
        [DType::F32, _] => ("segment", "-DWEIGHT=0"),
        [DType::F16, _] => ("segment", "-DWEIGHT=1"),
        [DType::Bf16, _] => ("segment", "-DWEIGHT=2"),
        _ => {
            let [first, last] = weights.map(|dtype| QUANTISED.iter().position(|it| *it == dtype));
            ("segment_i8", VARIANTS[first?][last?])
        }
    };
    Some((Kernel { source, variant, name }, rows))
}

/// Shared memory of a block, in bytes, beside what it rounds its input to.
fn fixed_bytes(weights: [DType; 2]) -> usize {
    // Pieces of both rows of each warp.
    weights.map(|dtype| 2 * WARPS * stage_bytes(dtype)).into_iter().max().unwrap_or(0)
}

/// The codes of `k` inputs and three numbers for each 32, in bytes.
fn code_bytes(k: usize) -> usize {
    k / 32 * 48
}

/// Shared memory that calls over these weights take, in bytes: for any number of rows, and for each
/// row, where a norm of `width` inputs and a product of `last` ones follow each other.
pub(super) fn shared_bytes(weights: &[DType], width: usize, last: usize) -> [usize; 2] {
    let normed = width * size_of::<f32>();
    let quantised = || weights.iter().filter(|dtype| dtype.is_quantized());
    let fixed = quantised().map(|dtype| fixed_bytes([*dtype; 2])).max();
    match fixed {
        Some(fixed) => [fixed, (normed + code_bytes(width)).max(code_bytes(last))],
        None => [0, normed],
    }
}

/// One run of a plan.
pub(super) struct Run<'a> {
    gpu: &'a Gpu,
    feeds: &'a [Feed],
    out: &'a Tensor,
}

impl<'a> Run<'a> {
    pub(super) fn new(gpu: &'a Gpu, feeds: &'a [Feed], out: &'a Tensor) -> Self {
        Self { gpu, feeds, out }
    }

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

    fn launch(
        &self,
        name: Name,
        weights: [DType; 2],
        mut params: Params,
        pairs: usize,
    ) -> Result<()> {
        let (m, k) = (params.m as usize, params.k as usize);
        let (kernel, rows) = kernel(weights, name, m).ok_or_else(|| {
            device_error(self.gpu.id(), "launch", format!("no kernel takes {weights:?}"))
        })?;
        let normed = if name == Name::Project { 0 } else { rows * k * size_of::<f32>() };
        let rounded = weights[0].is_quantized();
        let codes = if rounded { rows * code_bytes(k) + fixed_bytes(weights) } else { 0 };
        let shared = normed + codes;
        let properties = self.gpu.stream.properties();
        let multiprocessors = properties.multiprocessors as usize;
        let at_once = (properties.shared_bytes as usize / shared.max(1)).clamp(1, BLOCKS);
        let resident = multiprocessors * at_once;
        // Warps that share a row take pieces of it in turn.
        let most = if rounded { k.div_ceil(PIECE) } else { WARPS };
        let fits = |split: &usize| *split <= most && pairs * split <= resident * WARPS;
        let split = [4, 2].into_iter().find(fits).unwrap_or(1);
        let blocks = pairs.div_ceil(WARPS / split);
        // As many blocks as make every one walk over equally many pairs.
        let blocks = blocks.div_ceil(blocks.div_ceil(resident));
        (params.pairs, params.split) = (pairs as u32, split as u32);
        params.codes_at = normed as u32;
        let shape = LaunchShape {
            shared_bytes: shared as u32,
            ..LaunchShape::linear(blocks, 32 * WARPS as u32)
        };
        let function = self.gpu.function(kernel)?;
        // Other variables of a block count towards the 48 KiB that need no leave.
        if shared > 40 << 10 {
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
        self.launch(Name::Project, [last.dtype; 2], params, last.node.out_features.div_ceil(2))
    }

    pub(super) fn mlp(&self, mlp: &Mlp) -> Result<()> {
        let Mlp { opening, gate_up, down } = mlp;
        let m = self.feed(opening.x)?.shape()[0];
        let ffn = down.node.in_features;
        let gated = self.scratch(&[m, ffn])?;
        let mut params = self.params(opening, gate_up, m)?;
        params.out = device_ptr(&gated);
        self.launch(Name::NormGateUp, weights_of(gate_up), params, ffn)?;
        self.project(opening, down, &gated, m)
    }

    pub(super) fn attention(&self, attention: &Attention, plan: &Plan) -> Result<()> {
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
        self.launch(Name::NormQkv, weights_of(qkv), params, pairs)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::sources::Source;
    use crate::cuda::view::dtype_code;

    #[test]
    fn every_kernel_has_its_rows_and_variant() {
        assert_eq!(size_of::<Params>(), 15 * 8 + 2 * 64 + 14 * 4);
        for dtype in [DType::F32, DType::F16, DType::Bf16].into_iter().chain(QUANTISED) {
            for (m, rows) in [(1, 1), (2, 2), (3, 4), (5, 8), (8, 8)] {
                let (kernel, made_for) = kernel([dtype; 2], Name::Project, m).unwrap();
                assert_eq!((made_for, kernel.name), (rows, &*format!("project_{rows}")));
                assert!(Source::named(kernel.source).takes(kernel.variant));
            }
        }
        assert!(kernel([DType::Q2K; 2], Name::Project, 1).is_none());
    }

    #[test]
    fn variants_name_both_types() {
        let code = |dtype| dtype_code(dtype).to_string();
        for first in QUANTISED {
            for last in QUANTISED {
                let (kernel, _) = kernel([first, last], Name::NormQkv, 1).unwrap();
                let want = format!("-DWEIGHT={} -DLAST={}", code(first), code(last));
                assert_eq!((kernel.source, kernel.variant), ("segment_i8", &*want));
            }
        }
    }
}
