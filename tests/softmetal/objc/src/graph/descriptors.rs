//! Compilation and serialisation descriptors.

use std::sync::Mutex;

use crate::foundation::string;
use crate::runtime::block::OwnedBlock;
use crate::runtime::class::{class, methods};
use crate::runtime::{BlockPtr, Id, Ref};

class!(COMPILATION, "MPSGraphCompilationDescriptor");
class!(SERIALIZATION, "MPSGraphExecutableSerializationDescriptor");

/// `MPSGraphOptimizationLevel1`, the default: work may go to the Neural Engine.
pub(super) const LEVEL_1: u64 = 1;

struct Settings {
    level: u64,
    profile: u64,
    fast_math: u64,
    wait: bool,
    handler: Option<OwnedBlock>,
}

/// The value of a compilation descriptor.
struct Compilation(Mutex<Settings>);

/// The value of a serialisation descriptor.
struct Serialization {
    append: Mutex<bool>,
    platform: Mutex<u64>,
    target: Mutex<Option<String>>,
}

/// The optimisation level, and whether compiling blocks; nil means the defaults.
pub(super) fn level(descriptor: Id) -> (u64, bool) {
    if descriptor.is_nil() {
        return (LEVEL_1, false);
    }
    let settings = descriptor.value::<Compilation>().0.lock().unwrap();
    (settings.level, settings.wait)
}

/// Tells the descriptor's handler that an executable is ready.
pub(super) fn compiled(descriptor: Id, executable: Id) {
    if descriptor.is_nil() {
        return;
    }
    let handler = descriptor.value::<Compilation>().0.lock().unwrap().handler.take();
    if let Some(handler) = handler {
        handler.call_with_two(executable, Id::NIL);
    }
}

fn with<R>(this: Id, change: impl FnOnce(&mut Settings) -> R) -> R {
    change(&mut this.value::<Compilation>().0.lock().unwrap())
}

methods! { install_compilation for COMPILATION;
    - "init" (this) -> Id {
        let settings = Settings { level: LEVEL_1, profile: 0, fast_math: 0, wait: false, handler: None };
        this.init(Compilation(Mutex::new(settings)))
    }
    - "optimizationLevel" (this) -> u64 { with(this, |settings| settings.level) }
    - "setOptimizationLevel:" (this, level: u64) { with(this, |settings| settings.level = level) }
    - "waitForCompilationCompletion" (this) -> u8 { with(this, |settings| u8::from(settings.wait)) }
    - "setWaitForCompilationCompletion:" (this, on: u8) { with(this, |settings| settings.wait = on != 0) }
    - "setCompilationCompletionHandler:" (this, block: BlockPtr) { with(this, |settings| settings.handler = block.copied()) }
    - "reducedPrecisionFastMath" (this) -> u64 { with(this, |settings| settings.fast_math) }
    - "setReducedPrecisionFastMath:" (this, choice: u64) { with(this, |settings| settings.fast_math = choice) }
    - "optimizationProfile" (this) -> u64 { with(this, |settings| settings.profile) }
    - "setOptimizationProfile:" (this, profile: u64) { with(this, |settings| settings.profile = profile) }
    - "disableTypeInference" (_this) {}
}

methods! { install_serialization for SERIALIZATION;
    - "init" (this) -> Id {
        this.init(Serialization { append: Mutex::new(false), platform: Mutex::new(0), target: Mutex::new(None) })
    }
    - "append" (this) -> u8 { u8::from(*this.value::<Serialization>().append.lock().unwrap()) }
    - "setAppend:" (this, on: u8) { *this.value::<Serialization>().append.lock().unwrap() = on != 0 }
    - "deploymentPlatform" (this) -> u64 { *this.value::<Serialization>().platform.lock().unwrap() }
    - "setDeploymentPlatform:" (this, platform: u64) { *this.value::<Serialization>().platform.lock().unwrap() = platform }
    - "minimumDeploymentTarget" (this) -> Id {
        let target = this.value::<Serialization>().target.lock().unwrap().clone();
        target.map_or(Id::NIL, |text| Ref::autorelease(string::make(&text)))
    }
    - "setMinimumDeploymentTarget:" (this, text: Id) {
        *this.value::<Serialization>().target.lock().unwrap() = string::read(text);
    }
}

pub(super) fn install() {
    install_compilation();
    install_serialization();
}
