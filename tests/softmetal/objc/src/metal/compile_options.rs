//! MTLCompileOptions: what the compiler of kernels is told.

use std::sync::Mutex;

use crate::foundation::{dictionary, number, string};
use crate::runtime::class::{class, methods};
use crate::runtime::{Id, Ref};

class!(OPTIONS, "MTLCompileOptions");

/// `MTLMathModeSafe` and `MTLMathModeFast`.
const SAFE: isize = 0;
const FAST: isize = 2;

struct Settings {
    math_mode: isize,
    functions: isize,
    language: usize,
    optimization: isize,
    preserve_invariance: bool,
    logging: bool,
    max_threads: usize,
    macros: Option<Ref>,
}

/// The value of an options object.
struct Options(Mutex<Settings>);

/// What of the options a compilation depends on.
pub(crate) struct Chosen {
    /// Fast math: no promises for NaN and infinities. On when nobody says otherwise.
    pub(crate) fast_math: bool,
    /// Macro names with their texts.
    pub(crate) macros: Vec<(String, String)>,
}

/// Reads an options object; nil means the defaults.
pub(crate) fn read(id: Id) -> Chosen {
    if id.is_nil() {
        return Chosen { fast_math: true, macros: Vec::new() };
    }
    let settings = id.value::<Options>().0.lock().unwrap();
    let macros =
        settings.macros.as_ref().and_then(|m| dictionary::read(m.id())).unwrap_or_default();
    let text = |id: Id| match id.try_value::<number::Number>() {
        Some(_) => number::read(id).to_string(),
        None => string::read(id).unwrap_or_default(),
    };
    Chosen {
        fast_math: settings.math_mode != SAFE,
        macros: macros.iter().map(|(name, value)| (text(name.id()), text(value.id()))).collect(),
    }
}

methods! { install for OPTIONS;
    - "init" (this) -> Id {
        this.init(Options(Mutex::new(Settings {
            math_mode: FAST,
            functions: 0,
            language: 0x3_0002,
            optimization: 0,
            preserve_invariance: false,
            logging: false,
            max_threads: 0,
            macros: None,
        })))
    }
    - "fastMathEnabled" (this) -> u8 { u8::from(this.value::<Options>().0.lock().unwrap().math_mode != SAFE) }
    - "setFastMathEnabled:" (this, on: u8) {
        this.value::<Options>().0.lock().unwrap().math_mode = if on == 0 { SAFE } else { FAST };
    }
    - "mathMode" (this) -> isize { this.value::<Options>().0.lock().unwrap().math_mode }
    - "setMathMode:" (this, mode: isize) { this.value::<Options>().0.lock().unwrap().math_mode = mode }
    - "mathFloatingPointFunctions" (this) -> isize { this.value::<Options>().0.lock().unwrap().functions }
    - "setMathFloatingPointFunctions:" (this, choice: isize) {
        this.value::<Options>().0.lock().unwrap().functions = choice;
    }
    - "languageVersion" (this) -> usize { this.value::<Options>().0.lock().unwrap().language }
    - "setLanguageVersion:" (this, version: usize) { this.value::<Options>().0.lock().unwrap().language = version }
    - "optimizationLevel" (this) -> isize { this.value::<Options>().0.lock().unwrap().optimization }
    - "setOptimizationLevel:" (this, level: isize) { this.value::<Options>().0.lock().unwrap().optimization = level }
    - "preserveInvariance" (this) -> u8 { u8::from(this.value::<Options>().0.lock().unwrap().preserve_invariance) }
    - "setPreserveInvariance:" (this, on: u8) {
        this.value::<Options>().0.lock().unwrap().preserve_invariance = on != 0;
    }
    - "enableLogging" (this) -> u8 { u8::from(this.value::<Options>().0.lock().unwrap().logging) }
    - "setEnableLogging:" (this, on: u8) { this.value::<Options>().0.lock().unwrap().logging = on != 0 }
    - "maxTotalThreadsPerThreadgroup" (this) -> usize { this.value::<Options>().0.lock().unwrap().max_threads }
    - "setMaxTotalThreadsPerThreadgroup:" (this, threads: usize) {
        this.value::<Options>().0.lock().unwrap().max_threads = threads;
    }
    - "preprocessorMacros" (this) -> Id {
        this.value::<Options>().0.lock().unwrap().macros.clone().map_or(Id::NIL, Ref::autorelease)
    }
    - "setPreprocessorMacros:" (this, macros: Id) {
        this.value::<Options>().0.lock().unwrap().macros = macros.retained();
    }
}
