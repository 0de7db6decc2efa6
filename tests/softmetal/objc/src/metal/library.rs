//! Libraries and functions: source, or what stands for a compiled library, through the kernel emulator.

use std::sync::Arc;

use super::compile_options::Chosen;
use super::shader::{self, Constant, Function, Library};
use super::{Label, constants, device};
use crate::control;
use crate::foundation::{array, error, string};
use crate::runtime::class::{class, methods};
use crate::runtime::{BlockPtr, Id, Ref};

class!(LIBRARY, "SoftMTLLibrary");
class!(pub(crate) FUNCTION, "SoftMTLFunction");

/// `MTLLibraryErrorCompileFailure` and `MTLLibraryErrorFunctionNotFound`.
const COMPILE_FAILURE: isize = 3;
const NOT_FOUND: isize = 5;

/// The value of a library object.
struct Loaded {
    library: Arc<Library>,
    label: Label,
}

/// The value of a function object.
pub(crate) struct Kernel {
    library: Arc<Library>,
    pub(crate) name: String,
    constants: Vec<Constant>,
    label: Label,
}

impl Kernel {
    /// The specialised kernel, or why there is none.
    pub(crate) fn function(&self) -> Result<Function, String> {
        self.library.function(&self.name, &self.constants)
    }
}

fn failure(code: isize, text: &str) -> Ref {
    error::make("MTLLibraryErrorDomain", code, text)
}

/// Compiles source, with macros in front.
pub(crate) fn compile(source: &str, options: &Chosen) -> Result<Ref, Ref> {
    control().count("library_compiles", 1);
    if let Some(text) = control().take_library_failure() {
        return Err(failure(COMPILE_FAILURE, &text));
    }
    let macros: String =
        options.macros.iter().map(|(name, value)| format!("#define {name} {value}\n")).collect();
    let full = if macros.is_empty() { source.to_owned() } else { macros + "#line 1\n" + source };
    match shader::compile(&full, options.fast_math) {
        Ok(library) => Ok(Ref::new(&LIBRARY, Loaded { library, label: Label::default() })),
        Err(text) => Err(failure(COMPILE_FAILURE, &format!("program_source:{text}"))),
    }
}

/// What a library in a file begins with. Apple's go on with code for GPUs, these with their source, as the
/// stand-in for Apple's compiler leaves it (`fake-tools/xcrun`).
const MAGIC: &[u8] = b"MTLB\n";

/// Takes a library that was compiled before.
pub(crate) fn load(bytes: &[u8]) -> Result<Ref, Ref> {
    control().count("library_loads", 1);
    let source = bytes.strip_prefix(MAGIC).and_then(|source| std::str::from_utf8(source).ok());
    let source = source.ok_or_else(|| failure(COMPILE_FAILURE, "Invalid library file"))?;
    match shader::compile(source, false) {
        Ok(library) => Ok(Ref::new(&LIBRARY, Loaded { library, label: Label::default() })),
        Err(text) => Err(failure(COMPILE_FAILURE, &text)),
    }
}

fn function(this: Id, name: Id, constants: Vec<Constant>) -> Result<Ref, Ref> {
    let library = &this.value::<Loaded>().library;
    let name = string::read(name).unwrap_or_default();
    if !library.function_names().contains(&name) {
        return Err(failure(NOT_FOUND, &format!("Function {name} was not found in the library")));
    }
    let kernel = Kernel { library: Arc::clone(library), name, constants, label: Label::default() };
    Ok(Ref::new(&FUNCTION, kernel))
}

fn specialised(this: Id, name: Id, values: Id) -> Result<Ref, Ref> {
    let made = function(this, name, constants::read(values))?;
    match made.value::<Kernel>().function() {
        Ok(_) => Ok(made),
        Err(text) => Err(failure(COMPILE_FAILURE, &text)),
    }
}

/// Hands a result to the caller of a method with an error out parameter.
pub(crate) fn answer(result: Result<Ref, Ref>, place: *mut Id) -> Id {
    match result {
        Ok(object) => object.into_id(),
        Err(reason) => {
            error::store(place, reason);
            Id::NIL
        }
    }
}

/// Hands a result to a completion handler.
pub(crate) fn answer_block(result: Result<Ref, Ref>, block: BlockPtr) {
    if let Some(block) = block.copied() {
        match result {
            Ok(object) => block.call_with_two(object.id(), Id::NIL),
            Err(reason) => block.call_with_two(Id::NIL, reason.id()),
        }
    }
}

methods! { install_library for LIBRARY;
    - "newFunctionWithName:" (this, name: Id) -> Id { function(this, name, Vec::new()).map_or(Id::NIL, Ref::into_id) }
    - "newFunctionWithName:constantValues:error:" (this, name: Id, values: Id, error: *mut Id) -> Id {
        answer(specialised(this, name, values), error)
    }
    - "newFunctionWithName:constantValues:completionHandler:" (this, name: Id, values: Id, block: BlockPtr) {
        answer_block(specialised(this, name, values), block);
    }
    - "functionNames" (this) -> Id {
        let names = this.value::<Loaded>().library.function_names();
        array::make(names.iter().map(|name| string::make(name)).collect()).autorelease()
    }
    - "device" (_this) -> Id { device::shared().autorelease() }
    - "label" (this) -> Id { this.value::<Loaded>().label.object() }
    - "setLabel:" (this, text: Id) { this.value::<Loaded>().label.set(text) }
}

methods! { install_function for FUNCTION;
    - "name" (this) -> Id { string::make(&this.value::<Kernel>().name).autorelease() }
    - "functionType" (_this) -> usize { 3 }
    - "device" (_this) -> Id { device::shared().autorelease() }
    - "label" (this) -> Id { this.value::<Kernel>().label.object() }
    - "setLabel:" (this, text: Id) { this.value::<Kernel>().label.set(text) }
}

pub(crate) fn install() {
    install_library();
    install_function();
}
