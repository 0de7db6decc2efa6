//! What a model will take of a device's memory, and whether there is as much, before work starts.

use metallic::Context;
use metallic::device::Device;
use metallic_models::kv_cache::KvCacheOptions;
use metallic_models::source::ModelFiles;
use metallic_models::transformer::config::ModelConfig;

use crate::error::{Error, Result};

/// A GPU's allocations are multiples of this many bytes.
const GRANULARITY: u64 = 2 << 20;
/// Scratch memory of NVIDIA's matrix products, in bytes.
const PRODUCTS: u64 = 32 << 20;

/// Bytes of device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MemoryPlan {
    /// All tensors of the model.
    pub(crate) weights: u64,
    /// Keys and values of the context.
    pub(crate) kv_cache: u64,
    /// What a step needs besides.
    pub(crate) work: u64,
}

impl MemoryPlan {
    /// The plan for `positions` positions of context, of which a step processes `step`.
    ///
    /// # Errors
    /// When rows of keys or values are no whole blocks of their type.
    pub(crate) fn new(
        files: &ModelFiles,
        cache: &KvCacheOptions,
        positions: usize,
        step: usize,
    ) -> Result<Self> {
        let weights = files.tensors().iter().map(|tensor| {
            let bytes = tensor.bytes.len() as u64;
            if bytes >= GRANULARITY { bytes.next_multiple_of(GRANULARITY) } else { bytes }
        });
        let quantised = files.tensors().iter().any(|tensor| tensor.dtype.is_quantized());
        let config = files.config();
        let work = work(config, step.min(positions), quantised);
        Ok(Self { weights: weights.sum(), kv_cache: kv_cache(config, cache, positions)?, work })
    }

    /// All of it.
    pub(crate) fn total(&self) -> u64 {
        self.weights + self.kv_cache + self.work
    }
}

fn kv_cache(config: &ModelConfig, cache: &KvCacheOptions, positions: usize) -> Result<u64> {
    let (dtype, head_dim) = (cache.k_dtype, config.head_dim);
    let bytes = cache.bytes(config, positions).map(|bytes| bytes as u64);
    bytes.ok_or(Error::Models(metallic_models::Error::KvType { dtype, head_dim }))
}

/// Bytes that a step of `rows` rows takes besides weights and cache: the stream, what is pending
/// and its norm; queries, keys, values and what attention gives, or gate and up, each in f32 and as
/// rounded for a product; one decoded weight; a row of logits.
fn work(config: &ModelConfig, rows: usize, quantised: bool) -> u64 {
    let ModelConfig { hidden, ffn, vocab, .. } = *config;
    let (q, kv) = (config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim);
    let stream = 3 * hidden * 4 + hidden * 6;
    let (attention, mlp) = ((2 * q + 2 * kv) * 4 + 4 * q, 2 * ffn * 4 + 2 * ffn);
    let decoded = if quantised { (ffn * hidden).max(vocab * hidden) * 2 } else { 0 };
    (rows * (stream + attention.max(mlp)) + decoded + vocab * 4) as u64 + PRODUCTS
}

/// Fails when the weights of `files` do not fit what is free on a device that says so.
///
/// # Errors
/// [`Error::WeightsDoNotFit`].
pub(crate) fn check_weights(device: &dyn Device, files: &ModelFiles) -> Result<()> {
    let cache = KvCacheOptions::new(0);
    let needed = MemoryPlan::new(files, &cache, 0, 0)?.weights;
    match device.free_bytes() {
        Some(free) if needed > free => {
            Err(Error::WeightsDoNotFit { device: device.id().to_string(), needed, free })
        }
        _ => Ok(()),
    }
}

/// Fails when a context of `positions` positions does not fit what is free beside the weights,
/// which lie on the device by now.
///
/// # Errors
/// [`Error::ContextDoesNotFit`] with the largest context that does.
pub(crate) fn check_context(
    ctx: &Context,
    files: &ModelFiles,
    cache: &KvCacheOptions,
    (positions, step): (usize, usize),
) -> Result<()> {
    let plan = MemoryPlan::new(files, cache, positions, step)?;
    let needed = plan.kv_cache + plan.work;
    let Some(free) = ctx.device().free_bytes().filter(|free| needed > *free) else { return Ok(()) };
    let each = kv_cache(files.config(), cache, 1)?.max(1);
    // Whole buckets of positions, as the cache has.
    let fits = free.saturating_sub(plan.work) / each / 256 * 256;
    let device = ctx.device().id().to_string();
    Err(Error::ContextDoesNotFit { device, positions, needed, free, fits })
}

/// As `1.5 GiB` or `12 MiB`.
pub(crate) fn readable(bytes: u64) -> String {
    let mib = bytes as f64 / f64::from(1 << 20);
    if mib >= 1024.0 { format!("{:.2} GiB", mib / 1024.0) } else { format!("{mib:.0} MiB") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_grows_with_context_and_step() {
        let files = metallic_models::tiny::model().unwrap();
        let cache = KvCacheOptions::new(4096);
        let plan = |positions, step| MemoryPlan::new(&files, &cache, positions, step).unwrap();
        let (short, long) = (plan(256, 64), plan(512, 64));
        assert_eq!(long.kv_cache, 2 * short.kv_cache);
        assert_eq!((long.weights, long.work), (short.weights, short.work));
        assert!(plan(512, 128).work > long.work);
        assert!(long.weights >= files.tensors().bytes() && long.total() > long.weights);
        assert_eq!(readable(3 << 29), "1.50 GiB");
    }
}
