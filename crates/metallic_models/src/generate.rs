//! The loop from prompt tokens to text.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use metallic::Context;
use metallic_instrumentation::MetricEvent;

use crate::error::{Error, Result};
use crate::kv_cache::{KvCache, KvCacheOptions};
use crate::stop::{Filtered, StopFilter};
use crate::tokenizer::Tokenizer;
use crate::transformer::{Batch, Logits, Model};

/// What to generate after a prompt.
#[derive(Clone, Debug, Default)]
pub struct GenerateOptions {
    /// Most tokens; `None` until the model ends or the context is full.
    pub max_tokens: Option<usize>,
    /// Ends before any of these texts.
    pub stop: Vec<String>,
    /// Goes on after end-of-text tokens.
    pub ignore_eos: bool,
}

/// Why a generation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The model ended the text with this token.
    EndOfText(u32),
    /// A stop string came.
    StopString(String),
    /// The wanted number of tokens is there.
    Length,
    /// The context is full.
    ContextFull,
    /// The caller broke off.
    Interrupted,
}

/// What was generated, and how fast.
#[derive(Clone, Debug)]
pub struct Generation {
    /// Tokens of the prompt that were processed.
    pub prompt_tokens: usize,
    /// Generated tokens, an end-of-text token excluded.
    pub ids: Vec<u32>,
    /// Why it ended.
    pub stop: StopReason,
    /// From the start to the logits after the prompt.
    pub prompt_time: Duration,
    /// From the start to the first sampled token.
    pub first_token_time: Duration,
    /// From the first sampled token to the end.
    pub decode_time: Duration,
}

/// A sequence in progress: a model, its cache, and the tokens in it.
#[derive(Debug)]
pub struct Generator<'a> {
    ctx: &'a Context,
    model: &'a Model,
    cache: KvCache,
    tokens: Vec<u32>,
    ubatch: usize,
}

impl<'a> Generator<'a> {
    /// An empty sequence. Prompts are processed `ubatch` tokens at a time.
    ///
    /// # Errors
    /// No memory for the cache, or a cache type that does not fit the model.
    pub fn new(
        ctx: &'a Context,
        model: &'a Model,
        cache: KvCacheOptions,
        ubatch: usize,
    ) -> Result<Self> {
        let cache = KvCache::new(ctx, model.config(), KvCacheOptions { sequences: 1, ..cache })?;
        Ok(Self { ctx, model, cache, tokens: Vec::new(), ubatch: ubatch.max(1) })
    }

    /// The tokens whose keys and values are in the cache.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The cache.
    pub fn cache(&self) -> &KvCache {
        &self.cache
    }

    /// Forgets every token from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.tokens.truncate(len);
        self.cache.truncate(len);
    }

    /// Processes `tokens` and gives the logits after the last one, f32 `[vocab]`.
    ///
    /// # Errors
    /// [`Error::EmptyPrompt`], [`Error::ContextFull`] before any work, [`Error::NotFinite`], or
    /// what a kernel reports; after a kernel's error the sequence holds the chunks before it.
    pub fn feed(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        let (needed, context) = (self.tokens.len() + tokens.len(), self.cache.max_len());
        if needed > context {
            return Err(Error::ContextFull { needed, context });
        }
        let mut logits = Vec::new();
        let chunks = tokens.len().div_ceil(self.ubatch);
        for (index, chunk) in tokens.chunks(self.ubatch).enumerate() {
            let wanted = match index + 1 == chunks {
                true => Logits::Last(&mut logits),
                false => Logits::None,
            };
            let batch = Batch { tokens: chunk, sequences: 1 };
            self.model.forward(self.ctx, &mut self.cache, batch, wanted)?;
            self.tokens.extend_from_slice(chunk);
        }
        match logits.first() {
            None => Err(Error::EmptyPrompt),
            Some(_) if logits.iter().all(|logit| logit.is_finite()) => Ok(logits),
            Some(_) => Err(Error::NotFinite { position: self.tokens.len() }),
        }
    }

    /// Processes `prompt` after what is there, then samples with `sample` and hands text to
    /// `on_text` as soon as it is whole UTF-8 and no part of a stop string.
    ///
    /// The last sampled token is not yet in the cache; a following call processes it first when
    /// the caller passes it on.
    ///
    /// # Errors
    /// [`Error::PromptTooLong`] before any work; what [`Generator::feed`] or `sample` reports.
    pub fn generate(
        &mut self,
        prompt: &[u32],
        tokenizer: &Tokenizer,
        options: &GenerateOptions,
        sample: &mut dyn FnMut(&[f32]) -> Result<u32>,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Generation> {
        let context = self.cache.max_len();
        let (prompt_end, wanted) =
            (self.tokens.len() + prompt.len(), options.max_tokens.unwrap_or(0));
        if prompt_end.saturating_add(wanted) > context {
            return Err(Error::PromptTooLong { prompt: prompt_end, generate: wanted, context });
        }
        let recorder = self.ctx.recorder();
        let start = Instant::now();
        let mut logits = self.feed(prompt)?;
        let prompt_time = start.elapsed();
        recorder.record(|| MetricEvent::PromptProcessed {
            tokens: prompt.len() as u64,
            duration_us: prompt_time.as_micros() as u64,
        });
        let mut decoder = tokenizer.stream_decoder(true);
        let mut filter = StopFilter::new(&options.stop);
        let mut ids: Vec<u32> = Vec::new();
        let mut first_token_time = prompt_time;
        let mut last = start;
        let stop = loop {
            if options.max_tokens.is_some_and(|most| ids.len() >= most) {
                break StopReason::Length;
            }
            let id = sample(&logits)?;
            if ids.is_empty() {
                first_token_time = start.elapsed();
            }
            if !options.ignore_eos && tokenizer.is_eog(id) {
                break StopReason::EndOfText(id);
            }
            let now = Instant::now();
            recorder.record(|| MetricEvent::TokenGenerated {
                index: ids.len() as u64,
                duration_us: (now - last).as_micros() as u64,
            });
            last = now;
            ids.push(id);
            if let Some(piece) = decoder.push(id) {
                match filter.push(&piece) {
                    Filtered::Text(text) => {
                        if !text.is_empty() && on_text(&text).is_break() {
                            break StopReason::Interrupted;
                        }
                    }
                    Filtered::Stop { text, stop } => {
                        let _ = on_text(&text);
                        break StopReason::StopString(stop);
                    }
                }
            }
            // An empty piece asks the caller whether to go on.
            if on_text("").is_break() {
                break StopReason::Interrupted;
            }
            if options.max_tokens.is_some_and(|most| ids.len() >= most) {
                break StopReason::Length;
            }
            if self.tokens.len() >= context {
                break StopReason::ContextFull;
            }
            logits = self.feed(&[id])?;
        };
        if !matches!(stop, StopReason::StopString(_)) {
            let mut rest = String::new();
            if let Some(piece) = decoder.finish() {
                match filter.push(&piece) {
                    Filtered::Text(text) | Filtered::Stop { text, .. } => rest.push_str(&text),
                }
            }
            rest.push_str(&filter.finish());
            if !rest.is_empty() {
                let _ = on_text(&rest);
            }
        }
        let decode_time = start.elapsed().saturating_sub(first_token_time);
        let prompt_tokens = prompt.len();
        Ok(Generation { prompt_tokens, ids, stop, prompt_time, first_token_time, decode_time })
    }
}
