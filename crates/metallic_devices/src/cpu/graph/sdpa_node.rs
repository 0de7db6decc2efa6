//! One attention node over inputs: the plan of the fused loop and the places of its feeds.

use metallic::Result;
use metallic::graph::{Feed, Graph, Node, SdpaNode};
use metallic::op::{Band, MaskTensor, MaskTensorKind};
use metallic::tensor::Tensor;

use super::feeds::{optional_place, optional_tensor, place, scalar, tensor};
use super::sdpa::{Geometry, Plan};
use crate::cpu::attention::{Attention, TensorMask};
use crate::cpu::legacy::Cpu;
use crate::cpu::view::View;

/// The fused loop for a node.
pub(super) fn plan(cpu: &Cpu, node: &SdpaNode) -> Plan {
    let group = node.q_heads / node.kv_heads;
    let geometry = Geometry { group, head_dim: node.head_dim, v_dim: node.v_dim };
    Plan::new(cpu.level, cpu.pool.threads(), geometry)
}

/// The band of a node's mask, with the offset of this run.
pub(super) fn band(node: &SdpaNode, offset: Option<usize>, feeds: &[Feed]) -> Result<Band> {
    let offset = offset.map(|place| scalar(feeds, place)).transpose()?;
    Ok(Band { left: node.mask_kind.left, right: node.mask_kind.right, offset })
}

/// A graph of one attention node.
#[derive(Debug)]
pub(super) struct SdpaPlan {
    node: SdpaNode,
    plan: Plan,
    q: usize,
    k: usize,
    v: usize,
    mask: Option<usize>,
    kv_lens: Option<usize>,
    offset: Option<usize>,
}

impl SdpaPlan {
    /// The plan of `graph`; `None` unless it is one attention node over inputs.
    pub(super) fn of(cpu: &Cpu, graph: &Graph) -> Option<Self> {
        let Node::Sdpa(node) = graph.node(graph.output()) else { return None };
        Some(Self {
            plan: plan(cpu, node),
            q: place(graph, node.q)?,
            k: place(graph, node.k)?,
            v: place(graph, node.v)?,
            mask: optional_place(graph, node.mask)?,
            kv_lens: optional_place(graph, node.kv_lens)?,
            offset: optional_place(graph, node.offset)?,
            node: node.clone(),
        })
    }

    pub(super) fn run(&self, cpu: &Cpu, feeds: &[Feed], out: &Tensor) -> Result<()> {
        let (q, k) = (tensor(feeds, self.q)?, tensor(feeds, self.k)?);
        let mask = match (optional_tensor(feeds, self.mask)?, self.node.mask_kind.tensor) {
            (None, _) | (_, MaskTensorKind::None) => None,
            (Some(mask), MaskTensorKind::Additive(_)) => Some(MaskTensor::Additive(mask.clone())),
            (Some(mask), MaskTensorKind::Bool) => Some(MaskTensor::Bool(mask.clone())),
        };
        let call = Attention {
            q: View::input(q),
            k: View::input(k),
            v: View::input(tensor(feeds, self.v)?),
            out: View::output(out),
            mask: mask.as_ref().map(|mask| TensorMask::new(mask, q, k)).transpose()?,
            kv_lens: optional_tensor(feeds, self.kv_lens)?.map(View::input),
            band: band(&self.node, self.offset, feeds)?,
            scale: self.node.scale,
            softcap: self.node.softcap,
        };
        self.plan.run(&cpu.pool, &call);
        Ok(())
    }
}
