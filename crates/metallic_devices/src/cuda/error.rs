//! CUDA's return codes as errors of the core crate, with what was being done and its numbers.

use cudarc::driver::DriverError;
use cudarc::driver::sys::CUresult;
use metallic::Error;
use metallic::device::DeviceId;

/// An error of `device` while doing `what`, with the reason in words.
pub(crate) fn device_error(device: DeviceId, what: &'static str, reason: String) -> Error {
    Error::Device { device, what, reason }
}

/// The driver's own words for a code, as `CUDA_ERROR_LAUNCH_FAILED: unspecified launch failure`.
pub(crate) fn words(error: DriverError) -> String {
    let text = |text: Result<&std::ffi::CStr, DriverError>| {
        text.map_or_else(|_| "unknown".to_owned(), |text| text.to_string_lossy().into_owned())
    };
    format!("{}: {}", text(error.error_name()), text(error.error_string()))
}

/// Turns the driver's failures into errors that say what was being done, and with what.
pub(crate) trait Doing<T> {
    /// `detail` gives the numbers, as `rms_norm_rows on grid [4, 1, 1]`; empty for none.
    fn doing(
        self,
        device: DeviceId,
        what: &'static str,
        detail: impl FnOnce() -> String,
    ) -> Result<T, Error>;
}

impl<T> Doing<T> for Result<T, DriverError> {
    fn doing(
        self,
        device: DeviceId,
        what: &'static str,
        detail: impl FnOnce() -> String,
    ) -> Result<T, Error> {
        self.map_err(|error| {
            let (detail, words) = (detail(), words(error));
            let reason = if detail.is_empty() { words } else { format!("{detail}: {words}") };
            device_error(device, what, reason)
        })
    }
}

/// Whether the driver had no memory.
pub(crate) fn is_out_of_memory(error: DriverError) -> bool {
    error.0 == CUresult::CUDA_ERROR_OUT_OF_MEMORY
}
