//! `metallic perplexity`: how well a model predicts a text, under one backend or two.

use std::io::{self, Write};

use metallic::Context;
use metallic::dispatch::{Backend, Policies, Policy, PolicyChoice, PolicySource};
use metallic::op::{Op, Sdpa};
use metallic_models::kv_cache::KvCache;
use metallic_models::transformer::{Batch, Logits};
use serde_json::{Value, json};

use crate::args::PerplexityArgs;
use crate::error::{Error, Result};
use crate::model::{self, Loaded};
use crate::output::{note, print_json};
use crate::summary;
use crate::{device, interrupt, memory, session};

/// Bytes of logits kept at a time when two backends are compared.
const COMPARED_BYTES: usize = 32 << 20;

/// Runs the command.
///
/// # Errors
/// Whatever is wrong with flags, files, model or device; a text of less than two tokens.
pub(super) fn run(args: &PerplexityArgs) -> Result<()> {
    let text = session::read_text(&args.file)?;
    let mut ctx = device::open_for_model(&args.backend, args.context.exact)?;
    let loaded = model::load(&ctx, &args.model, args.context.exact, args.backend.verbose)?;
    let tokens = loaded.tokenizer.encode(&text, true, false)?;
    if tokens.len() < 2 {
        return Err(Error::TextTooShort { tokens: tokens.len() });
    }
    let config = loaded.model.config();
    let window = match args.context.ctx_size {
        Some(size) if size > 0 => args.context.context_len(config, size),
        _ => config.context_length,
    };
    if window < 2 {
        let expected = "at least 2".to_owned();
        return Err(Error::BadFlag { flag: "-c", got: window.to_string(), expected });
    }
    interrupt::install();
    let windows: Vec<&[u32]> = tokens.chunks(window).collect();
    let report = match args.compare {
        None => single(args, &ctx, &loaded, &windows)?,
        Some(pair) => compare(args, &mut ctx, &loaded, &windows, pair)?,
    };
    if args.json {
        print_json(&report.to_json(tokens.len()))?;
    } else {
        report.print(tokens.len(), windows.len())?;
    }
    if args.backend.verbose {
        for run in summary::sdpa_runs(&ctx) {
            note!("sdpa: {run}");
        }
    }
    device::finish(&ctx)
}

/// The negative log-likelihoods under one backend.
#[derive(Default)]
struct Nll {
    values: Vec<f64>,
}

impl Nll {
    fn mean(&self) -> f64 {
        self.values.iter().sum::<f64>() / self.values.len().max(1) as f64
    }

    fn to_json(&self, tokens: usize) -> Value {
        let mean = self.mean();
        json!({ "tokens": tokens, "nll": self.values, "mean_nll": mean, "perplexity": mean.exp() })
    }
}

/// Two distributions per predicted token, compared.
#[derive(Default)]
struct Agreement {
    kl_sum: f64,
    same_top: usize,
    count: usize,
}

struct Report {
    runs: Vec<(Option<Backend>, Nll)>,
    agreement: Option<Agreement>,
}

impl Report {
    fn to_json(&self, tokens: usize) -> Value {
        let Some(agreement) = &self.agreement else {
            return self.runs.first().map(|(_, nll)| nll.to_json(tokens)).unwrap_or_default();
        };
        let count = agreement.count.max(1) as f64;
        let mut report = serde_json::Map::new();
        for (backend, nll) in &self.runs {
            let name = backend.map_or("auto", Backend::name);
            report.insert(name.to_owned(), nll.to_json(tokens));
        }
        report.insert("mean_kl_divergence".to_owned(), json!(agreement.kl_sum / count));
        report.insert("top1_agreement".to_owned(), json!(agreement.same_top as f64 / count));
        Value::Object(report)
    }

    fn print(&self, tokens: usize, windows: usize) -> Result<()> {
        let mut out = io::stdout().lock();
        for (backend, nll) in &self.runs {
            let name = backend.map_or(String::new(), |backend| format!("{backend}: "));
            let (predicted, mean) = (nll.values.len(), nll.mean());
            writeln!(
                out,
                "{name}perplexity {:.4}, mean NLL {mean:.5} nats over {predicted} predicted of \
                 {tokens} tokens in {windows} window(s)",
                mean.exp()
            )?;
        }
        if let Some(agreement) = &self.agreement {
            let count = agreement.count.max(1) as f64;
            writeln!(
                out,
                "mean KL divergence {:.3e} nats, top-1 agreement {:.2} %",
                agreement.kl_sum / count,
                100.0 * agreement.same_top as f64 / count
            )?;
        }
        Ok(())
    }
}

fn single(
    args: &PerplexityArgs,
    ctx: &Context,
    loaded: &Loaded,
    windows: &[&[u32]],
) -> Result<Report> {
    let mut nll = Nll::default();
    for window in windows {
        let mut cache = cache(args, ctx, loaded, window.len())?;
        let mut done = 0;
        for chunk in window.chunks(args.context.step(ctx.device().id().kind)) {
            check_interrupt()?;
            let mut each = |row: usize, logits: &[f32]| {
                finite(logits, done + row)?;
                if let Some(&next) = window.get(done + row + 1) {
                    nll.values.push(log_sum(logits) - f64::from(logits[next as usize]));
                }
                Ok(())
            };
            let batch = Batch { tokens: chunk, sequences: 1 };
            loaded.model.forward(ctx, &mut cache, batch, Logits::Each(&mut each))?;
            done += chunk.len();
        }
    }
    Ok(Report { runs: vec![(None, nll)], agreement: None })
}

fn compare(
    args: &PerplexityArgs,
    ctx: &mut Context,
    loaded: &Loaded,
    windows: &[&[u32]],
    pair: [Backend; 2],
) -> Result<Report> {
    let vocab = loaded.model.config().vocab;
    let step = (COMPARED_BYTES / (vocab * size_of::<f32>()))
        .clamp(1, args.context.step(ctx.device().id().kind));
    let (mut first, mut second) = (Nll::default(), Nll::default());
    let mut agreement = Agreement::default();
    let base = ctx.registry().policies().clone();
    for window in windows {
        let mut caches =
            [cache(args, ctx, loaded, window.len())?, cache(args, ctx, loaded, window.len())?];
        let mut done = 0;
        for chunk in window.chunks(step) {
            check_interrupt()?;
            let batch = Batch { tokens: chunk, sequences: 1 };
            let mut reference: Vec<f32> = Vec::with_capacity(chunk.len() * vocab);
            let [first_cache, second_cache] = &mut caches;
            force(ctx, &base, pair[0]);
            let mut each = |row: usize, logits: &[f32]| {
                finite(logits, done + row)?;
                reference.extend_from_slice(logits);
                if let Some(&next) = window.get(done + row + 1) {
                    first.values.push(log_sum(logits) - f64::from(logits[next as usize]));
                }
                Ok(())
            };
            loaded.model.forward(ctx, first_cache, batch, Logits::Each(&mut each))?;
            force(ctx, &base, pair[1]);
            let mut each = |row: usize, logits: &[f32]| {
                finite(logits, done + row)?;
                if let Some(&next) = window.get(done + row + 1) {
                    second.values.push(log_sum(logits) - f64::from(logits[next as usize]));
                    agreement.add(&reference[row * vocab..][..vocab], logits);
                }
                Ok(())
            };
            loaded.model.forward(ctx, second_cache, batch, Logits::Each(&mut each))?;
            done += chunk.len();
        }
    }
    ctx.registry_mut().set_policies(base);
    let runs = vec![(Some(pair[0]), first), (Some(pair[1]), second)];
    Ok(Report { runs, agreement: Some(agreement) })
}

impl Agreement {
    fn add(&mut self, p: &[f32], q: &[f32]) {
        let (p_sum, q_sum) = (log_sum(p), log_sum(q));
        let divergence = p.iter().zip(q).map(|(&p, &q)| {
            let (log_p, log_q) = (f64::from(p) - p_sum, f64::from(q) - q_sum);
            log_p.exp() * (log_p - log_q)
        });
        self.kl_sum += divergence.sum::<f64>();
        self.same_top += usize::from(top(p) == top(q));
        self.count += 1;
    }
}

/// Attention on `backend`, everything else as it was asked for.
fn force(ctx: &mut Context, base: &Policies, backend: Backend) {
    let mut policies = base.clone();
    let source = PolicySource::Flag("--compare");
    policies.ops.insert(Sdpa::ID, PolicyChoice { policy: Policy::Force(backend), source });
    policies.required.remove(Sdpa::ID);
    ctx.registry_mut().set_policies(policies);
}

fn cache(args: &PerplexityArgs, ctx: &Context, loaded: &Loaded, len: usize) -> Result<KvCache> {
    let (cache, step) = (args.context.cache(len, len), args.context.step(ctx.device().id().kind));
    memory::check_context(ctx, &loaded.files, &cache, (len, step))?;
    Ok(KvCache::new(ctx, loaded.model.config(), cache)?)
}

fn finite(logits: &[f32], position: usize) -> metallic_models::Result<()> {
    if logits.iter().all(|logit| logit.is_finite()) {
        return Ok(());
    }
    Err(metallic_models::Error::NotFinite { position })
}

/// `ln Σ exp(logit)`.
fn log_sum(logits: &[f32]) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - max).exp()).sum();
    f64::from(max) + sum.ln()
}

fn top(logits: &[f32]) -> usize {
    let all = logits.iter().enumerate();
    all.fold((0, f32::NEG_INFINITY), |best, (id, &x)| if x > best.1 { (id, x) } else { best }).0
}

/// A measurement that was broken off has no result.
fn check_interrupt() -> Result<()> {
    if interrupt::is_set() { Err(Error::Interrupted) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_a_small_distribution() {
        // Probabilities 1/2, 1/4, 1/4 against 1/4, 1/2, 1/4.
        let p = [0.5f32.ln(), 0.25f32.ln(), 0.25f32.ln()];
        let q = [p[1] + 3.0, p[0] + 3.0, p[2] + 3.0];
        assert!(log_sum(&p).abs() < 1e-7);
        assert!((log_sum(&q) - 3.0).abs() < 1e-6);
        let mut agreement = Agreement::default();
        agreement.add(&p, &q);
        // 1/2 ln 2 - 1/4 ln 2.
        assert!((agreement.kl_sum - 0.25 * 2f64.ln()).abs() < 1e-6, "{}", agreement.kl_sum);
        agreement.add(&p, &p);
        assert_eq!((agreement.same_top, agreement.count), (1, 2));
    }
}
