//! What a run cost: the one line at its end, and the same as JSON.

use std::time::Duration;

use metallic::Context;
use metallic::context::RunCount;
use metallic::dispatch::{Backend, Selection};
use metallic::op::{Op, Sdpa};
use metallic::segment::{AttentionBlock, DecoderStep, MlpBlock};
use metallic_devices::process::peak_memory_bytes;
use serde_json::{Value, json};

use crate::output::note;

/// Tokens and times of one or more generations.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) prompt_tokens: usize,
    pub(crate) prompt_time: Duration,
    pub(crate) generated: usize,
    pub(crate) decode_time: Duration,
    pub(crate) generations: usize,
    /// Of the first generation.
    pub(crate) first_token: Option<Duration>,
}

impl Totals {
    pub(crate) fn add(&mut self, generation: &metallic_models::generate::Generation) {
        self.prompt_tokens += generation.prompt_tokens;
        self.prompt_time += generation.prompt_time;
        self.generated += generation.ids.len();
        self.generations += 1;
        self.decode_time += generation.decode_time;
        if !generation.ids.is_empty() {
            self.first_token.get_or_insert(generation.first_token_time);
        }
    }

    /// As the function of that name: the first token of a generation comes out of its prompt.
    pub(crate) fn note_single_steps(&self, ctx: &Context, asked: Option<usize>) {
        note_single_steps(ctx, asked, self.generated.saturating_sub(self.generations));
    }

    fn prompt_rate(&self) -> f64 {
        rate(self.prompt_tokens, self.prompt_time)
    }

    /// The first token comes out of the prompt, so it costs no decoding.
    fn decode_rate(&self) -> f64 {
        rate(self.generated.saturating_sub(1), self.decode_time)
    }
}

/// Tokens per second; 0 without tokens.
pub(crate) fn rate(tokens: usize, time: Duration) -> f64 {
    if tokens == 0 { 0.0 } else { tokens as f64 / time.as_secs_f64().max(1e-9) }
}

/// `prompt 4 tokens, 12.3 tok/s`, without a rate where there is none.
fn tokens(what: &str, count: usize, rate: f64) -> String {
    let plural = if count == 1 { "" } else { "s" };
    let rate = if rate > 0.0 { format!(", {rate:.1} tok/s") } else { String::new() };
    format!("{what} {count} token{plural}{rate}")
}

/// The line at the end of a run.
pub(crate) fn line(ctx: &Context, totals: &Totals) -> String {
    let mut parts = vec![
        tokens("prompt", totals.prompt_tokens, totals.prompt_rate()),
        tokens("generated", totals.generated, totals.decode_rate()),
    ];
    if let Some(first) = totals.first_token {
        parts.push(format!("first token {:.1} ms", first.as_secs_f64() * 1e3));
    }
    if let Some(peak) = peak_memory_bytes() {
        parts.push(format!("peak memory {:.1} MB", peak as f64 / 1e6));
    }
    parts.push(format!("device {}", ctx.device().id()));
    let attention = backends(&attention_runs(ctx)).unwrap_or_else(|| "none ran".to_owned());
    parts.push(format!("{} {attention}", Sdpa::ID));
    if let Some(mlp) = backends(&ctx.runs(MlpBlock::ID)) {
        parts.push(format!("{} {mlp}", MlpBlock::ID));
    }
    let (hits, misses) = ctx
        .cache()
        .stats()
        .iter()
        .fold((0, 0), |(hits, misses), stats| (hits + stats.hits, misses + stats.misses));
    parts.push(format!("cache {hits} hits, {misses} misses"));
    parts.join(" | ")
}

/// Says why `--steps-at-once` changed nothing in all of `steps` steps, where that is so.
pub(crate) fn note_single_steps(ctx: &Context, asked: Option<usize>, steps: usize) {
    let Some(asked) = asked.filter(|asked| *asked > 1) else { return };
    let calls: u64 = ctx.runs(DecoderStep::ID).iter().map(|run| run.calls).sum();
    let device = ctx.device().id();
    if steps > 0 && calls == 0 {
        note!(
            "warning: --steps-at-once {asked} changed nothing: {device} ran no step as one kernel \
             (`decoder_step` in `metallic explain`), so each was a call of its own"
        );
    } else if steps >= ENOUGH_STEPS && calls >= steps as u64 {
        note!(
            "warning: --steps-at-once {asked} changed nothing: each of {steps} steps was a call of \
             its own, since several are made at once only where the device chooses their tokens \
             (--temp 0, or --top-k 2 to 64 without penalties, --logit-bias and --typical)"
        );
    }
}

/// Fewer steps than this are calls of their own anywhere: the first ones prepare the others.
const ENOUGH_STEPS: usize = 8;

/// The kernels of some runs, each with its reasons, and with its op where that is the attention half
/// of a block; `None` when nothing ran.
fn backends(runs: &[RunCount]) -> Option<String> {
    let kernels = runs.chunk_by(|one, other| kernel(one) == kernel(other));
    let times = |runs: &[RunCount]| runs.iter().map(|run| run.calls).sum::<u64>();
    let alone = kernels.clone().count() == 1;
    let each = kernels.map(|runs| {
        let (op, backend, variant) = kernel(&runs[0]);
        let calls = if alone { String::new() } else { format!(" x{}", times(runs)) };
        let whole = match op {
            AttentionBlock::ID | DecoderStep::ID => format!("{op} "),
            _ => String::new(),
        };
        let reason = |run: &RunCount| match runs {
            [_] => run.selection.reason.to_string(),
            _ => format!("x{} {}", run.calls, run.selection.reason),
        };
        let reasons: Vec<_> = runs.iter().map(reason).collect();
        format!("{backend}{calls} ({whole}{variant}: {})", reasons.join(", "))
    });
    (!runs.is_empty()).then(|| each.collect::<Vec<_>>().join(", "))
}

fn kernel(run: &RunCount) -> (&'static str, Backend, &'static str) {
    let Selection { op, backend, variant, .. } = run.selection;
    (op, backend, variant)
}

/// What ran attention, alone or within a segment.
pub(crate) fn attention_runs(ctx: &Context) -> Vec<RunCount> {
    [Sdpa::ID, AttentionBlock::ID, DecoderStep::ID]
        .into_iter()
        .flat_map(|op| ctx.runs(op))
        .collect()
}

/// The same as JSON.
pub(crate) fn to_json(ctx: &Context, totals: &Totals) -> Value {
    json!({
        "prompt_tokens": totals.prompt_tokens,
        "prompt_tokens_per_second": totals.prompt_rate(),
        "generated_tokens": totals.generated,
        "generated_tokens_per_second": totals.decode_rate(),
        "time_to_first_token_ms": totals.first_token.map(|time| time.as_secs_f64() * 1e3),
        "peak_memory_bytes": peak_memory_bytes(),
        "device": ctx.device().id().to_string(),
        "sdpa": sdpa_runs(ctx),
        "segments": segments(ctx),
        "caches": caches(ctx),
    })
}

/// What ran halves of blocks, or whole steps, as one op each.
pub(crate) fn segment_runs(ctx: &Context) -> Vec<RunCount> {
    [AttentionBlock::ID, MlpBlock::ID, DecoderStep::ID]
        .into_iter()
        .flat_map(|op| ctx.runs(op))
        .collect()
}

/// What ran attention, how often and why.
pub(crate) fn sdpa_runs(ctx: &Context) -> Vec<Value> {
    runs_json(attention_runs(ctx))
}

fn runs_json(runs: Vec<RunCount>) -> Vec<Value> {
    let run = |run: RunCount| {
        json!({
            "op": run.selection.op,
            "backend": run.selection.backend.name(),
            "variant": run.selection.variant,
            "calls": run.calls,
            "reason": &*run.selection.reason,
        })
    };
    runs.into_iter().map(run).collect()
}

/// Whether segments ran as one op, why, and what ran the feed-forward ones and whole steps.
fn segments(ctx: &Context) -> Value {
    let (on, reason) = ctx.registry().segments();
    let (halves, steps) = (runs_json(ctx.runs(MlpBlock::ID)), runs_json(ctx.runs(DecoderStep::ID)));
    json!({ "on": on, "reason": reason, "mlp_block": halves, "decoder_step": steps })
}

/// The counters of the caches.
pub(crate) fn caches(ctx: &Context) -> Vec<Value> {
    let cache = |stats: &metallic::cache::CacheStats| {
        json!({
            "cache": stats.name,
            "hits": stats.hits,
            "misses": stats.misses,
            "entries": stats.entries,
            "bytes": stats.bytes,
            "evictions": stats.evictions,
        })
    };
    ctx.cache().stats().iter().map(cache).collect()
}
