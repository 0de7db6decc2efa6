//! Kernels that take calls of few rows alone.

use metallic::Result;
use metallic::dispatch::{ExecCx, KernelInvocable, Reason, Support};
use metallic::op::Op;
use metallic::tensor::DType;

use super::MAX_ROWS;
use super::run::shared_bytes;
use crate::cuda::gpu::Gpu;

/// What decides how many rows a half of a block takes at once.
pub(crate) struct HalfSize<const WEIGHTS: usize> {
    /// Rows of the call.
    pub rows: usize,
    /// Types of its weights.
    pub weights: [DType; WEIGHTS],
    /// Width of the stream.
    pub width: usize,
    /// Width of the input of the last product.
    pub last: usize,
}

/// A kernel that takes calls of few rows alone. A graph that serves every length cannot say so.
pub(crate) struct FewRows<O: Op, K, const WEIGHTS: usize> {
    kernel: K,
    size: fn(&O::Spec) -> HalfSize<WEIGHTS>,
    shared_bytes: usize,
}

impl<O: Op, K: KernelInvocable<O>, const WEIGHTS: usize> FewRows<O, K, WEIGHTS> {
    pub(crate) fn new(gpu: &Gpu, kernel: K, size: fn(&O::Spec) -> HalfSize<WEIGHTS>) -> Self {
        // Other variables of a block take a little.
        let shared_bytes = gpu.stream.properties().shared_bytes as usize - 2048;
        Self { kernel, size, shared_bytes }
    }
}

impl<O: Op, K: KernelInvocable<O>, const WEIGHTS: usize> KernelInvocable<O>
    for FewRows<O, K, WEIGHTS>
{
    fn supports(&self, spec: &O::Spec) -> Support {
        let HalfSize { rows, weights, width, last } = (self.size)(spec);
        let [fixed, each] = shared_bytes(&weights, width, last);
        let fits = self.shared_bytes.saturating_sub(fixed) / each.max(1);
        let max = MAX_ROWS.min(if fits == 0 { 0 } else { 1 << fits.ilog2() });
        match rows {
            _ if rows > max => Support::No(Reason::Range { what: "rows", got: rows, max }),
            _ => self.kernel.supports(spec),
        }
    }

    fn run(&self, cx: &ExecCx<'_>, spec: &O::Spec, args: &O::Args) -> Result<()> {
        self.kernel.run(cx, spec, args)
    }
}
