//! One forward step: which tokens at which positions, and the small tensors every layer shares.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use metallic::Context;
use metallic::segment::FollowingSteps;
use metallic::tensor::{DType, Layout, Shape, Tensor};

use super::rope::RopeConfig;
use crate::error::Result;
use crate::kv_cache::KvCache;
use crate::sampler::Draws;

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
            segments: ctx.registry().runs_segments(),
        })
    }

    /// The row of each sequence's last token.
    pub(super) fn last_rows(&self) -> impl Iterator<Item = usize> + use<> {
        let len = self.len;
        (0..self.sequences).map(move |sequence| sequence * len + len - 1)
    }

    /// A step of one token for each sequence over the tensors of `feeds`, which hold the numbers of
    /// `call` from here on.
    pub(super) fn replayable(
        ctx: &Context,
        call: &Call<'_>,
        cache: &KvCache,
        feeds: &StepFeeds,
        rope: &Rotations,
    ) -> Result<Self> {
        feeds.write(ctx, call, cache, rope)?;
        let [ids, starts, kv_lens, cos, sin] = feeds.views.clone();
        Ok(Self {
            sequences: cache.lens().len(),
            len: 1,
            ids,
            starts,
            kv_lens,
            kv_len: cache.view_class(call.ahead),
            cos,
            sin,
            segments: ctx.registry().runs_segments(),
        })
    }

    /// Rows of all sequences together.
    pub(super) fn rows(&self) -> usize {
        self.sequences * self.len
    }
}

/// A step of one token of each sequence, and of one sequence those that follow it in the same call.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Call<'a> {
    /// One of each sequence; `None` for the last that the call before chose.
    pub(super) tokens: Option<&'a [u32]>,
    /// So many positions after the live ones.
    pub(super) ahead: usize,
    /// As in [`FollowingSteps`].
    pub(super) count: usize,
    /// How tokens are drawn; `None` for the likeliest.
    pub(super) draws: Option<&'a Draws>,
}

/// Words that a feed's start is a multiple of, so that kernels may load it in any width.
const FEED_ALIGNMENT: usize = 64;

/// The most steps that one call makes: what they cost beside their work is shared by as many.
pub const MOST_STEPS: usize = 16;

/// What differs from one step of one token to the next, in one piece of device memory that a single
/// write fills, what steps chose, and the place of the logits: the same addresses in every step.
#[derive(Debug)]
pub(crate) struct StepFeeds {
    memory: Tensor,
    /// ids, starts, kv_lens, cos, sin, as in [`Step`].
    views: [Tensor; 5],
    /// f32 `[sequences, vocab]`.
    pub(super) logits: Tensor,
    /// Of one sequence: steps that follow in the same call.
    pub(super) following: Option<FollowingSteps>,
    /// By the positions in view, whether the step that was last put together here ran as one op, the
    /// only way in which steps follow each other in one call.
    whole: Mutex<BTreeMap<usize, bool>>,
}

impl StepFeeds {
    pub(super) fn new(
        ctx: &Context,
        sequences: usize,
        rope: &Rotations,
        vocab: usize,
    ) -> Result<Self> {
        let most = if sequences == 1 { MOST_STEPS } else { 0 };
        let (row, pairs) = (Shape::new(&[sequences]), rope.inv_freq.len());
        let angles = Shape::new(&[sequences.max(most), pairs]);
        let (count, chosen) = (Shape::new(&[1]), Shape::new(&[1 + 3 * most]));
        let draw = Shape::new(&[FollowingSteps::DRAW_WORDS + 2 * most]);
        let (words, turns) = (DType::I32, DType::F32);
        let parts = [
            (words, row),
            (words, row),
            (words, row),
            (turns, angles),
            (turns, angles),
            (words, count),
            (words, draw),
            (words, chosen),
        ];
        let words = |shape: Shape| shape.elements().next_multiple_of(FEED_ALIGNMENT);
        let total = parts.iter().map(|(_, shape)| words(*shape)).sum::<usize>();
        let memory = ctx.zeros(DType::I32, [total])?;
        let mut at = 0;
        let mut view = |(dtype, shape): (DType, Shape)| {
            let dense = Layout::contiguous(shape);
            let layout = Layout::strided(shape, dense.strides(), at).unwrap_or(dense);
            at += words(shape);
            Tensor::new(Arc::clone(memory.buffer()), dtype, layout)
        };
        let [ids, starts, kv_lens, cos, sin, count, draw, chosen] = parts;
        let (ids, starts, kv_lens) = (view(ids)?, view(starts)?, view(kv_lens)?);
        let (cos, sin) = (view(cos)?, view(sin)?);
        let (count, draw, chosen) = (view(count)?, view(draw)?, view(chosen)?);
        let first = |all: &Tensor| all.narrow(0, 0, sequences)?.reshape([sequences, 1, pairs]);
        let views = [ids, starts, kv_lens, first(&cos)?, first(&sin)?];
        let following = (most > 0).then_some(FollowingSteps { count, cos, sin, draw, chosen });
        let logits = ctx.empty(DType::F32, [sequences, vocab])?;
        Ok(Self { memory, views, logits, following, whole: Mutex::default() })
    }

    /// Whether a step that looks at `kv_len` positions ran as one op; true as long as none did.
    pub(super) fn is_whole(&self, kv_len: usize) -> bool {
        let whole = self.whole.lock().unwrap_or_else(PoisonError::into_inner);
        whole.get(&kv_len).copied().unwrap_or(true)
    }

    pub(super) fn set_whole(&self, kv_len: usize, is_whole: bool) {
        let mut whole = self.whole.lock().unwrap_or_else(PoisonError::into_inner);
        whole.insert(kv_len, is_whole);
    }

    /// Writes the numbers of a step and of those that follow it; nothing is chosen yet.
    fn write(
        &self,
        ctx: &Context,
        call: &Call<'_>,
        cache: &KvCache,
        rope: &Rotations,
    ) -> Result<()> {
        let Call { tokens, ahead, count, draws } = *call;
        let mut words = vec![0i32; self.memory.shape().elements()];
        let starts = || cache.lens().iter().map(|&start| (start + ahead) as i32);
        let (cos, sin) = match cache.lens() {
            [live] => rope.at(live + ahead..live + ahead + count.max(1)),
            starts => rope.at(starts.iter().map(|start| start + ahead)),
        };
        let bits = |values: Vec<f32>| values.into_iter().map(|value| value.to_bits() as i32);
        let parts: [&mut dyn Iterator<Item = i32>; 5] = [
            &mut tokens.unwrap_or_default().iter().map(|&id| id as i32),
            &mut starts(),
            &mut starts().map(|start| start + 1),
            &mut bits(cos),
            &mut bits(sin),
        ];
        for (view, values) in self.views.iter().zip(parts) {
            let room = &mut words[view.layout().offset()..];
            values.zip(room).for_each(|(value, word)| *word = value);
        }
        if let Some(FollowingSteps { count: place, draw, .. }) = &self.following {
            words[place.layout().offset()] = count as i32;
            let drawn = draws.map(|draws| draws.words(count)).unwrap_or_default();
            words[draw.layout().offset()..][..drawn.len()].copy_from_slice(&drawn);
        }
        // The ids come first; the call before has left them there where none are given.
        let first = if tokens.is_some() { 0 } else { self.views[1].layout().offset() };
        let rest = self.memory.narrow(0, first, words.len() - first)?;
        Ok(ctx.write_i32(&rest, &words[first..])?)
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
