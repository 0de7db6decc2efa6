//! The kernel emulator, as this crate uses it.

use std::sync::Arc;

/// A value for a function constant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum ConstantValue {
    Bool(bool),
    I32(i32),
    U32(u32),
    F32(f32),
    F16(u16),
}

/// A function constant: its index in the source and its value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Constant {
    pub(crate) index: u32,
    pub(crate) value: ConstantValue,
}

/// How many threads or groups of threads run.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Grid {
    Threads([u32; 3]),
    Threadgroups([u32; 3]),
}

/// A compiled library.
pub(crate) struct Library;

/// A specialised kernel.
#[derive(Clone)]
pub(crate) struct Function;

impl Library {
    pub(crate) fn compile(_source: &str, _fast_math: bool) -> Result<Arc<Library>, String> {
        Err("no compiler of kernels is linked in".to_owned())
    }

    pub(crate) fn function_names(&self) -> Vec<String> {
        Vec::new()
    }

    pub(crate) fn function(
        self: &Arc<Self>,
        name: &str,
        _constants: &[Constant],
    ) -> Result<Function, String> {
        Err(format!("no function {name}"))
    }
}

impl Function {
    pub(crate) fn static_threadgroup_bytes(&self) -> usize {
        0
    }

    pub(crate) fn max_total_threads(&self) -> u32 {
        1024
    }

    pub(crate) fn thread_execution_width(&self) -> u32 {
        32
    }

    /// # Safety
    /// Every pointer is valid for its length.
    pub(crate) unsafe fn dispatch(
        &self,
        _buffers: &[(u32, *mut u8, usize)],
        _threadgroup: &[(u32, usize)],
        _grid: Grid,
        _threads: [u32; 3],
    ) -> Result<(), String> {
        Err("no compiler of kernels is linked in".to_owned())
    }
}
