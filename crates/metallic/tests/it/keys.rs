//! What makes two calls share an executable, and what does not.

use std::collections::HashSet;
use std::sync::Arc;

use metallic::Context;
use metallic::cache::GraphKey;
use metallic::device::DeviceId;
use metallic::op::{Band, Mask, Op, OpSpec, Sdpa, SdpaArgs};
use metallic::tensor::DType;
use metallic_testkit::null_device::{NULL, NullOptions, null_context};

use crate::support::{SMALL, Shapes};

fn dynamic(args: &SdpaArgs) -> GraphKey {
    let spec = Sdpa::check(args).unwrap().without_lengths();
    GraphKey::new::<Sdpa>(NULL, Arc::from("build"), spec)
}

fn bucketed(args: &SdpaArgs) -> GraphKey {
    GraphKey::new::<Sdpa>(NULL, Arc::from("build"), Sdpa::check(args).unwrap())
}

/// Calls that differ from the first and from each other in one attribute an executable has
/// baked in.
fn attributes(ctx: &Context) -> Vec<(&'static str, SdpaArgs)> {
    let base = || SMALL.call(ctx);
    let band = |left, right, offset| Mask { band: Band { left, right, offset }, tensor: None };
    let zeros = |dtype, shape: [usize; 2]| ctx.zeros(dtype, shape).unwrap();
    let f32_mask = || zeros(DType::F32, [3, 5]);
    let causal_with = |mask: Mask| Mask { band: Mask::causal().band, ..mask };
    let shapes = |shapes: Shapes| shapes.call(ctx);
    vec![
        ("base", base()),
        ("scale", SdpaArgs { scale: Some(2.0), ..base() }),
        ("softcap", SdpaArgs { softcap: Some(30.0), ..base() }),
        ("another softcap", SdpaArgs { softcap: Some(50.0), ..base() }),
        ("no mask", SdpaArgs { mask: Mask::none(), ..base() }),
        ("window", SdpaArgs { mask: Mask::sliding_window(4), ..base() }),
        ("another window", SdpaArgs { mask: Mask::sliding_window(5), ..base() }),
        ("right", SdpaArgs { mask: band(None, Some(1), None), ..base() }),
        ("given offset", SdpaArgs { mask: band(None, Some(0), Some(3)), ..base() }),
        ("additive", SdpaArgs { mask: causal_with(Mask::additive(f32_mask())), ..base() }),
        (
            "additive f16",
            SdpaArgs { mask: causal_with(Mask::additive(zeros(DType::F16, [3, 5]))), ..base() },
        ),
        ("additive alone", SdpaArgs { mask: Mask::additive(f32_mask()), ..base() }),
        ("bool", SdpaArgs { mask: causal_with(Mask::bool(zeros(DType::Bool, [3, 5]))), ..base() }),
        (
            "live lengths",
            SdpaArgs { kv_lens: Some(ctx.upload_i32([2], &[1, 2]).unwrap()), ..base() },
        ),
        ("q_heads", shapes(Shapes { q_heads: 8, ..SMALL })),
        ("kv_heads", shapes(Shapes { kv_heads: 4, ..SMALL })),
        ("head_dim", SdpaArgs { scale: base_scale(), ..shapes(Shapes { head_dim: 16, ..SMALL }) }),
        ("v_dim", shapes(Shapes { v_dim: 16, ..SMALL })),
        ("q dtype", shapes(Shapes { q_dtype: DType::F16, ..SMALL })),
        ("kv dtype", shapes(Shapes { kv_dtype: DType::F16, ..SMALL })),
        ("v dtype", SdpaArgs { v: shapes(Shapes { kv_dtype: DType::Bf16, ..SMALL }).v, ..base() }),
        ("phase", shapes(Shapes { q_len: 1, ..SMALL })),
        ("strided", SdpaArgs { k: strided_k(ctx), ..base() }),
    ]
}

/// The default scale of the base call, so that another width changes nothing else.
fn base_scale() -> Option<f32> {
    Some((1.0 / 8f64.sqrt()) as f32)
}

fn strided_k(ctx: &Context) -> metallic::tensor::Tensor {
    ctx.zeros(DType::F32, [2, 2, 7, 8]).unwrap().narrow(2, 1, 5).unwrap()
}

#[test]
fn every_baked_in_attribute_is_in_the_key_and_in_its_print() {
    let ctx = null_context(NullOptions::default());
    let calls = attributes(&ctx);
    let keys: Vec<_> = calls.iter().map(|(name, args)| (name, dynamic(args))).collect();
    for (index, (name, key)) in keys.iter().enumerate() {
        for (other_name, other) in &keys[index + 1..] {
            assert!(key != other, "{name} and {other_name} share a key");
            assert_ne!(key.to_string(), other.to_string(), "{name} and {other_name}");
        }
        assert_eq!(*key, dynamic(&calls[index].1), "{name} twice");
    }
    let distinct: HashSet<_> = keys.iter().map(|(_, key)| key).collect();
    assert_eq!(distinct.len(), calls.len());
}

#[test]
fn device_and_build_are_in_the_key() {
    let ctx = null_context(NullOptions::default());
    let spec = Sdpa::check(&SMALL.call(&ctx)).unwrap();
    let key = |device, build: &str| GraphKey::new::<Sdpa>(device, Arc::from(build), spec.clone());
    let second = DeviceId { index: 1, ..NULL };
    assert!(key(NULL, "a") == key(NULL, "a"));
    assert!(key(NULL, "a") != key(NULL, "b"), "another OS or driver build");
    assert!(key(NULL, "a") != key(second, "a"), "another device");
}

#[test]
fn values_of_a_step_are_never_in_the_key() {
    let ctx = null_context(NullOptions::default());
    let lens = |lens: &[i32]| SdpaArgs {
        kv_lens: Some(ctx.upload_i32([2], lens).unwrap()),
        ..SMALL.call(&ctx)
    };
    let offset = |offset| SdpaArgs {
        mask: Mask { band: Band { offset: Some(offset), ..Mask::causal().band }, tensor: None },
        ..SMALL.call(&ctx)
    };
    for key in [dynamic, bucketed] {
        assert!(key(&lens(&[1, 2])) == key(&lens(&[5, 0])), "live lengths");
        assert!(key(&offset(0)) == key(&offset(7)), "offsets");
    }
    // An offset without a band says nothing, and must not split the cache.
    let idle = Mask { band: Band { offset: Some(4), ..Band::OPEN }, tensor: None };
    let none = SdpaArgs { mask: Mask::none(), ..SMALL.call(&ctx) };
    assert!(dynamic(&SdpaArgs { mask: idle, ..SMALL.call(&ctx) }) == dynamic(&none));
    // Saying the default aloud changes nothing (coremltools#2864).
    let spoken = SdpaArgs { scale: base_scale(), ..SMALL.call(&ctx) };
    assert!(dynamic(&spoken) == dynamic(&SMALL.call(&ctx)));
}

#[test]
fn lengths_are_in_the_key_only_as_buckets_and_only_for_bucketed_executors() {
    let ctx = null_context(NullOptions::default());
    let call = |batch, q_len, kv_len| Shapes { batch, q_len, kv_len, ..SMALL }.call(&ctx);
    let base = call(2, 3, 5);
    for (args, same_bucket) in [
        (call(2, 4, 5), true),
        (call(2, 5, 5), false),
        (call(2, 3, 256), true),
        (call(2, 3, 257), false),
        (call(3, 3, 5), false),
    ] {
        assert!(dynamic(&base) == dynamic(&args), "any length");
        assert_eq!(bucketed(&base) == bucketed(&args), same_bucket, "{:?}", args.k.shape());
    }
    assert!(bucketed(&base) != dynamic(&base));
}
