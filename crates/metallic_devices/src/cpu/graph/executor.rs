//! Runs graphs on the CPU: a graph becomes a plan, a plan takes any lengths.
//!
//! Not: the kernels (`sdpa/`), nor a scheduler; the graphs of today are one node over inputs.

use std::any::Any;
use std::sync::Arc;

use metallic::dispatch::{Reason, Support};
use metallic::graph::{Executable, Feed, Graph, GraphExecutor, LengthPolicy, SdpaNode};
use metallic::op::{Band, MaskTensor, MaskTensorKind};
use metallic::tensor::Tensor;
use metallic::{Error, Result};

use super::sdpa::{Geometry, Plan};
use crate::cpu::CPU;
use crate::cpu::attention::{Attention, TensorMask};
use crate::cpu::pool::ThreadPool;
use crate::cpu::simd::Level;
use crate::cpu::view::View;
use crate::sdpa_graph::{self, SdpaFeeds, only_sdpa};

/// The CPU's executor.
pub(crate) struct CpuGraphExecutor {
    pool: Arc<ThreadPool>,
    level: Level,
    build_id: String,
}

impl CpuGraphExecutor {
    /// An executor that runs on `pool` with at most the instructions of `level`.
    pub(crate) fn new(pool: Arc<ThreadPool>, level: Level) -> Self {
        let level = level.usable();
        Self { pool, level, build_id: format!("cpu {}", level.name()) }
    }
}

/// A compiled graph: which feed is what, and the plan of the fused loop.
#[derive(Debug)]
struct CpuExecutable {
    node: SdpaNode,
    feeds: SdpaFeeds,
    plan: Plan,
}

impl Executable for CpuExecutable {
    fn bytes(&self) -> usize {
        size_of::<Self>()
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
        Support::when(only_sdpa(graph).is_some(), || Reason::Missing {
            feature: "graphs other than one sdpa node over inputs",
        })
    }

    fn compile(&self, graph: &Graph) -> Result<Arc<dyn Executable>> {
        let (node, feeds) = only_sdpa(graph)
            .map(|(node, feeds)| (node.clone(), feeds))
            .ok_or_else(|| device_error("compile", "the graph is not one sdpa node".to_owned()))?;
        let geometry = Geometry {
            group: node.q_heads / node.kv_heads,
            head_dim: node.head_dim,
            v_dim: node.v_dim,
        };
        let plan = Plan::new(self.level, self.pool.threads(), geometry);
        Ok(Arc::new(CpuExecutable { node, feeds, plan }))
    }

    fn run(&self, executable: &dyn Executable, feeds: &[Feed], out: &Tensor) -> Result<()> {
        let CpuExecutable { node, feeds: places, plan } = executable
            .as_any()
            .downcast_ref()
            .ok_or_else(|| device_error("run", "the executable is another device's".to_owned()))?;
        let (q, k) = (tensor(feeds, places.q)?, tensor(feeds, places.k)?);
        let mask = match (places.mask, node.mask_kind.tensor) {
            (None, _) | (_, MaskTensorKind::None) => None,
            (Some(place), MaskTensorKind::Additive(_)) => {
                Some(MaskTensor::Additive(tensor(feeds, place)?.clone()))
            }
            (Some(place), MaskTensorKind::Bool) => {
                Some(MaskTensor::Bool(tensor(feeds, place)?.clone()))
            }
        };
        let kv_lens = places.kv_lens.map(|place| tensor(feeds, place)).transpose()?;
        let offset = places.offset.map(|place| scalar(feeds, place)).transpose()?;
        let call = Attention {
            q: View::input(q),
            k: View::input(k),
            v: View::input(tensor(feeds, places.v)?),
            out: View::output(out),
            mask: mask.as_ref().map(|mask| TensorMask::new(mask, q, k)).transpose()?,
            kv_lens: kv_lens.map(View::input),
            band: Band { left: node.mask_kind.left, right: node.mask_kind.right, offset },
            scale: node.scale,
            softcap: node.softcap,
        };
        plan.run(&self.pool, &call);
        Ok(())
    }
}

fn tensor(feeds: &[Feed], place: usize) -> Result<&Tensor> {
    sdpa_graph::tensor(feeds, place).map_err(|reason| device_error("run", reason))
}

fn scalar(feeds: &[Feed], place: usize) -> Result<i64> {
    sdpa_graph::scalar(feeds, place).map_err(|reason| device_error("run", reason))
}

fn device_error(what: &'static str, reason: String) -> Error {
    Error::Device { device: CPU, what, reason }
}
