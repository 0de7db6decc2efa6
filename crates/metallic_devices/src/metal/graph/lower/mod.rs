//! From a graph of transformer-sized nodes to MPSGraph's ops: one function a node, one file a
//! function. The arms of the one `match` hold no logic.

mod add;
mod heads;
mod kv_append;
mod lengths;
mod linear;
mod rms_norm;
mod rope;
mod sdpa;
mod sdpa_decomposed;
mod sdpa_mask;
mod sdpa_native;
mod swiglu;

use std::collections::HashMap;

use metallic::Result;
use metallic::graph::{Dim, Graph, Input, KvAppendNode, Node, NodeId, SdpaNode, Update};
use metallic::tensor::DType;
use objc2_metal_performance_shaders::MPSDataType;
use objc2_metal_performance_shaders_graph::MPSGraphOptimization;

use super::emit::Emitter;
use super::form::Form;
use super::value::{ANY, Value, bad, data_type};
use crate::Terms;
pub(crate) use lengths::Lengths;

/// What a graph is lowered for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    /// How attention is lowered.
    pub(crate) form: Form,
    /// What is promised.
    pub(crate) terms: Terms,
    /// Whether the system is macOS 15 or newer.
    pub(crate) macos_15: bool,
    /// Whether it is macOS 26 or newer.
    pub(crate) macos_26: bool,
    /// Whether sums over 32767 and more elements must be cut.
    pub(crate) cut_long_sums: bool,
}

/// Where the value of a placeholder comes from at each run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    /// The graph's input of this number, counted among its inputs.
    Input(usize),
    /// [`Lengths`] of the attention node of this place in the graph.
    Lengths(usize),
    /// The position of each row of the attention node of this place, where lengths are not baked
    /// in.
    Rows(usize),
    /// The position of each key, where lengths are not baked in.
    Keys,
    /// A view of the blocks of the weight in the input of this number.
    Blocks(usize, BlockView),
}

/// Which part of each block of a quantised weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BlockView {
    /// The f16 that all numbers are multiplied by.
    Scales,
    /// The numbers, one or two a byte.
    Numbers,
}

/// Where a result of a run goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Made {
    /// Into the output.
    Output,
    /// Over the input of this number, counted among the inputs: all of it is new.
    Update(usize),
    /// Rows of a cache, at the positions that lie in another input.
    Rows {
        /// The cache's number among the inputs.
        cache: usize,
        /// That of the positions.
        starts: usize,
    },
}

/// A graph in MPSGraph's terms.
pub(crate) struct Lowered {
    /// The graph.
    pub(crate) emitter: Emitter,
    /// Its placeholders, in the order in which they were made.
    pub(crate) feeds: Vec<(Slot, Value)>,
    /// Its results.
    pub(crate) outputs: Vec<(Made, Value)>,
    /// How far it is optimised.
    pub(crate) level: MPSGraphOptimization,
    /// Whether the system is macOS 26 or newer.
    pub(crate) macos_26: bool,
}

/// A graph on its way.
pub(super) struct Lowering<'a> {
    pub(super) target: Target,
    pub(super) emitter: Emitter,
    pub(super) graph: &'a Graph,
    feeds: Vec<(Slot, Value)>,
    /// The value of each node; none for numbers fed as [`Lengths`].
    values: Vec<Option<Value>>,
    /// The new rows of each append, by its place.
    appended: HashMap<usize, Value>,
}

/// Lowers `graph`, whose shapes and types `infer` has accepted.
///
/// # Errors
/// [`metallic::Error::Compile`] for what MPSGraph would end the process for.
pub(crate) fn lower(graph: &Graph, target: Target) -> Result<Lowered> {
    let emitter = Emitter::new(target.macos_15);
    let values = Vec::with_capacity(graph.nodes().len());
    let (feeds, appended) = (Vec::new(), HashMap::new());
    let mut lowering = Lowering { target, emitter, graph, feeds, values, appended };
    let mut inputs = 0;
    for (index, node) in graph.nodes().iter().enumerate() {
        let value = match node {
            Node::Input(input) => {
                inputs += 1;
                lowering.input(input, index, inputs - 1)?
            }
            Node::Add(node) => Some(add::lower(&lowering, node)?),
            Node::RmsNorm(node) => Some(rms_norm::lower(&lowering, node)?),
            Node::Linear(node) => Some(linear::lower(&lowering, node)?),
            Node::SplitHeads(node) => Some(heads::split(&lowering, node)?),
            Node::MergeHeads(node) => Some(heads::merge(&lowering, node)?),
            Node::Rope(node) => Some(rope::lower(&lowering, node)?),
            Node::KvAppend(node) => Some(lowering.append(index, node)?),
            Node::Sdpa(node) => Some(sdpa::lower(&mut lowering, index, node)?),
            Node::SwiGlu(node) => Some(swiglu::lower(&lowering, node)?),
            other => return Err(bad("lowering", format!("no lowering of {other:?}"))),
        };
        lowering.values.push(value);
    }
    let output = lowering.value(graph.output())?;
    let output_type = known_type(graph.output_dtype())?;
    let output = lowering.emitter.cast(&output, output_type)?;
    let mut outputs = vec![(Made::Output, output)];
    for update in graph.updates() {
        outputs.push(lowering.update(update)?);
    }
    let Lowering { emitter, feeds, .. } = lowering;
    let level = MPSGraphOptimization::Level0;
    Ok(Lowered { emitter, feeds, outputs, level, macos_26: target.macos_26 })
}

impl Lowering<'_> {
    /// The value of node `id`.
    pub(super) fn value(&self, id: NodeId) -> Result<Value> {
        let value = self.values.get(id.index()).cloned().flatten();
        value.ok_or_else(|| bad("lowering", format!("{id} is no tensor of an earlier node")))
    }

    /// The number of input `id`, counted among the inputs.
    fn number(&self, id: NodeId) -> Result<usize> {
        let number = self.graph.inputs().position(|(input, _)| input == id);
        number.ok_or_else(|| bad("lowering", format!("{id} is no input")))
    }

    /// An append: its value goes on in the graph, its rows are a result.
    fn append(&mut self, place: usize, node: &KvAppendNode) -> Result<Value> {
        let (updated, rows) = kv_append::lower(self, node)?;
        self.appended.insert(place, rows);
        Ok(updated)
    }

    /// The result that an input's feed is updated with.
    fn update(&self, update: &Update) -> Result<(Made, Value)> {
        let number = self.number(update.input)?;
        if let Node::KvAppend(node) = self.graph.node(update.value)
            && let Some(rows) = self.appended.get(&update.value.index())
        {
            let starts = self.number(node.starts)?;
            return Ok((Made::Rows { cache: number, starts }, rows.clone()));
        }
        Ok((Made::Update(number), self.value(update.value)?))
    }

    /// A placeholder fed from `slot`.
    pub(super) fn feed(
        &mut self,
        slot: Slot,
        name: &str,
        dims: &[isize],
        dtype: MPSDataType,
    ) -> Result<Value> {
        let value = self.emitter.placeholder(name, dims, dtype)?;
        self.feeds.push((slot, value.clone()));
        Ok(value)
    }

    /// The placeholder of an input. A number that changes from step to step is none: it goes
    /// into [`Lengths`].
    fn input(&mut self, input: &Input, node: usize, number: usize) -> Result<Option<Value>> {
        if input.axes.is_empty() {
            return Ok(None);
        }
        let dims = input.dims.iter().map(|dim| match dim {
            Dim::Fixed(length) => *length as isize,
            Dim::Any => ANY,
        });
        let mut dims: Vec<isize> = dims.collect();
        if input.dtype.is_quantized() && linear::is_weight(self.graph.nodes(), node) {
            let [rows, width] = dims[..] else {
                return Err(bad(input.name, format!("a weight of shape {dims:?}")));
            };
            return linear::blocks(self, number, input.dtype, [rows, width]).map(Some);
        }
        let dtype = known_type(input.dtype)?;
        // A reshape cannot tell two unknown lengths apart: queries of unknown length are fed
        // folded.
        if dims.contains(&ANY)
            && let Some(attention) = queries_of(self.graph, node)
        {
            dims[1] = attention.kv_heads as isize;
        }
        self.feed(Slot::Input(number), input.name, &dims, dtype).map(Some)
    }
}

/// The attention node whose queries node `index` is.
pub(crate) fn queries_of(graph: &Graph, index: usize) -> Option<&SdpaNode> {
    graph.nodes().iter().find_map(|node| match node {
        Node::Sdpa(node) if node.q.index() == index => Some(node),
        _ => None,
    })
}

/// MPSGraph's type for `dtype`.
fn known_type(dtype: DType) -> Result<MPSDataType> {
    data_type(dtype).ok_or_else(|| bad("lowering", format!("MPSGraph has no {dtype}")))
}
