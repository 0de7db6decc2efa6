//! A kernel that is ready to run.

use std::sync::Arc;

use crate::launch;
use crate::library::Sanitized;
use crate::module::{ARGUMENTS, Kernel, Module, Triple, name};
use crate::options::CompileOptions;
use crate::runner::{self, Program};

/// Threadgroup memory that a kernel can use: variables and arguments together, in bytes.
const MAX_THREADGROUP_BYTES: usize = 32 << 10;
/// Threads of a threadgroup, at most.
const MAX_THREADS: u32 = 1024;
/// Threads of a simdgroup.
const SIMDGROUP: u32 = 32;

/// The size of a grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grid {
    /// `dispatchThreads`: threadgroups at the edges can be smaller.
    Threads([u32; 3]),
    /// `dispatchThreadgroups`: whole threadgroups.
    Threadgroups([u32; 3]),
}

/// The memory that an argument lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindingKind {
    /// A buffer in the device address space.
    Device,
    /// A buffer in the constant address space.
    Constant,
    /// Threadgroup memory whose length the host gives.
    Threadgroup,
}

/// An argument of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindingInfo {
    /// The parameter's name.
    pub name: String,
    /// Its kind.
    pub kind: BindingKind,
    /// The index in `[[buffer(index)]]` or `[[threadgroup(index)]]`.
    pub index: u32,
    /// Whether the kernel cannot write to it.
    pub read_only: bool,
    /// Whether the argument is a reference: one element and not many.
    pub reference: bool,
    /// Size of an element in bytes.
    pub size: usize,
    /// Alignment of an element in bytes.
    pub align: usize,
}

/// A kernel, specialised and ready to be dispatched. Clones share it.
#[derive(Clone)]
pub struct Function {
    shared: Arc<Shared>,
}

/// A kernel of a module whose constants are set.
pub(crate) struct Specialisation {
    pub(crate) name: String,
    /// The kernel's position in the module.
    pub(crate) at: usize,
    pub(crate) module: Arc<Module>,
    /// What the constants are set to, by index.
    pub(crate) values: Vec<(u32, [u8; 8])>,
}

struct Shared {
    kernel: Specialisation,
    sanitized: Option<Arc<Sanitized>>,
    bindings: Vec<BindingInfo>,
    options: CompileOptions,
}

/// The sizes of a dispatch.
pub(crate) struct Shape {
    pub(crate) groups: Triple,
    pub(crate) threads_per_threadgroup: Triple,
    pub(crate) threads: Triple,
    /// Bytes by the index of `[[threadgroup(index)]]`.
    pub(crate) threadgroup_lengths: [u32; ARGUMENTS],
}

/// The arguments of a kernel, checked for indices that do not exist or are used twice.
pub(crate) fn bindings(module: &Module, kernel: &Kernel) -> Result<Vec<BindingInfo>, String> {
    let mut found: Vec<BindingInfo> = Vec::new();
    for parameter in module.parameters(kernel) {
        if parameter.exists.is_some_and(|exists| !exists()) {
            continue;
        }
        let kind = match parameter.kind {
            0 => BindingKind::Device,
            1 => BindingKind::Constant,
            _ => BindingKind::Threadgroup,
        };
        let info = BindingInfo {
            name: name(parameter.name),
            kind,
            index: parameter.index,
            read_only: parameter.read_only,
            reference: parameter.reference,
            size: parameter.size as usize,
            align: parameter.alignment as usize,
        };
        let label =
            format!("kernel {}: parameter {} (index {})", name(kernel.name), info.name, info.index);
        if info.index as usize >= ARGUMENTS {
            return Err(format!("{label}: indices end at {}", ARGUMENTS - 1));
        }
        let threadgroup = |kind| kind == BindingKind::Threadgroup;
        if found
            .iter()
            .any(|other| other.index == info.index && threadgroup(other.kind) == threadgroup(kind))
        {
            return Err(format!("{label}: the index is used twice"));
        }
        found.push(info);
    }
    Ok(found)
}

impl Function {
    pub(crate) fn new(
        kernel: Specialisation,
        sanitized: Option<Arc<Sanitized>>,
        options: CompileOptions,
    ) -> Result<Self, String> {
        let bindings = bindings(&kernel.module, &kernel.module.kernels()[kernel.at])?;
        Ok(Self { shared: Arc::new(Shared { kernel, sanitized, bindings, options }) })
    }

    fn kernel(&self) -> &Kernel {
        let Specialisation { module, at, .. } = &self.shared.kernel;
        &module.kernels()[*at]
    }

    /// The host name.
    pub fn name(&self) -> &str {
        &self.shared.kernel.name
    }

    /// Bytes of the kernel's threadgroup variables, without those that the host gives.
    pub fn static_threadgroup_bytes(&self) -> usize {
        self.kernel().threadgroup_bytes as usize
    }

    /// Threads of a threadgroup, at most.
    pub fn max_total_threads(&self) -> u32 {
        self.kernel().max_threads.min(MAX_THREADS)
    }

    /// Threads of a simdgroup.
    pub fn thread_execution_width(&self) -> u32 {
        SIMDGROUP
    }

    /// The arguments in the order of the signature.
    pub fn bindings(&self) -> &[BindingInfo] {
        &self.shared.bindings
    }

    /// Runs the whole grid before it returns. `buffers`: index, start, and length in bytes from there;
    /// `threadgroup`: index and length in bytes.
    ///
    /// # Errors
    /// What Metal's validation would refuse (missing or misaligned bindings, sizes, threadgroup memory),
    /// and what the run finds: divergent barriers and simdgroup operations, accesses out of bounds.
    ///
    /// # Safety
    /// Each buffer is valid for reads, and for writes where its binding is not read-only, of its length.
    /// Nobody else uses the memory meanwhile.
    pub unsafe fn dispatch(
        &self,
        buffers: &[(u32, *mut u8, usize)],
        threadgroup: &[(u32, usize)],
        grid: Grid,
        threads_per_threadgroup: [u32; 3],
    ) -> Result<(), String> {
        let checked = self
            .grid(grid, threads_per_threadgroup)
            .and_then(|(groups, threads)| {
                let threadgroup_lengths = self.check_bindings(buffers, threadgroup)?;
                let [x, y, z] = threads_per_threadgroup;
                let threads_per_threadgroup = Triple { x, y, z };
                Ok(Shape { groups, threads_per_threadgroup, threads, threadgroup_lengths })
            })
            .and_then(|shape| {
                let read = |index: u32| {
                    let of_buffer = |info: &&BindingInfo| {
                        info.kind != BindingKind::Threadgroup && info.index == index
                    };
                    self.shared.bindings.iter().any(|info| of_buffer(&info))
                };
                let used: Vec<_> =
                    buffers.iter().copied().filter(|(index, ..)| read(*index)).collect();
                // SAFETY: the buffers are valid as the caller promises.
                unsafe { self.run(&shape, &used) }
            });
        checked.map_err(|message| format!("kernel {}: {message}", self.name()))
    }

    /// # Safety
    /// As for `dispatch`.
    unsafe fn run(&self, shape: &Shape, buffers: &[(u32, *mut u8, usize)]) -> Result<(), String> {
        let Shared { kernel, sanitized, options, .. } = &*self.shared;
        if let Some(sanitized) = sanitized {
            let program = Program {
                sanitizer: sanitized.sanitizer,
                runner: &sanitized.runner,
                library: &sanitized.path,
                kernel: &kernel.name,
                constants: &kernel.values,
            };
            // SAFETY: as the caller promises.
            return unsafe { runner::run(&program, options, shape, buffers) };
        }
        // SAFETY: as the caller promises.
        unsafe { launch::run(kernel, &self.shared.bindings, options, shape, buffers) }
    }

    /// The grid in threadgroups and in threads.
    fn grid(&self, grid: Grid, group: [u32; 3]) -> Result<(Triple, Triple), String> {
        let total = group.iter().try_fold(1u32, |product, n| product.checked_mul(*n));
        let limit = self.max_total_threads();
        match total {
            Some(1..) if total <= Some(limit) => {}
            _ => {
                return Err(format!(
                    "a threadgroup of {group:?} threads, 1 to {limit} are possible"
                ));
            }
        }
        let (Grid::Threads(size) | Grid::Threadgroups(size)) = grid;
        if size.contains(&0) {
            return Err(format!("an empty grid: {grid:?}"));
        }
        let mut groups = size;
        let mut threads = size;
        for axis in 0..3 {
            match grid {
                Grid::Threads(_) => groups[axis] = size[axis].div_ceil(group[axis]),
                Grid::Threadgroups(_) => {
                    let product = size[axis].checked_mul(group[axis]);
                    threads[axis] =
                        product.ok_or_else(|| format!("a grid beyond 32 bits: {grid:?}"))?;
                }
            }
        }
        let triple = |[x, y, z]: [u32; 3]| Triple { x, y, z };
        Ok((triple(groups), triple(threads)))
    }

    /// Checks all bindings; gives the lengths of threadgroup arguments by index.
    fn check_bindings(
        &self,
        buffers: &[(u32, *mut u8, usize)],
        threadgroup: &[(u32, usize)],
    ) -> Result<[u32; ARGUMENTS], String> {
        let mut lengths = [0; ARGUMENTS];
        let mut bytes = self.static_threadgroup_bytes();
        for (index, length) in threadgroup {
            if *index as usize >= ARGUMENTS {
                return Err(format!("threadgroup index {index}: indices end at {}", ARGUMENTS - 1));
            }
            if length % 16 != 0 {
                return Err(format!(
                    "threadgroup memory {index} of {length} bytes: not a multiple of 16"
                ));
            }
            bytes = bytes.saturating_add(*length);
            lengths[*index as usize] = u32::try_from(*length).unwrap_or(u32::MAX);
        }
        if bytes > MAX_THREADGROUP_BYTES {
            return Err(format!(
                "{bytes} bytes of threadgroup memory, {MAX_THREADGROUP_BYTES} are possible"
            ));
        }
        if let Some((index, ..)) = buffers.iter().find(|(index, ..)| *index as usize >= ARGUMENTS) {
            return Err(format!("buffer index {index}: indices end at {}", ARGUMENTS - 1));
        }
        for info in &self.shared.bindings {
            let label = format!("{} ({:?}, index {})", info.name, info.kind, info.index);
            if info.kind == BindingKind::Threadgroup {
                if (lengths[info.index as usize] as usize) < info.size {
                    return Err(format!(
                        "{label}: {} bytes, an element has {}",
                        lengths[info.index as usize], info.size
                    ));
                }
                continue;
            }
            let Some((_, pointer, length)) =
                buffers.iter().rfind(|(index, ..)| *index == info.index)
            else {
                return Err(format!("{label} is not bound"));
            };
            if pointer.is_null() || *length == 0 {
                return Err(format!("{label} is bound to no memory"));
            }
            if info.reference && *length < info.size {
                return Err(format!("{label}: {length} bytes, the argument has {}", info.size));
            }
            if !pointer.addr().is_multiple_of(info.align) {
                return Err(format!("{label}: the offset is not a multiple of {}", info.align));
            }
        }
        Ok(lengths)
    }
}
