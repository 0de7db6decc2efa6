//! `metallic explain`: which kernels a model would run, and why, without running them.

use std::io::{self, Write};

use metallic::Context;
use metallic::context::Explanation;
use metallic::dispatch::Backend;
use metallic_models::generate::Generator;
use serde_json::{Value, json};

use crate::args::ExplainArgs;
use crate::error::{Error, Result};
use crate::model::{self, Loaded};
use crate::output::print_json;
use crate::{device, policy};

/// Tokens of a prompt where no other length is asked for and the context allows it.
const USUAL_PROMPT: usize = 512;

/// Part of a request, and what would run.
struct Part {
    name: String,
    choices: Vec<Explanation>,
}

/// Prints the choices for a prompt and for the token after it, at each depth.
///
/// # Errors
/// Whatever is wrong with flags, model or device; an op that no kernel can run as demanded; a length
/// outside the context.
pub(super) fn run(args: &ExplainArgs) -> Result<()> {
    let ctx = device::open_for_model(&args.backend, args.context.exact)?;
    let loaded = model::load(&ctx, &args.model, args.context.exact, args.backend.verbose)?;
    let mut parts = Vec::new();
    for &depth in &args.n_depth.0 {
        let given = args.n_prompt.as_ref().map(|lengths| lengths.0.as_slice());
        for prompt in given.map_or(vec![None], |all| all.iter().copied().map(Some).collect()) {
            parts.extend(explain(args, &ctx, &loaded, depth, prompt)?);
        }
    }
    if args.json {
        return print_json(&to_json(&ctx, &loaded, &parts));
    }
    let mut out = io::stdout().lock();
    writeln!(out, "device: {} ({})", ctx.device().id(), ctx.device().description())?;
    for line in policy::describe(ctx.registry().policies()) {
        writeln!(out, "{line}")?;
    }
    let (segments, why) = ctx.registry().segments();
    let blocks = if segments { "halves as one op where a kernel takes them" } else { "op by op" };
    writeln!(out, "blocks: {blocks} ({why})")?;
    for part in &parts {
        writeln!(out, "\n{}", part.name)?;
        print(&mut out, &part.choices, args.backend.verbose)?;
    }
    Ok(())
}

/// A prompt of `prompt` tokens after `depth` others, and one token after both; without a length, the usual
/// one, or what the context holds.
fn explain(
    args: &ExplainArgs,
    ctx: &Context,
    loaded: &Loaded,
    depth: usize,
    prompt: Option<usize>,
) -> Result<Vec<Part>> {
    let wanted = depth + prompt.unwrap_or(USUAL_PROMPT) + 1;
    let context = args.context.context_len(loaded.model.config(), wanted);
    let prompt = prompt.unwrap_or_else(|| USUAL_PROMPT.min(context.saturating_sub(depth + 1)));
    let total = depth + prompt + 1;
    if total > context {
        return Err(Error::BenchTooLong { depth, tokens: prompt + 1, context });
    }
    let cache = args.context.cache(context, total);
    let mut generator =
        Generator::new(ctx, &loaded.model, cache, args.context.step(ctx.device().id().kind))?;
    let mut feed = |tokens: usize| {
        let (fed, choices) = ctx.explain(|| generator.feed(&vec![0; tokens]));
        fed.map(|_| choices)
    };
    if depth > 0 {
        feed(depth)?;
    }
    let mut parts = Vec::new();
    if prompt > 0 {
        parts.push(Part {
            name: format!("prompt of {prompt} after {depth}"),
            choices: feed(prompt)?,
        });
    }
    parts.push(Part { name: format!("one token after {}", depth + prompt), choices: feed(1)? });
    Ok(parts)
}

fn print(out: &mut impl Write, choices: &[Explanation], verbose: bool) -> io::Result<()> {
    let choices = if verbose { choices.to_vec() } else { merged(choices) };
    let kernel = |(backend, variant): (Backend, &str)| format!("{backend} {variant}");
    let ran = |choice: &Explanation| choice.kernel.map_or_else(|| "op by op".to_owned(), kernel);
    let width = choices.iter().map(|choice| ran(choice).len()).max().unwrap_or(0);
    for choice in &choices {
        let Explanation { op, reason, spec, others, calls, .. } = choice;
        let ran = ran(choice);
        writeln!(out, "  {op:<15} {ran:<width$} {calls:>4} ×  {reason}")?;
        if !others.is_empty() {
            let others: Vec<_> = others.iter().copied().map(kernel).collect();
            writeln!(out, "  {:<15} else {}", "", others.join(", then "))?;
        }
        if verbose {
            writeln!(out, "  {:<15} for {spec}", "")?;
        }
    }
    Ok(())
}

/// `choices` without what they depend on: one line where the same was chosen for the same reason.
fn merged(choices: &[Explanation]) -> Vec<Explanation> {
    let mut merged: Vec<Explanation> = Vec::new();
    for choice in choices {
        let same = |other: &&mut Explanation| {
            (other.op, other.kernel, &other.reason) == (choice.op, choice.kernel, &choice.reason)
                && other.others == choice.others
        };
        match merged.iter_mut().find(same) {
            Some(other) => other.calls += choice.calls,
            None => merged.push(choice.clone()),
        }
    }
    merged
}

fn to_json(ctx: &Context, loaded: &Loaded, parts: &[Part]) -> Value {
    let choice = |choice: &Explanation| {
        let Explanation { op, kernel, reason, spec, others, calls } = choice;
        let others: Vec<_> = others
            .iter()
            .map(|(backend, variant)| json!({ "backend": backend.name(), "variant": variant }))
            .collect();
        json!({
            "op": op,
            // Both are null for a segment whose ops run one by one.
            "backend": kernel.map(|(backend, _)| backend.name()),
            "variant": kernel.map(|(_, variant)| variant),
            "reason": reason,
            "calls": calls,
            "spec": spec,
            "others": others,
        })
    };
    let (segments, why) = ctx.registry().segments();
    json!({
        "device": ctx.device().id().to_string(),
        "model": loaded.files.name(),
        "policies": policy::describe(ctx.registry().policies()),
        "segments": { "on": segments, "reason": why },
        "parts": parts
            .iter()
            .map(|part| {
                let choices: Vec<_> = part.choices.iter().map(choice).collect();
                json!({ "part": part.name, "choices": choices })
            })
            .collect::<Vec<_>>(),
    })
}
