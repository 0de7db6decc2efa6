//! The printed form of a graph: one line a node, the same on every machine.

use std::fmt;

use super::node::{Dim, Graph, Input, LinearNode, Node, NodeId, RmsNormNode, RopeNode, SdpaNode};
use super::node::{KvAppendNode, MergeHeadsNode, SplitHeadsNode};
use crate::op::Precision;

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "%{}", self.0)
    }
}

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, node) in self.nodes().iter().enumerate() {
            write!(f, "{} = ", NodeId(index as u32))?;
            writeln!(f, "{node}")?;
        }
        for update in self.updates() {
            writeln!(f, "update {} <- {}", update.input, update.value)?;
        }
        writeln!(f, "return {}: {}", self.output(), self.output_dtype())
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Node::Input(node) => node.fmt(f),
            Node::Add(node) => write!(f, "add({}, {})", node.a, node.b),
            Node::RmsNorm(node) => {
                let RmsNormNode { x, weight, eps, width } = node;
                write!(f, "rms_norm({x}, {weight}) width={width} eps={eps}")
            }
            Node::Linear(node) => node.fmt(f),
            Node::SplitHeads(SplitHeadsNode { x, heads, dim }) => {
                write!(f, "split_heads({x}) heads={heads} dim={dim}")
            }
            Node::MergeHeads(MergeHeadsNode { x, heads, dim }) => {
                write!(f, "merge_heads({x}) heads={heads} dim={dim}")
            }
            Node::Rope(RopeNode { x, cos, sin, pairing, dim, pairs }) => {
                write!(f, "rope({x}, {cos}, {sin}) dim={dim} pairs={pairs} {pairing:?}")
            }
            Node::KvAppend(KvAppendNode { cache, new, starts }) => {
                write!(f, "kv_append({cache}, {new}, starts={starts})")
            }
            Node::Sdpa(node) => node.fmt(f),
            Node::SwiGlu(node) => write!(f, "swiglu({}, {})", node.gate, node.up),
        }
    }
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "input {}: {} [", self.name, self.dtype)?;
        for (index, (axis, dim)) in self.axes.iter().zip(&self.dims).enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            write!(f, "{comma}{axis}")?;
            if let Dim::Fixed(length) = dim {
                write!(f, "={length}")?;
            }
        }
        f.write_str("]")
    }
}

impl fmt::Display for LinearNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { x, weight, bias, in_features, out_features, precision } = self;
        write!(f, "linear({x}, {weight}")?;
        if let Some(bias) = bias {
            write!(f, ", bias={bias}")?;
        }
        write!(f, ") {out_features}x{in_features}")?;
        if *precision == Precision::Exact { f.write_str(" exact") } else { Ok(()) }
    }
}

impl fmt::Display for SdpaNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sdpa({}, {}, {}", self.q, self.k, self.v)?;
        for (name, feed) in
            [("mask", self.mask), ("kv_lens", self.kv_lens), ("offset", self.offset)]
        {
            if let Some(feed) = feed {
                write!(f, ", {name}={feed}")?;
            }
        }
        let Self { q_heads, kv_heads, head_dim, v_dim, mask_kind, scale, accumulator, .. } = self;
        write!(f, ") heads={q_heads}/{kv_heads} dim={head_dim}/{v_dim} mask={mask_kind}")?;
        write!(f, " scale={scale}")?;
        if let Some(softcap) = self.softcap {
            write!(f, " softcap={softcap}")?;
        }
        write!(f, " accumulate={accumulator}")
    }
}
