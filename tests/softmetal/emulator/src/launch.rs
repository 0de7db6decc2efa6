//! A dispatch in this process.

use std::ffi::{CStr, c_char};
use std::path::Path;
use std::process::Command;
use std::ptr;

use crate::function::{BindingInfo, BindingKind, Shape, Specialisation};
use crate::guard::Guard;
use crate::module::{ARGUMENTS, Fault, Launch};
use crate::options::CompileOptions;
use crate::regions::regions;

/// Runs the grid, on guarded copies where the options ask for them.
///
/// # Safety
/// Each buffer (index, start, length) is valid for reads, and for writes where its binding is not read-only.
/// Nobody else uses the memory meanwhile.
pub(crate) unsafe fn run(
    kernel: &Specialisation,
    bindings: &[BindingInfo],
    options: &CompileOptions,
    shape: &Shape,
    buffers: &[(u32, *mut u8, usize)],
) -> Result<(), String> {
    if !options.guard {
        let mut pointers = [ptr::null_mut(); ARGUMENTS];
        for (index, pointer, _) in buffers {
            pointers[*index as usize] = *pointer;
        }
        // SAFETY: as the caller promises.
        return unsafe { launch(kernel, options, shape, &pointers, ptr::null_mut()) };
    }
    let binding = |index: u32| {
        bindings.iter().find(|info| info.index == index && info.kind != BindingKind::Threadgroup)
    };
    let (regions, places) = regions(buffers);
    let in_region = |at: usize| places.iter().filter(move |place| place.region == at);
    let writable = |at: usize| {
        in_region(at).any(|place| binding(place.index).is_some_and(|info| !info.read_only))
    };
    let name = |at: usize| {
        let labels = in_region(at).map(|place| {
            let name = binding(place.index).map_or("", |info| info.name.as_str());
            format!("buffer {} ({name})", place.index)
        });
        labels.collect::<Vec<_>>().join(" / ")
    };
    // SAFETY: regions are made of the buffers alone.
    let guard = unsafe { Guard::new(&regions, writable) }?;
    let mut pointers = [ptr::null_mut(); ARGUMENTS];
    for place in &places {
        pointers[place.index as usize] = guard.pointer(place);
    }
    let mut fault = Fault::default();
    // SAFETY: the copies are as large as the buffers.
    let result = unsafe { launch(kernel, options, shape, &pointers, &mut fault) };
    match result {
        // SAFETY: regions that are written back hold a buffer that the kernel can write to.
        Ok(()) => unsafe { guard.finish(name) },
        Err(message) if fault.code == 0 => Err(message),
        Err(message) => {
            let line = line(&kernel.module.path, fault.code);
            Err(format!("{line}: {}", access(&fault, &guard, name).unwrap_or(message)))
        }
    }
}

/// What a fault did, where it was at a guard page.
fn access(fault: &Fault, guard: &Guard, name: impl Fn(usize) -> String) -> Option<String> {
    let (region, offset, length) = guard.locate(fault.address as usize)?;
    let did = if fault.write { "a write" } else { "a read" };
    let name = name(region);
    let length_text = format!("{name} of {length} bytes");
    Some(if offset < 0 {
        format!("{did} {} bytes before {length_text}", offset.unsigned_abs())
    } else if (offset as usize) < length {
        format!("{did} at byte {offset} of {length_text}, which is read-only")
    } else {
        format!("{did} {} bytes past the end of {length_text}", offset as usize - length)
    })
}

/// The innermost line of the source at an instruction.
fn line(path: &Path, code: u64) -> String {
    let unknown = || "program_source".to_owned();
    let mut command = Command::new("llvm-symbolizer-19");
    command.args(["--inlines", "--functions=none", "--no-demangle"]);
    let output =
        command.arg(format!("--obj={}", path.display())).arg(format!("{code:#x}")).output();
    let Ok(output) = output else { return unknown() };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let found = text.lines().find_map(|line| line.split_once("program_source:"));
    let number = found.and_then(|(_, rest)| rest.split(':').next());
    number.map_or_else(unknown, |number| format!("program_source:{number}"))
}

/// # Safety
/// The pointers lead to the kernel's buffers.
unsafe fn launch(
    kernel: &Specialisation,
    options: &CompileOptions,
    shape: &Shape,
    pointers: &[*mut u8; ARGUMENTS],
    fault: *mut Fault,
) -> Result<(), String> {
    let (order, seed) = options.order.numbers();
    let mut offsets = [0; ARGUMENTS];
    let mut message = [0; 1024];
    let launch = Launch {
        module: kernel.module.table_pointer(),
        kernel: &kernel.module.kernels()[kernel.at],
        buffers: pointers.as_ptr(),
        threadgroup_lengths: shape.threadgroup_lengths.as_ptr(),
        threadgroup_offsets: offsets.as_mut_ptr(),
        groups: shape.groups,
        threads_per_threadgroup: shape.threads_per_threadgroup,
        threads: shape.threads,
        order,
        workers: options.workers.max(1),
        seed,
        error: message.as_mut_ptr(),
        error_capacity: message.len(),
        fault,
        strict: options.strict,
        poison: options.poison,
    };
    // SAFETY: the launch names a kernel of its module and arrays of the right lengths; the buffers are as the
    // caller promises.
    let status = unsafe { (kernel.module.runtime.dispatch)(&launch) };
    if status == 0 { Ok(()) } else { Err(text(&message)) }
}

/// The text that the runtime has left.
fn text(message: &[c_char]) -> String {
    // SAFETY: the runtime ends its text with a zero inside the array, which was zero before.
    unsafe { CStr::from_ptr(message.as_ptr()) }.to_string_lossy().into_owned()
}
