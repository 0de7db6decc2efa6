//! Compiling: a graph with the types of its feeds becomes a program.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::execution_descriptor::{Wanted, read as read_execution};
use super::ir::{Dims, Node, Op, needed, type_text};
use super::tensor::{GRAPH, Graph, node_of, refuse};
use super::{descriptors, executable, infer, run, shaped_type, tensor_data};
use crate::control;
use crate::foundation::{array, dictionary};
use crate::mps::dtype::DType;
use crate::runtime::abort::abort;
use crate::runtime::class::methods;
use crate::runtime::{Id, Ref};

/// What an executable runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Program {
    pub(super) nodes: Vec<Node>,
    /// Nodes that are fed, in the order of the inputs.
    pub(super) feeds: Vec<usize>,
    /// Nodes whose values are results, in order.
    pub(super) targets: Vec<usize>,
    /// `MPSGraphOptimization`.
    pub(super) level: u64,
}

/// A tensor's type.
pub(super) type Type = (Dims, DType);

/// The nodes with the types of the feeds put in and everything after them inferred again.
pub(super) fn specialised(nodes: &[Node], feeds: &HashMap<usize, Type>) -> Vec<Node> {
    let mut list: Vec<Node> = Vec::with_capacity(nodes.len());
    for (index, node) in nodes.iter().enumerate() {
        let mut node = node.clone();
        if let Some((shape, dtype)) = feeds.get(&index) {
            if *dtype != node.dtype {
                refuse(&format!(
                    "a feed of {} for a placeholder {}",
                    type_text(*dtype, shape),
                    type_text(node.dtype, &node.shape)
                ));
            }
            node.shape = shape.clone();
        } else if !matches!(node.op, Op::Placeholder | Op::Constant(_) | Op::Fill(_)) {
            let inputs: Vec<&Node> = node.inputs.iter().map(|input| &list[*input]).collect();
            node.shape = infer::shape(&node.op, &inputs).unwrap_or_else(|text| refuse(&text));
        }
        list.push(node);
    }
    list
}

impl Program {
    pub(super) fn new(
        nodes: &[Node],
        feeds: &[(usize, Type)],
        targets: Vec<usize>,
        level: u64,
    ) -> Program {
        let types: HashMap<usize, Type> = feeds.iter().cloned().collect();
        let nodes = specialised(nodes, &types);
        let marks = needed(&nodes, &targets);
        for (index, node) in nodes.iter().enumerate().filter(|(index, _)| marks[*index]) {
            if node.op == Op::Placeholder && !types.contains_key(&index) {
                abort!("compile: a placeholder that the targets need is not among the feeds");
            }
        }
        Program { nodes, feeds: feeds.iter().map(|(node, _)| *node).collect(), targets, level }
    }

    /// The types of the results for the types of the inputs.
    pub(super) fn output_types(&self, inputs: &[Type]) -> Vec<Type> {
        self.check_inputs(inputs);
        let types = self.feeds.iter().copied().zip(inputs.iter().cloned()).collect();
        let nodes = specialised(&self.nodes, &types);
        self.targets
            .iter()
            .map(|target| (nodes[*target].shape.clone(), nodes[*target].dtype))
            .collect()
    }

    /// Ends the process when inputs do not fit the feeds.
    pub(super) fn check_inputs(&self, inputs: &[Type]) {
        if inputs.len() != self.feeds.len() {
            abort!(
                "MPSGraphExecutable: {} inputs for {} feed tensors",
                inputs.len(),
                self.feeds.len()
            );
        }
        for (place, ((shape, dtype), feed)) in inputs.iter().zip(&self.feeds).enumerate() {
            let node = &self.nodes[*feed];
            let fits = match (shape, &node.shape) {
                (Some(have), Some(want)) => {
                    have.len() == want.len()
                        && have.iter().zip(want).all(|(h, w)| h == w || *w == -1 || *h == -1)
                }
                _ => true,
            };
            if !fits || *dtype != node.dtype {
                abort!(
                    "MPSGraphExecutable: input {place} is {}, its feed tensor is {}",
                    type_text(*dtype, shape),
                    type_text(node.dtype, &node.shape)
                );
            }
        }
    }
}

fn target_nodes(this: Id, targets: Id) -> (Vec<Ref>, Vec<usize>) {
    let nodes = &this.value::<Graph>().nodes;
    let targets = array::items(targets, "the target tensors");
    let list = targets.iter().map(|target| node_of(nodes, target.id())).collect();
    (targets, list)
}

fn compile(this: Id, feeds: Id, targets: Id, descriptor: Id) -> Option<Ref> {
    let (level, waits) = descriptors::level(descriptor);
    control().count("graph_compiles", 1);
    if level != 0 {
        control().count("graph_compiles_above_level_0", 1);
    }
    if !waits {
        control().count("graph_compiles_without_wait", 1);
    }
    if control().take_graph_failure() {
        return None;
    }
    let nodes = &this.value::<Graph>().nodes;
    let mut entries =
        dictionary::read(feeds).unwrap_or_else(|| abort!("compile: the feeds must not be nil"));
    if control().reverse_feeds() {
        entries.reverse();
    }
    let types: Vec<(usize, Type)> = entries
        .iter()
        .map(|(tensor, shaped)| (node_of(nodes, tensor.id()), shaped_type::read(shaped.id())))
        .collect();
    let (targets, target_list) = target_nodes(this, targets);
    let program = Program::new(&nodes.lock().unwrap(), &types, target_list, level);
    let feeds = entries.into_iter().map(|(tensor, _)| tensor).collect();
    Some(executable::make(program, feeds, targets))
}

/// Runs a graph without compiling it first: feeds and targets by tensor.
fn encode(this: Id, commands: Id, feeds: Id, targets: Id, descriptor: Id) -> Vec<(Ref, Ref)> {
    let nodes = &this.value::<Graph>().nodes;
    let entries =
        dictionary::read(feeds).unwrap_or_else(|| abort!("encode: the feeds must not be nil"));
    let windows: Vec<_> = entries.iter().map(|(_, data)| tensor_data::window(data.id())).collect();
    let types: Vec<(usize, Type)> = entries
        .iter()
        .zip(&windows)
        .map(|((tensor, _), window)| (node_of(nodes, tensor.id()), run::type_of(window)))
        .collect();
    let (targets, list) = target_nodes(this, targets);
    let program = Program::new(&nodes.lock().unwrap(), &types, list, descriptors::LEVEL_1);
    let chosen = read_execution(descriptor, Wanted::Graph);
    let results = run::encode(&program, commands, windows, None, chosen);
    targets.into_iter().zip(results).collect()
}

methods! { install for GRAPH;
    - "compileWithDevice:feeds:targetTensors:targetOperations:compilationDescriptor:" (
        this, _device: Id, feeds: Id, targets: Id, _operations: Id, descriptor: Id,
    ) -> Id {
        let Some(made) = compile(this, feeds, targets, descriptor) else { return Id::NIL };
        descriptors::compiled(descriptor, made.id());
        made.autorelease()
    }
    - "encodeToCommandBuffer:feeds:targetTensors:targetOperations:executionDescriptor:" (
        this, commands: Id, feeds: Id, targets: Id, _operations: Id, descriptor: Id,
    ) -> Id {
        dictionary::make(encode(this, commands, feeds, targets, descriptor)).autorelease()
    }
    - "runWithMTLCommandQueue:feeds:targetTensors:targetOperations:" (
        this, queue: Id, feeds: Id, targets: Id, _operations: Id,
    ) -> Id {
        run::on_queue(queue, true, |commands| {
            dictionary::make(encode(this, commands, feeds, targets, Id::NIL))
        })
        .autorelease()
    }
}
