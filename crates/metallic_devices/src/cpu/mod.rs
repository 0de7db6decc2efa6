//! The CPU device: present everywhere, the reference for the others.
//!
//! `device` and `buffer` are the memory, `cores` the threads; `legacy` and `graph` are the kernels as the registry sees
//! them; the rest are number-crunching functions over slices that both are made of.

mod buffer;
mod cores;
mod device;
mod graph;
mod legacy;
mod preference;

mod attention;
mod view;

mod exp;
mod gemm_f32;
pub mod limits;
pub mod pool;
pub mod simd;
mod vector;
mod vector_math;

// Not for users of the crate: its own benches, and tests of other devices, call single functions of these.
#[doc(hidden)]
pub mod kernels;
#[doc(hidden)]
pub mod linear;
#[doc(hidden)]
pub mod quant;

#[cfg(test)]
mod composed_tests;
#[cfg(test)]
mod sdpa_tests;

pub use buffer::CPU;
pub use device::{CpuDevice, CpuOptions};

use std::sync::Arc;

use metallic::dispatch::{Backend, KernelBackendRegistry};
use metallic::graph::Cached;
use metallic::graph::kernels::{AttentionBlockGraphKernel, MlpBlockGraphKernel, SdpaGraphKernel};
use metallic::op::Sdpa;
use metallic::segment::{AttentionBlock, MlpBlock};

use self::cores::Cpu;
use self::graph::CpuGraphExecutor;
use self::legacy::{
    LegacyAdd, LegacyEmbedding, LegacyKvAppend, LegacyLinear, LegacyRmsNorm, LegacyRope,
    LegacySdpa, LegacySwiGlu, LegacyTopK,
};

/// Every kernel of the CPU, one line each.
fn register(
    registry: &mut KernelBackendRegistry,
    pool: &Arc<pool::ThreadPool>,
    level: simd::Level,
    memory: &Arc<buffer::Pool>,
) {
    let cpu = || Cpu { pool: Arc::clone(pool), level };
    let executor = Arc::new(CpuGraphExecutor::new(cpu(), Arc::clone(memory)));
    let sdpa_graph = Cached::<Sdpa, _>::new(SdpaGraphKernel, executor.clone());
    let attention_graph =
        Cached::<AttentionBlock, _>::new(AttentionBlockGraphKernel, executor.clone());
    let mlp_graph = Cached::<MlpBlock, _>::new(MlpBlockGraphKernel, executor);
    registry.register(Backend::Legacy, "rows", LegacyEmbedding(cpu()));
    registry.register(Backend::Legacy, "rows", LegacyRmsNorm(cpu()));
    registry.register(Backend::Legacy, "blocks", LegacyLinear(cpu()));
    registry.register(Backend::Legacy, "rows", LegacyRope(cpu()));
    registry.register(Backend::Legacy, "rows", LegacyKvAppend(cpu()));
    registry.register(Backend::Graph, "fused", sdpa_graph);
    registry.register(Backend::Legacy, "composed", LegacySdpa(cpu()));
    registry.prefer::<metallic::op::Sdpa>(preference::sdpa);
    registry.register(Backend::Legacy, "rows", LegacySwiGlu(cpu()));
    registry.register(Backend::Legacy, "rows", LegacyAdd(cpu()));
    registry.register(Backend::Graph, "fused", attention_graph);
    // Attention within a segment runs as attention alone would.
    registry.prefer::<AttentionBlock>(|spec| preference::sdpa(&spec.sdpa));
    registry.register(Backend::Graph, "fused", mlp_graph);
    registry.register(Backend::Legacy, "rows", LegacyTopK(cpu()));
    crate::composed::register(registry);
    registry.prefer_segments("fewer and larger regions, rows rounded once for all that read them");
}
