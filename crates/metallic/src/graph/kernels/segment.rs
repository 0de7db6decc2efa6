//! What the graphs of segments share: the opening norm, projections, and their feeds.

use crate::dispatch::Support;
use crate::graph::node::{Dim, Input, LinearNode, NodeId, RmsNormNode};
use crate::graph::{Axis, Binding, Feed, GraphBuilder, GraphKernelDtypePolicy};
use crate::op::{LinearSpec, RmsNormSpec};
use crate::segment::{Norm, Projection};
use crate::tensor::{DType, Tensor};

/// Bindings of a projection.
pub(super) struct ProjectionBindings {
    pub(super) weight: Binding,
    pub(super) bias: Binding,
}

impl ProjectionBindings {
    /// `axes` are the weight's, `out` its first one alone.
    pub(super) const fn new(
        [weight, bias]: [&'static str; 2],
        axes: &'static [Axis],
        out: &'static [Axis],
    ) -> Self {
        let weight = Binding { name: weight, axes, optional: false };
        Self { weight, bias: Binding { name: bias, axes: out, optional: true } }
    }
}

/// Weights of any type; activations are f32, and so are sums. Types of a KV cache and of what
/// else a call has are checked by the op.
pub(super) const POLICY: GraphKernelDtypePolicy = GraphKernelDtypePolicy {
    storage: &[
        DType::F32,
        DType::F16,
        DType::Bf16,
        DType::Q8_0,
        DType::Q4_0,
        DType::Q4_1,
        DType::Q5_0,
        DType::Q5_1,
        DType::Q2K,
        DType::Q3K,
        DType::Q4K,
        DType::Q5K,
        DType::Q6K,
        DType::Iq4Nl,
        DType::Iq4Xs,
    ],
    storage_names: "f32, f16, bf16 and quantised types",
    accumulator: DType::F32,
};

/// Whether every type fits [`POLICY`].
pub(super) fn supports(dtypes: &[(&'static str, DType)]) -> Support {
    dtypes
        .iter()
        .map(|(binding, dtype)| POLICY.check(binding, *dtype))
        .find(|support| *support != Support::Yes)
        .unwrap_or(Support::Yes)
}

/// A graph in the making whose inputs take their lengths from `dim`.
pub(super) struct SegmentBuilder<F> {
    pub(super) graph: GraphBuilder,
    pub(super) dim: F,
}

impl<F: Fn(Axis) -> Dim> SegmentBuilder<F> {
    /// The next fed value.
    pub(super) fn input(&mut self, binding: Binding, dtype: DType) -> NodeId {
        let dims = binding.axes.iter().map(|axis| (self.dim)(*axis)).collect();
        self.graph.input(Input { name: binding.name, dtype, axes: binding.axes, dims })
    }

    /// `x ← x + pending`, then the norm of `x`. Feeds: x, pending, the norm's weight.
    pub(super) fn open(&mut self, spec: &RmsNormSpec, [x, pending, norm]: [Binding; 3]) -> NodeId {
        let mut stream = self.input(x, DType::F32);
        if spec.residual {
            let fed = stream;
            let pending = self.input(pending, DType::F32);
            stream = self.graph.add(fed, pending);
            self.graph.update(fed, stream);
        }
        self.norm(stream, spec, norm)
    }

    /// A norm along the last axis. Feed: its weight.
    pub(super) fn norm(&mut self, x: NodeId, spec: &RmsNormSpec, weight: Binding) -> NodeId {
        let weight = self.input(weight, DType::F32);
        let node = RmsNormNode { x, weight, eps: spec.eps(), width: spec.width };
        self.graph.rms_norm(node)
    }

    /// A projection. Feeds: its weight, its bias.
    pub(super) fn project(
        &mut self,
        x: NodeId,
        spec: &LinearSpec,
        bindings: &ProjectionBindings,
    ) -> NodeId {
        let weight = self.input(bindings.weight, spec.weight);
        let bias = spec.bias.then(|| self.input(bindings.bias, DType::F32));
        let LinearSpec { in_features, out_features, precision, .. } = *spec;
        self.graph.linear(LinearNode { x, weight, bias, in_features, out_features, precision })
    }
}

/// The feeds of one call, in the order of the builder's inputs.
pub(super) struct SegmentFeeds(pub(super) Vec<Feed>);

impl SegmentFeeds {
    pub(super) fn tensor(&mut self, tensor: &Tensor) {
        self.0.push(Feed::Tensor(tensor.clone()));
    }

    pub(super) fn open(&mut self, x: &Tensor, pending: Option<&Tensor>, norm: &Norm) {
        self.tensor(x);
        pending.into_iter().for_each(|pending| self.tensor(pending));
        self.tensor(&norm.weight);
    }

    pub(super) fn project(&mut self, projection: &Projection) {
        self.tensor(&projection.weight);
        projection.bias.iter().for_each(|bias| self.tensor(bias));
    }
}
