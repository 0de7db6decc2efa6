//! One forward step: which tokens at which positions, and the small tensors every layer shares.

use metallic::Context;
use metallic::tensor::Tensor;

use super::rope::RopeConfig;
use crate::error::Result;
use crate::kv_cache::KvCache;

/// New tokens of one or more sequences, equally many of each.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// `[sequences, len]`, row-major; each id lies in the vocabulary.
    pub tokens: &'a [u32],
    /// Sequences; those of the cache, in its order.
    pub sequences: usize,
}

impl Batch<'_> {
    /// New tokens per sequence.
    pub fn len(&self) -> usize {
        self.tokens.len() / self.sequences.max(1)
    }

    /// True without any token.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }
}

/// What every layer of one step shares; made once per step.
#[derive(Debug)]
pub(super) struct Step {
    /// Sequences.
    pub(super) sequences: usize,
    /// New tokens per sequence.
    pub(super) len: usize,
    /// i32 `[sequences * len]`.
    pub(super) ids: Tensor,
    /// i32 `[sequences]`, the position of each sequence's first new token.
    pub(super) starts: Tensor,
    /// i32 `[sequences]`, live keys after this step.
    pub(super) kv_lens: Tensor,
    /// The key positions layers look at: the highest live length, rounded up.
    pub(super) kv_len: usize,
    /// f32 `[sequences, len, pairs]` each.
    pub(super) cos: Tensor,
    pub(super) sin: Tensor,
    /// Whether the halves of a block run as one op each.
    pub(super) segments: bool,
}

impl Step {
    pub(super) fn new(
        ctx: &Context,
        batch: Batch<'_>,
        cache: &KvCache,
        rope: &Rotations,
    ) -> Result<Self> {
        let len = batch.len();
        let ids: Vec<i32> = batch.tokens.iter().map(|&id| id as i32).collect();
        let starts: Vec<i32> = cache.lens().iter().map(|&start| start as i32).collect();
        let live: Vec<i32> = starts.iter().map(|start| start + len as i32).collect();
        let positions = cache.lens().iter().flat_map(|&start| start..start + len);
        let (cos, sin) = rope.at(positions);
        let rows = ids.len();
        let pairs = rope.inv_freq.len();
        Ok(Self {
            sequences: batch.sequences,
            len,
            ids: ctx.upload_i32([rows], &ids)?,
            starts: ctx.upload_i32([batch.sequences], &starts)?,
            kv_lens: ctx.upload_i32([batch.sequences], &live)?,
            kv_len: cache.view_len(len),
            cos: ctx.upload_f32([batch.sequences, len, pairs], &cos)?,
            sin: ctx.upload_f32([batch.sequences, len, pairs], &sin)?,
            segments: ctx.registry().segments().0,
        })
    }

    /// The row of each sequence's last token.
    pub(super) fn last_rows(&self) -> impl Iterator<Item = usize> + use<> {
        let len = self.len;
        (0..self.sequences).map(move |sequence| sequence * len + len - 1)
    }

    /// Rows of all sequences together.
    pub(super) fn rows(&self) -> usize {
        self.sequences * self.len
    }
}

/// The model's rotary frequencies, computed once.
#[derive(Debug)]
pub(super) struct Rotations {
    inv_freq: Vec<f32>,
    attention_factor: f32,
}

impl Rotations {
    pub(super) fn new(rope: &RopeConfig) -> Self {
        Self { inv_freq: rope.inv_freq(), attention_factor: rope.attention_factor() }
    }

    /// Cosines and sines, `[positions, pairs]`. Angles are f32 products, as in the reference
    /// implementation, so that long contexts round alike.
    fn at(&self, positions: impl Iterator<Item = usize>) -> (Vec<f32>, Vec<f32>) {
        positions
            .flat_map(|position| self.inv_freq.iter().map(move |freq| freq * position as f32))
            .map(|angle| (angle.cos() * self.attention_factor, angle.sin() * self.attention_factor))
            .unzip()
    }
}
