//! The attention half of a block as one graph. Weights are feeds, so that one executable serves
//! all layers of a model.

use super::segment::{POLICY, ProjectionBindings, SegmentBuilder, SegmentFeeds, supports};
use crate::dispatch::Support;
use crate::graph::node::{Dim, Graph, KvAppendNode, RopeNode, SdpaNode};
use crate::graph::{Axis, Binding, Feed, GraphBuilder, GraphKernel, GraphKernelDtypePolicy};
use crate::op::{Mask, RopeSpec};
use crate::segment::{AttentionBlock, AttentionBlockArgs, AttentionBlockSpec, QkNorm};
use crate::tensor::{DType, Tensor};

/// The graph form of [`AttentionBlock`].
#[derive(Clone, Copy, Debug, Default)]
pub struct AttentionBlockGraphKernel;

const fn input(name: &'static str, axes: &'static [Axis]) -> Binding {
    Binding { name, axes, optional: false }
}

const fn optional(name: &'static str, axes: &'static [Axis]) -> Binding {
    Binding { name, axes, optional: true }
}

const STREAM: &[Axis] = &[Axis::Batch, Axis::QLen, Axis::Hidden];
const ANGLES: &[Axis] = &[Axis::Batch, Axis::QLen, Axis::Pairs];
const X: Binding = input("x", STREAM);
const PENDING: Binding = optional("pending", STREAM);
const NORM: Binding = input("norm_weight", &[Axis::Hidden]);
const Q: ProjectionBindings =
    ProjectionBindings::new(["q_weight", "q_bias"], &[Axis::QWidth, Axis::Hidden], &[Axis::QWidth]);
const K: ProjectionBindings =
    ProjectionBindings::new(["k_weight", "k_bias"], &[Axis::KWidth, Axis::Hidden], &[Axis::KWidth]);
const V: ProjectionBindings =
    ProjectionBindings::new(["v_weight", "v_bias"], &[Axis::VWidth, Axis::Hidden], &[Axis::VWidth]);
const Q_NORM: Binding = optional("q_norm", &[Axis::HeadDim]);
const K_NORM: Binding = optional("k_norm", &[Axis::HeadDim]);
const COS: Binding = input("cos", ANGLES);
const SIN: Binding = input("sin", ANGLES);
const K_CACHE: Binding =
    input("k_cache", &[Axis::Batch, Axis::KvHeads, Axis::KvLen, Axis::HeadDim]);
const V_CACHE: Binding = input("v_cache", &[Axis::Batch, Axis::KvHeads, Axis::KvLen, Axis::VDim]);
const STARTS: Binding = input("starts", &[Axis::Batch]);
const KV_LENS: Binding = input("kv_lens", &[Axis::Batch]);
const OFFSET: Binding = optional("offset", &[]);
const O: ProjectionBindings =
    ProjectionBindings::new(["o_weight", "o_bias"], &[Axis::Hidden, Axis::OWidth], &[Axis::Hidden]);
const OUT: Binding = input("out", STREAM);

impl AttentionBlockGraphKernel {
    fn dim(spec: &AttentionBlockSpec, axis: Axis) -> Dim {
        let ([q, k, v], sdpa) = (&spec.qkv, &spec.sdpa);
        match axis {
            Axis::Batch => Dim::of_class(sdpa.lengths.batch),
            Axis::QLen => Dim::of_class(sdpa.lengths.q_bucket),
            Axis::KvLen => Dim::of_class(sdpa.lengths.kv_bucket),
            // Only known when the executable runs: no length, no width.
            Axis::Rows => Dim::Any,
            Axis::Hidden | Axis::Ffn => Dim::Fixed(spec.norm.width),
            Axis::QHeads => Dim::Fixed(sdpa.q_heads),
            Axis::KvHeads => Dim::Fixed(sdpa.kv_heads),
            Axis::HeadDim => Dim::Fixed(sdpa.head_dim),
            Axis::VDim => Dim::Fixed(sdpa.v_dim),
            Axis::QWidth => Dim::Fixed(q.out_features),
            Axis::KWidth => Dim::Fixed(k.out_features),
            Axis::VWidth => Dim::Fixed(v.out_features),
            Axis::OWidth => Dim::Fixed(spec.o.in_features),
            Axis::Pairs => Dim::Fixed(spec.rope[0].pairs),
        }
    }
}

impl GraphKernel<AttentionBlock> for AttentionBlockGraphKernel {
    fn build(&self, spec: &AttentionBlockSpec) -> Graph {
        let sdpa = &spec.sdpa;
        let (q_heads, kv_heads) = (sdpa.q_heads, sdpa.kv_heads);
        let (head_dim, v_dim) = (sdpa.head_dim, sdpa.v_dim);
        let mut builder =
            SegmentBuilder { graph: GraphBuilder::new(), dim: |axis| Self::dim(spec, axis) };
        let normed = builder.open(&spec.norm, [X, PENDING, NORM]);
        let [of_q, of_k, of_v] = &spec.qkv;
        let q = builder.project(normed, of_q, &Q);
        let mut q = builder.graph.split_heads(q, q_heads, head_dim);
        let k = builder.project(normed, of_k, &K);
        let mut k = builder.graph.split_heads(k, kv_heads, head_dim);
        let v = builder.project(normed, of_v, &V);
        let v = builder.graph.split_heads(v, kv_heads, v_dim);
        if let Some([of_q, of_k]) = &spec.qk_norm {
            q = builder.norm(q, of_q, Q_NORM);
            k = builder.norm(k, of_k, K_NORM);
        }
        let (cos, sin) = (builder.input(COS, DType::F32), builder.input(SIN, DType::F32));
        let turn = |x, rope: &RopeSpec| {
            let (pairing, dim, pairs) = (rope.pairing, rope.head_dim, rope.pairs);
            RopeNode { x, cos, sin, pairing, dim, pairs }
        };
        let q = builder.graph.rope(turn(q, &spec.rope[0]));
        let k = builder.graph.rope(turn(k, &spec.rope[1]));
        let k_cache = builder.input(K_CACHE, sdpa.k_dtype);
        let v_cache = builder.input(V_CACHE, sdpa.v_dtype);
        let starts = builder.input(STARTS, DType::I32);
        let k = builder.graph.kv_append(KvAppendNode { cache: k_cache, new: k, starts });
        let v = builder.graph.kv_append(KvAppendNode { cache: v_cache, new: v, starts });
        let kv_lens = Some(builder.input(KV_LENS, DType::I32));
        let offset = sdpa.mask.fixed_offset.then(|| builder.input(OFFSET, DType::I64));
        let attended = builder.graph.sdpa(SdpaNode {
            q,
            k,
            v,
            mask: None,
            kv_lens,
            offset,
            mask_kind: sdpa.mask,
            scale: sdpa.scale(),
            softcap: sdpa.softcap(),
            q_heads,
            kv_heads,
            head_dim,
            v_dim,
            accumulator: POLICY.accumulator,
        });
        let attended = builder.graph.merge_heads(attended, q_heads, v_dim);
        let out = builder.project(attended, &spec.o, &O);
        builder.graph.finish(out, DType::F32)
    }

    fn signature(&self) -> &'static [Binding] {
        const {
            &[
                X, PENDING, NORM, Q.weight, Q.bias, K.weight, K.bias, V.weight, V.bias, Q_NORM,
                K_NORM, COS, SIN, K_CACHE, V_CACHE, STARTS, KV_LENS, OFFSET, O.weight, O.bias, OUT,
            ]
        }
    }

    fn dtype_policy(&self) -> GraphKernelDtypePolicy {
        POLICY
    }

    fn supports(&self, spec: &AttentionBlockSpec) -> Support {
        let [q, k, v] = &spec.qkv;
        supports(&[
            (Q.weight.name, q.weight),
            (K.weight.name, k.weight),
            (V.weight.name, v.weight),
            (K_CACHE.name, spec.sdpa.k_dtype),
            (V_CACHE.name, spec.sdpa.v_dtype),
            (O.weight.name, spec.o.weight),
        ])
    }

    fn feeds(&self, args: &AttentionBlockArgs) -> Vec<Feed> {
        let mut feeds = SegmentFeeds(Vec::with_capacity(self.signature().len()));
        feeds.open(&args.x, args.pending.as_ref(), &args.norm);
        [&args.q, &args.k, &args.v].into_iter().for_each(|to| feeds.project(to));
        if let Some(QkNorm { q, k, .. }) = &args.qk_norm {
            feeds.tensor(q);
            feeds.tensor(k);
        }
        let AttentionBlockArgs { rotation, k_cache, v_cache, starts, kv_lens, .. } = args;
        for tensor in [&rotation.cos, &rotation.sin, k_cache, v_cache, starts, kv_lens] {
            feeds.tensor(tensor);
        }
        let mask = Mask { band: args.band, tensor: None };
        if let (true, Some(offset)) = (mask.kind().fixed_offset, args.band.offset) {
            feeds.0.push(Feed::Scalar(offset));
        }
        feeds.project(&args.o);
        feeds.0
    }

    fn output<'a>(&self, args: &'a AttentionBlockArgs) -> &'a Tensor {
        &args.out
    }
}
