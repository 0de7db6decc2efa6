//! The mask arena: every view is the plain band, one buffer serves a whole range of lengths.

use metallic::cache::{BandRequest, Limits, MaskArena};
use metallic::tensor::{DType, Shape, Tensor};
use metallic::{Context, Error};
use metallic_instrumentation::Recorder;
use metallic_testkit::null_device::{NullOptions, null_context};
use metallic_testkit::storage::decode;
use proptest::prelude::*;

fn arena(entries: usize, bytes: usize) -> MaskArena {
    MaskArena::new(Limits { entries, bytes })
}

fn get(arena: &MaskArena, ctx: &Context, request: BandRequest) -> Tensor {
    arena.band(request, ctx.device(), &Recorder::disabled()).unwrap()
}

const DECODE: BandRequest =
    BandRequest { left: None, right: Some(0), rows: 1, kv_len: 1, offset: 0, dtype: DType::F16 };

/// The values of a strided `[rows, columns]` view.
fn values(ctx: &Context, view: &Tensor) -> Vec<f64> {
    let size = view.dtype().block_bytes();
    let mut bytes = vec![0; view.buffer().bytes()];
    ctx.device().read(&**view.buffer(), 0, &mut bytes).unwrap();
    let (layout, shape) = (view.layout(), view.shape());
    assert_eq!(layout.strides()[1], 1, "the last axis is contiguous");
    (0..shape[0])
        .flat_map(|row| {
            let start = (layout.offset() + row * layout.strides()[0]) * size;
            decode(view.dtype(), &bytes[start..start + shape[1] * size])
        })
        .collect()
}

fn bound() -> impl Strategy<Value = Option<usize>> {
    prop_oneof![
        2 => Just(None),
        4 => (0usize..40).prop_map(Some),
        1 => Just(Some(usize::MAX)),
        1 => Just(Some(300)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() })]

    #[test]
    fn views_are_plain_bands(
        (left, right) in (bound(), bound()),
        rows in 0usize..20,
        kv_len in 0usize..600,
        offset in prop_oneof![4 => -30i64..640, 1 => Just(i64::MAX), 1 => Just(i64::MIN)],
        dtype in prop_oneof![Just(DType::F32), Just(DType::F16), Just(DType::Bf16)],
    ) {
        let ctx = null_context(NullOptions::default());
        let request = BandRequest { left, right, rows, kv_len, offset, dtype };
        let view = get(&arena(8, 1 << 30), &ctx, request);
        prop_assert_eq!(view.shape(), Shape::from([rows, kv_len]));
        prop_assert_eq!(view.dtype(), dtype);
        let got = values(&ctx, &view);
        for row in 0..rows {
            for column in 0..kv_len {
                let distance = column as i128 - (row as i128 + i128::from(offset));
                let seen = left.is_none_or(|left| distance >= -(left as i128))
                    && right.is_none_or(|right| distance <= right as i128);
                let want = if seen { 0.0 } else { f64::NEG_INFINITY };
                prop_assert_eq!(got[row * kv_len + column], want, "row {} column {}", row, column);
            }
        }
    }
}

#[test]
fn one_buffer_serves_a_whole_decode() {
    let ctx = null_context(NullOptions::default());
    let arena = arena(8, 1 << 30);
    for kv_len in 513..=1024 {
        get(&arena, &ctx, BandRequest { kv_len, offset: kv_len as i64 - 1, ..DECODE });
    }
    let stats = arena.stats();
    assert_eq!((stats.misses, stats.hits, stats.entries), (1, 511, 1));
    // Two widths of keys and one row, two bytes each.
    assert_eq!(stats.bytes, (2 * 1024 + 1) * 2);
    assert_eq!(ctx.device().memory().in_use, stats.bytes);
}

#[test]
fn layers_share_a_mask_and_kinds_do_not() {
    let ctx = null_context(NullOptions::default());
    let arena = arena(8, 1 << 30);
    let first = get(&arena, &ctx, BandRequest { kv_len: 9, ..DECODE });
    let again = get(&arena, &ctx, BandRequest { kv_len: 200, offset: 3, ..DECODE });
    assert!(std::sync::Arc::ptr_eq(first.buffer(), again.buffer()));
    for other in [
        BandRequest { dtype: DType::F32, ..DECODE },
        BandRequest { left: Some(4), ..DECODE },
        BandRequest { right: Some(1), ..DECODE },
        BandRequest { rows: 2, ..DECODE },
        BandRequest { kv_len: 257, ..DECODE },
    ] {
        get(&arena, &ctx, other);
    }
    assert_eq!((arena.stats().misses, arena.stats().entries), (6, 6));
}

#[test]
fn bytes_are_bounded_but_masks_in_use_stay() {
    let ctx = null_context(NullOptions::default());
    // One row of 256 keys takes 1026 bytes.
    let arena = arena(100, 2100);
    let held = get(&arena, &ctx, DECODE);
    for window in 1..20 {
        get(&arena, &ctx, BandRequest { left: Some(window), ..DECODE });
        assert!(arena.stats().bytes <= 2100, "{}", arena.stats().bytes);
    }
    let stats = arena.stats();
    assert_eq!((stats.entries, stats.evictions), (2, 18));
    get(&arena, &ctx, DECODE);
    assert_eq!(arena.stats().hits, 1, "the one in use was never given up");
    assert_eq!(arena.clear(), 1);
    drop(held);
    assert_eq!(arena.clear(), 1);
    assert_eq!(ctx.device().memory().in_use, 0, "buffers went back to the device");
}

#[test]
fn a_diagonal_far_outside_is_served_but_not_kept() {
    let ctx = null_context(NullOptions::default());
    let arena = arena(8, 1 << 30);
    let far = get(&arena, &ctx, BandRequest { kv_len: 4, offset: 100_000, ..DECODE });
    assert_eq!(values(&ctx, &far), [0.0; 4]);
    assert_eq!(arena.stats().entries, 0);
}

#[test]
fn a_mask_beyond_memory_is_an_error_and_ends_nothing() {
    let ctx = null_context(NullOptions { memory: 1 << 20, ..NullOptions::default() });
    let arena = arena(8, 1 << 30);
    // 96 GiB: it must be refused before anybody builds it.
    let huge = BandRequest { rows: 1 << 17, kv_len: 1 << 17, ..DECODE };
    let error = arena.band(huge, ctx.device(), &Recorder::disabled()).unwrap_err();
    assert!(matches!(error, Error::OutOfMemory { .. }), "{error}");
    get(&arena, &ctx, DECODE);
}
