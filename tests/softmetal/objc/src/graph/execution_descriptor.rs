//! The two execution descriptors: for graphs, and for executables. They hold the same settings.

use std::sync::{Arc, Mutex};

use crate::runtime::abort::abort;
use crate::runtime::block::OwnedBlock;
use crate::runtime::class::{class, methods};
use crate::runtime::{BlockPtr, Class, Id, Ref};

class!(GRAPH_EXECUTION, "MPSGraphExecutionDescriptor");
class!(EXECUTABLE_EXECUTION, "MPSGraphExecutableExecutionDescriptor");

#[derive(Default)]
struct Settings {
    wait: bool,
    scheduled: Option<Arc<OwnedBlock>>,
    completed: Option<Arc<OwnedBlock>>,
    waits: Vec<(Ref, u64)>,
    signals: Vec<(Ref, u64)>,
}

/// The value of a descriptor, with the class it was made for.
struct Execution {
    class: &'static Class,
    settings: Mutex<Settings>,
}

/// What an execution depends on.
#[derive(Default)]
pub(super) struct Chosen {
    pub(super) wait: bool,
    pub(super) completed: Option<Arc<OwnedBlock>>,
    pub(super) waits: Vec<(Ref, u64)>,
    pub(super) signals: Vec<(Ref, u64)>,
}

/// Which of the two descriptors a method wants.
#[derive(Clone, Copy)]
pub(super) enum Wanted {
    Graph,
    Executable,
}

/// Reads a descriptor; nil means the defaults, the other class ends the process.
pub(super) fn read(id: Id, wanted: Wanted) -> Chosen {
    if id.is_nil() {
        return Chosen::default();
    }
    let execution = id.value::<Execution>();
    let class: &Class = match wanted {
        Wanted::Graph => &GRAPH_EXECUTION,
        Wanted::Executable => &EXECUTABLE_EXECUTION,
    };
    if !std::ptr::eq(execution.class, class) {
        abort!("{} was given where {} was wanted", execution.class.name(), class.name());
    }
    let settings = execution.settings.lock().unwrap();
    Chosen {
        wait: settings.wait,
        completed: settings.completed.clone(),
        waits: settings.waits.clone(),
        signals: settings.signals.clone(),
    }
}

fn with<R>(this: Id, change: impl FnOnce(&mut Settings) -> R) -> R {
    change(&mut this.value::<Execution>().settings.lock().unwrap())
}

macro_rules! execution {
    ($install:ident $class:ident) => {
        methods! { $install for $class;
            - "init" (this) -> Id { this.init(Execution { class: &$class, settings: Mutex::default() }) }
            - "waitUntilCompleted" (this) -> u8 { with(this, |settings| u8::from(settings.wait)) }
            - "setWaitUntilCompleted:" (this, on: u8) { with(this, |settings| settings.wait = on != 0) }
            - "setScheduledHandler:" (this, block: BlockPtr) {
                with(this, |settings| settings.scheduled = block.copied().map(Arc::new));
            }
            - "setCompletionHandler:" (this, block: BlockPtr) {
                with(this, |settings| settings.completed = block.copied().map(Arc::new));
            }
            - "waitForEvent:value:" (this, event: Id, value: u64) {
                with(this, |settings| settings.waits.push((event.required("the event"), value)));
            }
            - "signalEvent:atExecutionEvent:value:" (this, event: Id, _stage: u64, value: u64) {
                with(this, |settings| settings.signals.push((event.required("the event"), value)));
            }
        }
    };
}

execution! { install_graph GRAPH_EXECUTION }
execution! { install_executable EXECUTABLE_EXECUTION }

pub(super) fn install() {
    install_graph();
    install_executable();
}
