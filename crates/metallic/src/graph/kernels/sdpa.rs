//! Attention as a one-node graph.

use crate::dispatch::Support;
use crate::graph::node::{Dim, Graph, Input, SdpaNode};
use crate::graph::{Axis, Binding, Feed, GraphBuilder, GraphKernel, GraphKernelDtypePolicy};
use crate::op::{MaskTensor, MaskTensorKind, Sdpa, SdpaArgs, SdpaLengths, SdpaSpec};
use crate::tensor::{DType, Tensor};

/// The graph form of [`Sdpa`].
#[derive(Clone, Copy, Debug, Default)]
pub struct SdpaGraphKernel;

const Q: Binding = Binding {
    name: "q",
    axes: &[Axis::Batch, Axis::QHeads, Axis::QLen, Axis::HeadDim],
    optional: false,
};
const K: Binding = Binding {
    name: "k",
    axes: &[Axis::Batch, Axis::KvHeads, Axis::KvLen, Axis::HeadDim],
    optional: false,
};
const V: Binding = Binding {
    name: "v",
    axes: &[Axis::Batch, Axis::KvHeads, Axis::KvLen, Axis::VDim],
    optional: false,
};
const MASK: Binding = Binding {
    name: "mask",
    axes: &[Axis::Batch, Axis::QHeads, Axis::QLen, Axis::KvLen],
    optional: true,
};
const KV_LENS: Binding = Binding { name: "kv_lens", axes: &[Axis::Batch], optional: true };
const OFFSET: Binding = Binding { name: "offset", axes: &[], optional: true };
const OUT: Binding = Binding {
    name: "out",
    axes: &[Axis::Batch, Axis::QHeads, Axis::QLen, Axis::VDim],
    optional: false,
};

impl GraphKernel<Sdpa> for SdpaGraphKernel {
    fn build(&self, spec: &SdpaSpec) -> Graph {
        let mut graph = GraphBuilder::new();
        let SdpaLengths { batch, q_bucket, kv_bucket, mask_batch, mask_heads } = spec.lengths;
        let mut input = |binding: Binding, dtype: DType| {
            let is_mask = binding.name == MASK.name;
            let dims = binding.axes.iter().map(|axis| match axis {
                Axis::Batch if is_mask => Dim::of_class(mask_batch),
                Axis::QHeads if is_mask => Dim::of_class(mask_heads),
                Axis::Batch => Dim::of_class(batch),
                Axis::QLen => Dim::of_class(q_bucket),
                Axis::KvLen => Dim::of_class(kv_bucket),
                Axis::QHeads => Dim::Fixed(spec.q_heads),
                Axis::KvHeads => Dim::Fixed(spec.kv_heads),
                Axis::HeadDim => Dim::Fixed(spec.head_dim),
                Axis::VDim => Dim::Fixed(spec.v_dim),
                // No tensor of attention has another axis.
                _ => Dim::Any,
            });
            let dims = dims.collect();
            graph.input(Input { name: binding.name, dtype, axes: binding.axes, dims })
        };
        let q = input(Q, spec.q_dtype);
        let k = input(K, spec.k_dtype);
        let v = input(V, spec.v_dtype);
        let mask = match spec.mask.tensor {
            MaskTensorKind::None => None,
            MaskTensorKind::Additive(dtype) => Some(input(MASK, dtype)),
            MaskTensorKind::Bool => Some(input(MASK, DType::Bool)),
        };
        let kv_lens = spec.kv_lens.then(|| input(KV_LENS, DType::I32));
        let offset = spec.mask.fixed_offset.then(|| input(OFFSET, DType::I64));
        let out = graph.sdpa(SdpaNode {
            q,
            k,
            v,
            mask,
            kv_lens,
            offset,
            mask_kind: spec.mask,
            scale: spec.scale(),
            softcap: spec.softcap(),
            q_heads: spec.q_heads,
            kv_heads: spec.kv_heads,
            head_dim: spec.head_dim,
            v_dim: spec.v_dim,
            accumulator: self.dtype_policy().accumulator,
        });
        graph.finish(out, spec.q_dtype)
    }

    fn signature(&self) -> &'static [Binding] {
        const { &[Q, K, V, MASK, KV_LENS, OFFSET, OUT] }
    }

    fn dtype_policy(&self) -> GraphKernelDtypePolicy {
        GraphKernelDtypePolicy {
            storage: &[DType::F32, DType::F16, DType::Bf16, DType::Q8_0],
            storage_names: "f32, f16, bf16, and q8_0 for keys and values",
            accumulator: DType::F32,
        }
    }

    fn supports(&self, spec: &SdpaSpec) -> Support {
        let policy = self.dtype_policy();
        [("q", spec.q_dtype), ("k", spec.k_dtype), ("v", spec.v_dtype)]
            .into_iter()
            .map(|(binding, dtype)| policy.check(binding, dtype))
            .find(|support| *support != Support::Yes)
            .unwrap_or(Support::Yes)
    }

    fn feeds(&self, args: &SdpaArgs) -> Vec<Feed> {
        let SdpaArgs { q, k, v, mask, kv_lens, .. } = args;
        let mut feeds = Vec::with_capacity(6);
        feeds.extend([q, k, v].map(|tensor| Feed::Tensor(tensor.clone())));
        if let Some(MaskTensor::Additive(tensor) | MaskTensor::Bool(tensor)) = &mask.tensor {
            feeds.push(Feed::Tensor(tensor.clone()));
        }
        if let Some(lens) = kv_lens {
            feeds.push(Feed::Tensor(lens.clone()));
        }
        if let (true, Some(offset)) = (mask.kind().fixed_offset, mask.band.offset) {
            feeds.push(Feed::Scalar(offset));
        }
        feeds
    }

    fn output<'a>(&self, args: &'a SdpaArgs) -> &'a Tensor {
        &args.out
    }
}
