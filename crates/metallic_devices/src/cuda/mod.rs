//! NVIDIA GPUs, through the driver's library loaded at run time: without one, this is a module that
//! says what is missing.
//!
//! What kernels and executors build on, in reading order:
//!
//! - [`gpu::Gpu`]: one device, held by every kernel through `Arc`. `gpu.launch(kernel, shape,
//!   &params)` compiles on first use and launches with one `#[repr(C)]` plain value;
//!   `gpu.function(kernel)?.launch(shape, &[Param::new(&a), …])` takes several.
//! - [`stream::Stream`]: the context and the one stream; `raw()` for the driver's own calls (after
//!   `bind()`), `event`, `properties` of the chip.
//! - [`buffer::CudaBuffer`], [`buffer::device_ptr`], [`view::View`]: tensors as addresses. Scratch
//!   memory is `gpu.workspace(bytes)?`, dropped after the last launch that uses it.
//! - [`sources`]: a new `.cu` file is one line in `SOURCES`; its variants are lines in the file.
//! - [`profiler`]: times of single kernels.
//! - [`recording`]: work that is captured once and replayed as one launch.
//! - [`libraries`]: what is installed. [`compile`]: NVRTC behind the disk cache. [`module`]: loaded
//!   code. [`staging`]: copies. [`blas`]: cuBLASLt.

mod blas;
mod buffer;
mod compile;
mod device;
mod error;
mod gpu;
mod graph;
mod legacy;
mod libraries;
pub mod limits;
mod module;
mod profiler;
mod recording;
mod sources;
mod staging;
mod stream;
mod view;

pub use compile::prewarm;
pub use device::CudaDevice;
pub use libraries::{Component, Found, LIBRARY_PATH, Presence, libraries, library};

use std::sync::Arc;

use metallic::dispatch::{Backend, KernelBackendRegistry};
use metallic::graph::Cached;
use metallic::graph::kernels::{AttentionBlockGraphKernel, MlpBlockGraphKernel, SdpaGraphKernel};
use metallic::op::Sdpa;
use metallic::segment::{AttentionBlock, MlpBlock};

use self::gpu::Gpu;
use self::graph::{
    ByRows, CudaGraphExecutor, CudnnGraphExecutor, FewRows, HalfSize, ManyRowsAttention,
    ManyRowsMlp, PersistentStep,
};
use self::legacy::{
    LegacyAdd, LegacyEmbedding, LegacyGemm, LegacyGemv, LegacyKvAppend, LegacyRmsNorm, LegacyRope,
    LegacySdpa, LegacySwiGlu, LegacyTopK,
};

/// Every kernel of a GPU, one line each.
fn register(registry: &mut KernelBackendRegistry, device: &Arc<Gpu>) {
    let gpu = || Arc::clone(device);
    registry.register(Backend::Legacy, "rows", LegacyEmbedding(gpu()));
    registry.register(Backend::Legacy, "rows", LegacyRmsNorm(gpu()));
    registry.register(Backend::Legacy, "gemv", LegacyGemv(gpu()));
    registry.register(Backend::Legacy, "cublaslt", LegacyGemm(gpu()));
    registry.register(Backend::Legacy, "pairs", LegacyRope(gpu()));
    registry.register(Backend::Legacy, "rows", LegacyKvAppend(gpu()));
    let executor = Arc::new(CudaGraphExecutor::new(gpu()));
    let attention = Cached::<AttentionBlock, _>::new(AttentionBlockGraphKernel, executor.clone());
    let attention = FewRows::<AttentionBlock, _, 4>::new(device, attention, |spec| {
        let [q, k, v] = &spec.qkv;
        HalfSize {
            rows: spec.sdpa.lengths.batch * spec.sdpa.lengths.q_bucket,
            weights: [q, k, v, &spec.o].map(|linear| linear.weight),
            width: spec.norm.width,
            last: spec.o.in_features,
        }
    });
    let mlp = Cached::<MlpBlock, _>::new(MlpBlockGraphKernel, executor.clone());
    let mlp = FewRows::<MlpBlock, _, 3>::new(device, mlp, |spec| HalfSize {
        rows: spec.rows_bucket(),
        weights: [&spec.gate, &spec.up, &spec.down].map(|linear| linear.weight),
        width: spec.norm.width,
        last: spec.down.in_features,
    });
    let many = ManyRowsAttention::new(gpu(), executor.clone());
    registry.register(Backend::Graph, "fused", ByRows { few: attention, many });
    registry.register(Backend::Graph, "fused", ByRows { few: mlp, many: ManyRowsMlp(gpu()) });
    registry.register(Backend::Graph, "persistent", PersistentStep(gpu()));
    registry.prefer_whole_steps();
    registry.prefer_segments("few launches a block, nothing written in f32 to be rounded again");
    registry.register(Backend::Graph, "fused", Cached::<Sdpa, _>::new(SdpaGraphKernel, executor));
    let executor = Arc::new(CudnnGraphExecutor::new(gpu()));
    registry.register(Backend::Graph, "cudnn", Cached::<Sdpa, _>::new(SdpaGraphKernel, executor));
    registry.register(Backend::Legacy, "composed", LegacySdpa(gpu()));
    registry.register(Backend::Legacy, "elements", LegacySwiGlu(gpu()));
    registry.register(Backend::Legacy, "elements", LegacyAdd(gpu()));
    registry.register(Backend::Legacy, "chunks", LegacyTopK(gpu()));
    crate::composed::register(registry);
}
