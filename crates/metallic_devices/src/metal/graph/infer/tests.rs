//! Every error of [`infer`], each from a graph that is right but for one thing; and that the executor
//! gives it before MPSGraph, which would end the process, hears of the graph.

use metallic::graph::{Axis, GraphBuilder, GraphExecutor};
use metallic::op::{MaskKind, Precision, RopePairing};
use metallic_instrumentation::Recorder;
use objc2::Message;

use super::super::{Form, MpsGraphExecutor, Platform};
use super::*;
use crate::GraphOptions;
use crate::metal::{MetalDevice, MetalOptions};

const AXES: [Axis; 5] = [Axis::Batch, Axis::QHeads, Axis::QLen, Axis::KvLen, Axis::HeadDim];
const F32: DType = DType::F32;

fn input(builder: &mut GraphBuilder, name: &'static str, dtype: DType, dims: &[usize]) -> NodeId {
    let dims: Vec<Dim> = dims.iter().map(|dim| Dim::Fixed(*dim)).collect();
    builder.input(Input { name, dtype, axes: &AXES[..dims.len()], dims })
}

/// A node's number that no node of these graphs has.
fn nowhere() -> NodeId {
    let mut builder = GraphBuilder::new();
    (0..99).map(|_| input(&mut builder, "x", F32, &[1])).last().expect("99 is more than none")
}

/// A graph by what is wrong with it, and words of its error.
struct Wrong {
    says: String,
    graph: Graph,
}

/// The graph that `build` makes; its error must contain `says`.
fn wrong(says: &str, build: impl FnOnce(&mut GraphBuilder) -> NodeId) -> Wrong {
    let mut builder = GraphBuilder::new();
    let output = build(&mut builder);
    Wrong { says: says.to_owned(), graph: builder.finish(output, F32) }
}

fn inputs() -> Vec<Wrong> {
    let axes = |builder: &mut GraphBuilder, dims: Vec<Dim>| {
        builder.input(Input { name: "x", dtype: F32, axes: &AXES[..2], dims })
    };
    vec![
        wrong("input x has 2 axes and 1 lengths", |b| axes(b, vec![Dim::Fixed(3)])),
        wrong("input x has an axis of length 0", |b| axes(b, vec![Dim::Any, Dim::Fixed(0)])),
        wrong("there is no output", |b| {
            input(b, "x", F32, &[1]);
            nowhere()
        }),
    ]
}

fn rows() -> Vec<Wrong> {
    let add = |says: &str, a: (DType, &[usize]), b: (DType, &[usize])| {
        wrong(says, |builder| {
            let (a, b) = (input(builder, "a", a.0, a.1), input(builder, "b", b.0, b.1));
            builder.add(a, b)
        })
    };
    let norm = |says: &str, x: &[usize], weight: &[usize], width: usize| {
        wrong(says, |builder| {
            let (x, weight) = (input(builder, "x", F32, x), input(builder, "w", F32, weight));
            builder.rms_norm(RmsNormNode { x, weight, eps: 1e-6, width })
        })
    };
    vec![
        wrong("a is %98, which is no earlier node", |b| {
            let x = input(b, "x", F32, &[2]);
            b.add(nowhere(), x)
        }),
        add("a is f16, expected f32", (DType::F16, &[2, 3]), (F32, &[2, 3])),
        add("b is i32, expected f32", (F32, &[2, 3]), (DType::I32, &[2, 3])),
        add("b has 1 axes, expected 2", (F32, &[2, 3]), (F32, &[3])),
        add("b axis 1 is 4, expected 3", (F32, &[2, 3]), (F32, &[2, 4])),
        wrong("b axis 0 is 3, expected 2", |b| {
            let (gate, up) = (input(b, "gate", F32, &[2]), input(b, "up", F32, &[3]));
            b.swiglu(gate, up)
        }),
        norm("weight has 2 axes, expected 1", &[2, 8], &[1, 8], 8),
        norm("weight's last axis is 4, expected 8", &[2, 8], &[4], 8),
        norm("x's last axis is 9, expected 8", &[2, 9], &[8], 8),
        norm("x is a number, expected a tensor", &[], &[8], 8),
    ]
}

fn products() -> Vec<Wrong> {
    let linear = |says: &str, x: &[usize], weight: &[usize], bias: Option<&[usize]>| {
        wrong(says, |builder| {
            let (x, weight) = (input(builder, "x", F32, x), input(builder, "w", F32, weight));
            let bias = bias.map(|dims| input(builder, "bias", F32, dims));
            let precision = Precision::Exact;
            let (in_features, out_features) = (8, 5);
            builder.linear(LinearNode { x, weight, bias, in_features, out_features, precision })
        })
    };
    vec![
        linear("weight has 3 axes, expected 2", &[2, 8], &[1, 5, 8], None),
        linear("weight axis 0 is 6, expected 5", &[2, 8], &[6, 8], None),
        linear("weight axis 1 is 7, expected 8", &[2, 8], &[5, 7], None),
        linear("bias has 2 axes, expected 1", &[2, 8], &[5, 8], Some(&[1, 5])),
        linear("bias's last axis is 8, expected 5", &[2, 8], &[5, 8], Some(&[8])),
        linear("x's last axis is 4, expected 8", &[2, 4], &[5, 8], None),
    ]
}

fn heads() -> Vec<Wrong> {
    let rope = |says: &str, cos: &[usize], sin: &[usize], pairs: usize| {
        wrong(says, |builder| {
            let x = input(builder, "x", F32, &[1, 2, 3, 8]);
            let (cos, sin) = (input(builder, "cos", F32, cos), input(builder, "sin", F32, sin));
            let pairing = RopePairing::Half;
            builder.rope(RopeNode { x, cos, sin, pairing, dim: 8, pairs })
        })
    };
    vec![
        wrong("x has 2 axes, expected 3", |b| {
            let x = input(b, "x", F32, &[3, 8]);
            b.split_heads(x, 2, 4)
        }),
        wrong("x's last axis is 9, expected 8", |b| {
            let x = input(b, "x", F32, &[1, 3, 9]);
            b.split_heads(x, 2, 4)
        }),
        wrong("x has 3 axes, expected 4", |b| {
            let x = input(b, "x", F32, &[1, 3, 8]);
            b.merge_heads(x, 2, 4)
        }),
        wrong("x axis 1 is 3, expected 2", |b| {
            let x = input(b, "x", F32, &[1, 3, 5, 4]);
            b.merge_heads(x, 2, 4)
        }),
        rope("5 pairs in a head of 8", &[1, 3, 5], &[1, 3, 5], 5),
        rope("0 pairs in a head of 8", &[1, 3, 1], &[1, 3, 1], 0),
        rope("cos has 2 axes, expected 3", &[3, 4], &[1, 3, 4], 4),
        rope("sin's last axis is 3, expected 4", &[1, 3, 4], &[1, 3, 3], 4),
        rope("sin axis 0 is 2, expected 1", &[1, 3, 4], &[2, 3, 4], 4),
        rope("cos axis 1 is 2, expected 3", &[1, 2, 4], &[1, 3, 4], 4),
    ]
}

fn caches() -> Vec<Wrong> {
    let append = |says: &str, cache: DType, new: (DType, &[usize]), starts: (DType, &[usize])| {
        wrong(says, |builder| {
            let cache = input(builder, "cache", cache, &[2, 3, 16, 8]);
            let new = input(builder, "new", new.0, new.1);
            let starts = input(builder, "starts", starts.0, starts.1);
            builder.kv_append(KvAppendNode { cache, new, starts })
        })
    };
    let (right, starts): ([usize; 4], (DType, &[usize])) = ([2, 3, 1, 8], (DType::I32, &[2]));
    vec![
        append("new is f16, expected f32", F32, (DType::F16, &right), starts),
        append("new has 3 axes, expected 4", F32, (F32, &[2, 3, 8]), starts),
        append("the cache is i32, expected a float", DType::I32, (F32, &right), starts),
        append("starts is f32, expected i32", F32, (F32, &right), (F32, &[2])),
        append("starts axis 0 is 1, expected 2", F32, (F32, &right), (DType::I32, &[1])),
        append("new axis 0 is 1, expected 2", F32, (F32, &[1, 3, 1, 8]), starts),
        append("new axis 1 is 4, expected 3", F32, (F32, &[2, 4, 1, 8]), starts),
        append("new axis 3 is 7, expected 8", F32, (F32, &[2, 3, 1, 7]), starts),
    ]
}

/// An attention call that is right until a test changes it.
struct Attention {
    q: (DType, Vec<usize>),
    k: (DType, Vec<usize>),
    v: (DType, Vec<usize>),
    mask: Option<(DType, Vec<usize>)>,
    lens: Option<(DType, Vec<usize>)>,
    offset: bool,
    kind: MaskKind,
    kv_heads: usize,
}

/// Attention with one thing changed.
fn sdpa(says: &str, change: impl FnOnce(&mut Attention)) -> Wrong {
    let tensor = MaskTensorKind::None;
    let kind = MaskKind { left: None, right: None, fixed_offset: false, tensor };
    let mut call = Attention {
        q: (F32, vec![2, 4, 3, 8]),
        k: (F32, vec![2, 2, 5, 8]),
        v: (F32, vec![2, 2, 5, 6]),
        mask: None,
        lens: None,
        offset: false,
        kind,
        kv_heads: 2,
    };
    change(&mut call);
    wrong(says, |builder| {
        let [q, k, v] = [("q", call.q), ("k", call.k), ("v", call.v)]
            .map(|(name, (dtype, dims))| input(builder, name, dtype, &dims));
        let mask = call.mask.map(|(dtype, dims)| input(builder, "mask", dtype, &dims));
        let kv_lens = call.lens.map(|(dtype, dims)| input(builder, "kv_lens", dtype, &dims));
        let offset = call.offset.then(|| input(builder, "offset", DType::I32, &[1]));
        builder.sdpa(SdpaNode {
            q,
            k,
            v,
            mask,
            kv_lens,
            offset,
            mask_kind: call.kind,
            scale: 0.5,
            softcap: None,
            q_heads: 4,
            kv_heads: call.kv_heads,
            head_dim: 8,
            v_dim: 6,
            accumulator: F32,
        })
    })
}

fn operands() -> Vec<Wrong> {
    vec![
        sdpa("q has 3 axes, expected 4", |call| call.q.1 = vec![4, 3, 8]),
        sdpa("k is q8_0, expected a float", |call| call.k.0 = DType::Q8_0),
        sdpa("v is i32, expected a float", |call| call.v.0 = DType::I32),
        sdpa("4 query heads over 3 key heads", |call| call.kv_heads = 3),
        sdpa("4 query heads over 0 key heads", |call| call.kv_heads = 0),
        sdpa("q axis 1 is 6, expected 4", |call| call.q.1[1] = 6),
        sdpa("q axis 3 is 9, expected 8", |call| call.q.1[3] = 9),
        sdpa("k axis 0 is 1, expected 2", |call| call.k.1[0] = 1),
        sdpa("k axis 1 is 4, expected 2", |call| call.k.1[1] = 4),
        sdpa("k axis 3 is 7, expected 8", |call| call.k.1[3] = 7),
        sdpa("v axis 0 is 3, expected 2", |call| call.v.1[0] = 3),
        sdpa("v axis 1 is 1, expected 2", |call| call.v.1[1] = 1),
        sdpa("v axis 2 is 4, expected 5", |call| call.v.1[2] = 4),
        sdpa("v axis 3 is 8, expected 6", |call| call.v.1[3] = 8),
    ]
}

fn masks() -> Vec<Wrong> {
    let mask = |says: &str, dims: [usize; 4]| {
        sdpa(says, |call| {
            call.mask = Some((DType::Bool, dims.to_vec()));
            call.kind.tensor = MaskTensorKind::Bool;
        })
    };
    vec![
        mask("mask axis 2 is 1, expected 3", [2, 4, 1, 5]),
        mask("mask axis 3 is 6, expected 5", [2, 4, 3, 6]),
        mask("mask axis 0 is 3, expected 2", [3, 1, 3, 5]),
        mask("mask axis 1 is 2, expected 4", [1, 2, 3, 5]),
        sdpa("mask has 2 axes, expected 4", |call| call.mask = Some((F32, vec![3, 5]))),
        sdpa("the mask is f16, the node says Additive(F32)", |call| {
            call.mask = Some((DType::F16, vec![2, 4, 3, 5]));
            call.kind.tensor = MaskTensorKind::Additive(F32);
        }),
        sdpa("the node says there is a mask, and has none", |call| {
            call.kind.tensor = MaskTensorKind::Bool;
        }),
        sdpa("kv_lens has 2 axes, expected 1", |call| call.lens = Some((DType::I32, vec![2, 1]))),
        sdpa("kv_lens axis 0 is 3, expected 2", |call| call.lens = Some((DType::I32, vec![3]))),
        sdpa("kv_lens is f32, expected i32", |call| call.lens = Some((F32, vec![2]))),
        sdpa("the offset's feed and the mask's kind disagree", |call| call.offset = true),
        sdpa("the offset's feed and the mask's kind disagree", |call| {
            call.kind.fixed_offset = true;
        }),
    ]
}

fn all() -> Vec<Wrong> {
    [inputs(), rows(), products(), heads(), caches(), operands(), masks()]
        .into_iter()
        .flatten()
        .collect()
}

#[test]
fn what_is_wrong_with_a_graph_is_named() {
    for Wrong { says, graph } in all() {
        let error = infer(&graph).expect_err(&says).to_string();
        assert!(error.contains(&says), "{error:?} does not say {says:?}");
        let place = graph.nodes().len() - usize::from(says != "there is no output");
        assert!(error.contains(&format!("graph node %{place}")), "{error}");
    }
}

#[test]
fn the_executor_refuses_them_before_mpsgraph_sees_them() {
    let device = MetalDevice::new(MetalOptions::default(), Recorder::disabled()).unwrap();
    for form in [Form::Native, Form::Decomposed] {
        let executor = MpsGraphExecutor::new(
            device.raw().retain(),
            device.metal().clone(),
            Platform::of(device.identity()),
            form,
            GraphOptions::default(),
            Recorder::disabled(),
        );
        for Wrong { says, graph } in all() {
            let error = executor.compile(&graph).err().expect(&says).to_string();
            assert!(error.contains(&says), "{error:?} does not say {says:?}");
            assert!(matches!(executor.supports(&graph), metallic::dispatch::Support::No(_)));
        }
    }
}

#[test]
fn the_graphs_are_right_but_for_what_is_wrong() {
    let Wrong { graph, .. } = sdpa("", |_| {});
    let types = infer(&graph).unwrap();
    let dims = [2, 4, 3, 6].map(Dim::Fixed);
    assert_eq!(types.last(), Some(&Type { dtype: F32, dims: dims.to_vec() }));
    let Wrong { graph, .. } = sdpa("", |call| {
        call.mask = Some((DType::F16, vec![1, 4, 3, 5]));
        call.kind.tensor = MaskTensorKind::Additive(DType::F16);
        call.lens = Some((DType::I32, vec![2]));
    });
    infer(&graph).unwrap();
}
