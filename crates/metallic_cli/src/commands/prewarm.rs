//! `metallic prewarm`: compiles a device's kernels ahead of their first use.

use std::time::Instant;

use metallic_devices::cuda::{self, CudaDevice};

use crate::args::PrewarmArgs;
use crate::device;
use crate::error::Result;
use crate::output::note;

/// Fills the disk cache.
///
/// # Errors
/// An unknown device or one that is not here, a kernel that does not compile.
pub(super) fn run(args: &PrewarmArgs) -> Result<()> {
    let (kind, index) = device::parse(&args.device)?;
    if kind != "cuda" {
        note!("{}: kernels of the {kind} are part of this program", args.device);
        return Ok(());
    }
    let start = Instant::now();
    let arch = match &args.arch {
        Some(arch) => arch.clone(),
        None => CudaDevice::new(index)?.arch().to_owned(),
    };
    let (cached, compiled) = cuda::prewarm(&arch, &mut |kernel, cached| {
        if args.verbose {
            note!("{kernel}: {}", if cached { "in the cache" } else { "compiled" });
        }
    })?;
    let seconds = start.elapsed().as_secs_f64();
    note!("{arch}: {compiled} kernels compiled, {cached} in the cache, {seconds:.1} s");
    Ok(())
}
