//! When a device that works on its own is handed its work.

/// What a device is tuned for. The CPU runs each op at once and has no choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// Many ops handed over together: the fastest. The time of each such command buffer on the
    /// device becomes an `InternalKernelCompleted` event of `command_buffer`.
    #[default]
    Throughput,
    /// Each op handed over alone and waited for; its time on the device becomes an
    /// `InternalKernelCompleted` event, or that of each of its kernels where the device tells.
    Latency,
}
