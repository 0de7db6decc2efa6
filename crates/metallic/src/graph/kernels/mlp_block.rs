//! The feed-forward half of a block as one graph.

use super::segment::{POLICY, ProjectionBindings, SegmentBuilder, SegmentFeeds, supports};
use crate::dispatch::Support;
use crate::graph::node::{Dim, Graph};
use crate::graph::{Axis, Binding, Feed, GraphBuilder, GraphKernel, GraphKernelDtypePolicy};
use crate::segment::{MlpBlock, MlpBlockArgs, MlpBlockSpec};
use crate::tensor::{DType, Tensor};

/// The graph form of [`MlpBlock`].
#[derive(Clone, Copy, Debug, Default)]
pub struct MlpBlockGraphKernel;

const STREAM: &[Axis] = &[Axis::Rows, Axis::Hidden];
const X: Binding = Binding { name: "x", axes: STREAM, optional: false };
const PENDING: Binding = Binding { name: "pending", axes: STREAM, optional: true };
const NORM: Binding = Binding { name: "norm_weight", axes: &[Axis::Hidden], optional: false };
const INNER: &[Axis] = &[Axis::Ffn, Axis::Hidden];
const GATE: ProjectionBindings =
    ProjectionBindings::new(["gate_weight", "gate_bias"], INNER, &[Axis::Ffn]);
const UP: ProjectionBindings =
    ProjectionBindings::new(["up_weight", "up_bias"], INNER, &[Axis::Ffn]);
const DOWN: ProjectionBindings = ProjectionBindings::new(
    ["down_weight", "down_bias"],
    &[Axis::Hidden, Axis::Ffn],
    &[Axis::Hidden],
);
const OUT: Binding = Binding { name: "out", axes: STREAM, optional: false };

impl GraphKernel<MlpBlock> for MlpBlockGraphKernel {
    fn build(&self, spec: &MlpBlockSpec) -> Graph {
        let dim = |axis| match axis {
            Axis::Rows => Dim::of_class(spec.rows_bucket()),
            Axis::Ffn => Dim::Fixed(spec.gate.out_features),
            _ => Dim::Fixed(spec.norm.width),
        };
        let mut builder = SegmentBuilder { graph: GraphBuilder::new(), dim };
        let normed = builder.open(&spec.norm, [X, PENDING, NORM]);
        let gate = builder.project(normed, &spec.gate, &GATE);
        let up = builder.project(normed, &spec.up, &UP);
        let gated = builder.graph.swiglu(gate, up);
        let out = builder.project(gated, &spec.down, &DOWN);
        builder.graph.finish(out, DType::F32)
    }

    fn signature(&self) -> &'static [Binding] {
        const {
            &[
                X,
                PENDING,
                NORM,
                GATE.weight,
                GATE.bias,
                UP.weight,
                UP.bias,
                DOWN.weight,
                DOWN.bias,
                OUT,
            ]
        }
    }

    fn dtype_policy(&self) -> GraphKernelDtypePolicy {
        POLICY
    }

    fn supports(&self, spec: &MlpBlockSpec) -> Support {
        supports(&[
            (GATE.weight.name, spec.gate.weight),
            (UP.weight.name, spec.up.weight),
            (DOWN.weight.name, spec.down.weight),
        ])
    }

    fn feeds(&self, args: &MlpBlockArgs) -> Vec<Feed> {
        let mut feeds = SegmentFeeds(Vec::with_capacity(self.signature().len()));
        feeds.open(&args.x, args.pending.as_ref(), &args.norm);
        [&args.gate, &args.up, &args.down].into_iter().for_each(|to| feeds.project(to));
        feeds.0
    }

    fn output<'a>(&self, args: &'a MlpBlockArgs) -> &'a Tensor {
        &args.out
    }
}
