//! Runs graphs on a GPU: a graph becomes a plan, a plan takes any lengths.
//!
//! Not: the choice of a kernel for a call (`sdpa/engine`), nor the kernels.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use metallic::dispatch::Support;
use metallic::graph::{Executable, Feed, Graph, GraphExecutor, LengthPolicy, NodeId};
use metallic::tensor::{DType, Tensor};
use metallic::{Error, Result};

use super::sdpa::{Feeds, Plan, Types};
use super::segment::{self, SegmentPlan};
use crate::cuda::error::device_error;
use crate::cuda::gpu::Gpu;
use crate::sdpa_graph::{SdpaFeeds, only_sdpa, scalar, tensor};

/// One GPU's executor.
pub(crate) struct CudaGraphExecutor {
    gpu: Arc<Gpu>,
    build_id: String,
}

impl CudaGraphExecutor {
    /// An executor on `gpu`.
    pub(crate) fn new(gpu: Arc<Gpu>) -> Self {
        let build_id = format!("cuda {}", gpu.modules.arch());
        Self { gpu, build_id }
    }

    fn error(&self, what: &'static str, reason: String) -> Error {
        device_error(self.gpu.id(), what, reason)
    }
}

/// A compiled graph: which feed is what, and the plan of its attention.
#[derive(Debug)]
struct CudaExecutable {
    feeds: SdpaFeeds,
    plan: Plan,
}

impl Executable for CudaExecutable {
    fn bytes(&self) -> usize {
        self.plan.bytes()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl GraphExecutor for CudaGraphExecutor {
    fn build_id(&self) -> &str {
        &self.build_id
    }

    fn lengths(&self) -> LengthPolicy {
        LengthPolicy::Dynamic
    }

    fn supports(&self, graph: &Graph) -> Support {
        let Some((node, _)) = only_sdpa(graph) else {
            return segment::supports(graph);
        };
        Plan::supports(node, |id| input_dtype(graph, id))
    }

    fn compile(&self, graph: &Graph) -> Result<Arc<dyn Executable>> {
        if let Some(plan) = SegmentPlan::new(&self.gpu, graph)? {
            return Ok(Arc::new(plan));
        }
        let (node, feeds) = only_sdpa(graph)
            .ok_or_else(|| self.error("compile", "there is no plan for the graph".to_owned()))?;
        let types = Types { q: input_dtype(graph, node.q), kv: input_dtype(graph, node.k) };
        let plan = Plan::new(&self.gpu, node.clone(), types)?;
        Ok(Arc::new(CudaExecutable { feeds, plan }))
    }

    fn run(&self, executable: &dyn Executable, feeds: &[Feed], out: &Tensor) -> Result<()> {
        if let Some(plan) = executable.as_any().downcast_ref::<SegmentPlan>() {
            return plan.run(&self.gpu, feeds, out);
        }
        let CudaExecutable { feeds: places, plan } = executable
            .as_any()
            .downcast_ref()
            .ok_or_else(|| self.error("run", "the executable is another device's".to_owned()))?;
        let at = |place| tensor(feeds, place).map_err(|reason| self.error("run", reason));
        let optional = |place: Option<usize>| place.map(at).transpose();
        let offset = places.offset.map(|place| scalar(feeds, place)).transpose();
        plan.run(
            &self.gpu,
            &Feeds {
                q: at(places.q)?,
                k: at(places.k)?,
                v: at(places.v)?,
                out,
                mask: optional(places.mask)?,
                kv_lens: optional(places.kv_lens)?,
                offset: offset.map_err(|reason| self.error("run", reason))?,
            },
        )
    }
}

/// The element type of a fed value.
fn input_dtype(graph: &Graph, id: NodeId) -> DType {
    graph.inputs().find(|(input, _)| *input == id).map_or(DType::F32, |(_, input)| input.dtype)
}

impl fmt::Debug for CudaGraphExecutor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CudaGraphExecutor").field("build", &self.build_id).finish()
    }
}
