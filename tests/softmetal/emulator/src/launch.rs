//! A dispatch in this process.

use std::ffi::{CStr, c_char};
use std::path::Path;
use std::process::Command;
use std::ptr;

use crate::function::{Shape, Specialisation};
use crate::guard::Guard;
use crate::module::{ARGUMENTS, Fault, Launch};
use crate::options::CompileOptions;
use crate::regions::{Buffer, regions};

/// Runs the grid, on guarded copies where the options ask for them.
///
/// # Safety
/// Each buffer is valid for reads, and for writes where it is writable. Nobody else uses it meanwhile.
pub(crate) unsafe fn run(
    kernel: &Specialisation,
    options: &CompileOptions,
    shape: &Shape,
    buffers: &[Buffer],
) -> Result<(), String> {
    let mut fault = Fault::default();
    let mut pointers = [ptr::null_mut(); ARGUMENTS];
    if !options.guard {
        for buffer in buffers {
            pointers[buffer.index as usize] = buffer.start;
        }
        // SAFETY: as the caller promises.
        let result = unsafe { launch(kernel, options, shape, &pointers, &mut fault) };
        return result.map_err(|message| at_line(kernel, &fault, message));
    }
    let (regions, places) = regions(buffers);
    // SAFETY: regions are made of the buffers alone.
    let guard = unsafe { Guard::new(regions) }?;
    for place in &places {
        pointers[place.index as usize] = guard.pointer(place);
    }
    // SAFETY: the copies are as large as the buffers.
    let result = unsafe { launch(kernel, options, shape, &pointers, &mut fault) };
    match result {
        // SAFETY: only regions with a writable buffer are written to.
        Ok(()) => unsafe { guard.finish() },
        Err(message) => {
            let message = access(&fault, &guard).unwrap_or(message);
            Err(at_line(kernel, &fault, message))
        }
    }
}

/// The message with the line of the source that faulted, if it was a fault.
fn at_line(kernel: &Specialisation, fault: &Fault, message: String) -> String {
    if fault.code == 0 {
        return message;
    }
    format!("{}: {message}", line(&kernel.module.path, fault.code))
}

/// What a fault did, where it was at a guard page or in a copy.
fn access(fault: &Fault, guard: &Guard) -> Option<String> {
    let (region, offset) = guard.locate(fault.address as usize)?;
    let did = if fault.write { "a write" } else { "a read" };
    let of = format!("{} of {} bytes", region.name, region.length);
    Some(if offset < 0 {
        format!("{did} {} bytes before {of}", offset.unsigned_abs())
    } else if (offset as usize) < region.length {
        format!("{did} at byte {offset} of {of}, which is read-only")
    } else {
        format!("{did} {} bytes past the end of {of}", offset as usize - region.length)
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
    fault: &mut Fault,
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
