//! One attention node over inputs: the plan of the fused loop and the places of its feeds.

use metallic::Result;
use metallic::graph::{Feed, Graph, SdpaNode};
use metallic::op::{Band, MaskTensor, MaskTensorKind};
use metallic::tensor::Tensor;

use super::feeds::{optional_tensor, scalar, tensor};
use super::sdpa::{Geometry, Plan};
use crate::cpu::attention::{Attention, TensorMask};
use crate::cpu::cores::Cpu;
use crate::cpu::view::View;
use crate::sdpa_graph::{SdpaFeeds, only_sdpa};

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
    places: SdpaFeeds,
}

impl SdpaPlan {
    /// The plan of `graph`; `None` unless it is one attention node over inputs.
    pub(super) fn of(cpu: &Cpu, graph: &Graph) -> Option<Self> {
        let (node, places) = only_sdpa(graph)?;
        Some(Self { plan: plan(cpu, node), places, node: node.clone() })
    }

    pub(super) fn run(&self, cpu: &Cpu, feeds: &[Feed], out: &Tensor) -> Result<()> {
        let SdpaFeeds { q, k, v, mask, kv_lens, offset } = self.places;
        let (q, k) = (tensor(feeds, q)?, tensor(feeds, k)?);
        let mask = match (optional_tensor(feeds, mask)?, self.node.mask_kind.tensor) {
            (None, _) | (_, MaskTensorKind::None) => None,
            (Some(mask), MaskTensorKind::Additive(_)) => Some(MaskTensor::Additive(mask.clone())),
            (Some(mask), MaskTensorKind::Bool) => Some(MaskTensor::Bool(mask.clone())),
        };
        let call = Attention {
            q: View::input(q),
            k: View::input(k),
            v: View::input(tensor(feeds, v)?),
            out: View::output(out),
            mask: mask.as_ref().map(|mask| TensorMask::new(mask, q, k)).transpose()?,
            kv_lens: optional_tensor(feeds, kv_lens)?.map(View::input),
            band: band(&self.node, offset, feeds)?,
            scale: self.node.scale,
            softcap: self.node.softcap,
        };
        self.plan.run(&cpu.pool, &call);
        Ok(())
    }
}
