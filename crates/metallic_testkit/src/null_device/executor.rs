//! The graph executor of the null device: a compiled graph is the graph itself.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use metallic::dispatch::{Reason, Support};
use metallic::graph::{Executable, Feed, Graph, GraphExecutor, LengthPolicy, Node, NodeId};
use metallic::op::Band;
use metallic::tensor::Tensor;
use metallic::{Error, Result};

use super::kernel::Call;
use super::{Compute, Failure, NULL, NullControls};

/// Runs graphs by the oracle.
#[derive(Debug)]
pub struct NullExecutor {
    pub(super) refuses: Option<Reason>,
    pub(super) lengths: LengthPolicy,
    pub(super) compile_time: Duration,
    pub(super) executable_bytes: usize,
    pub(super) compute: Compute,
    pub(super) controls: Arc<NullControls>,
}

/// A graph that was "compiled".
#[derive(Debug)]
pub struct NullExecutable {
    graph: Graph,
    bytes: usize,
}

impl Executable for NullExecutable {
    fn bytes(&self) -> usize {
        self.bytes
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl NullExecutor {
    /// The build that enters every key.
    pub const BUILD: &'static str = "null-1";
}

impl GraphExecutor for NullExecutor {
    fn build_id(&self) -> &str {
        Self::BUILD
    }

    fn lengths(&self) -> LengthPolicy {
        self.lengths
    }

    fn supports(&self, graph: &Graph) -> Support {
        if let Some(reason) = &self.refuses {
            return Support::No(reason.clone());
        }
        let known = matches!(graph.node(graph.output()), Node::Sdpa(_));
        Support::when(known, || Reason::Missing { feature: "graphs other than attention" })
    }

    fn compile(&self, graph: &Graph) -> Result<Arc<dyn Executable>> {
        self.controls.compiles.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(self.compile_time);
        match self.controls.failure() {
            Failure::None => {}
            Failure::Panic => panic!("a compiler bug was asked for"),
            Failure::Error(reason) => {
                return Err(Error::Device { device: NULL, what: "compile", reason });
            }
        }
        Ok(Arc::new(NullExecutable { graph: graph.clone(), bytes: self.executable_bytes }))
    }

    fn run(&self, executable: &dyn Executable, feeds: &[Feed], out: &Tensor) -> Result<()> {
        self.controls.graph_runs.fetch_add(1, Ordering::SeqCst);
        let executable: &NullExecutable =
            executable.as_any().downcast_ref().expect("the cache keeps executors apart");
        let graph = &executable.graph;
        let Node::Sdpa(node) = graph.node(graph.output()) else {
            unreachable!("`supports` lets only attention through")
        };
        let feed = |id: NodeId| graph.inputs().zip(feeds).find(|((input, _), _)| *input == id);
        let tensor = |id: NodeId| match feed(id) {
            Some((_, Feed::Tensor(tensor))) => tensor,
            other => panic!("{id} should be fed with a tensor, not {other:?}"),
        };
        let offset = node.offset.map(|id| match feed(id) {
            Some((_, Feed::Scalar(offset))) => *offset,
            other => panic!("{id} should be fed with a number, not {other:?}"),
        });
        let (left, right) = (node.mask_kind.left, node.mask_kind.right);
        let call = Call {
            q: tensor(node.q),
            k: tensor(node.k),
            v: tensor(node.v),
            mask: node.mask.map(tensor),
            kv_lens: node.kv_lens.map(tensor),
            band: Band { left, right, offset },
            scale: node.scale,
            softcap: node.softcap,
        };
        call.run(self.compute, out);
        Ok(())
    }
}
