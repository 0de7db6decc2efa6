//! The printed graphs of attention, and what its bindings mean.

use expect_test::{Expect, expect};
use metallic::dispatch::{Reason, Support};
use metallic::graph::kernels::SdpaGraphKernel;
use metallic::graph::{Axis, Dim, Feed, GraphKernel};
use metallic::op::{Band, Mask, Op, OpSpec, Sdpa, SdpaArgs};
use metallic::tensor::DType;
use metallic_testkit::null_device::{NullOptions, null_context};

use crate::support::{SMALL, Shapes};

fn check(args: &SdpaArgs, expected: &Expect) {
    let graph = SdpaGraphKernel.build(&Sdpa::check(args).unwrap());
    expected.assert_eq(&graph.to_string());
    // Feeds come in the order of the inputs, with the types they were declared with.
    let feeds = SdpaGraphKernel.feeds(args);
    let inputs: Vec<_> = graph.inputs().map(|(_, input)| input).collect();
    assert_eq!(feeds.len(), inputs.len());
    for (feed, input) in feeds.iter().zip(inputs) {
        match feed {
            Feed::Tensor(tensor) => assert_eq!(tensor.dtype(), input.dtype, "{}", input.name),
            Feed::Scalar(_) => assert_eq!((input.dtype, input.axes), (DType::I64, &[][..])),
        }
    }
}

#[test]
fn causal_prefill() {
    let ctx = null_context(NullOptions::default());
    check(
        &SMALL.call(&ctx),
        &expect![[r#"
            %0 = input q: f32 [batch=2, q_heads=4, q_len=4, head_dim=8]
            %1 = input k: f32 [batch=2, kv_heads=2, kv_len=256, head_dim=8]
            %2 = input v: f32 [batch=2, kv_heads=2, kv_len=256, v_dim=8]
            %3 = sdpa(%0, %1, %2) heads=4/2 dim=8/8 mask=causal scale=0.35355338 accumulate=f32
            return %3: f32
        "#]],
    );
}

#[test]
fn decode_with_quantised_keys_live_lengths_and_softcap() {
    let ctx = null_context(NullOptions::default());
    let shapes = Shapes {
        q_heads: 14,
        q_len: 1,
        head_dim: 64,
        v_dim: 64,
        q_dtype: DType::F16,
        kv_dtype: DType::Q8_0,
        ..SMALL
    };
    let kv_lens = Some(ctx.upload_i32([2], &[1, 2]).unwrap());
    let call = SdpaArgs { kv_lens, softcap: Some(30.0), ..shapes.call(&ctx) };
    check(
        &call,
        &expect![[r#"
            %0 = input q: f16 [batch=2, q_heads=14, q_len=1, head_dim=64]
            %1 = input k: q8_0 [batch=2, kv_heads=2, kv_len=256, head_dim=64]
            %2 = input v: q8_0 [batch=2, kv_heads=2, kv_len=256, v_dim=64]
            %3 = input kv_lens: i32 [batch=2]
            %4 = sdpa(%0, %1, %2, kv_lens=%3) heads=14/2 dim=64/64 mask=causal scale=0.125 softcap=30 accumulate=f32
            return %4: f16
        "#]],
    );
}

#[test]
fn window_at_an_offset_with_a_bool_mask() {
    let ctx = null_context(NullOptions::default());
    let mut mask = Mask::bool(ctx.zeros(DType::Bool, [3, 5]).unwrap());
    mask.band = Band { left: Some(7), right: Some(0), offset: Some(2) };
    let call = SdpaArgs { mask, ..SMALL.call(&ctx) };
    check(
        &call,
        &expect![[r#"
            %0 = input q: f32 [batch=2, q_heads=4, q_len=4, head_dim=8]
            %1 = input k: f32 [batch=2, kv_heads=2, kv_len=256, head_dim=8]
            %2 = input v: f32 [batch=2, kv_heads=2, kv_len=256, v_dim=8]
            %3 = input mask: bool [batch=1, q_heads=1, q_len=4, kv_len=256]
            %4 = input offset: i64 []
            %5 = sdpa(%0, %1, %2, mask=%3, offset=%4) heads=4/2 dim=8/8 mask=window[7,0]@offset+bool scale=0.35355338 accumulate=f32
            return %5: f32
        "#]],
    );
    let feeds = SdpaGraphKernel.feeds(&call);
    assert!(matches!(feeds.last(), Some(Feed::Scalar(2))));
}

#[test]
fn additive_mask_and_another_value_width() {
    let ctx = null_context(NullOptions::default());
    let mask = Mask::additive(ctx.zeros(DType::Bf16, [2, 1, 1, 5]).unwrap());
    let shapes = Shapes { v_dim: 4, q_dtype: DType::Bf16, kv_dtype: DType::Bf16, ..SMALL };
    let call = SdpaArgs { mask, scale: Some(0.25), ..shapes.call(&ctx) };
    check(
        &call,
        &expect![[r#"
            %0 = input q: bf16 [batch=2, q_heads=4, q_len=4, head_dim=8]
            %1 = input k: bf16 [batch=2, kv_heads=2, kv_len=256, head_dim=8]
            %2 = input v: bf16 [batch=2, kv_heads=2, kv_len=256, v_dim=4]
            %3 = input mask: bf16 [batch=2, q_heads=1, q_len=4, kv_len=256]
            %4 = sdpa(%0, %1, %2, mask=%3) heads=4/2 dim=8/4 mask=none+additive bf16 scale=0.25 accumulate=f32
            return %4: bf16
        "#]],
    );
}

#[test]
fn an_executable_for_any_length_is_built_from_a_graph_without_lengths() {
    let ctx = null_context(NullOptions::default());
    let spec = Sdpa::check(&SMALL.call(&ctx)).unwrap();
    let any = SdpaGraphKernel.build(&spec.without_lengths());
    for (_, input) in any.inputs() {
        for (axis, dim) in input.axes.iter().zip(&input.dims) {
            let length = matches!(axis, Axis::Batch | Axis::QLen | Axis::KvLen);
            assert_eq!(*dim == Dim::Any, length, "{} {axis}", input.name);
        }
    }
}

#[test]
fn bindings_say_what_their_axes_mean() {
    use Axis::{Batch, HeadDim, KvHeads, KvLen, QHeads, QLen, VDim};
    let signature: Vec<_> = SdpaGraphKernel
        .signature()
        .iter()
        .map(|binding| (binding.name, binding.axes, binding.optional))
        .collect();
    let expected: [(_, &[Axis], _); 7] = [
        ("q", &[Batch, QHeads, QLen, HeadDim], false),
        ("k", &[Batch, KvHeads, KvLen, HeadDim], false),
        ("v", &[Batch, KvHeads, KvLen, VDim], false),
        ("mask", &[Batch, QHeads, QLen, KvLen], true),
        ("kv_lens", &[Batch], true),
        ("offset", &[], true),
        ("out", &[Batch, QHeads, QLen, VDim], false),
    ];
    assert_eq!(signature, expected);
    // Every input of a graph is a binding of the signature, with the same axes.
    let ctx = null_context(NullOptions::default());
    let graph = SdpaGraphKernel.build(&Sdpa::check(&SMALL.call(&ctx)).unwrap());
    for (_, input) in graph.inputs() {
        assert!(signature.iter().any(|(name, axes, _)| (*name, *axes) == (input.name, input.axes)));
    }
}

#[test]
fn scores_are_accumulated_in_f32_whatever_is_stored() {
    let policy = SdpaGraphKernel.dtype_policy();
    assert_eq!(policy.accumulator, DType::F32);
    for dtype in [DType::F32, DType::F16, DType::Bf16, DType::Q8_0] {
        assert_eq!(policy.check("k", dtype), Support::Yes);
    }
    let Support::No(reason) = policy.check("k", DType::Q4_0) else { panic!("q4_0 is stored") };
    assert!(matches!(reason, Reason::DType { binding: "k", got: DType::Q4_0, .. }));
    assert!(reason.to_string().starts_with("k is q4_0, supported are f32, f16, bf16"));
}
