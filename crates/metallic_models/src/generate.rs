//! The loop from prompt tokens to text.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use metallic::Context;
use metallic_instrumentation::MetricEvent;

use crate::error::{Error, Result};
use crate::kv_cache::{KvCache, KvCacheOptions};
use crate::sampler::{Choose, Draws, Scores};
use crate::steps_ahead::StepsAhead;
use crate::stop::{Filtered, StopFilter};
use crate::tokenizer::{StreamDecoder, Tokenizer};
use crate::transformer::{Ask, Batch, Logits, Model, Next};

/// What to generate after a prompt.
#[derive(Clone, Debug, Default)]
pub struct GenerateOptions {
    /// Most tokens; `None` until the model ends or the context is full.
    pub max_tokens: Option<usize>,
    /// Ends before any of these texts.
    pub stop: Vec<String>,
    /// Goes on after end-of-text tokens.
    pub ignore_eos: bool,
    /// As for [`Generator::fix_steps_at_once`].
    pub steps_at_once: Option<usize>,
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

/// What is to be known of a next token.
#[derive(Debug, Default)]
struct Wanted {
    /// So many of the likeliest tokens will do; `None` for all logits.
    best: Option<usize>,
    /// How a device draws the token itself; `None` where it may not.
    draws: Option<Draws>,
    /// Steps that follow, at most, each on the token that is chosen now: the likeliest, or the one drawn.
    more: usize,
}

/// A sequence in progress: a model, its cache, and the tokens in it.
#[derive(Debug)]
pub struct Generator<'a> {
    ctx: &'a Context,
    model: &'a Model,
    cache: KvCache,
    tokens: Vec<u32>,
    ubatch: usize,
    ahead: StepsAhead,
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
        let (tokens, ahead) = (Vec::new(), StepsAhead::new());
        Ok(Self { ctx, model, cache, tokens, ubatch: ubatch.max(1), ahead })
    }

    /// The tokens whose keys and values are in the cache.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The cache.
    pub fn cache(&self) -> &KvCache {
        &self.cache
    }

    /// How many steps the device may make before their tokens are read, where it can make several and
    /// choose the tokens; `None` for as many as are over in a few milliseconds.
    pub fn fix_steps_at_once(&mut self, steps: Option<usize>) {
        self.ahead.fix(steps);
    }

    /// Forgets every token from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.ahead.clear();
        self.tokens.truncate(len);
        self.cache.truncate(len);
    }

    /// Processes `tokens` and gives the logits after the last one, f32 `[vocab]`.
    ///
    /// # Errors
    /// [`Error::EmptyPrompt`], [`Error::ContextFull`] before any work, [`Error::NotFinite`], or
    /// what a kernel reports; after a kernel's error the sequence holds the chunks before it.
    pub fn feed(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        let logits = self.feed_asking(tokens, &mut || ControlFlow::Continue(()))?;
        logits.ok_or(Error::EmptyPrompt)
    }

    /// As [`Generator::feed`], asking before each chunk whether to go on; `None` when not.
    ///
    /// # Errors
    /// As [`Generator::feed`].
    pub fn feed_asking(
        &mut self,
        tokens: &[u32],
        go_on: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<Option<Vec<f32>>> {
        match self.feed_while(tokens, &Wanted::default(), go_on)? {
            Some(Next::All(logits)) => Ok(Some(logits)),
            Some(Next::Best { .. } | Next::Drawn { .. }) => Err(Error::EmptyPrompt),
            None => Ok(None),
        }
    }

    /// As [`Generator::feed_asking`], of the likeliest token alone where the device can tell: what a
    /// greedy step reads back. Where the caller is going to feed that token, and then the likeliest
    /// after it, `more` times at most, the device may make these steps at once.
    ///
    /// # Errors
    /// As [`Generator::feed`].
    pub fn feed_greedy(
        &mut self,
        tokens: &[u32],
        more: usize,
        go_on: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<Option<Next>> {
        self.feed_while(tokens, &Wanted { best: Some(1), more, draws: None }, go_on)
    }

    /// As [`Generator::feed`], of what is wanted alone where the device can tell, asking before each
    /// chunk whether to go on; `None` when not.
    fn feed_while(
        &mut self,
        tokens: &[u32],
        wanted: &Wanted,
        go_on: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<Option<Next>> {
        let (needed, context) = (self.tokens.len() + tokens.len(), self.cache.max_len());
        if needed > context {
            return Err(Error::ContextFull { needed, context });
        }
        let next = match *tokens {
            [token] if wanted.best == Some(1) || wanted.draws.is_some() => {
                if go_on().is_break() {
                    return Ok(None);
                }
                self.step(token, wanted)?
            }
            _ => match self.chunks(tokens, wanted.best, go_on)? {
                Some(next) => next,
                None => return Ok(None),
            },
        };
        if !next.is_finite() {
            return Err(Error::NotFinite { position: self.tokens.len() });
        }
        Ok(Some(next))
    }

    /// What comes after `token`: made before, or made now with what follows it.
    fn step(&mut self, token: u32, wanted: &Wanted) -> Result<Next> {
        let made = match self.ahead.take(token, wanted.draws.as_ref()) {
            Some(next) => {
                // Its keys and values are there.
                self.cache.advance(1);
                Some(next)
            }
            None => self.call(token, wanted)?,
        };
        let next = match made {
            Some(next) => next,
            None => {
                let (batch, mut out) = (Batch { tokens: &[token], sequences: 1 }, Vec::new());
                let logits = Logits::Next { best: wanted.best, out: &mut out };
                self.model.forward(self.ctx, &mut self.cache, batch, logits)?;
                out.pop().ok_or(Error::EmptyPrompt)?
            }
        };
        self.tokens.push(token);
        Ok(next)
    }

    /// Reads the call that begins with `token`, once the one after it is queued; `None` where the device
    /// makes none.
    fn call(&mut self, token: u32, wanted: &Wanted) -> Result<Option<Next>> {
        let &Wanted { best, ref draws, more } = wanted;
        let (useful, draws) = (more.saturating_add(1), draws.as_ref());
        let queued = match self.ahead.take_queued() {
            Some(queued) => queued,
            None => {
                let steps = self.ahead.at_once(useful);
                let ask = Ask { token: Some(token), ahead: 0, steps, best, draws };
                match self.model.queue_steps(self.ctx, &mut self.cache, ask)? {
                    Some(queued) => queued,
                    None => return Ok(None),
                }
            }
        };
        let (ahead, since) = (queued.steps, queued.since);
        let left = useful.saturating_sub(ahead);
        if left > 0 && queued.leaves_token() {
            let later = draws.map(|draws| draws.clone().after(ahead));
            let (steps, draws) = (self.ahead.at_once(left), later.as_ref());
            let ask = Ask { token: None, ahead, steps, best, draws };
            self.ahead.queue(self.model.queue_steps(self.ctx, &mut self.cache, ask)?);
        }
        let given = queued.wait().inspect_err(|_| self.ahead.clear())?;
        if given.len() != ahead {
            self.ahead.clear();
        }
        let next = self.ahead.keep(given, (token, draws), since);
        self.cache.advance(usize::from(next.is_some()));
        Ok(next)
    }

    /// Processes `tokens`, the logits of the last of them wanted; `None` where `go_on` broke off.
    fn chunks(
        &mut self,
        tokens: &[u32],
        best: Option<usize>,
        go_on: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<Option<Next>> {
        self.ahead.clear();
        let mut next = Vec::new();
        let chunks = tokens.len().div_ceil(self.ubatch);
        for (index, chunk) in tokens.chunks(self.ubatch).enumerate() {
            if go_on().is_break() {
                return Ok(None);
            }
            let wanted = match index + 1 == chunks {
                true => Logits::Next { best, out: &mut next },
                false => Logits::None,
            };
            let batch = Batch { tokens: chunk, sequences: 1 };
            self.model.forward(self.ctx, &mut self.cache, batch, wanted)?;
            self.tokens.extend_from_slice(chunk);
        }
        next.pop().ok_or(Error::EmptyPrompt).map(Some)
    }

    /// Processes `prompt` after what is there, then samples with `sample` and hands text to
    /// `on_text` as soon as it is whole UTF-8 and no part of a stop string. An empty text asks
    /// the caller whether to go on: before each chunk of the prompt and after each token.
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
        self.generate_with(prompt, tokenizer, options, &mut FromAll(sample), on_text)
    }

    /// As [`Generator::generate`], with a chooser that may ask for the likeliest tokens alone.
    ///
    /// # Errors
    /// As [`Generator::generate`].
    pub fn generate_with(
        &mut self,
        prompt: &[u32],
        tokenizer: &Tokenizer,
        options: &GenerateOptions,
        chooser: &mut dyn Choose,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Generation> {
        let context = self.cache.max_len();
        let (prompt_end, wanted) =
            (self.tokens.len() + prompt.len(), options.max_tokens.unwrap_or(0));
        if prompt_end.saturating_add(wanted) > context {
            return Err(Error::PromptTooLong { prompt: prompt_end, generate: wanted, context });
        }
        self.fix_steps_at_once(options.steps_at_once);
        let (start, before) = (Instant::now(), self.tokens.len());
        let wanted = |chooser: &dyn Choose, more| {
            let vocab = self.model.config().vocab;
            Wanted { best: chooser.best_needed(vocab), draws: chooser.draws(vocab), more }
        };
        let next = self.feed_while(prompt, &wanted(chooser, 0), &mut || on_text(""))?;
        let prompt_time = start.elapsed();
        let mut generation = Generation {
            prompt_tokens: self.tokens.len() - before,
            ids: Vec::new(),
            stop: StopReason::Interrupted,
            prompt_time,
            first_token_time: prompt_time,
            decode_time: Duration::ZERO,
        };
        let Some(mut next) = next else { return Ok(generation) };
        let recorder = self.ctx.recorder();
        recorder.record(|| MetricEvent::PromptProcessed {
            tokens: prompt.len() as u64,
            duration_us: prompt_time.as_micros() as u64,
        });
        let mut shown = Shown::new(tokenizer, options, on_text);
        let mut last = start;
        generation.stop = loop {
            if options.max_tokens.is_some_and(|most| generation.ids.len() >= most) {
                break StopReason::Length;
            }
            if !generation.ids.is_empty() {
                if self.tokens.len() >= context {
                    break StopReason::ContextFull;
                }
                let last = generation.ids.len() - 1;
                let go_on = &mut || ControlFlow::Continue(());
                let left = |most: usize| most - generation.ids.len();
                // The token that comes now is one of them.
                let more = options.max_tokens.map_or(usize::MAX, left).saturating_sub(1);
                let wanted = wanted(chooser, more);
                let fed = self.feed_while(&generation.ids[last..], &wanted, go_on)?;
                next = fed.ok_or(Error::EmptyPrompt)?;
            }
            let id = chooser.choose(match &next {
                Next::All(logits) => Scores::All(logits),
                Next::Best { candidates, .. } => Scores::Best(candidates),
                Next::Drawn { id, .. } => Scores::Drawn(*id),
            })?;
            let now = Instant::now();
            if generation.ids.is_empty() {
                generation.first_token_time = now - start;
            }
            if !options.ignore_eos && tokenizer.is_eog(id) {
                break StopReason::EndOfText(id);
            }
            recorder.record(|| MetricEvent::TokenGenerated {
                index: generation.ids.len() as u64,
                duration_us: (now - last).as_micros() as u64,
            });
            last = now;
            generation.ids.push(id);
            if let Some(stop) = shown.push(id) {
                break stop;
            }
        };
        if !matches!(generation.stop, StopReason::StopString(_)) {
            shown.finish();
        }
        generation.decode_time = start.elapsed().saturating_sub(generation.first_token_time);
        Ok(generation)
    }
}

/// A chooser that looks at all logits.
struct FromAll<'a>(&'a mut dyn FnMut(&[f32]) -> Result<u32>);

impl Choose for FromAll<'_> {
    fn best_needed(&self, _: usize) -> Option<usize> {
        None
    }

    fn choose(&mut self, scores: Scores<'_>) -> Result<u32> {
        match scores {
            Scores::All(logits) => (self.0)(logits),
            Scores::Best(_) | Scores::Drawn(_) => Err(Error::NothingToSample),
        }
    }
}

/// The way of tokens to the caller: bytes to whole characters, past the stop strings.
struct Shown<'a> {
    decoder: StreamDecoder,
    filter: StopFilter,
    on_text: &'a mut dyn FnMut(&str) -> ControlFlow<()>,
}

impl<'a> Shown<'a> {
    fn new(
        tokenizer: &Tokenizer,
        options: &GenerateOptions,
        on_text: &'a mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Self {
        let decoder = tokenizer.stream_decoder(true);
        Self { decoder, filter: StopFilter::new(&options.stop), on_text }
    }

    /// Shows what `id` completes; says why to stop, if it is time to.
    fn push(&mut self, id: u32) -> Option<StopReason> {
        let piece = self.decoder.push(id).unwrap_or_default();
        match self.filter.push(&piece) {
            Filtered::Text(text) => {
                (self.on_text)(&text).is_break().then_some(StopReason::Interrupted)
            }
            Filtered::Stop { text, stop } => {
                // The text ends here anyway, whatever the caller wants.
                let _ = (self.on_text)(&text);
                Some(StopReason::StopString(stop))
            }
        }
    }

    /// Shows what was withheld.
    fn finish(mut self) {
        let rest = self.decoder.finish().unwrap_or_default();
        let mut text = match self.filter.push(&rest) {
            Filtered::Text(text) | Filtered::Stop { text, .. } => text,
        };
        text.push_str(&self.filter.finish());
        // As above.
        let _ = (self.on_text)(&text);
    }
}
