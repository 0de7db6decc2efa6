//! What the operating system does for this process: its memory's size, mapped files. Not: memory
//! handed out by a device.

use std::fs::File;
use std::path::Path;

use metallic::tensor::HostBytes;
use metallic::{Error, Result};

/// The most memory this process ever had resident, in bytes; `None` when the system does not say.
pub fn peak_memory_bytes() -> Option<u64> {
    // Linux's `getrusage` goes on from what the process had before it became this program: under
    // `cargo run`, cargo's own memory.
    let status = std::fs::read_to_string("/proc/self/status").ok();
    status.and_then(|status| high_water(&status)).or_else(peak_of_usage)
}

/// `VmHWM:   1234 kB` of Linux's `/proc/self/status` (proc_pid_status(5)), in bytes.
fn high_water(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim_end().parse::<u64>().ok()?.checked_mul(1024)
}

fn peak_of_usage() -> Option<u64> {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the pointer is to a whole `rusage`, which `getrusage` fills when it returns 0; all
    // zero bytes are a valid `rusage` in any case.
    let usage = unsafe {
        (libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) == 0).then(|| usage.assume_init())
    }?;
    // Linux counts in KiB, macOS in bytes (their `getrusage` manual pages).
    let unit = if std::env::consts::OS == "macos" { 1 } else { 1024 };
    u64::try_from(usage.ru_maxrss).ok()?.checked_mul(unit)
}

/// The memory of the machine in bytes; `None` when the system does not say.
pub fn physical_memory_bytes() -> Option<u64> {
    // SAFETY: `sysconf` reads no memory of ours; what it does not know is -1.
    let (pages, page) =
        unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
    u64::try_from(pages).ok()?.checked_mul(u64::try_from(page).ok()?)
}

/// The bytes of a file, mapped.
///
/// # Errors
/// [`Error::Read`] with the operating system's words.
pub(crate) fn map_file(path: &Path) -> Result<HostBytes> {
    let read_error =
        |error: std::io::Error| Error::Read { path: path.into(), reason: error.to_string() };
    let file = File::open(path).map_err(read_error)?;
    if file.metadata().map_err(read_error)?.len() == 0 {
        return Ok(HostBytes::new(Vec::new()));
    }
    // SAFETY: a file changed by others while mapped is the known risk of every mapped model;
    // all values are read as plain bytes and checked before use.
    let map = unsafe { memmap2::Mmap::map(&file) }.map_err(read_error)?;
    Ok(HostBytes::new(map))
}

#[cfg(test)]
mod tests {
    use super::{high_water, peak_memory_bytes, peak_of_usage, physical_memory_bytes};

    #[test]
    fn a_test_needs_between_a_megabyte_and_a_terabyte() {
        let peak = peak_memory_bytes().unwrap();
        assert!((1 << 20..1 << 40).contains(&peak), "{peak}");
        assert!(physical_memory_bytes().unwrap() > peak);
        // A process has at most grown since it began another program.
        assert!(peak_of_usage().unwrap() + (1 << 20) >= peak);
        assert_eq!(high_water("VmPeak:\t   9 kB\nVmHWM:\t    18 kB\n"), Some(18 << 10));
        assert_eq!(high_water("VmPeak:\t   9 kB\n"), None);
    }
}
