//! Runs graphs on the CPU: a graph becomes a plan, a plan takes any lengths.
//!
//! Not: a scheduler. A plan knows a whole graph: one attention node, or a half of a block.

use std::any::Any;
use std::sync::Arc;

use metallic::Result;
use metallic::dispatch::{Reason, Support};
use metallic::graph::{Executable, Feed, Graph, GraphExecutor, LengthPolicy};
use metallic::tensor::Tensor;

use super::attention_block::AttentionBlockPlan;
use super::feeds::device_error;
use super::mlp_block::MlpBlockPlan;
use super::sdpa_node::SdpaPlan;
use crate::cpu::buffer::Pool;
use crate::cpu::cores::Cpu;

/// The CPU's executor.
pub(crate) struct CpuGraphExecutor {
    cpu: Cpu,
    memory: Arc<Pool>,
    build_id: String,
}

impl CpuGraphExecutor {
    /// An executor that runs on the threads of `cpu` with at most the instructions of its level,
    /// and takes what a run needs besides its feeds from `memory`.
    pub(crate) fn new(cpu: Cpu, memory: Arc<Pool>) -> Self {
        let cpu = Cpu { level: cpu.level.usable(), ..cpu };
        let build_id = format!("cpu {}", cpu.level.name());
        Self { cpu, memory, build_id }
    }

    fn plan(&self, graph: &Graph) -> Option<CpuExecutable> {
        let cpu = &self.cpu;
        SdpaPlan::of(cpu, graph)
            .map(CpuExecutable::Sdpa)
            .or_else(|| {
                AttentionBlockPlan::of(cpu, graph).map(Box::new).map(CpuExecutable::AttentionBlock)
            })
            .or_else(|| MlpBlockPlan::of(graph).map(CpuExecutable::MlpBlock))
    }
}

/// A compiled graph.
#[derive(Debug)]
enum CpuExecutable {
    Sdpa(SdpaPlan),
    AttentionBlock(Box<AttentionBlockPlan>),
    MlpBlock(MlpBlockPlan),
}

impl Executable for CpuExecutable {
    fn bytes(&self) -> usize {
        let boxed = match self {
            CpuExecutable::AttentionBlock(plan) => size_of_val(&**plan),
            CpuExecutable::Sdpa(_) | CpuExecutable::MlpBlock(_) => 0,
        };
        size_of::<Self>() + boxed
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl GraphExecutor for CpuGraphExecutor {
    fn build_id(&self) -> &str {
        &self.build_id
    }

    fn lengths(&self) -> LengthPolicy {
        LengthPolicy::Dynamic
    }

    fn supports(&self, graph: &Graph) -> Support {
        Support::when(self.plan(graph).is_some(), || Reason::Missing {
            feature: "graphs other than attention and the halves of a block",
        })
    }

    fn compile(&self, graph: &Graph) -> Result<Arc<dyn Executable>> {
        match self.plan(graph) {
            Some(plan) => Ok(Arc::new(plan)),
            None => Err(device_error("compile", "there is no plan for the graph".to_owned())),
        }
    }

    fn run(&self, executable: &dyn Executable, feeds: &[Feed], out: &Tensor) -> Result<()> {
        let Self { cpu, memory, .. } = self;
        match executable.as_any().downcast_ref() {
            Some(CpuExecutable::Sdpa(plan)) => plan.run(cpu, feeds, out),
            Some(CpuExecutable::AttentionBlock(plan)) => plan.run(cpu, memory, feeds, out),
            Some(CpuExecutable::MlpBlock(plan)) => plan.run(cpu, memory, feeds, out),
            None => Err(device_error("run", "the executable is another device's".to_owned())),
        }
    }
}
