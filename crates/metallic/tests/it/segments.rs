//! The two halves of a block as ops: what they refuse, and their printed graphs.

use expect_test::{Expect, expect};
use metallic::context::Explanation;
use metallic::graph::kernels::{AttentionBlockGraphKernel, MlpBlockGraphKernel};
use metallic::graph::{Axis, Dim, Feed, GraphKernel, Node};
use metallic::op::{
    Band, EmbeddingArgs, LinearArgs, Mask, Op, OpSpec, Precision, RmsNormArgs, RopePairing,
};
use metallic::segment::{
    AttentionBlock, AttentionBlockArgs, DecoderLayer, DecoderStep, DecoderStepArgs, FollowingSteps,
    MlpBlock, MlpBlockArgs, Norm, Projection, QkNorm, Rotation,
};
use metallic::tensor::{DType, Tensor};
use metallic::{Context, Error};
use metallic_instrumentation::exporter::ChannelExporter;
use metallic_instrumentation::{MetricEvent, Recorder};
use metallic_testkit::null_device::{NullOptions, null_context};

struct Zeros(Context);

impl Zeros {
    fn new() -> Self {
        Self(null_context(NullOptions::default()))
    }

    fn f32(&self, shape: &[usize]) -> Tensor {
        self.0.zeros(DType::F32, shape).unwrap()
    }

    fn i32(&self, len: usize) -> Tensor {
        self.0.zeros(DType::I32, [len]).unwrap()
    }

    fn projection(&self, dtype: DType, out: usize, inner: usize, bias: bool) -> Projection {
        let weight = self.0.zeros(dtype, [out, inner]).unwrap();
        Projection { weight, bias: bias.then(|| self.f32(&[out])) }
    }

    /// Two sequences, as [`Zeros::attention_of`].
    fn attention(&self, len: usize, pending: bool) -> AttentionBlockArgs {
        self.attention_of([2, len], pending)
    }

    /// 4 query and 2 key heads of width 16 over a stream of 64; `kv_len` 256 of a capacity of 512.
    fn attention_of(&self, [batch, len]: [usize; 2], pending: bool) -> AttentionBlockArgs {
        let cache = |dtype| {
            let cache = self.0.zeros(dtype, [batch, 2, 512, 16]).unwrap();
            cache.narrow(2, 0, 256).unwrap()
        };
        AttentionBlockArgs {
            x: self.f32(&[batch, len, 64]),
            pending: pending.then(|| self.f32(&[batch, len, 64])),
            norm: Norm { weight: self.f32(&[64]), eps: 1e-6 },
            q: self.projection(DType::Q4_0, 64, 64, true),
            k: self.projection(DType::Q4_0, 32, 64, true),
            v: self.projection(DType::Q8_0, 32, 64, true),
            qk_norm: None,
            rotation: Rotation {
                cos: self.f32(&[batch, len, 8]),
                sin: self.f32(&[batch, len, 8]),
                pairing: RopePairing::Half,
            },
            k_cache: cache(DType::F16),
            v_cache: cache(DType::Bf16),
            starts: self.i32(batch),
            kv_lens: self.i32(batch),
            band: Mask::causal().band,
            scale: None,
            o: self.projection(DType::Q4_0, 64, 64, false),
            precision: Precision::Quantized,
            out: self.f32(&[batch, len, 64]),
        }
    }

    fn mlp(&self, rows: usize) -> MlpBlockArgs {
        MlpBlockArgs {
            x: self.f32(&[rows, 64]),
            pending: Some(self.f32(&[rows, 64])),
            norm: Norm { weight: self.f32(&[64]), eps: 1e-5 },
            gate: self.projection(DType::Q4_0, 96, 64, false),
            up: self.projection(DType::Q5_0, 96, 64, false),
            down: self.projection(DType::F16, 64, 96, false),
            precision: Precision::Exact,
            out: self.f32(&[rows, 64]),
        }
    }

    /// A step of some sequences through two layers, over a vocabulary of 100.
    fn step(&self, batch: usize) -> DecoderStepArgs {
        let stream = || self.f32(&[batch, 64]);
        let (x, attended, fed, normed) = (stream(), stream(), stream(), stream());
        let by_sequence = |tensor: &Tensor| tensor.reshape([batch, 1, 64]).unwrap();
        let layer = |pending: Option<&Tensor>| DecoderLayer {
            attention: AttentionBlockArgs {
                x: by_sequence(&x),
                pending: pending.map(by_sequence),
                out: by_sequence(&attended),
                ..self.attention_of([batch, 1], false)
            },
            mlp: MlpBlockArgs {
                x: x.clone(),
                pending: Some(attended.clone()),
                out: fed.clone(),
                ..self.mlp(batch)
            },
        };
        DecoderStepArgs {
            layers: vec![layer(None), layer(Some(&fed))],
            embedding: EmbeddingArgs {
                ids: self.i32(batch),
                table: self.f32(&[100, 64]),
                out: x.clone(),
            },
            norm: RmsNormArgs {
                x,
                residual: Some(fed),
                weight: self.f32(&[64]),
                eps: 1e-6,
                out: normed.clone(),
            },
            output: LinearArgs {
                x: normed,
                weight: self.f32(&[100, 64]),
                bias: None,
                precision: Precision::Quantized,
                out: self.f32(&[batch, 100]),
            },
            following: None,
        }
    }
}

#[test]
fn a_segment_that_no_graph_takes_is_told_as_such() {
    let (exporter, events) = ChannelExporter::new();
    let recorder = Recorder::new(vec![Box::new(exporter)]);
    let zeros = Zeros(null_context(NullOptions { recorder, ..NullOptions::default() }));
    let ctx = &zeros.0;
    let explained = ctx.explain(|| ctx.run_segment::<MlpBlock>(&zeros.mlp(3)).unwrap()).1;
    let [Explanation { op: "mlp_block", kernel: None, reason, calls: 1, .. }] = &explained[..]
    else {
        panic!("{explained:?}")
    };
    assert!(reason.contains("no such kernel is registered"), "{reason}");
    for _ in 0..2 {
        assert_eq!(ctx.run_segment::<MlpBlock>(&zeros.mlp(3)).unwrap(), None);
    }
    let told: Vec<MetricEvent> = events.try_iter().map(|record| record.event).collect();
    let spec = MlpBlock::check(&zeros.mlp(3)).unwrap().to_string();
    let (op, reason) = ("mlp_block".to_owned(), reason.clone());
    assert_eq!(told, [MetricEvent::SegmentDeclined { op, reason, spec }], "told once");
    assert_eq!(ctx.runs("mlp_block"), [], "nothing ran");
}

#[test]
fn a_step_is_its_parts_chained() {
    let zeros = Zeros::new();
    let args = zeros.step(2);
    let spec = DecoderStep::check(&args).unwrap();
    assert_eq!((spec.layers.len(), spec.output.out_features), (2, 100));
    assert!(spec.to_string().contains("layers=2 first(norm("), "{spec}");
    assert_eq!(spec.layers[0].0, AttentionBlock::check(&args.layers[0].attention).unwrap());
    let refused = |change: &dyn Fn(&mut DecoderStepArgs), what: &str| {
        let mut args = args.clone();
        change(&mut args);
        let error = DecoderStep::check(&args).unwrap_err().to_string();
        assert!(error.starts_with("decoder_step: ") && error.contains(what), "{error}");
    };
    refused(&|args| args.layers.clear(), "at least one");
    refused(&|args| args.layers[1].attention.pending = None, "attention pending");
    refused(&|args| args.layers[0].attention.pending = Some(zeros.f32(&[2, 1, 64])), "the first");
    refused(&|args| args.layers[1].mlp.x = zeros.f32(&[2, 64]), "mlp x");
    refused(&|args| args.layers[0].mlp.pending = None, "mlp pending");
    refused(&|args| args.norm.residual = None, "norm residual");
    refused(&|args| args.output.x = zeros.f32(&[2, 64]), "output x");
    refused(&|args| args.norm.weight = zeros.f32(&[63]), "last norm");
}

#[test]
fn steps_that_follow_begin_with_the_first() {
    let zeros = Zeros::new();
    let several = |batch: usize| {
        let mut args = zeros.step(batch);
        let (cos, sin) = (zeros.f32(&[5, 8]), zeros.f32(&[5, 8]));
        for layer in &mut args.layers {
            let first = |all: &Tensor| all.narrow(0, 0, batch).unwrap().reshape([batch, 1, 8]);
            let rotation = &mut layer.attention.rotation;
            (rotation.cos, rotation.sin) = (first(&cos).unwrap(), first(&sin).unwrap());
        }
        let [count, draw, chosen] = [1, 14, 16].map(|words| zeros.i32(words));
        args.following = Some(FollowingSteps { count, cos, sin, draw, chosen });
        args
    };
    let spec = DecoderStep::check(&several(1)).unwrap();
    assert_eq!(spec.following, Some(5));
    assert!(spec.to_string().ends_with(" steps<=5"), "{spec}");
    assert_ne!(spec, DecoderStep::check(&zeros.step(1)).unwrap());
    let refused = |batch: usize, change: &dyn Fn(&mut FollowingSteps), what: &str| {
        let mut args = several(batch);
        change(args.following.as_mut().unwrap());
        let error = DecoderStep::check(&args).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    };
    refused(2, &|_| (), "cos");
    refused(1, &|steps| steps.cos = zeros.f32(&[5, 8]), "cos");
    refused(1, &|steps| steps.sin = steps.sin.narrow(0, 0, 4).unwrap(), "sin steps");
    refused(1, &|steps| steps.count = zeros.i32(2), "count");
    refused(1, &|steps| steps.draw = zeros.i32(13), "draw words");
    refused(1, &|steps| steps.chosen = zeros.i32(15), "chosen words");
    refused(1, &|steps| steps.chosen = zeros.f32(&[16]), "chosen");
    refused(
        1,
        &|steps| steps.count = steps.chosen.narrow(0, 3, 1).unwrap(),
        "the memory of chosen",
    );
}

/// The printed graph of a call; its feeds fit the inputs, and its inputs the signature.
fn check<O: Op, G: GraphKernel<O>>(kernel: &G, args: &O::Args, expected: &Expect) {
    let graph = kernel.build(&O::check(args).unwrap());
    expected.assert_eq(&graph.to_string());
    let feeds = kernel.feeds(args);
    assert_eq!(feeds.len(), graph.inputs().count());
    for (feed, (_, input)) in feeds.iter().zip(graph.inputs()) {
        match feed {
            Feed::Tensor(tensor) => {
                assert_eq!(tensor.dtype(), input.dtype, "{}", input.name);
                for (length, dim) in tensor.shape().iter().zip(&input.dims) {
                    let fits = !matches!(dim, Dim::Fixed(most) if length > most);
                    assert!(fits, "{} {}", input.name, tensor.shape());
                }
            }
            Feed::Scalar(_) => assert_eq!((input.dtype, input.axes), (DType::I64, &[][..])),
        }
        let mut signature = kernel.signature().iter();
        assert!(signature.any(|binding| (binding.name, binding.axes) == (input.name, input.axes)));
    }
    for update in graph.updates() {
        assert!(matches!(graph.node(update.input), Node::Input(_)), "{}", update.input);
    }
}

#[test]
fn attention_of_qwen2_decoding() {
    let args = Zeros::new().attention(1, true);
    check::<AttentionBlock, _>(
        &AttentionBlockGraphKernel,
        &args,
        &expect![[r#"
        %0 = input x: f32 [batch=2, q_len=1, hidden=64]
        %1 = input pending: f32 [batch=2, q_len=1, hidden=64]
        %2 = add(%0, %1)
        %3 = input norm_weight: f32 [hidden=64]
        %4 = rms_norm(%2, %3) width=64 eps=0.000001
        %5 = input q_weight: q4_0 [q_width=64, hidden=64]
        %6 = input q_bias: f32 [q_width=64]
        %7 = linear(%4, %5, bias=%6) 64x64
        %8 = split_heads(%7) heads=4 dim=16
        %9 = input k_weight: q4_0 [k_width=32, hidden=64]
        %10 = input k_bias: f32 [k_width=32]
        %11 = linear(%4, %9, bias=%10) 32x64
        %12 = split_heads(%11) heads=2 dim=16
        %13 = input v_weight: q8_0 [v_width=32, hidden=64]
        %14 = input v_bias: f32 [v_width=32]
        %15 = linear(%4, %13, bias=%14) 32x64
        %16 = split_heads(%15) heads=2 dim=16
        %17 = input cos: f32 [batch=2, q_len=1, pairs=8]
        %18 = input sin: f32 [batch=2, q_len=1, pairs=8]
        %19 = rope(%8, %17, %18) dim=16 pairs=8 Half
        %20 = rope(%12, %17, %18) dim=16 pairs=8 Half
        %21 = input k_cache: f16 [batch=2, kv_heads=2, kv_len=256, head_dim=16]
        %22 = input v_cache: bf16 [batch=2, kv_heads=2, kv_len=256, v_dim=16]
        %23 = input starts: i32 [batch=2]
        %24 = kv_append(%21, %20, starts=%23)
        %25 = kv_append(%22, %16, starts=%23)
        %26 = input kv_lens: i32 [batch=2]
        %27 = sdpa(%19, %24, %25, kv_lens=%26) heads=4/2 dim=16/16 mask=causal scale=0.25 accumulate=f32
        %28 = merge_heads(%27) heads=4 dim=16
        %29 = input o_weight: q4_0 [hidden=64, o_width=64]
        %30 = linear(%28, %29) 64x64
        update %0 <- %2
        update %21 <- %24
        update %22 <- %25
        return %30: f32
    "#]],
    );
}

#[test]
fn attention_of_qwen3_from_the_embedding() {
    let zeros = Zeros::new();
    let mut args = zeros.attention(3, false);
    for projection in [&mut args.q, &mut args.k, &mut args.v] {
        projection.bias = None;
    }
    args.qk_norm = Some(QkNorm { q: zeros.f32(&[16]), k: zeros.f32(&[16]), eps: 1e-6 });
    args.band = Band { left: Some(7), right: Some(0), offset: Some(4) };
    args.rotation.pairing = RopePairing::Interleaved;
    args.precision = Precision::Exact;
    args.scale = Some(0.5);
    check::<AttentionBlock, _>(
        &AttentionBlockGraphKernel,
        &args,
        &expect![[r#"
        %0 = input x: f32 [batch=2, q_len=4, hidden=64]
        %1 = input norm_weight: f32 [hidden=64]
        %2 = rms_norm(%0, %1) width=64 eps=0.000001
        %3 = input q_weight: q4_0 [q_width=64, hidden=64]
        %4 = linear(%2, %3) 64x64 exact
        %5 = split_heads(%4) heads=4 dim=16
        %6 = input k_weight: q4_0 [k_width=32, hidden=64]
        %7 = linear(%2, %6) 32x64 exact
        %8 = split_heads(%7) heads=2 dim=16
        %9 = input v_weight: q8_0 [v_width=32, hidden=64]
        %10 = linear(%2, %9) 32x64 exact
        %11 = split_heads(%10) heads=2 dim=16
        %12 = input q_norm: f32 [head_dim=16]
        %13 = rms_norm(%5, %12) width=16 eps=0.000001
        %14 = input k_norm: f32 [head_dim=16]
        %15 = rms_norm(%8, %14) width=16 eps=0.000001
        %16 = input cos: f32 [batch=2, q_len=4, pairs=8]
        %17 = input sin: f32 [batch=2, q_len=4, pairs=8]
        %18 = rope(%13, %16, %17) dim=16 pairs=8 Interleaved
        %19 = rope(%15, %16, %17) dim=16 pairs=8 Interleaved
        %20 = input k_cache: f16 [batch=2, kv_heads=2, kv_len=256, head_dim=16]
        %21 = input v_cache: bf16 [batch=2, kv_heads=2, kv_len=256, v_dim=16]
        %22 = input starts: i32 [batch=2]
        %23 = kv_append(%20, %19, starts=%22)
        %24 = kv_append(%21, %11, starts=%22)
        %25 = input kv_lens: i32 [batch=2]
        %26 = input offset: i64 []
        %27 = sdpa(%18, %23, %24, kv_lens=%25, offset=%26) heads=4/2 dim=16/16 mask=window[7,0]@offset scale=0.5 accumulate=f32
        %28 = merge_heads(%27) heads=4 dim=16
        %29 = input o_weight: q4_0 [hidden=64, o_width=64]
        %30 = linear(%28, %29) 64x64 exact
        update %20 <- %23
        update %21 <- %24
        return %30: f32
    "#]],
    );
    let feeds = AttentionBlockGraphKernel.feeds(&args);
    assert!(matches!(feeds[feeds.len() - 2], Feed::Scalar(4)));
}

#[test]
fn feed_forward() {
    let args = Zeros::new().mlp(5);
    check::<MlpBlock, _>(
        &MlpBlockGraphKernel,
        &args,
        &expect![[r#"
        %0 = input x: f32 [rows=8, hidden=64]
        %1 = input pending: f32 [rows=8, hidden=64]
        %2 = add(%0, %1)
        %3 = input norm_weight: f32 [hidden=64]
        %4 = rms_norm(%2, %3) width=64 eps=0.00001
        %5 = input gate_weight: q4_0 [ffn=96, hidden=64]
        %6 = linear(%4, %5) 96x64 exact
        %7 = input up_weight: q5_0 [ffn=96, hidden=64]
        %8 = linear(%4, %7) 96x64 exact
        %9 = swiglu(%6, %8)
        %10 = input down_weight: f16 [hidden=64, ffn=96]
        %11 = linear(%9, %10) 64x96 exact
        update %0 <- %2
        return %11: f32
    "#]],
    );
}

#[test]
fn no_length_stands_in_a_graph_for_any_length() {
    let zeros = Zeros::new();
    let spec = AttentionBlock::check(&zeros.attention(3, true)).unwrap().without_lengths();
    let mlp = MlpBlock::check(&zeros.mlp(5)).unwrap().without_lengths();
    for graph in [AttentionBlockGraphKernel.build(&spec), MlpBlockGraphKernel.build(&mlp)] {
        for (_, input) in graph.inputs() {
            for (axis, dim) in input.axes.iter().zip(&input.dims) {
                let length = matches!(axis, Axis::Batch | Axis::QLen | Axis::KvLen | Axis::Rows);
                assert_eq!(*dim == Dim::Any, length, "{} {axis}", input.name);
            }
        }
    }
}

#[test]
fn lengths_share_a_key_within_their_class() {
    let zeros = Zeros::new();
    let spec = |len| AttentionBlock::check(&zeros.attention(len, true)).unwrap();
    assert_eq!(spec(5), spec(8));
    assert_ne!(spec(5), spec(9));
    assert_eq!(spec(5).without_lengths(), spec(9).without_lengths());
    // A cache that is as long as its view is no class of its own.
    let mut whole = zeros.attention(5, true);
    whole.k_cache = zeros.0.zeros(DType::F16, [2, 2, 256, 16]).unwrap();
    whole.v_cache = zeros.0.zeros(DType::Bf16, [2, 2, 256, 16]).unwrap();
    assert_eq!(AttentionBlock::check(&whole).unwrap(), spec(5));
    let mlp = |rows| MlpBlock::check(&zeros.mlp(rows)).unwrap();
    assert_eq!(mlp(5), mlp(8));
    assert_ne!(mlp(5), mlp(9));
    assert_eq!(mlp(5).without_lengths(), mlp(9).without_lengths());
}

fn attention_error(change: impl FnOnce(&Zeros, &mut AttentionBlockArgs)) -> String {
    let zeros = Zeros::new();
    let mut args = zeros.attention(3, true);
    AttentionBlock::check(&args).unwrap();
    change(&zeros, &mut args);
    AttentionBlock::check(&args).unwrap_err().to_string()
}

#[test]
fn attention_refuses_what_its_parts_refuse_and_names_the_part() {
    assert_eq!(
        attention_error(|zeros, args| args.norm.weight = zeros.f32(&[32])),
        "attention_block: norm: rms_norm: weight axis 0 is 32, expected 64 (x's width)"
    );
    assert_eq!(
        attention_error(|zeros, args| args.v.bias = Some(zeros.f32(&[16]))),
        "attention_block: v projection: linear: bias axis 0 is 16, expected 32 (out_features)"
    );
    assert_eq!(
        attention_error(|zeros, args| args.o = zeros.projection(DType::F32, 64, 32, false)),
        "attention_block: output projection: linear: x axis 1 is 64, expected 32 (the weight's \
         in_features)"
    );
    assert_eq!(
        attention_error(|zeros, args| args.starts = zeros.i32(3)),
        "attention_block: k_cache: kv_append: starts axis 0 (batch) is 3, expected 2 (new's batch)"
    );
    assert_eq!(
        attention_error(|_, args| args.scale = Some(f32::NAN)),
        "attention_block: attention: sdpa: scale is NaN, expected a finite number"
    );
    let wide = attention_error(|zeros, args| {
        (args.rotation.cos, args.rotation.sin) = (zeros.f32(&[2, 3, 9]), zeros.f32(&[2, 3, 9]));
    });
    assert!(wide.starts_with("attention_block: rotation of q: rope: cos axis 1 (pairs)"), "{wide}");
}

#[test]
fn attention_refuses_what_cannot_be_cut_into_heads() {
    assert_eq!(
        attention_error(|zeros, args| args.q = zeros.projection(DType::F32, 63, 64, false)),
        "attention_block: q_weight axis 0 is 63, expected 48 (a whole number of k_cache's heads)"
    );
    assert_eq!(
        attention_error(|zeros, args| args.k = zeros.projection(DType::F32, 64, 64, false)),
        "attention_block: k_weight axis 0 is 64, expected 32 (k_cache's kv_heads · head_dim)"
    );
    assert_eq!(
        attention_error(|zeros, args| args.v = zeros.projection(DType::F32, 16, 64, false)),
        "attention_block: v_weight axis 0 is 16, expected 32 (k_cache's kv_heads · v_dim)"
    );
    assert_eq!(
        attention_error(|zeros, args| args.out = zeros.f32(&[3, 2, 64])),
        "attention_block: out axis 0 (batch) is 3, expected 2 (x's)"
    );
    assert_eq!(
        attention_error(|zeros, args| args.x = zeros.f32(&[6, 64])),
        "attention_block: x shape is [6, 64], expected 3 axes [batch, len, hidden]"
    );
    assert_eq!(
        attention_error(|zeros, args| args.rotation.sin = zeros.f32(&[2, 4, 8])),
        "attention_block: sin axis 1 (len) is 4, expected 3 (x's)"
    );
    let no_width = attention_error(|zeros, args| {
        args.k_cache = zeros.0.zeros(DType::F16, [2, 2, 256, 0]).unwrap();
    });
    assert!(no_width.starts_with("attention_block: q_weight axis 0"), "{no_width}");
}

#[test]
fn what_a_segment_writes_lies_apart_from_the_rest() {
    let shared = |change: fn(&mut AttentionBlockArgs)| attention_error(|_, args| change(args));
    assert_eq!(
        shared(|args| args.out = args.x.clone()),
        "attention_block: the memory of x is shared with out, expected memory apart from out, as \
         it is written"
    );
    assert!(shared(|args| args.out = args.pending.clone().unwrap()).contains("pending"));
    assert!(shared(|args| args.v_cache = args.k_cache.clone()).contains("v_cache"));
    assert!(shared(|args| args.pending = Some(args.x.clone())).contains("residual"));
    let zeros = Zeros::new();
    let mut mlp = zeros.mlp(3);
    mlp.out = mlp.pending.clone().unwrap();
    let error = MlpBlock::check(&mlp).unwrap_err();
    assert!(matches!(error, Error::Shape { op: "mlp_block", .. }), "{error}");
    mlp.out = zeros.f32(&[4, 64]);
    assert!(MlpBlock::check(&mlp).unwrap_err().to_string().contains("down projection"));
}
