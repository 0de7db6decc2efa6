//! What is bound as it lies, what is copied, and what is cut.

use metallic::Context;
use metallic::cache::BandRequest;
use metallic::op::{Mask, Sdpa, SdpaArgs};
use metallic::tensor::{DType, Tensor};
use metallic_devices::GraphOptions;
use metallic_instrumentation::exporter::ChannelExporter;
use metallic_instrumentation::{MetricEvent, Recorder};
use metallic_testkit::random::Random;
use metallic_testkit::storage::{decode, encode};
use softmetal_objc::control;

use crate::support::{graph_with, macos_15, promises};

fn half(ctx: &Context, name: &str, shape: [usize; 4]) -> Tensor {
    let mut random = Random::named(name);
    let count = shape.iter().product::<usize>();
    let bytes = (0..count).flat_map(|_| half::f16::from_f64(random.normal()).to_le_bytes());
    ctx.upload(DType::F16, shape, &bytes.collect::<Vec<_>>()).unwrap()
}

/// Attention over a view of a cache with room for 512 keys, one query each of two sequences.
fn over_cache(ctx: &Context, kv_len: usize) -> SdpaArgs {
    let view = |name| half(ctx, name, [2, 2, 512, 32]).narrow(2, 0, kv_len).unwrap();
    // Queries begin in the middle of their buffer.
    let q = half(ctx, "q", [4, 4, 1, 32]).narrow(0, 1, 2).unwrap();
    SdpaArgs {
        q,
        k: view("k"),
        v: view("v"),
        mask: Mask::causal(),
        kv_lens: Some(ctx.upload_i32([2], &[7, kv_len as i32]).unwrap()),
        scale: None,
        softcap: None,
        out: ctx.zeros(DType::F16, [2, 4, 1, 32]).unwrap(),
    }
}

#[test]
fn caches_and_offsets_are_read_in_place() {
    if !macos_15() {
        return;
    }
    let (exporter, events) = ChannelExporter::new();
    let recorder = Recorder::new(vec![Box::new(exporter)]);
    let ctx = graph_with(promises(), recorder);
    let copies = |events: &std::sync::mpsc::Receiver<metallic_instrumentation::Record>| {
        let copied = |event| match event {
            MetricEvent::GraphOperandCopied { binding, .. } => Some(binding),
            _ => None,
        };
        // Feeds come in whatever order the executable wants them.
        let mut names: Vec<_> =
            events.try_iter().filter_map(|record| copied(record.event)).collect();
        names.sort();
        names
    };
    ctx.run::<Sdpa>(&over_cache(&ctx, 256)).unwrap();
    ctx.device().synchronize().unwrap();
    assert_eq!(copies(&events), Vec::<String>::new());
    // Keys between two classes, and queries that fill none, have to be copied, and that is told.
    let args = over_cache(&ctx, 300);
    ctx.run::<Sdpa>(&args).unwrap();
    assert_eq!(copies(&events), ["k", "v"]);
}

/// One query of two sequences over 256 keys; every tensor lies behind `before` sequences of its buffer.
fn of_width(ctx: &Context, dtype: DType, dim: usize, before: usize) -> Vec<u8> {
    let upload = |name, [heads, len]: [usize; 2]| {
        let (row, mut random) = (heads * len * dim, Random::named(name));
        let values: Vec<f64> = (0..2 * row).map(|_| random.normal()).collect();
        let all = [vec![f64::NAN; before * row], values].concat();
        let bytes = encode(dtype, &all);
        ctx.upload(dtype, [before + 2, heads, len, dim], &bytes)
            .unwrap()
            .narrow(0, before, 2)
            .unwrap()
    };
    let args = SdpaArgs {
        q: upload("q", [4, 1]),
        k: upload("k", [2, 256]),
        v: upload("v", [2, 256]),
        mask: Mask::none(),
        kv_lens: None,
        scale: None,
        softcap: None,
        out: upload("out", [4, 1]),
    };
    ctx.run::<Sdpa>(&args).unwrap();
    ctx.download(&args.out).unwrap()
}

/// Rows that are no multiple of 16 bytes lie one behind the other, wherever the array begins.
#[test]
fn rows_of_every_width_are_read_and_written_at_offsets() {
    let ctx = graph_with(promises(), Recorder::disabled());
    for dtype in [DType::F16, DType::F32] {
        for dim in [36, 33, 2] {
            let want = of_width(&ctx, dtype, dim, 0);
            let values = decode(dtype, &want);
            assert!(values.iter().all(|value| value.is_finite()), "{dtype} {dim}: {values:?}");
            for before in [1, 3] {
                let got = of_width(&ctx, dtype, dim, before);
                assert!(got == want, "{dtype} {dim} behind {before}: {:?}", decode(dtype, &got));
            }
        }
    }
}

#[test]
fn a_call_that_is_cut_gives_what_the_whole_gives() {
    let results: Vec<Vec<u8>> = [None, Some(70_000), Some(9000)]
        .into_iter()
        .map(|max_scores| {
            let options = GraphOptions { max_scores, ..promises() };
            let ctx = graph_with(options, Recorder::disabled());
            let before = control().counter("graph_encodes");
            let args = SdpaArgs {
                q: half(&ctx, "q", [2, 4, 33, 32]),
                k: half(&ctx, "k", [2, 2, 40, 32]),
                v: half(&ctx, "v", [2, 2, 40, 32]),
                mask: Mask::sliding_window(5),
                kv_lens: Some(ctx.upload_i32([2], &[31, 40]).unwrap()),
                scale: None,
                softcap: None,
                out: ctx.zeros(DType::F16, [2, 4, 33, 32]).unwrap(),
            };
            ctx.run::<Sdpa>(&args).unwrap();
            let bytes = ctx.download(&args.out).unwrap();
            assert!(control().counter("graph_encodes") > before);
            bytes
        })
        .collect();
    assert_eq!(results[0], results[1]);
    assert_eq!(results[0], results[2]);
    assert!(results[0].iter().any(|byte| *byte != 0));
}

#[test]
fn lengths_of_zero_never_reach_mpsgraph() {
    let ctx = graph_with(promises(), Recorder::disabled());
    for (q_len, kv_len) in [(0, 40), (3, 0)] {
        let args = SdpaArgs {
            q: half(&ctx, "q", [1, 4, q_len, 32]),
            k: half(&ctx, "k", [1, 2, kv_len, 32]),
            v: half(&ctx, "v", [1, 2, kv_len, 32]),
            mask: Mask::none(),
            kv_lens: None,
            scale: None,
            softcap: None,
            out: half(&ctx, "out", [1, 4, q_len, 32]),
        };
        ctx.run::<Sdpa>(&args).unwrap();
        assert!(ctx.download(&args.out).unwrap().iter().all(|byte| *byte == 0), "{q_len} {kv_len}");
    }
}

#[test]
fn band_masks_are_built_on_the_gpu_once_a_bucket() {
    let (metal, cpu) = (graph_with(promises(), Recorder::disabled()), crate::support::cpu());
    for (left, right) in [(None, Some(0)), (Some(3), Some(2)), (Some(7), None), (None, None)] {
        for dtype in [DType::F32, DType::F16, DType::Bf16] {
            for (rows, kv_len, offset) in [(1, 40, 39), (5, 300, -3), (9, 20, 1000)] {
                let request = BandRequest { left, right, rows, kv_len, offset, dtype };
                let bytes = [&metal, &cpu].map(|ctx| {
                    let masks = &ctx.cache().masks;
                    let mask = masks.band(request, ctx.device(), ctx.recorder()).unwrap();
                    let again = masks.band(request, ctx.device(), ctx.recorder()).unwrap();
                    // Far outside of the keys a mask is one call's own.
                    let kept = std::sync::Arc::ptr_eq(mask.buffer(), again.buffer());
                    assert_eq!(kept, offset < 1000);
                    let view = *mask.layout();
                    let len = view.end().unwrap() * dtype.block_bytes();
                    let mut bytes = vec![0; len];
                    ctx.device().read(&**mask.buffer(), 0, &mut bytes).unwrap();
                    (view, bytes)
                });
                assert_eq!(bytes[0], bytes[1], "{request:?}");
            }
        }
    }
}
