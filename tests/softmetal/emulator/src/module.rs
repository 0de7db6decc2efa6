//! A compiled module in this process: the tables of `runtime/abi.h`, and the runtime's functions.

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_void};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use crate::cache;
use crate::compile;

/// `MSL_ABI`
const ABI: u32 = 1;
/// `MSL_THREADGROUP_ARGUMENTS`, and as many buffers.
pub(crate) const ARGUMENTS: usize = 31;

/// `msl_triple`
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Triple {
    pub(crate) x: u32,
    pub(crate) y: u32,
    pub(crate) z: u32,
}

/// `msl_parameter`
#[repr(C)]
pub(crate) struct Parameter {
    pub(crate) name: *const c_char,
    pub(crate) kind: u32,
    pub(crate) index: u32,
    pub(crate) size: u32,
    pub(crate) alignment: u32,
    pub(crate) read_only: bool,
    pub(crate) reference: bool,
    pub(crate) exists: Option<extern "C" fn() -> bool>,
}

/// `msl_kernel`
#[repr(C)]
pub(crate) struct Kernel {
    pub(crate) name: *const c_char,
    entry: *const c_void,
    function: *const c_void,
    parameters: *const Parameter,
    parameter_count: u32,
    pub(crate) max_threads: u32,
    constants: *const u32,
    constant_count: u32,
    pub(crate) threadgroup_bytes: u32,
}

/// `msl_function_constant`
#[repr(C)]
pub(crate) struct FunctionConstant {
    pub(crate) name: *const c_char,
    pub(crate) index: u32,
    pub(crate) kind: u32,
    pub(crate) size: u32,
    pub(crate) optional: bool,
    pub(crate) value: *mut u8,
    pub(crate) defined: *mut bool,
}

/// `msl_field`
#[repr(C)]
pub(crate) struct Field {
    pub(crate) name: *const c_char,
    pub(crate) offset: u32,
    pub(crate) size: u32,
}

/// `msl_layout`
#[repr(C)]
pub(crate) struct Layout {
    pub(crate) name: *const c_char,
    pub(crate) size: u32,
    pub(crate) alignment: u32,
    fields: *const Field,
    field_count: u32,
}

/// `msl_module`
#[repr(C)]
pub(crate) struct Table {
    abi: u32,
    kernel_count: u32,
    constant_count: u32,
    layout_count: u32,
    kernels: *mut Kernel,
    constants: *const FunctionConstant,
    layouts: *const Layout,
    slots: *mut c_void,
    derive: extern "C" fn(),
}

/// `msl_fault`
#[repr(C)]
#[derive(Default)]
pub(crate) struct Fault {
    pub(crate) address: u64,
    pub(crate) code: u64,
    pub(crate) write: bool,
}

/// `msl_launch`
#[repr(C)]
pub(crate) struct Launch {
    pub(crate) module: *const Table,
    pub(crate) kernel: *const Kernel,
    pub(crate) buffers: *const *mut u8,
    pub(crate) threadgroup_lengths: *const u32,
    pub(crate) threadgroup_offsets: *mut u32,
    pub(crate) groups: Triple,
    pub(crate) threads_per_threadgroup: Triple,
    pub(crate) threads: Triple,
    pub(crate) order: u32,
    pub(crate) workers: u32,
    pub(crate) seed: u64,
    pub(crate) error: *mut c_char,
    pub(crate) error_capacity: usize,
    pub(crate) fault: *mut Fault,
    pub(crate) strict: bool,
    pub(crate) poison: bool,
}

/// The runtime, loaded once for each file of it.
pub(crate) struct Runtime {
    _library: libloading::Library,
    open: unsafe extern "C" fn(*mut Table),
    pub(crate) dispatch: unsafe extern "C" fn(*const Launch) -> i32,
}

/// A loaded module. Its constants are set once, before it is shared.
pub(crate) struct Module {
    _library: libloading::Library,
    table: *mut Table,
    /// The file that the module is a copy of.
    pub(crate) path: PathBuf,
    pub(crate) runtime: Arc<Runtime>,
}

// SAFETY: the tables are only written while the module is opened and its constants are set, by the one
// owner it has then; later they are read only, and the code they lead to is made to run on any thread.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}

/// The slice behind a pointer and a count of the tables.
///
/// # Safety
/// `pointer` leads to `count` values that live as long as the module `owner`.
unsafe fn slice<T>(_owner: &Module, pointer: *const T, count: u32) -> &[T] {
    // SAFETY: as the caller promises; the tables are static data of the module and never empty arrays.
    unsafe { std::slice::from_raw_parts(pointer, count as usize) }
}

/// A string of the tables.
pub(crate) fn name(pointer: *const c_char) -> String {
    // SAFETY: names in the tables are literals of a loaded module.
    unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned()
}

impl Runtime {
    fn load(cache_dir: &Path) -> Result<Arc<Self>, String> {
        static LOADED: OnceLock<Mutex<HashMap<PathBuf, Arc<Runtime>>>> = OnceLock::new();
        let path = compile::runtime(cache_dir)?;
        let mut loaded =
            LOADED.get_or_init(Mutex::default).lock().map_err(|error| error.to_string())?;
        if let Some(runtime) = loaded.get(&path) {
            return Ok(runtime.clone());
        }
        // SAFETY: the file is the runtime that this crate carries; its initialisers set up a mutex and a vector.
        let library =
            unsafe { libloading::Library::new(&path) }.map_err(|error| error.to_string())?;
        // SAFETY: the runtime defines both functions with these signatures.
        let (open, dispatch) = unsafe {
            let open = library.get::<unsafe extern "C" fn(*mut Table)>(b"softmetal_open\0");
            let dispatch =
                library.get::<unsafe extern "C" fn(*const Launch) -> i32>(b"softmetal_dispatch\0");
            (*open.map_err(|e| e.to_string())?, *dispatch.map_err(|e| e.to_string())?)
        };
        let runtime = Arc::new(Self { _library: library, open, dispatch });
        loaded.insert(path, runtime.clone());
        Ok(runtime)
    }
}

impl Module {
    /// Loads a copy of its own of the shared object `path`: each has its own function constants.
    pub(crate) fn load(path: &Path, cache_dir: &Path) -> Result<Self, String> {
        let runtime = Runtime::load(cache_dir)?;
        let copy = cache::unique(cache_dir, "instance");
        fs::copy(path, &copy).map_err(|error| format!("{}: {error}", copy.display()))?;
        // SAFETY: the file was compiled by this crate; its initialisers only link up its own tables.
        let library = unsafe { libloading::Library::new(&copy) };
        // The loader has mapped it.
        _ = fs::remove_file(&copy);
        let library = library.map_err(|error| error.to_string())?;
        // SAFETY: every module defines this function.
        let table = unsafe {
            let module = library.get::<extern "C" fn() -> *mut Table>(b"softmetal_module\0");
            module.map_err(|error| error.to_string())?()
        };
        // SAFETY: the function gives the module's static table.
        let abi = unsafe { (*table).abi };
        if abi != ABI {
            return Err(format!("{}: a module of ABI {abi}, this is {ABI}", path.display()));
        }
        // SAFETY: the table is this module's own, and nobody else has it yet.
        unsafe { (runtime.open)(table) };
        Ok(Self { _library: library, table, path: path.to_owned(), runtime })
    }

    fn table(&self) -> &Table {
        // SAFETY: the table is static data of the loaded module.
        unsafe { &*self.table }
    }

    pub(crate) fn table_pointer(&self) -> *const Table {
        self.table
    }

    pub(crate) fn kernels(&self) -> &[Kernel] {
        // SAFETY: the table gives pointer and count.
        unsafe { slice(self, self.table().kernels, self.table().kernel_count) }
    }

    pub(crate) fn constants(&self) -> &[FunctionConstant] {
        // SAFETY: the table gives pointer and count.
        unsafe { slice(self, self.table().constants, self.table().constant_count) }
    }

    pub(crate) fn layouts(&self) -> &[Layout] {
        // SAFETY: the table gives pointer and count.
        unsafe { slice(self, self.table().layouts, self.table().layout_count) }
    }

    pub(crate) fn parameters(&self, kernel: &Kernel) -> &[Parameter] {
        // SAFETY: the kernel gives pointer and count.
        unsafe { slice(self, kernel.parameters, kernel.parameter_count) }
    }

    /// Positions in [`Self::constants`] of those that the kernel can reach.
    pub(crate) fn reached(&self, kernel: &Kernel) -> &[u32] {
        // SAFETY: the kernel gives pointer and count.
        unsafe { slice(self, kernel.constants, kernel.constant_count) }
    }

    pub(crate) fn fields(&self, layout: &Layout) -> &[Field] {
        // SAFETY: the layout gives pointer and count.
        unsafe { slice(self, layout.fields, layout.field_count) }
    }

    /// Sets function constants, (index, bytes) each, and what is derived from them.
    pub(crate) fn set_constants(&mut self, values: &[(u32, [u8; 8])]) {
        for constant in self.constants() {
            for (_, bytes) in values.iter().filter(|(index, _)| *index == constant.index) {
                // SAFETY: `value` is the constant's variable of `size` <= 8 bytes, `defined` its flag,
                // and this module is not shared yet.
                unsafe {
                    constant.value.copy_from_nonoverlapping(bytes.as_ptr(), constant.size as usize);
                    *constant.defined = true;
                }
            }
        }
        (self.table().derive)();
    }
}
