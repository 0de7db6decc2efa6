//! Pipeline states: a function of a library, specialised by its constants, ready to run.

use std::collections::HashMap;
use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use metallic::{Error, Result};
use objc2::rc::{Retained, autoreleasepool};
use objc2::runtime::ProtocolObject;
use objc2_foundation::NSString;
use objc2_metal::{
    MTLComputePipelineState, MTLDataType, MTLDevice, MTLFunctionConstantValues, MTLLibrary,
};

use super::command_buffer::error_text;
use super::library::{Libraries, Source};

/// The value of a function constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Value {
    /// `bool`.
    Bool(bool),
    /// `uint`.
    U32(u32),
}

/// `[[function_constant(index)]]` and its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Constant {
    /// The index.
    pub(crate) index: u32,
    /// The value.
    pub(crate) value: Value,
}

impl Constant {
    /// A `bool` constant.
    pub(crate) fn bool(index: u32, value: bool) -> Self {
        Self { index, value: Value::Bool(value) }
    }

    /// A `uint` constant.
    pub(crate) fn u32(index: u32, value: u32) -> Self {
        Self { index, value: Value::U32(value) }
    }
}

/// Which pipeline state.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kernel<'a> {
    /// The file.
    pub(crate) source: Source,
    /// The function's name in it (its `host_name` where it has one).
    pub(crate) function: &'a str,
    /// Its constants; all that the function declares.
    pub(crate) constants: &'a [Constant],
}

#[derive(PartialEq, Eq, Hash)]
struct Key {
    source: &'static str,
    function: String,
    constants: Vec<Constant>,
}

/// A pipeline state, once it is made or has failed.
type Made = OnceLock<Result<Arc<Pipeline>>>;

/// A pipeline state and its limits.
#[derive(Debug)]
pub(crate) struct Pipeline {
    state: Retained<ProtocolObject<dyn MTLComputePipelineState>>,
    /// Threads of a threadgroup at most.
    pub(crate) max_threads: usize,
    /// Bytes of threadgroup memory that the function itself declares.
    pub(crate) threadgroup_bytes: usize,
    /// Bytes of threadgroup memory that the device has for one threadgroup.
    pub(crate) max_threadgroup_bytes: usize,
}

impl Pipeline {
    /// The object.
    pub(crate) fn state(&self) -> &ProtocolObject<dyn MTLComputePipelineState> {
        &self.state
    }
}

/// The pipeline states of one device, each made once.
pub(crate) struct Pipelines {
    libraries: Libraries,
    made: Mutex<HashMap<Key, Arc<Made>>>,
}

impl Pipelines {
    pub(crate) fn new(device: Retained<ProtocolObject<dyn MTLDevice>>) -> Self {
        Self { libraries: Libraries::new(device), made: Mutex::default() }
    }

    /// The pipeline state of `kernel`. Threads that ask for one at the same time make it once.
    ///
    /// # Errors
    /// [`Error::Compile`] with the compiler's log, at every call.
    pub(crate) fn get(&self, kernel: &Kernel<'_>) -> Result<Arc<Pipeline>> {
        let key = Key {
            source: kernel.source.name,
            function: kernel.function.to_owned(),
            constants: kernel.constants.to_vec(),
        };
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let cell = Arc::clone(made.entry(key).or_default());
        drop(made);
        cell.get_or_init(|| self.make(kernel).map(Arc::new)).clone()
    }

    /// Where kernels come from: compiled with the program, or now.
    pub(crate) fn origin(&self) -> &'static str {
        self.libraries.origin()
    }

    /// How many pipeline states were made or failed.
    pub(crate) fn len(&self) -> usize {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn make(&self, kernel: &Kernel<'_>) -> Result<Pipeline> {
        let library = self.libraries.get(&kernel.source)?;
        autoreleasepool(|_| {
            let failed = |reason: String| {
                let Kernel { source, function, constants } = kernel;
                let values: Vec<_> = constants.iter().map(|constant| constant.value).collect();
                Error::Compile { key: format!("{}:{function}{values:?}", source.name), reason }
            };
            let name = NSString::from_str(kernel.function);
            let function = if kernel.constants.is_empty() {
                let missing = || failed("the file has no such function".to_owned());
                library.newFunctionWithName(&name).ok_or_else(missing)?
            } else {
                let values = constant_values(kernel.constants);
                library
                    .newFunctionWithName_constantValues_error(&name, &values)
                    .map_err(|error| failed(error_text(&error)))?
            };
            let state = self
                .libraries
                .device()
                .newComputePipelineStateWithFunction_error(&function)
                .map_err(|error| failed(error_text(&error)))?;
            Ok(Pipeline {
                max_threads: state.maxTotalThreadsPerThreadgroup(),
                threadgroup_bytes: state.staticThreadgroupMemoryLength(),
                max_threadgroup_bytes: self.libraries.device().maxThreadgroupMemoryLength(),
                state,
            })
        })
    }
}

fn constant_values(constants: &[Constant]) -> Retained<MTLFunctionConstantValues> {
    let values = MTLFunctionConstantValues::new();
    for constant in constants {
        let (bits, kind) = match constant.value {
            // One byte is read of the four.
            Value::Bool(value) => (u32::from(value).to_le(), MTLDataType::Bool),
            Value::U32(value) => (value, MTLDataType::UInt),
        };
        let value = NonNull::from(&bits).cast::<c_void>();
        // SAFETY: the value is as long as its type says, and is copied before the call returns.
        // Metal looks constants up by index and knows any number of them.
        unsafe {
            values.setConstantValue_type_atIndex(value, kind, constant.index as usize);
        }
    }
    values
}
