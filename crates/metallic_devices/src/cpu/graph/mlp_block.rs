//! The feed-forward half of a block as two products: gate and up by the norm of the stream, which
//! is taken while rows are rounded; down by the gated rows, which are gated while they are.

use std::ops::Range;
use std::sync::Arc;

use metallic::Result;
use metallic::graph::{Feed, Graph, Node};
use metallic::tensor::Tensor;

use super::segment::{Opening, Projection, Scratch};
use crate::cpu::buffer::{Pool, Rows};
use crate::cpu::cores::Cpu;
use crate::cpu::kernels::swiglu::swiglu_in_place;
use crate::cpu::linear::{Input, products};

/// The plan of a `MlpBlock`.
#[derive(Debug)]
pub(super) struct MlpBlockPlan {
    opening: Opening,
    gate: Projection,
    up: Projection,
    down: Projection,
}

impl MlpBlockPlan {
    /// The plan of `graph`; `None` when it computes something else.
    pub(super) fn of(graph: &Graph) -> Option<Self> {
        let (down, gated) = Projection::of(graph, graph.output())?;
        let Node::SwiGlu(swiglu) = graph.node(gated) else { return None };
        let (gate, normed) = Projection::of(graph, swiglu.gate)?;
        let (up, raised) = Projection::of(graph, swiglu.up)?;
        let opening = Opening::of(graph, normed)?;
        let whole = raised == normed && graph.updates().len() == opening.updates();
        whole.then_some(Self { opening, gate, up, down })
    }

    pub(super) fn run(
        &self,
        cpu: &Cpu,
        memory: &Arc<Pool>,
        feeds: &[Feed],
        out: &Tensor,
    ) -> Result<()> {
        let Self { opening, gate, up, down } = self;
        let (level, m) = (cpu.level, opening.x(feeds)?.shape()[0]);
        let (hidden, ffn) = (opening.width, gate.out_features());
        let scratch = Scratch::new(memory, [m * hidden, m * ffn, m * ffn])?;
        let [normed, gated, raised] = scratch.parts;
        let normalise = opening.prepare(level, feeds, normed)?;
        let precision = gate.precision();
        let prepare: Option<&(dyn Fn(Range<usize>) + Sync)> = Some(&normalise);
        let input = Input { x: normed.start(), m, k: hidden, prepare, precision, level };
        let parts = [gate.part(feeds, gated)?, up.part(feeds, raised)?];
        // SAFETY: the scratch has these shapes and is this run's own.
        unsafe { products(&cpu.pool, &input, parts) };
        let swiglu = |rows: Range<usize>| {
            let (start, len) = (rows.start * ffn, rows.len() * ffn);
            // SAFETY: as above; both products are done, and each row is asked for once.
            unsafe { swiglu_in_place(level, gated.slice(start, len), raised.read(start, len)) };
        };
        let precision = down.precision();
        let input = Input { x: gated.start(), m, k: ffn, prepare: Some(&swiglu), precision, level };
        let part = down.part(feeds, Rows::output(out))?;
        // SAFETY: as above; `out` is this op's output, apart from all it reads.
        unsafe { products(&cpu.pool, &input, [part]) };
        Ok(())
    }
}
