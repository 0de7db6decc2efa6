//! The CPU device: present everywhere, the reference for the others.
//!
//! `device` and `buffer` are the memory; `legacy` and `graph` are the kernels as the registry sees
//! them; the rest are number-crunching functions over slices that both are made of.

mod buffer;
mod device;
mod legacy;

pub mod exp;
pub mod gemm_f32;
pub mod kernels;
pub mod linear;
pub mod pool;
pub mod quant;
pub mod simd;
mod vector;

pub use buffer::CPU;
pub use device::{CpuDevice, CpuOptions};

use std::sync::Arc;

use metallic::dispatch::{Backend, KernelBackendRegistry};

use self::legacy::{
    Cpu, LegacyAdd, LegacyEmbedding, LegacyKvAppend, LegacyLinear, LegacyRmsNorm, LegacyRope,
    LegacySwiGlu,
};

/// Every kernel of the CPU, one line each.
fn register(
    registry: &mut KernelBackendRegistry,
    pool: &Arc<pool::ThreadPool>,
    level: simd::Level,
) {
    let cpu = || Cpu { pool: Arc::clone(pool), level };
    registry.register(Backend::Legacy, "rows", LegacyEmbedding(cpu()));
    registry.register(Backend::Legacy, "rows", LegacyRmsNorm(cpu()));
    registry.register(Backend::Legacy, "blocks", LegacyLinear(cpu()));
    registry.register(Backend::Legacy, "rows", LegacyRope(cpu()));
    registry.register(Backend::Legacy, "rows", LegacyKvAppend(cpu()));
    registry.register(Backend::Legacy, "rows", LegacySwiGlu(cpu()));
    registry.register(Backend::Legacy, "rows", LegacyAdd(cpu()));
}
