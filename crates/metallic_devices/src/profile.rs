//! When a device that works on its own is handed its work.

/// What a device is tuned for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// Many ops handed over together: the fastest. On Metal the time of each such command buffer
    /// becomes an `InternalKernelCompleted` event of `command_buffer`.
    #[default]
    Throughput,
    /// Each op handed over alone and waited for, no step replayed; its time becomes a `KernelTimed`
    /// event. A GPU times each kernel of an op where it can, the CPU whole ops.
    Latency,
}
