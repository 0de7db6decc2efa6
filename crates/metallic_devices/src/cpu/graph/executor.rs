//! Runs graphs on the CPU: a graph becomes a plan, a plan takes any lengths.
//!
//! Not: the kernels (`sdpa/`), nor a scheduler; the graphs of today are one node over inputs.

use std::any::Any;
use std::sync::Arc;

use metallic::dispatch::{Reason, Support};
use metallic::graph::{Executable, Feed, Graph, GraphExecutor, LengthPolicy, Node, NodeId};
use metallic::graph::{Input, SdpaNode};
use metallic::op::{Band, MaskTensor, MaskTensorKind};
use metallic::tensor::Tensor;
use metallic::{Error, Result};

use super::sdpa::{Geometry, Plan};
use crate::cpu::CPU;
use crate::cpu::attention::{Attention, TensorMask};
use crate::cpu::pool::ThreadPool;
use crate::cpu::simd::Level;
use crate::cpu::view::View;

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

/// Places of the operands among the feeds.
#[derive(Debug)]
struct SdpaFeeds {
    q: usize,
    k: usize,
    v: usize,
    mask: Option<usize>,
    kv_lens: Option<usize>,
    offset: Option<usize>,
}

impl Executable for CpuExecutable {
    fn bytes(&self) -> usize {
        size_of::<Self>()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The one attention node of a graph whose other nodes are its inputs.
fn only_sdpa(graph: &Graph) -> Option<&SdpaNode> {
    let Node::Sdpa(node) = graph.node(graph.output()) else { return None };
    let others = graph.nodes().iter().filter(|node| !matches!(node, Node::Input(_))).count();
    (others == 1).then_some(node)
}

fn sdpa_feeds(graph: &Graph, node: &SdpaNode) -> Option<SdpaFeeds> {
    let place = |id: NodeId| graph.inputs().position(|(input, _): (_, &Input)| input == id);
    // An absent operand is fine, one that is no input is not.
    let optional = |id: Option<NodeId>| id.map_or(Some(None), |id| place(id).map(Some));
    Some(SdpaFeeds {
        q: place(node.q)?,
        k: place(node.k)?,
        v: place(node.v)?,
        mask: optional(node.mask)?,
        kv_lens: optional(node.kv_lens)?,
        offset: optional(node.offset)?,
    })
}

impl GraphExecutor for CpuGraphExecutor {
    fn build_id(&self) -> &str {
        &self.build_id
    }

    fn lengths(&self) -> LengthPolicy {
        LengthPolicy::Dynamic
    }

    fn supports(&self, graph: &Graph) -> Support {
        let lowered = only_sdpa(graph).and_then(|node| sdpa_feeds(graph, node)).is_some();
        Support::when(lowered, || Reason::Missing {
            feature: "graphs other than one sdpa node over inputs",
        })
    }

    fn compile(&self, graph: &Graph) -> Result<Arc<dyn Executable>> {
        let node = only_sdpa(graph)
            .and_then(|node| Some((node.clone(), sdpa_feeds(graph, node)?)))
            .ok_or_else(|| device_error("compile", "the graph is not one sdpa node".to_owned()))?;
        let (node, feeds) = node;
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
    match feeds.get(place) {
        Some(Feed::Tensor(tensor)) => Ok(tensor),
        other => Err(device_error("run", format!("feed {place} is {other:?}, not a tensor"))),
    }
}

fn scalar(feeds: &[Feed], place: usize) -> Result<i64> {
    match feeds.get(place) {
        Some(Feed::Scalar(scalar)) => Ok(*scalar),
        other => Err(device_error("run", format!("feed {place} is {other:?}, not a number"))),
    }
}

fn device_error(what: &'static str, reason: String) -> Error {
    Error::Device { device: CPU, what, reason }
}
