//! Loaded kernels: compiled on first use, kept for the life of the device, launched with parameters
//! by value.

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use bytemuck::NoUninit;
use cudarc::driver::DriverError;
use cudarc::driver::result::{function, launch_kernel, module};
use cudarc::driver::sys::{
    self, CUfunction, CUfunction_attribute_enum, CUlaunchAttribute, CUlaunchAttributeID,
    CUlaunchAttributeValue, CUlaunchConfig, CUmodule,
};
use metallic::Result;

use super::compile::{Request, compile};
use super::error::{Doing, device_error};
use super::sources::Source;
use super::stream::Stream;

/// The grid and blocks of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LaunchShape {
    /// Blocks in x, y and z; y and z at most 65535.
    pub grid: [u32; 3],
    /// Threads of a block in x, y and z; at most 1024 together.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block, in bytes.
    pub shared_bytes: u32,
}

impl LaunchShape {
    /// `blocks` blocks of `threads` threads in x.
    pub(crate) fn linear(blocks: usize, threads: u32) -> Self {
        let blocks = u32::try_from(blocks).unwrap_or(u32::MAX);
        Self { grid: [blocks, 1, 1], block: [threads, 1, 1], shared_bytes: 0 }
    }
}

/// A kernel's parameter: any plain value. The driver copies it during the launch.
#[derive(Clone, Copy)]
pub(crate) struct Param<'a> {
    value: *const c_void,
    lives: std::marker::PhantomData<&'a ()>,
}

impl<'a> Param<'a> {
    /// A parameter with the bytes of `value`, which has the layout of the kernel's own.
    pub(crate) fn new<T: NoUninit>(value: &'a T) -> Self {
        Self { value: std::ptr::from_ref(value).cast(), lives: std::marker::PhantomData }
    }
}

/// Loaded machine code.
struct Module {
    raw: CUmodule,
    /// The kernel file.
    source: &'static str,
    stream: Arc<Stream>,
}

// SAFETY: a module is the driver's handle; the driver may be called from any thread.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}

impl Drop for Module {
    fn drop(&mut self) {
        if self.stream.synchronize().is_ok() {
            // SAFETY: loaded in `Modules::module`, unloaded once, after all work of the stream.
            let _ = unsafe { module::unload(self.raw) };
        }
    }
}

/// A kernel that can be launched. Clones share the module.
#[derive(Clone)]
pub(crate) struct Function {
    raw: CUfunction,
    name: &'static str,
    module: Arc<Module>,
}

// SAFETY: a function is the driver's handle, alive as long as its module.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}

impl Function {
    /// Puts one run of the kernel on the stream.
    ///
    /// # Safety
    /// The parameters are the kernel's, in order and layout, and every address in them leads to
    /// memory of the device that holds what the kernel reads and has room for what it writes.
    ///
    /// # Errors
    /// [`metallic::Error::Device`] with the kernel, its grid and the stream, when the driver
    /// refuses. Failures of the run itself come with a later synchronisation.
    pub(crate) unsafe fn launch(&self, shape: LaunchShape, params: &[Param<'_>]) -> Result<()> {
        let stream = &self.module.stream;
        if shape.grid.contains(&0) {
            return Ok(());
        }
        stream.bind()?;
        let mut values: Vec<*mut c_void> = params.iter().map(|p| p.value.cast_mut()).collect();
        let LaunchShape { grid: [x, y, z], block: [bx, by, bz], shared_bytes } = shape;
        // SAFETY: the module is loaded; the rest is the caller's promise. Parameters are copied
        // before the call returns.
        let launch = || unsafe {
            launch_kernel(
                self.raw(),
                (x, y, z),
                (bx, by, bz),
                shared_bytes,
                stream.raw(),
                &mut values,
            )
        };
        self.put(shape, launch)
    }

    /// Calls `launch`, which puts the kernel on the stream.
    fn put(
        &self,
        shape: LaunchShape,
        launch: impl FnOnce() -> Result<(), DriverError>,
    ) -> Result<()> {
        let stream = &self.module.stream;
        stream.timed(self.module.source, self.name, || {
            launch().doing(stream.id(), "launch", || {
                format!("{} with {shape:?} on stream {:?}", self.name, stream.raw())
            })
        })
    }

    /// As [`Function::launch`]; on Hopper and later the kernel may start before the launch before it
    /// ended, and waits for that end itself (`griddepcontrol.wait`).
    ///
    /// # Safety
    /// As there; until it waits, the kernel touches only what no other launch writes.
    ///
    /// # Errors
    /// As there.
    pub(crate) unsafe fn launch_early(
        &self,
        shape: LaunchShape,
        params: &[Param<'_>],
    ) -> Result<()> {
        let stream = &self.module.stream;
        if stream.properties().capability.0 < 9 {
            // SAFETY: the caller's promise.
            return unsafe { self.launch(shape, params) };
        }
        let early = CUlaunchAttribute {
            id: CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        };
        // SAFETY: the caller's promise.
        unsafe { self.launch_with(shape, params, early) }
    }

    /// As [`Function::launch`], with all blocks resident at once, so that they may wait for each other.
    ///
    /// # Safety
    /// As there.
    ///
    /// # Errors
    /// As there; when the chip cannot hold that many blocks at once.
    pub(crate) unsafe fn launch_together(
        &self,
        shape: LaunchShape,
        params: &[Param<'_>],
    ) -> Result<()> {
        let together = CUlaunchAttribute {
            id: CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_COOPERATIVE,
            pad: [0; 4],
            value: CUlaunchAttributeValue { cooperative: 1 },
        };
        // SAFETY: the caller's promise.
        unsafe { self.launch_with(shape, params, together) }
    }

    /// # Safety
    /// As [`Function::launch`], and what the attribute asks for.
    unsafe fn launch_with(
        &self,
        shape: LaunchShape,
        params: &[Param<'_>],
        mut attribute: CUlaunchAttribute,
    ) -> Result<()> {
        let stream = &self.module.stream;
        if shape.grid.contains(&0) {
            return Ok(());
        }
        stream.bind()?;
        let mut values: Vec<*mut c_void> = params.iter().map(|p| p.value.cast_mut()).collect();
        let config = CUlaunchConfig {
            gridDimX: shape.grid[0],
            gridDimY: shape.grid[1],
            gridDimZ: shape.grid[2],
            blockDimX: shape.block[0],
            blockDimY: shape.block[1],
            blockDimZ: shape.block[2],
            sharedMemBytes: shape.shared_bytes,
            hStream: stream.raw(),
            attrs: &mut attribute,
            numAttrs: 1,
        };
        // SAFETY: the module is loaded and the attribute lives beyond the call; the rest is the
        // caller's promise. Parameters are copied before the call returns.
        let mut launch = || unsafe {
            sys::cuLaunchKernelEx(&config, self.raw(), values.as_mut_ptr(), std::ptr::null_mut())
        };
        self.put(shape, || launch().result())
    }

    /// Allows blocks more than 48 KiB of dynamic shared memory.
    ///
    /// # Errors
    /// When the chip has less than `bytes`.
    pub(crate) fn allow_shared(&self, bytes: u32) -> Result<()> {
        let stream = &self.module.stream;
        stream.bind()?;
        let attribute = CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the module is loaded.
        unsafe { function::set_function_attribute(self.raw(), attribute, bytes as i32) }.doing(
            stream.id(),
            "allow shared memory",
            || format!("{bytes} bytes, {}", self.name),
        )
    }

    /// The driver's handle, valid while this function lives.
    pub(crate) fn raw(&self) -> CUfunction {
        self.raw
    }
}

impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// The kernels of one device.
pub(crate) struct Modules {
    stream: Arc<Stream>,
    arch: String,
    loaded: Mutex<Loaded>,
}

type Loaded = HashMap<(&'static str, String), LoadedModule>;

struct LoadedModule {
    module: Arc<Module>,
    functions: HashMap<&'static str, Function>,
}

impl Modules {
    /// No kernels yet.
    pub(crate) fn new(stream: Arc<Stream>) -> Self {
        let arch = stream.properties().arch();
        Self { stream, arch, loaded: Mutex::default() }
    }

    /// The architecture kernels are compiled for, as `sm_90a`.
    pub(crate) fn arch(&self) -> &str {
        &self.arch
    }

    /// The function `name` of a kernel's file (`extern "C"`), in the file's variant whose line says
    /// `variant` (`""` for a file without variants; any definitions for one made to order). Compiled
    /// and loaded on first use.
    ///
    /// # Errors
    /// [`metallic::Error::Compile`] when it does not compile; [`metallic::Error::Device`] when the
    /// driver does not load it.
    pub(crate) fn function(
        &self,
        source: &'static str,
        variant: &str,
        name: &'static str,
    ) -> Result<Function> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = match loaded.entry((source, variant.to_owned())) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(self.load(Source::named(source), variant)?)
            }
        };
        if let Some(function) = entry.functions.get(name) {
            return Ok(function.clone());
        }
        self.stream.bind()?;
        let c_name = CString::new(name)
            .map_err(|error| device_error(self.stream.id(), "find", error.to_string()))?;
        // SAFETY: the module is loaded.
        let raw = unsafe { module::get_function(entry.module.raw, c_name) }.doing(
            self.stream.id(),
            "find a kernel",
            || format!("{name} in {source}.cu"),
        )?;
        let function = Function { raw, name, module: Arc::clone(&entry.module) };
        entry.functions.insert(name, function.clone());
        Ok(function)
    }

    fn load(&self, source: &'static Source, variant: &str) -> Result<LoadedModule> {
        debug_assert!(source.takes(variant), "{}.cu does not name `{variant}`", source.name);
        let _span = tracing::debug_span!("load_kernel", source = source.name, variant).entered();
        let compiled = compile(Request { source, variant, arch: &self.arch })?;
        self.stream.bind()?;
        // SAFETY: the image is whole: just compiled, or read from a file whose hash was checked.
        let raw = unsafe { module::load_data(compiled.image.as_ptr().cast()) }.doing(
            self.stream.id(),
            "load a kernel",
            || format!("{}.cu {variant}", source.name),
        )?;
        let module =
            Arc::new(Module { raw, source: source.name, stream: Arc::clone(&self.stream) });
        Ok(LoadedModule { module, functions: HashMap::new() })
    }
}

impl fmt::Debug for Modules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Modules for {}", self.arch)
    }
}
