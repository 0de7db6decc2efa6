//! The whole model: tokens in, logits out. Names no device and no backend.

use std::sync::Arc;

use metallic::Context;
use metallic::context::{StepSpec, unique_id};
use metallic::op::{Embedding, Linear, Precision, RmsNorm};
use metallic::tensor::{DType, Tensor};

use super::config::ModelConfig;
use super::next::Next;
use super::step::{Batch, Call, Rotations, Step, StepFeeds};
use super::weights::Weights;
use crate::error::{Error, Result};
use crate::kv_cache::KvCache;
use crate::source::ModelFiles;

/// Rows of logits computed at a time when all are wanted: 32 rows of a vocabulary of 151,936
/// are 19 MB, where 512 would be 311 MB.
const HEAD_ROWS: usize = 32;

/// How a model computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ModelOptions {
    /// Whether activations may be rounded where weights are quantised.
    pub precision: Precision,
}

/// A loaded model.
#[derive(Debug)]
pub struct Model {
    pub(super) config: ModelConfig,
    pub(super) options: ModelOptions,
    /// Names the weights in recorded steps.
    id: u64,
    pub(super) weights: Weights,
    rotations: Rotations,
}

/// Which logits a step gives.
pub enum Logits<'a> {
    /// None: the step only fills the cache.
    None,
    /// Those after each sequence's last token: f32 `[sequences, vocab]`, row-major.
    Last(&'a mut Vec<f32>),
    /// What is known of the token after each sequence's last one.
    Next {
        /// As many of the likeliest tokens will do; `None` for all logits.
        best: Option<usize>,
        /// One for each sequence, in order.
        out: &'a mut Vec<Next>,
    },
    /// Those after every token, handed out row by row: row number in `[sequences * len]`, then
    /// f32 `[vocab]`.
    Each(&'a mut dyn FnMut(usize, &[f32]) -> Result<()>),
}

impl std::fmt::Debug for Logits<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Logits::None => "None",
            Logits::Last(_) => "Last",
            Logits::Next { .. } => "Next",
            Logits::Each(_) => "Each",
        })
    }
}

impl Model {
    /// Puts the tensors of `files` on the context's device.
    ///
    /// # Errors
    /// A missing tensor, one of another shape, or no memory on the device.
    pub fn load(ctx: &Context, files: &ModelFiles, options: ModelOptions) -> Result<Self> {
        Self::load_with(ctx, files, options, &|_| {})
    }

    /// As [`Model::load`]; `loaded` is called with the bytes of each matrix that is there, for a bar
    /// of progress.
    ///
    /// # Errors
    /// As there.
    pub fn load_with(
        ctx: &Context,
        files: &ModelFiles,
        options: ModelOptions,
        loaded: &dyn Fn(usize),
    ) -> Result<Self> {
        let _span = tracing::debug_span!("load", model = files.name()).entered();
        let config = files.config().clone();
        let rotations = Rotations::new(&config.rope);
        let (id, weights) = (unique_id(), Weights::load(ctx, files, loaded)?);
        Ok(Self { weights, rotations, config, options, id })
    }

    /// The configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Runs `batch` through all layers, appends it to `cache`, and gives the wanted logits.
    ///
    /// # Errors
    /// [`Error::ContextFull`] when the cache cannot grow that far, [`Error::BadToken`] for an id
    /// outside the vocabulary, [`Error::BadBatch`] when the batch is not the cache's; what a
    /// kernel reports.
    pub fn forward(
        &self,
        ctx: &Context,
        cache: &mut KvCache,
        batch: Batch<'_>,
        logits: Logits<'_>,
    ) -> Result<()> {
        let _span = tracing::debug_span!("forward", tokens = batch.tokens.len()).entered();
        if batch.sequences != cache.lens().len()
            || batch.is_empty()
            || !batch.tokens.len().is_multiple_of(batch.sequences)
        {
            let (tokens, sequences) = (batch.tokens.len(), cache.lens().len());
            return Err(Error::BadBatch { tokens, sequences });
        }
        if let Some(&id) = batch.tokens.iter().find(|&&id| id as usize >= self.config.vocab) {
            return Err(Error::BadToken { id, vocab: self.config.vocab });
        }
        cache.reserve(ctx, batch.len())?;
        let whole = ctx.registry().whole_steps_for(batch.tokens.len());
        if batch.len() == 1 && (ctx.records_steps() || whole) {
            return self.step(ctx, cache, batch, logits);
        }
        let step = Step::new(ctx, batch, cache, &self.rotations)?;
        let (x, pending) = self.blocks(ctx, cache, &step)?;
        cache.advance(step.len);
        match logits {
            Logits::None => Ok(()),
            Logits::Last(out) => {
                out.resize(step.sequences * self.config.vocab, 0.0);
                let rows = out.chunks_exact_mut(self.config.vocab);
                for (row, last) in rows.zip(step.last_rows()) {
                    let logits = self.logits(ctx, &x, pending.as_ref(), (last, 1))?;
                    row.copy_from_slice(&ctx.download_f32(&logits)?);
                }
                Ok(())
            }
            Logits::Next { best, out } => {
                out.clear();
                for last in step.last_rows() {
                    let logits = self.logits(ctx, &x, pending.as_ref(), (last, 1))?;
                    out.push(Next::read(ctx, &logits, best)?);
                }
                Ok(())
            }
            Logits::Each(each) => {
                for first in (0..step.rows()).step_by(HEAD_ROWS) {
                    let rows = HEAD_ROWS.min(step.rows() - first);
                    let logits = self.logits(ctx, &x, pending.as_ref(), (first, rows))?;
                    let values = ctx.download_f32(&logits)?;
                    for (row, values) in values.chunks_exact(self.config.vocab).enumerate() {
                        each(first + row, values)?;
                    }
                }
                Ok(())
            }
        }
    }

    /// One token of each sequence, as a step that the device may record and replay.
    fn step(
        &self,
        ctx: &Context,
        cache: &mut KvCache,
        batch: Batch<'_>,
        logits: Logits<'_>,
    ) -> Result<()> {
        let call = Call { tokens: Some(batch.tokens), ..Call::default() };
        let feeds = self.run_step(ctx, cache, &call, !matches!(logits, Logits::None))?;
        match logits {
            Logits::Last(out) => ctx.download_f32_into(&feeds.logits, out)?,
            Logits::Next { best, out } => {
                out.clear();
                for row in 0..batch.sequences {
                    out.push(Next::read(ctx, &feeds.logits.narrow(0, row, 1)?, best)?);
                }
            }
            Logits::Each(each) => {
                let values = ctx.download_f32(&feeds.logits)?;
                for (row, values) in values.chunks_exact(self.config.vocab).enumerate() {
                    each(row, values)?;
                }
            }
            Logits::None => {}
        }
        cache.advance(1);
        Ok(())
    }

    /// Puts the steps of `call` on the device. Gives the feeds, which hold the logits if they are wanted,
    /// and what was chosen.
    pub(super) fn run_step(
        &self,
        ctx: &Context,
        cache: &mut KvCache,
        call: &Call<'_>,
        with_logits: bool,
    ) -> Result<Arc<StepFeeds>> {
        let sequences = cache.lens().len();
        let feeds = self.step_feeds(ctx, cache)?;
        let whole = with_logits && ctx.registry().whole_steps_for(sequences);
        let step = Step::replayable(ctx, call, cache, &feeds, &self.rotations)?;
        let spec = StepSpec {
            model: self.id,
            buffers: cache.buffers_id(),
            rows: step.rows(),
            kv_len: step.kv_len,
            logits: with_logits,
        };
        ctx.step(spec, &mut || -> Result<()> {
            let runs_whole = whole && self.whole_step(ctx, cache, &step, &feeds)?;
            if with_logits {
                feeds.set_whole(step.kv_len, runs_whole);
            }
            if runs_whole {
                return Ok(());
            }
            let (x, pending) = self.blocks(ctx, cache, &step)?;
            match with_logits {
                true => self.head(ctx, &x, pending.as_ref(), &feeds.logits),
                false => Ok(()),
            }
        })?;
        Ok(feeds)
    }

    /// What steps of one token of each sequence of `cache` are fed with.
    pub(super) fn step_feeds(&self, ctx: &Context, cache: &mut KvCache) -> Result<Arc<StepFeeds>> {
        let sequences = cache.lens().len();
        cache.feeds(self.id, || StepFeeds::new(ctx, sequences, &self.rotations, self.config.vocab))
    }

    /// Embedding and all blocks: the residual stream, and what is pending after the last block.
    fn blocks(
        &self,
        ctx: &Context,
        cache: &KvCache,
        step: &Step,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let x = ctx.empty(DType::F32, [step.rows(), self.config.hidden])?;
        ctx.run::<Embedding>(&self.embedding_args(step, &x))?;
        let mut pending = None;
        for (weights, layer) in self.weights.blocks.iter().zip(cache.layers()) {
            pending = Some(self.block(ctx, weights, layer, step, (&x, pending))?);
        }
        Ok((x, pending))
    }

    /// [`Model::head`] of the rows `first .. first + rows`: f32 `[rows, vocab]`.
    fn logits(
        &self,
        ctx: &Context,
        x: &Tensor,
        pending: Option<&Tensor>,
        (first, rows): (usize, usize),
    ) -> Result<Tensor> {
        let x = x.narrow(0, first, rows)?;
        let pending = pending.map(|pending| pending.narrow(0, first, rows)).transpose()?;
        let out = ctx.empty(DType::F32, [rows, self.config.vocab])?;
        self.head(ctx, &x, pending.as_ref(), &out)?;
        Ok(out)
    }

    /// Final norm and output projection of all rows, into `out`: f32 `[rows, vocab]`.
    fn head(
        &self,
        ctx: &Context,
        x: &Tensor,
        pending: Option<&Tensor>,
        out: &Tensor,
    ) -> Result<()> {
        let normed = ctx.empty(DType::F32, x.shape())?;
        ctx.run::<RmsNorm>(&self.last_norm(x, pending, &normed))?;
        ctx.run::<Linear>(&self.output(&normed, out))?;
        Ok(())
    }
}
