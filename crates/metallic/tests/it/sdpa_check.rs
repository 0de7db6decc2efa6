//! Bad calls of attention are refused before any device sees them, with the axis named.

use metallic::op::{LayoutClass, Mask, Op, Phase, Sdpa, SdpaArgs};
use metallic::tensor::{DType, Tensor};
use metallic::{Context, Error};
use metallic_testkit::null_device::{NullOptions, null_context};

use crate::support::{SMALL, Shapes};

/// Zeros of a shape.
fn zeros(ctx: &Context, dtype: DType, shape: &[usize]) -> Tensor {
    ctx.zeros(dtype, shape).unwrap()
}

/// The error of the base call changed by `change`.
fn error(change: impl FnOnce(&Context, &mut SdpaArgs)) -> Error {
    let ctx = null_context(NullOptions::default());
    let mut args = SMALL.call(&ctx);
    Sdpa::check(&args).unwrap();
    change(&ctx, &mut args);
    Sdpa::check(&args).unwrap_err()
}

#[test]
fn each_wrong_axis_is_named() {
    // The base: q [2, 4, 3, 8], k and v [2, 2, 5, 8], out [2, 4, 3, 8].
    type Change = fn(&mut SdpaArgs) -> &mut Tensor;
    let (q, k): (Change, Change) = (|args| &mut args.q, |args| &mut args.k);
    let (v, out): (Change, Change) = (|args| &mut args.v, |args| &mut args.out);
    let wrong: [(Change, &[usize], &str); 16] = [
        (
            q,
            &[4, 3, 8],
            "sdpa: q shape is [4, 3, 8], expected 4 axes [batch, q_heads, q_len, head_dim]",
        ),
        (
            k,
            &[2, 5, 8],
            "sdpa: k shape is [2, 5, 8], expected 4 axes [batch, kv_heads, kv_len, head_dim]",
        ),
        (v, &[5, 8], "sdpa: v shape is [5, 8], expected 4 axes [batch, kv_heads, kv_len, v_dim]"),
        (out, &[2], "sdpa: out shape is [2], expected 4 axes [batch, q_heads, q_len, v_dim]"),
        (k, &[1, 2, 5, 8], "sdpa: k axis 0 (batch) is 1, expected 2 (q's batch)"),
        (v, &[3, 2, 5, 8], "sdpa: v axis 0 (batch) is 3, expected 2 (q's batch)"),
        (k, &[2, 2, 5, 9], "sdpa: k axis 3 (head_dim) is 9, expected 8 (q's head_dim)"),
        (v, &[2, 4, 5, 8], "sdpa: v axis 1 (kv_heads) is 4, expected 2 (k's kv_heads)"),
        (v, &[2, 2, 6, 8], "sdpa: v axis 2 (kv_len) is 6, expected 5 (k's kv_len)"),
        (out, &[1, 4, 3, 8], "sdpa: out axis 0 (batch) is 1, expected 2 (batch)"),
        (out, &[2, 2, 3, 8], "sdpa: out axis 1 (q_heads) is 2, expected 4 (q_heads)"),
        (out, &[2, 4, 5, 8], "sdpa: out axis 2 (q_len) is 5, expected 3 (q_len)"),
        (out, &[2, 4, 3, 4], "sdpa: out axis 3 (v_dim) is 4, expected 8 (v_dim)"),
        (q, &[2, 3, 3, 8], "sdpa: out axis 1 (q_heads) is 4, expected 3 (q_heads)"),
        (q, &[2, 4, 3, 0], "sdpa: k axis 3 (head_dim) is 8, expected 0 (q's head_dim)"),
        (q, &[0, 4, 3, 8], "sdpa: k axis 0 (batch) is 2, expected 0 (q's batch)"),
    ];
    for (tensor, shape, message) in wrong {
        let error = error(|ctx, args| *tensor(args) = zeros(ctx, DType::F32, shape));
        assert!(matches!(error, Error::Shape { .. }));
        assert_eq!(error.to_string(), message);
    }
}

#[test]
fn heads_must_divide_and_widths_must_be() {
    let ctx = null_context(NullOptions::default());
    let error = |shapes: Shapes| Sdpa::check(&shapes.call(&ctx)).unwrap_err().to_string();
    assert_eq!(
        error(Shapes { q_heads: 3, ..SMALL }),
        "sdpa: q axis 1 (q_heads) is 3, expected a multiple of k's kv_heads = 2, both at least 1"
    );
    for shapes in [Shapes { q_heads: 0, ..SMALL }, Shapes { kv_heads: 0, ..SMALL }] {
        assert!(error(shapes).contains("(q_heads)"));
    }
    assert_eq!(
        error(Shapes { head_dim: 0, ..SMALL }),
        "sdpa: q axis 3 (head_dim) is 0, expected at least 1"
    );
    assert_eq!(
        error(Shapes { v_dim: 0, ..SMALL }),
        "sdpa: v axis 3 (v_dim) is 0, expected at least 1"
    );
}

#[test]
fn empty_batches_and_lengths_are_calls_like_others() {
    let ctx = null_context(NullOptions::default());
    for shapes in
        [Shapes { batch: 0, ..SMALL }, Shapes { q_len: 0, ..SMALL }, Shapes { kv_len: 0, ..SMALL }]
    {
        let call = shapes.call(&ctx);
        assert!(Sdpa::check(&call).is_ok(), "{shapes:?}");
        ctx.run::<Sdpa>(&call).unwrap();
        let out = ctx.download_f32(&call.out).unwrap();
        assert!(out.iter().all(|value| *value == 0.0), "no key gives zeros");
    }
}

#[test]
fn types_are_refused_by_name() {
    let replace = |name: &str, dtype: DType| {
        error(|ctx, args| match name {
            "q" => args.q = zeros(ctx, dtype, &[2, 4, 3, 8]),
            "k" => args.k = zeros(ctx, dtype, &[2, 2, 5, 8]),
            "v" => args.v = zeros(ctx, dtype, &[2, 2, 5, 8]),
            "out" => args.out = zeros(ctx, dtype, &[2, 4, 3, 8]),
            _ => args.kv_lens = Some(zeros(ctx, dtype, &[2])),
        })
    };
    for (name, dtype, message) in [
        ("q", DType::I32, "sdpa: q has element type i32, expected f32, f16 or bf16"),
        ("k", DType::Bool, "sdpa: k has element type bool, expected f32, f16, bf16 or q8_0"),
        ("v", DType::I64, "sdpa: v has element type i64, expected f32, f16, bf16 or q8_0"),
        ("out", DType::F16, "sdpa: out has element type f16, expected q's element type"),
        ("kv_lens", DType::I64, "sdpa: kv_lens has element type i64, expected i32"),
    ] {
        assert_eq!(replace(name, dtype).to_string(), message);
    }
}

#[test]
fn masks_must_broadcast_to_the_scores() {
    let ctx = null_context(NullOptions::default());
    let with = |mask: Mask| Sdpa::check(&SdpaArgs { mask, ..SMALL.call(&ctx) });
    let shapes: [&[usize]; 7] =
        [&[2, 4, 3, 5], &[1, 4, 3, 5], &[3, 5], &[2, 1, 1, 5], &[3, 1], &[5], &[1]];
    for shape in shapes {
        assert!(with(Mask::additive(zeros(&ctx, DType::F32, shape))).is_ok(), "{shape:?}");
        assert!(with(Mask::bool(zeros(&ctx, DType::Bool, shape))).is_ok(), "{shape:?}");
    }
    let wrong: [&[usize]; 4] = [&[5, 3], &[2, 2, 3, 5], &[3, 4], &[2, 1, 5]];
    for shape in wrong {
        let error = with(Mask::additive(zeros(&ctx, DType::F32, shape))).unwrap_err().to_string();
        assert!(error.ends_with("broadcasts to [batch, q_heads, q_len, kv_len] = [2, 4, 3, 5]"));
        assert!(error.starts_with("sdpa: mask shape is ["), "{error}");
    }
    let wrong_types = [
        Mask::additive(zeros(&ctx, DType::Bool, &[3, 5])),
        Mask::bool(zeros(&ctx, DType::F32, &[3, 5])),
        Mask::additive(zeros(&ctx, DType::I32, &[3, 5])),
    ];
    for mask in wrong_types {
        assert!(matches!(with(mask), Err(Error::DType { binding: "mask", .. })));
    }
    let transposed = zeros(&ctx, DType::F32, &[5, 3]).permute(&[1, 0]).unwrap();
    let error = with(Mask::additive(transposed)).unwrap_err().to_string();
    assert!(error.contains("mask stride of the last axis"), "{error}");
}

#[test]
fn numbers_must_be_in_range() {
    for scale in [f32::NAN, f32::INFINITY] {
        let error = error(|_, args| args.scale = Some(scale)).to_string();
        assert!(error.starts_with("sdpa: scale is "), "{error}");
    }
    for softcap in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let error = error(|_, args| args.softcap = Some(softcap)).to_string();
        assert!(error.ends_with("expected a finite number above 0"), "{error}");
    }
    let error = error(|ctx, args| args.kv_lens = Some(zeros(ctx, DType::I32, &[3])));
    assert_eq!(error.to_string(), "sdpa: kv_lens axis 0 (batch) is 3, expected 2 (q's batch)");
}

#[test]
fn rows_must_be_contiguous_and_results_apart() {
    let transposed = |ctx: &Context, shape: [usize; 4]| {
        zeros(ctx, DType::F32, &shape).permute(&[0, 1, 3, 2]).unwrap()
    };
    let message = |error: Error| error.to_string();
    let got = message(error(|ctx, args| args.k = transposed(ctx, [2, 2, 8, 5])));
    assert!(got.starts_with("sdpa: k stride of the last axis is"), "{got}");
    let got = message(error(|ctx, args| {
        args.out = zeros(ctx, DType::F32, &[1, 4, 3, 8]).broadcast([2, 4, 3, 8]).unwrap();
    }));
    assert!(got.starts_with("sdpa: out strides is [0, 24, 8, 1]"), "{got}");
    let got = message(error(|ctx, args| {
        let one = zeros(ctx, DType::I32, &[1]);
        args.kv_lens = Some(one.broadcast([2]).unwrap());
    }));
    assert!(got.starts_with("sdpa: kv_lens strides is [0]"), "{got}");
}

#[test]
fn the_spec_says_what_kernels_need_to_know() {
    let ctx = null_context(NullOptions::default());
    let spec = Sdpa::check(&SMALL.call(&ctx)).unwrap();
    assert_eq!((spec.group(), spec.phase, spec.layout), (2, Phase::Prefill, LayoutClass::Dense));
    assert_eq!(spec.scale(), (1.0 / 8f64.sqrt()) as f32);
    let lengths = spec.lengths;
    assert_eq!((lengths.batch, lengths.q_bucket, lengths.kv_bucket), (2, 4, 256));
    let decode = Sdpa::check(&Shapes { q_len: 1, ..SMALL }.call(&ctx)).unwrap();
    assert_eq!(decode.phase, Phase::Decode);
    let mut call = SMALL.call(&ctx);
    call.q = zeros(&ctx, DType::F32, &[2, 3, 4, 8]).permute(&[0, 2, 1, 3]).unwrap();
    assert_eq!(Sdpa::check(&call).unwrap().layout, LayoutClass::Strided);
}
