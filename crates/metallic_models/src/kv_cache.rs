//! Keys and values of earlier tokens, in one growing buffer per layer.
//!
//! Capacity is a whole number of [`KV_BUCKET`] positions and at least doubles when it grows, so a
//! position is copied at most once per doubling. Layers see a view rounded up to the bucket and
//! learn the live lengths from a feed, so that compiled graphs keep their key while a sequence
//! grows. Positions that were never written are zero; those past a truncation keep their old
//! values, which live lengths hide.

use std::sync::Arc;

use metallic::Context;
use metallic::context::unique_id;
use metallic::op::KV_BUCKET;
use metallic::tensor::{DType, Tensor};

use crate::error::{Error, Result};
use crate::transformer::StepFeeds;
use crate::transformer::config::ModelConfig;

/// How a cache is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvCacheOptions {
    /// Element type of keys: f32, f16, bf16 or q8_0.
    pub k_dtype: DType,
    /// Element type of values.
    pub v_dtype: DType,
    /// Most positions a sequence may have.
    pub max_len: usize,
    /// Positions to make room for at once.
    pub expected_len: usize,
    /// Sequences.
    pub sequences: usize,
}

impl KvCacheOptions {
    /// One sequence of at most `max_len` positions, in f16.
    pub fn new(max_len: usize) -> Self {
        let (k_dtype, v_dtype) = (DType::F16, DType::F16);
        Self { k_dtype, v_dtype, max_len, expected_len: 0, sequences: 1 }
    }

    /// Bytes that `positions` positions of one sequence take in all layers; `None` when a row is
    /// no whole number of blocks.
    pub fn bytes(&self, config: &ModelConfig, positions: usize) -> Option<usize> {
        let row =
            self.k_dtype.row_bytes(config.head_dim)? + self.v_dtype.row_bytes(config.head_dim)?;
        Some(row * config.n_kv_heads * config.n_layers * positions)
    }
}

/// The cache of one layer.
#[derive(Debug)]
pub struct LayerCache {
    /// `[sequences, kv_heads, capacity, head_dim]`.
    pub(crate) k: Tensor,
    /// `[sequences, kv_heads, capacity, head_dim]`.
    pub(crate) v: Tensor,
}

/// The cache of a model.
#[derive(Debug)]
pub struct KvCache {
    options: KvCacheOptions,
    n_kv_heads: usize,
    head_dim: usize,
    capacity: usize,
    lens: Vec<usize>,
    layers: Vec<LayerCache>,
    /// Changes with the buffers of the layers and with `feeds`.
    buffers_id: u64,
    /// What steps of one token are fed with; made by the first.
    feeds: Option<(u64, Arc<StepFeeds>)>,
}

/// The fewest positions that a step of one token looks at: the work of hidden ones is nothing, and
/// longer views come with powers of two, so that few steps are recorded.
const FEWEST_IN_VIEW: usize = 1024;

impl KvCache {
    /// An empty cache for a model of `config`, with room for the expected length.
    ///
    /// # Errors
    /// [`Error::KvType`] when rows of the wanted type are not whole blocks; no memory.
    pub fn new(ctx: &Context, config: &ModelConfig, options: KvCacheOptions) -> Result<Self> {
        let capacity = options.expected_len.clamp(1, options.max_len.max(1));
        let capacity = capacity.next_multiple_of(KV_BUCKET);
        let (n_kv_heads, head_dim) = (config.n_kv_heads, config.head_dim);
        for dtype in [options.k_dtype, options.v_dtype] {
            let known = matches!(dtype, DType::F32 | DType::F16 | DType::Bf16 | DType::Q8_0);
            if !known || dtype.row_bytes(head_dim).is_none() {
                return Err(Error::KvType { dtype, head_dim });
            }
        }
        let mut cache = Self {
            options,
            n_kv_heads,
            head_dim,
            capacity,
            lens: vec![0; options.sequences],
            layers: Vec::new(),
            buffers_id: unique_id(),
            feeds: None,
        };
        cache.layers =
            (0..config.n_layers).map(|_| cache.layer(ctx, capacity)).collect::<Result<_>>()?;
        Ok(cache)
    }

    fn layer(&self, ctx: &Context, capacity: usize) -> Result<LayerCache> {
        let shape = [self.options.sequences, self.n_kv_heads, capacity, self.head_dim];
        let k = ctx.zeros(self.options.k_dtype, shape)?;
        let v = ctx.zeros(self.options.v_dtype, shape)?;
        Ok(LayerCache { k, v })
    }

    /// Live positions of each sequence.
    pub fn lens(&self) -> &[usize] {
        &self.lens
    }

    /// Positions there is room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Most positions a sequence may have.
    pub fn max_len(&self) -> usize {
        self.options.max_len
    }

    /// Bytes of all layers.
    pub fn bytes(&self) -> usize {
        let tensors = self.layers.iter().flat_map(|layer| [&layer.k, &layer.v]);
        tensors.map(|tensor| tensor.buffer().bytes()).sum()
    }

    /// Forgets every position from `len` on, of every sequence.
    pub fn truncate(&mut self, len: usize) {
        for live in &mut self.lens {
            *live = (*live).min(len);
        }
    }

    pub(crate) fn layers(&self) -> &[LayerCache] {
        &self.layers
    }

    /// The positions layers look at when `new` more come: a whole number of buckets.
    pub(crate) fn view_len(&self, new: usize) -> usize {
        let live = self.lens.iter().max().copied().unwrap_or(0) + new;
        live.next_multiple_of(KV_BUCKET).min(self.capacity)
    }

    /// The positions a step of one more token looks at, `ahead` positions after the live ones: a power
    /// of two, or all there is room for.
    pub(crate) fn view_class(&self, ahead: usize) -> usize {
        let live = self.lens.iter().max().copied().unwrap_or(0) + ahead + 1;
        live.next_power_of_two().max(FEWEST_IN_VIEW).min(self.capacity)
    }

    /// How many steps of one more token each, from `ahead` positions after the live ones on, fit the
    /// positions that a step now looks at, and the context.
    pub(crate) fn steps_in_view(&self, ahead: usize) -> usize {
        let live = self.lens.iter().max().copied().unwrap_or(0);
        self.view_class(0).min(self.options.max_len).saturating_sub(live + ahead)
    }

    /// A number that changes with any buffer of the cache.
    pub(crate) fn buffers_id(&self) -> u64 {
        self.buffers_id
    }

    /// The feeds of model number `model`, made by `make` when there are none yet.
    pub(crate) fn feeds(
        &mut self,
        model: u64,
        make: impl FnOnce() -> Result<StepFeeds>,
    ) -> Result<Arc<StepFeeds>> {
        match &self.feeds {
            Some((owner, feeds)) if *owner == model => Ok(Arc::clone(feeds)),
            _ => {
                let feeds = Arc::new(make()?);
                self.feeds = Some((model, Arc::clone(&feeds)));
                self.buffers_id = unique_id();
                Ok(feeds)
            }
        }
    }

    pub(crate) fn advance(&mut self, new: usize) {
        for live in &mut self.lens {
            *live += new;
        }
    }

    /// Makes room for `new` more positions of every sequence.
    pub(crate) fn reserve(&mut self, ctx: &Context, new: usize) -> Result<()> {
        let live = self.lens.iter().max().copied().unwrap_or(0);
        let needed = live + new;
        if needed > self.options.max_len {
            return Err(Error::ContextFull { needed, context: self.options.max_len });
        }
        if needed <= self.capacity {
            return Ok(());
        }
        let most = self.options.max_len.next_multiple_of(KV_BUCKET);
        let capacity = needed.next_multiple_of(KV_BUCKET).max((2 * self.capacity).min(most));
        self.buffers_id = unique_id();
        for index in 0..self.layers.len() {
            let grown = self.layer(ctx, capacity)?;
            let layer = &self.layers[index];
            for (from, to) in [(&layer.k, &grown.k), (&layer.v, &grown.v)] {
                ctx.copy_prefix(from, to, 2, live)?;
            }
            self.layers[index] = grown;
        }
        self.capacity = capacity;
        Ok(())
    }
}
