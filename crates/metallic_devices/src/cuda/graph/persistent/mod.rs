//! Decode steps of one sequence as one kernel (`persistent.cu`), for Hopper: weights stream into shared
//! memory ahead of the work, and blocks wait for published words instead of for each other's end. Steps
//! that take the likeliest token, or one that is drawn, follow each other in one launch.
//!
//! Not: many rows, other chips, norms of heads, windows, f32 activations over quantised weights, and
//! what does not fit a multiprocessor's shared memory; `supports` says which.

mod layout;
mod program;
mod table;

use std::sync::Arc;

use metallic::Result;
use metallic::dispatch::{ExecCx, KernelInvocable, Reason, Support};
use metallic::op::{LinearSpec, MaskTensorKind, Precision, SdpaSpec};
use metallic::segment::{AttentionBlockSpec, DecoderStep, DecoderStepArgs, DecoderStepSpec};
use metallic::tensor::DType;

use self::layout::{Layout, Sizes};
use self::program::Program;
use self::table::Layer;
use crate::cuda::gpu::Gpu;

/// Longest view of keys. Beyond it every block of a head reads its keys alone, where the kernels of
/// `sdpa_decode.cu` read them once for all heads that share them.
const MAX_KEYS: usize = 8192;

/// Quantised types that `persistent_products.cuh` multiplies.
const QUANTISED: [DType; 5] = [DType::Q8_0, DType::Q4_0, DType::Q5_0, DType::Q4K, DType::Q6K];

/// Bytes of the quantised weights of a layer from which the kernels of its halves are faster, which
/// multiply with fewer instructions (docs/cuda.md, version 4).
const WIDE_QUANTISED: usize = 100 << 20;

/// The kernel on one device.
pub(crate) struct PersistentStep(pub(crate) Arc<Gpu>);

/// What one model's steps have in common.
struct Shape {
    sizes: Sizes,
    /// Every type among the weights, once.
    types: Vec<DType>,
    table: DType,
    cache: DType,
}

fn missing(feature: &'static str) -> Reason {
    Reason::Missing { feature }
}

fn ensure(condition: bool, reason: impl FnOnce() -> Reason) -> Result<(), Reason> {
    if condition { Ok(()) } else { Err(reason()) }
}

/// Products of one input: all plain with equally many elements in 16 bytes, or all quantised.
fn check_products(products: &[&LinearSpec]) -> Result<(), Reason> {
    for product in products {
        let got = product.weight;
        let supported = "f32, f16, bf16, q8_0, q4_0, q5_0, q4_k and q6_k";
        ensure(got.is_float() || QUANTISED.contains(&got), || Reason::DType {
            binding: "weight",
            got,
            supported,
        })?;
        ensure(!got.is_quantized() || product.precision == Precision::Quantized, || {
            missing("f32 activations over quantised weights")
        })?;
        ensure(product.in_features.is_multiple_of(8), || {
            missing("rows of weights that are no multiple of 8 elements")
        })?;
        let first = products[0].weight;
        let alike = got == first
            || (got.is_quantized() && first.is_quantized())
            || [got, first].iter().all(|dtype| matches!(dtype, DType::F16 | DType::Bf16));
        let supported = "that of the first weight of its input, or both quantised";
        ensure(alike, || Reason::DType { binding: "weight", got, supported })?;
    }
    Ok(())
}

/// Bytes of a weight, 0 of a plain one.
fn quantised_bytes(product: &LinearSpec) -> usize {
    let LinearSpec { weight, in_features, out_features, .. } = *product;
    let row = weight.row_bytes(in_features).filter(|_| weight.is_quantized());
    row.unwrap_or_default().saturating_mul(out_features)
}

fn check_attention(spec: &AttentionBlockSpec) -> Result<(), Reason> {
    let AttentionBlockSpec { qk_norm, rope: [rope, _], append, sdpa, .. } = spec;
    let SdpaSpec { head_dim, v_dim, mask, lengths, .. } = sdpa;
    let rows = lengths.batch * lengths.q_bucket;
    ensure(rows == 1, || Reason::Range { what: "rows", got: rows, max: 1 })?;
    let (got, max) = (lengths.kv_bucket, MAX_KEYS);
    ensure(got <= max, || Reason::Range { what: "kv_len", got, max })?;
    ensure(qk_norm.is_none(), || missing("norms of heads"))?;
    ensure(matches!(head_dim, 64 | 128) && v_dim == head_dim, || {
        missing("head_dim and v_dim other than 64 and 128, or two of them")
    })?;
    ensure(2 * rope.pairs == *head_dim, || missing("rotations of a part of a head"))?;
    let plain = mask.left.is_none() && !mask.fixed_offset && mask.tensor == MaskTensorKind::None;
    ensure(plain && mask.right == Some(0), || missing("masks other than the causal one"))?;
    ensure(sdpa.softcap().is_none() && sdpa.kv_lens, || missing("softcaps and fixed lengths"))?;
    let got = append[0].cache;
    ensure(got.is_float() && append[1].cache == got, || Reason::DType {
        binding: "cache",
        got: if got.is_float() { append[1].cache } else { got },
        supported: "f32, f16 and bf16, the same for keys and values",
    })
}

impl Shape {
    /// # Errors
    /// The reason why there is no kernel for such a step.
    fn of(spec: &DecoderStepSpec) -> Result<Self, Reason> {
        let DecoderStepSpec { embedding, layers, norm, output, .. } = spec;
        let mut types = vec![output.weight];
        check_products(&[output])?;
        let (first, first_mlp) = layers.first().ok_or_else(|| missing("steps without layers"))?;
        for (attention, mlp) in layers {
            check_attention(attention)?;
            let [q, k, v] = &attention.qkv;
            for products in [&[q, k, v][..], &[&attention.o], &[&mlp.gate, &mlp.up], &[&mlp.down]] {
                check_products(products)?;
                types.extend(products.iter().map(|product| product.weight));
            }
            let of_layer =
                attention.qkv.iter().chain([&attention.o, &mlp.gate, &mlp.up, &mlp.down]);
            let quantised: usize = of_layer.map(quantised_bytes).sum();
            ensure(quantised < WIDE_QUANTISED, || Reason::Range {
                what: "bytes of a layer's quantised weights",
                got: quantised,
                max: WIDE_QUANTISED,
            })?;
            let widths = |spec: &LinearSpec| (spec.in_features, spec.out_features);
            let alike = attention.sdpa == first.sdpa
                && attention.append == first.append
                && attention.rope == first.rope
                && widths(&mlp.gate) == widths(&first_mlp.gate)
                && [attention.norm.eps(), mlp.norm.eps()] == [norm.eps(); 2];
            ensure(alike, || missing("layers that differ in more than their weights' types"))?;
        }
        types.sort_by_key(|dtype| *dtype as u8);
        types.dedup();
        let sdpa = &first.sdpa;
        let sizes = Sizes {
            layers: layers.len(),
            hidden: embedding.width,
            ffn: first_mlp.gate.out_features,
            heads: [sdpa.q_heads, sdpa.kv_heads],
            head_dim: sdpa.head_dim,
            vocab: output.out_features,
        };
        Ok(Self { sizes, types, table: embedding.table, cache: first.append[0].cache })
    }
}

impl PersistentStep {
    fn layout(&self, shape: &Shape) -> Result<Layout, Reason> {
        let chip = self.0.stream.properties();
        let blocks = chip.multiprocessors as usize;
        ensure(chip.capability == (9, 0), || missing("chips other than sm_90"))?;
        let [got, max] = [shape.sizes.heads[0], blocks];
        ensure(got <= max, || Reason::Range { what: "q_heads", got, max })?;
        let room = (chip.shared_bytes as usize, size_of::<Layer>());
        Layout::new(&shape.sizes, &shape.types, blocks, room)
            .ok_or_else(|| missing("models whose rows do not fit shared memory"))
    }
}

impl KernelInvocable<DecoderStep> for PersistentStep {
    fn supports(&self, spec: &DecoderStepSpec) -> Support {
        match Shape::of(spec).and_then(|shape| self.layout(&shape)) {
            Ok(_) => Support::Yes,
            Err(reason) => Support::No(reason),
        }
    }

    fn run(&self, _: &ExecCx<'_>, spec: &DecoderStepSpec, args: &DecoderStepArgs) -> Result<()> {
        let declined =
            |reason| metallic::Error::Declined { op: "decoder_step", kernel: "persistent", reason };
        let shape = Shape::of(spec).map_err(declined)?;
        let layout = self.layout(&shape).map_err(declined)?;
        let program = Program { gpu: &self.0, shape: &shape, layout, spec, args };
        ensure(program.is_aligned(), || missing("weights that start at no multiple of 16 bytes"))
            .map_err(declined)?;
        program.run()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn linear(weight: DType) -> LinearSpec {
        LinearSpec {
            weight,
            in_features: 896,
            out_features: 896,
            bias: false,
            precision: Precision::Quantized,
            rows_bucket: 1,
        }
    }

    #[test]
    fn products_of_one_input_share_its_form() {
        let check = |types: &[DType]| {
            let products: Vec<_> = types.iter().map(|dtype| linear(*dtype)).collect();
            check_products(&products.iter().collect::<Vec<_>>())
        };
        assert_eq!(check(&[DType::F16, DType::Bf16]), Ok(()));
        assert_eq!(check(&[DType::Q4K, DType::Q4K, DType::Q6K]), Ok(()));
        assert!(check(&[DType::F16, DType::F32]).is_err());
        assert!(check(&[DType::Q8_0, DType::F16]).is_err());
        assert!(check(&[DType::Q2K]).is_err());
    }

    #[test]
    fn exact_activations_over_quantised_weights_are_refused() {
        let exact = LinearSpec { precision: Precision::Exact, ..linear(DType::Q8_0) };
        let reason = check_products(&[&exact]).unwrap_err();
        assert_eq!(reason, missing("f32 activations over quantised weights"));
        let plain = LinearSpec { precision: Precision::Exact, ..linear(DType::F16) };
        assert_eq!(check_products(&[&plain]), Ok(()));
    }
}
