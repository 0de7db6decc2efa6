//! One call of an executable: its feeds cut to parts, and the numbers that change with it.

use metallic::graph::{Axis, Feed, Graph, Input, Node, NodeId, SdpaNode};
use metallic::tensor::Tensor;
use metallic::{Error, Result};

use super::super::failure;
use super::limits::{Part, Whole};
use super::lower::Lengths;

/// The feeds of one call of `graph`.
pub(super) struct Call<'a> {
    pub(super) graph: &'a Graph,
    feeds: &'a [Feed],
}

/// Where a part of a call begins, in sequences, key heads and rows of queries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Start {
    batch: usize,
    kv_head: usize,
    pub(super) row: usize,
}

/// A part of a call: its lengths and where it begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    pub(super) part: Part,
    pub(super) group: usize,
    pub(super) start: Start,
}

impl Cut {
    /// The parts of a call of at most `q_len` rows.
    pub(super) fn all(whole: &Whole, part: Part, q_len: usize) -> Vec<Self> {
        let Whole { all, group, .. } = *whole;
        let mut cuts = Vec::new();
        for batch in (0..all.batch).step_by(part.batch) {
            for kv_head in (0..all.kv_heads).step_by(part.kv_heads) {
                for row in (0..q_len).step_by(part.q_len) {
                    cuts.push(Cut { part, group, start: Start { batch, kv_head, row } });
                }
            }
        }
        cuts
    }

    /// The first index of the part on `axis`, and how many there are at most.
    fn range(&self, axis: Axis) -> Option<(usize, usize)> {
        let Cut { part, group, start } = self;
        Some(match axis {
            Axis::Batch => (start.batch, part.batch),
            Axis::KvHeads => (start.kv_head, part.kv_heads),
            Axis::QHeads => (start.kv_head * group, part.kv_heads * group),
            Axis::QLen => (start.row, part.q_len),
            _ => return None,
        })
    }

    /// The part of `tensor`, whose axes mean `axes`. An axis of length 1 is shared by all.
    ///
    /// # Errors
    /// [`Error::View`] when the part lies outside.
    pub(super) fn of(&self, tensor: &Tensor, axes: &[Axis]) -> Result<Tensor> {
        let mut cut = tensor.clone();
        for (place, axis) in axes.iter().enumerate() {
            let length = cut.shape()[place];
            if let Some((first, most)) = self.range(*axis).filter(|_| length > 1) {
                cut = cut.narrow(place, first, most.min(length - first))?;
            }
        }
        Ok(cut)
    }
}

impl<'a> Call<'a> {
    pub(super) fn new(graph: &'a Graph, feeds: &'a [Feed]) -> Self {
        Self { graph, feeds }
    }

    /// The input of number `number`, counted among the inputs.
    pub(super) fn input(&self, number: usize) -> Result<(NodeId, &'a Input)> {
        let missing = || failure("run", format!("the graph has no input {number}"));
        self.graph.inputs().nth(number).ok_or_else(missing)
    }

    /// The tensor fed to the input of number `number`.
    ///
    /// # Errors
    /// [`Error::Device`] when there is none.
    pub(super) fn tensor(&self, number: usize) -> Result<&'a Tensor> {
        match self.feeds.get(number) {
            Some(Feed::Tensor(tensor)) => Ok(tensor),
            other => Err(failure("run", format!("feed {number} is {other:?}, not a tensor"))),
        }
    }

    /// The length of `axis` in this call: that of the first feed that has it.
    ///
    /// # Errors
    /// [`Error::Device`] when none has.
    pub(super) fn length(&self, axis: Axis) -> Result<usize> {
        // A mask may be shorter than what it is broadcast to.
        let is_mask = |id: NodeId| self.attention().any(|node| node.mask == Some(id));
        for (number, (id, input)) in self.graph.inputs().enumerate() {
            let place = input.axes.iter().position(|found| *found == axis);
            if let Some(place) = place.filter(|_| !is_mask(id)) {
                let shape = self.tensor(number)?.shape();
                let short = || failure("run", format!("{} has shape {shape}", input.name));
                return shape.get(place).copied().ok_or_else(short);
            }
        }
        Err(failure("run", format!("no feed has an axis {axis}")))
    }

    fn attention(&self) -> impl Iterator<Item = &'a SdpaNode> {
        self.graph.nodes().iter().filter_map(|node| match node {
            Node::Sdpa(node) => Some(node),
            _ => None,
        })
    }

    /// The numbers of the attention node at `place`.
    ///
    /// # Errors
    /// [`Error::Device`] when a feed is missing.
    pub(super) fn lengths(&self, place: usize) -> Result<Lengths> {
        let Some(Node::Sdpa(node)) = self.graph.nodes().get(place) else {
            return Err(failure("run", format!("node {place} is no attention")));
        };
        let offset = node.offset.map(|id| self.scalar(id)).transpose()?;
        let (q_len, kv_len) = (self.length(Axis::QLen)?, self.length(Axis::KvLen)?);
        Ok(Lengths::new(&node.mask_kind, q_len, kv_len, offset))
    }

    fn scalar(&self, id: NodeId) -> Result<i64> {
        let number = self.graph.inputs().position(|(input, _)| input == id);
        match number.and_then(|number| self.feeds.get(number)) {
            Some(Feed::Scalar(scalar)) => Ok(*scalar),
            other => Err(failure("run", format!("{id} is fed with {other:?}, not a number"))),
        }
    }

    /// The tensor of input `number` with all the axes the input has: a mask may leave out or
    /// share some.
    ///
    /// # Errors
    /// [`Error::View`] when it does not broadcast.
    pub(super) fn whole_tensor(&self, number: usize) -> Result<Tensor> {
        let (id, input) = self.input(number)?;
        let tensor = self.tensor(number)?;
        if !self.attention().any(|node| node.mask == Some(id)) {
            return Ok(tensor.clone());
        }
        let mut dims = [1; 4];
        for (dim, length) in dims.iter_mut().rev().zip(tensor.shape().iter().rev()) {
            *dim = *length;
        }
        for (dim, axis) in dims.iter_mut().zip(input.axes) {
            if matches!(axis, Axis::QLen | Axis::KvLen) {
                *dim = self.length(*axis)?;
            }
        }
        tensor.broadcast(dims)
    }
}

/// Refuses an executable of another device.
pub(super) fn foreign() -> Error {
    failure("run", "the executable is another device's")
}
