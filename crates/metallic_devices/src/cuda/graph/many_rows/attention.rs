//! The attention half for many rows.

use std::sync::Arc;

use bytemuck::{Pod, Zeroable};
use metallic::Result;
use metallic::dispatch::{ExecCx, KernelInvocable, Reason, Support};
use metallic::graph::kernels::SdpaGraphKernel;
use metallic::graph::{Cached, GraphExecutor};
use metallic::op::{Op, RopePairing, Sdpa, SdpaArgs, SdpaSpec};
use metallic::segment::{
    AttentionBlock, AttentionBlockArgs, AttentionBlockSpec, AttentionCalls, QkNorm,
};
use metallic::tensor::{DType, Layout, Shape, Tensor};

use super::{Numbers, aligned, all, norm, supports_products, supports_rows};
use crate::composed::empty;
use crate::cuda::buffer::device_ptr;
use crate::cuda::gpu::{Gpu, Kernel};
use crate::cuda::legacy::{multiply, product_type};
use crate::cuda::module::LaunchShape;
use crate::cuda::view::View;

/// Warps of a block, a head of a row each.
const WARPS: usize = 4;

/// [`AttentionBlock`] for many rows.
pub(crate) struct ManyRowsAttention {
    gpu: Arc<Gpu>,
    sdpa: Cached<Sdpa, SdpaGraphKernel>,
}

/// `struct Heads` of `many_rows.cu`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(super) struct Heads {
    q: u64,
    k: u64,
    v: u64,
    out: u64,
    cos: u64,
    sin: u64,
    q_norm: u64,
    k_norm: u64,
    starts: u64,
    fault: u64,
    pub(super) numbers: u64,
    pub(super) k_cache: View,
    pub(super) v_cache: View,
    pub(super) rows: u32,
    len: u32,
    q_heads: u32,
    kv_heads: u32,
    dim: u32,
    v_dim: u32,
    pub(super) pairs: u32,
    interleaved: u32,
    pub(super) eps: f32,
    unused: u32,
}

impl ManyRowsAttention {
    /// Over the fused attention of `executor`.
    pub(crate) fn new(gpu: Arc<Gpu>, executor: Arc<dyn GraphExecutor>) -> Self {
        Self { gpu, sdpa: Cached::new(SdpaGraphKernel, executor) }
    }
}

/// The attention of a half, with queries in the cache's type.
fn rounded(spec: &AttentionBlockSpec) -> SdpaSpec {
    let mut sdpa = spec.sdpa.clone();
    sdpa.q_dtype = sdpa.k_dtype;
    sdpa
}

impl KernelInvocable<AttentionBlock> for ManyRowsAttention {
    fn supports(&self, spec: &AttentionBlockSpec) -> Support {
        let AttentionBlockSpec { norm, qkv: [q, k, v], sdpa, o, .. } = spec;
        for (binding, got) in [("k_cache", sdpa.k_dtype), ("v_cache", sdpa.v_dtype)] {
            if !matches!(got, DType::F16 | DType::Bf16) || got != sdpa.k_dtype {
                let supported = "f16 and bf16, for both caches";
                return Support::No(Reason::DType { binding, got, supported });
            }
        }
        // What attention gives may be too large for the product.
        if sdpa.k_dtype == DType::Bf16 && product_type(o) == DType::F16 {
            let supported = "f16 under products in f16";
            return Support::No(Reason::DType { binding: "k_cache", got: DType::Bf16, supported });
        }
        let rows = sdpa.lengths.batch * sdpa.lengths.q_bucket;
        all([
            supports_rows(&self.gpu, rows, norm),
            supports_products(&[q, k, v]),
            supports_products(&[o]),
            self.sdpa.supports(&rounded(spec)),
        ])
    }

    fn run(
        &self,
        cx: &ExecCx<'_>,
        spec: &AttentionBlockSpec,
        args: &AttentionBlockArgs,
    ) -> Result<()> {
        let gpu = &*self.gpu;
        let given = [&args.x, &args.norm.weight, &args.k_cache, &args.v_cache];
        let pending = args.pending.iter();
        aligned(AttentionBlock::ID, &pending.chain(given).collect::<Vec<_>>())?;
        let calls = args.calls(&|shape: Shape| empty(cx, shape))?;
        let numbers = Numbers::new(gpu)?;
        let to = product_type(&spec.qkv[0]);
        let x = norm(gpu, &spec.norm, &calls.norm, to, numbers.of(0))?;
        for (spec, call) in spec.qkv.iter().zip(&calls.qkv) {
            // SAFETY: the norm wrote rows of this width in the product's type, and the factor.
            unsafe { multiply(gpu, spec, call, x.start(), numbers.of(0)) }?;
        }
        drop(x);
        let dtype = spec.sdpa.k_dtype;
        let q = halves(cx, &calls.sdpa.q, dtype)?;
        self.heads(spec, args, &calls, &q, numbers.of(1))?;
        let attended = halves(cx, &calls.sdpa.out, dtype)?;
        let sdpa = SdpaArgs { q, out: attended.clone(), ..calls.sdpa.clone() };
        self.sdpa.run(cx, &rounded(spec), &sdpa)?;
        if product_type(&spec.o) != dtype {
            self.to_bf16(&attended)?;
        }
        // SAFETY: attention wrote rows of this width, position by position, by now in the product's
        // type; the heads' kernel wrote the factor.
        unsafe { multiply(gpu, &spec.o, &calls.o, device_ptr(&attended), numbers.of(1)) }
    }
}

impl ManyRowsAttention {
    /// Queries into `out`, keys and values into the caches; 1 as the factor in `numbers`.
    fn heads(
        &self,
        spec: &AttentionBlockSpec,
        args: &AttentionBlockArgs,
        calls: &AttentionCalls,
        out: &Tensor,
        numbers: u64,
    ) -> Result<()> {
        let [batch, q_heads, len, dim] = std::array::from_fn(|axis| out.shape()[axis]);
        let (kv_heads, rope) = (spec.sdpa.kv_heads, &spec.rope[0]);
        let rows = batch * len;
        let norms = args.qk_norm.as_ref();
        let weight = |of: fn(&QkNorm) -> &Tensor| norms.map_or(0, |norms| device_ptr(of(norms)));
        let [q, k, v] = calls.qkv.each_ref().map(|call| device_ptr(&call.out));
        let params = Heads {
            q,
            k,
            v,
            out: device_ptr(out),
            cos: device_ptr(&args.rotation.cos),
            sin: device_ptr(&args.rotation.sin),
            q_norm: weight(|norms| &norms.q),
            k_norm: weight(|norms| &norms.k),
            starts: device_ptr(&args.starts),
            fault: self.gpu.fault(),
            numbers,
            k_cache: View::new(&args.k_cache),
            v_cache: View::new(&args.v_cache),
            rows: rows as u32,
            len: len as u32,
            q_heads: q_heads as u32,
            kv_heads: kv_heads as u32,
            dim: dim as u32,
            v_dim: spec.sdpa.v_dim as u32,
            pairs: rope.pairs as u32,
            interleaved: u32::from(rope.pairing == RopePairing::Interleaved),
            eps: norms.map_or(0.0, |norms| norms.eps),
            unused: 0,
        };
        let runs = rows * (q_heads + 2 * kv_heads);
        let shape = LaunchShape::linear(runs.div_ceil(WARPS), 32 * WARPS as u32);
        // SAFETY: tensors of these shapes, of widths that attention takes: multiples of 16 up to
        // 256. The kernel writes no row outside the caches.
        unsafe { self.gpu.launch(Kernel::plain("many_rows", "heads"), shape, &params) }
    }

    /// f16 numbers as bf16, in place.
    fn to_bf16(&self, x: &Tensor) -> Result<()> {
        let twos = x.shape().elements() / 2;
        let params = [device_ptr(x), twos as u64];
        let shape = self.gpu.strided(twos, 256);
        // SAFETY: x has this many pairs of elements.
        unsafe { self.gpu.launch(Kernel::plain("many_rows", "f16_to_bf16"), shape, &params) }
    }
}

/// A tensor `[batch, heads, len, dim]` like `like` of a two-byte type, stored position by position.
fn halves(cx: &ExecCx<'_>, like: &Tensor, dtype: DType) -> Result<Tensor> {
    let [batch, heads, len, dim] = std::array::from_fn(|axis| like.shape()[axis]);
    let stored = Shape::new(&[batch, len, heads, dim]);
    let buffer = cx.device.allocate(stored.elements() * dtype.block_bytes())?;
    Tensor::new(buffer, dtype, Layout::contiguous(stored))?.permute(&[0, 2, 1, 3])
}
