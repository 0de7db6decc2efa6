//! Encoding a program: its feeds are read and its results written when the command buffer runs. The
//! command buffer may be committed on the way, as MPSGraph does with larger graphs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::compile::{Program, Type};
use super::eval::{self, Mode};
use super::execution_descriptor::Chosen;
use super::ir::{Node, Op};
use super::tensor_data;
use super::value::{Data, Value};
use crate::control;
use crate::foundation::array;
use crate::metal::command_buffer;
use crate::metal::event;
use crate::mps::command_buffer as mps_buffer;
use crate::mps::dtype::Scalar;
use crate::mps::ndarray::Window;
use crate::runtime::abort::abort;
use crate::runtime::{Id, Ref};

/// The type of what lies in memory.
pub(super) fn type_of(window: &Window) -> Type {
    (Some(window.shape.iter().map(|n| *n as i64).collect()), window.dtype)
}

fn mode(program: &Program) -> Mode {
    Mode { careless_f16: program.level != 0, narrow_softmax: control().narrow_accumulation() }
}

/// Whether the shape of a reshape or broadcast is computed from what is fed, and not from shapes.
fn shape_is_fed(nodes: &[Node], node: usize) -> bool {
    match &nodes[node].op {
        Op::ShapeOf => false,
        Op::Placeholder => true,
        _ => nodes[node].inputs.iter().any(|input| shape_is_fed(nodes, *input)),
    }
}

fn refuse_fed_shapes(nodes: &[Node]) {
    for node in nodes.iter().filter(|node| matches!(node.op, Op::ReshapeTo | Op::BroadcastTo)) {
        if shape_is_fed(nodes, node.inputs[1]) {
            abort!(
                "MPSGraphExecutable: a shape that comes from a fed tensor, with preallocated results"
            );
        }
    }
}

/// The extents of the results; a rehearsal with zeros finds those that inference leaves open.
fn result_shapes(
    program: &Program,
    inputs: &[Type],
) -> Vec<(Vec<usize>, crate::mps::dtype::DType)> {
    let types = program.output_types(inputs);
    let known = |dims: &[i64]| {
        dims.iter().map(|n| usize::try_from(*n).ok()).collect::<Option<Vec<usize>>>()
    };
    let found: Option<Vec<_>> =
        types.iter().map(|(dims, dtype)| Some((known(dims.as_deref()?)?, *dtype))).collect();
    found.unwrap_or_else(|| {
        let zeros = inputs.iter().map(|(dims, dtype)| {
            let shape: Vec<usize> = dims.iter().flatten().map(|n| *n as usize).collect();
            let count = shape.iter().product();
            match dtype.is_float() {
                true => Value::floats(*dtype, shape, vec![0.0; count]),
                false => Value::integers(*dtype, shape, vec![0; count]),
            }
        });
        let feeds: HashMap<usize, Value> = program.feeds.iter().copied().zip(zeros).collect();
        let values = eval::run(&program.nodes, &feeds, &program.targets, mode(program));
        values.into_iter().map(|value| (value.shape, value.dtype)).collect()
    })
}

fn poison(window: &Window) {
    let value = if window.dtype.is_float() { Scalar::Float(f32::NAN) } else { Scalar::Integer(-1) };
    window.write(|_| value);
}

fn read(window: &Window) -> Value {
    Value::from_scalars(window.dtype, window.shape.clone(), &window.read())
}

fn write(window: &Window, value: &Value) {
    if value.shape != window.shape || value.dtype != window.dtype {
        abort!(
            "MPSGraphExecutable: a result of {:?} {} for memory of {:?} {}",
            value.shape,
            value.dtype.name(),
            window.shape,
            window.dtype.name()
        );
    }
    match &value.data {
        Data::Float(list) => window.write(|i| Scalar::Float(list[i])),
        Data::Integer(list) => window.write(|i| Scalar::Integer(list[i])),
    }
}

/// Adds a run of `program` to an MPS command buffer object; the results as tensor data.
pub(super) fn encode(
    program: &Program,
    commands: Id,
    inputs: Vec<Window>,
    results: Option<Vec<Ref>>,
    chosen: Chosen,
) -> Vec<Ref> {
    control().count("graph_encodes", 1);
    let types: Vec<Type> = inputs.iter().map(type_of).collect();
    let shapes = result_shapes(program, &types);
    let results = match results {
        Some(results) => {
            refuse_fed_shapes(&program.nodes);
            results
        }
        None => shapes
            .iter()
            .map(|(shape, dtype)| tensor_data::make(Window::allocate(*dtype, shape.clone())))
            .collect(),
    };
    if results.len() != program.targets.len() {
        abort!(
            "MPSGraphExecutable: {} results for {} targets",
            results.len(),
            program.targets.len()
        );
    }
    let outputs: Vec<Window> = results.iter().map(|data| tensor_data::window(data.id())).collect();
    for (place, (output, (shape, dtype))) in outputs.iter().zip(&shapes).enumerate() {
        if output.shape != *shape || output.dtype != *dtype {
            abort!(
                "MPSGraphExecutable: result {place} has shape {:?} {}, its tensor {shape:?} {}",
                output.shape,
                output.dtype.name(),
                dtype.name()
            );
        }
    }
    add_waits(commands, &chosen);
    let made: Arc<Mutex<Vec<Value>>> = Arc::default();
    let run = program.clone();
    let (store, targets) = (Arc::clone(&made), outputs.clone());
    let how = mode(program);
    mps_buffer::work(commands).add(
        "MPSGraph",
        Box::new(move || {
            let feeds = run.feeds.iter().copied().zip(inputs.iter().map(read)).collect();
            *store.lock().unwrap() = eval::run(&run.nodes, &feeds, &run.targets, how);
            if control().poison_results() {
                targets.iter().for_each(poison);
            }
        }),
    );
    if control().commit_and_continue() {
        control().count("graph_splits", 1);
        mps_buffer::commit_and_continue(commands);
    }
    mps_buffer::work(commands).add(
        "MPSGraph",
        Box::new(move || {
            for (window, value) in outputs.iter().zip(made.lock().unwrap().iter()) {
                write(window, value);
            }
        }),
    );
    add_signals(commands, chosen, &results);
    results
}

fn add_waits(commands: Id, chosen: &Chosen) {
    for (target, value) in chosen.waits.clone() {
        mps_buffer::work(commands)
            .add("event", Box::new(move || event::wait_or_abort(target.id(), value)));
    }
}

fn add_signals(commands: Id, chosen: Chosen, results: &[Ref]) {
    let work = mps_buffer::work(commands);
    for (target, value) in chosen.signals {
        work.add("event", Box::new(move || event::signal(target.id(), value)));
    }
    if let Some(block) = chosen.completed {
        let results = array::make(results.to_vec());
        work.when_done(Box::new(move |_, error| {
            block.call_with_two(results.id(), error.map_or(Id::NIL, Ref::id));
        }));
    }
}

/// Encodes into a command buffer of its own on `queue`, commits it, and waits if asked to.
pub(super) fn on_queue<R>(queue: Id, wait: bool, encode: impl FnOnce(Id) -> R) -> R {
    let root = command_buffer::new(queue, true);
    let commands = mps_buffer::make(root.id());
    let result = encode(commands.id());
    let last = mps_buffer::root(commands.id());
    command_buffer::commit(last.id());
    if wait {
        command_buffer::wait(last.id());
    }
    result
}
