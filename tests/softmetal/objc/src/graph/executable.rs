//! MPSGraphExecutable: a compiled program, its feeds and targets.

use std::sync::Mutex;

use super::compile::Program;
use super::execution_descriptor::{Wanted, read as read_execution};
use super::{package, run, shaped_type, tensor_data};
use crate::control;
use crate::foundation::{array, url};
use crate::runtime::class::{class, methods};
use crate::runtime::{Id, Ref};

class!(EXECUTABLE, "MPSGraphExecutable");

/// The value of an executable object. One that was loaded does not know tensors.
struct Executable {
    program: Program,
    tensors: Option<(Vec<Ref>, Vec<Ref>)>,
    options: Mutex<u64>,
}

/// A new executable object.
pub(super) fn make(program: Program, feeds: Vec<Ref>, targets: Vec<Ref>) -> Ref {
    Ref::new(
        &EXECUTABLE,
        Executable { program, tensors: Some((feeds, targets)), options: Mutex::new(1) },
    )
}

fn encode(this: Id, commands: Id, inputs: Id, results: Id, descriptor: Id) -> Ref {
    let inputs = array::items(inputs, "the inputs");
    let windows = inputs.iter().map(|data| tensor_data::window(data.id())).collect();
    let chosen = read_execution(descriptor, Wanted::Executable);
    let program = &this.value::<Executable>().program;
    array::make(run::encode(program, commands, windows, array::read(results), chosen))
}

fn types(inputs: Id) -> Vec<super::compile::Type> {
    array::items(inputs, "the input types")
        .iter()
        .map(|shaped| shaped_type::read(shaped.id()))
        .collect()
}

methods! { install for EXECUTABLE;
    - "feedTensors" (this) -> Id {
        let tensors = this.value::<Executable>().tensors.as_ref();
        tensors.map_or(Id::NIL, |(feeds, _)| array::make(feeds.clone()).autorelease())
    }
    - "targetTensors" (this) -> Id {
        let tensors = this.value::<Executable>().tensors.as_ref();
        tensors.map_or(Id::NIL, |(_, targets)| array::make(targets.clone()).autorelease())
    }
    - "options" (this) -> u64 { *this.value::<Executable>().options.lock().unwrap() }
    - "setOptions:" (this, options: u64) { *this.value::<Executable>().options.lock().unwrap() = options }
    - "specializeWithDevice:inputTypes:compilationDescriptor:" (this, _device: Id, inputs: Id, _descriptor: Id) {
        this.value::<Executable>().program.output_types(&types(inputs));
        control().count("graph_specialisations", 1);
    }
    - "getOutputTypesWithDevice:inputTypes:compilationDescriptor:" (
        this, _device: Id, inputs: Id, _descriptor: Id,
    ) -> Id {
        let types = this.value::<Executable>().program.output_types(&types(inputs));
        array::make(types.into_iter().map(|(shape, dtype)| shaped_type::make(shape, dtype)).collect()).autorelease()
    }
    - "encodeToCommandBuffer:inputsArray:resultsArray:executionDescriptor:" (
        this, commands: Id, inputs: Id, results: Id, descriptor: Id,
    ) -> Id {
        encode(this, commands, inputs, results, descriptor).autorelease()
    }
    - "runWithMTLCommandQueue:inputsArray:resultsArray:executionDescriptor:" (
        this, queue: Id, inputs: Id, results: Id, descriptor: Id,
    ) -> Id {
        run::on_queue(queue, true, |commands| encode(this, commands, inputs, results, descriptor)).autorelease()
    }
    - "runAsyncWithMTLCommandQueue:inputsArray:resultsArray:executionDescriptor:" (
        this, queue: Id, inputs: Id, results: Id, descriptor: Id,
    ) -> Id {
        let wait = read_execution(descriptor, Wanted::Executable).wait;
        run::on_queue(queue, wait, |commands| encode(this, commands, inputs, results, descriptor)).autorelease()
    }
    - "serializeToMPSGraphPackageAtURL:descriptor:" (this, target: Id, _descriptor: Id) {
        // There is no error to return: who cares looks whether the package is there.
        package::save(&this.value::<Executable>().program, &url::read(target));
    }
    - "initWithMPSGraphPackageAtURL:compilationDescriptor:" (this, source: Id, _descriptor: Id) -> Id {
        match package::load(&url::read(source)) {
            Some(program) => this.init(Executable { program, tensors: None, options: Mutex::new(1) }),
            None => {
                this.release();
                Id::NIL
            }
        }
    }
}
