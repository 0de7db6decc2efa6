//! The printed form of a graph: one line a node, the same on every machine.

use std::fmt;

use super::node::{Dim, Graph, Node, NodeId, SdpaNode};

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "%{}", self.0)
    }
}

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, node) in self.nodes().iter().enumerate() {
            write!(f, "{} = ", NodeId(index as u32))?;
            match node {
                Node::Input(input) => {
                    write!(f, "input {}: {} [", input.name, input.dtype)?;
                    for (index, (axis, dim)) in input.axes.iter().zip(&input.dims).enumerate() {
                        let comma = if index > 0 { ", " } else { "" };
                        write!(f, "{comma}{axis}")?;
                        if let Dim::Fixed(length) = dim {
                            write!(f, "={length}")?;
                        }
                    }
                    writeln!(f, "]")?;
                }
                Node::Sdpa(node) => writeln!(f, "{node}")?,
            }
        }
        writeln!(f, "return {}: {}", self.output(), self.output_dtype())
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
