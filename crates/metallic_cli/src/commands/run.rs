//! `metallic run`: continues a prompt.

use std::io::{self, Write};
use std::ops::ControlFlow;

use metallic_models::chat_template::{ChatMessage, ChatOptions};
use metallic_models::generate::{Generator, StopReason};
use serde_json::json;

use crate::args::RunArgs;
use crate::error::{Error, Result};
use crate::model::{self, Loaded};
use crate::output::{note, print_json};
use crate::summary::{self, Totals};
use crate::{device, interrupt, memory, session};

/// Runs the command.
///
/// # Errors
/// Whatever is wrong with flags, files, model or device; a prompt that does not fit the context;
/// [`Error::BrokenOff`] after Ctrl-C.
pub(super) fn run(args: &RunArgs) -> Result<()> {
    let verbose = args.backend.verbose;
    let text = session::prompt_text(&args.prompt)?;
    let ctx = device::open_for_model(&args.backend, args.context.exact)?;
    let loaded = model::load(&ctx, &args.model, args.context.exact, verbose)?;
    let mut sampler = args.sampling.sampler(loaded.model.config().vocab)?;
    let prompt = encode(args, &loaded, text.clone())?;
    let config = loaded.model.config();
    let needed = prompt.len().saturating_add(args.generate.max_tokens().unwrap_or(0));
    let max_len = args.context.context_len(config, needed);
    if prompt.len() > max_len {
        let generate = args.generate.max_tokens().unwrap_or(0);
        let (prompt, context) = (prompt.len(), max_len);
        return Err(metallic_models::Error::PromptTooLong { prompt, generate, context }.into());
    }
    if verbose {
        note!("sampler: {}", sampler.describe());
        note!("seed: {}", sampler.seed());
        let (k, v) = args.context.cache_types();
        note!("context: {max_len} tokens, keys {k}, values {v}; prompt: {} tokens", prompt.len());
    }
    let cache = args.context.cache(max_len, needed);
    let step = args.context.step(ctx.device().id().kind);
    let positions = args.generate.max_tokens().map_or(max_len, |_| needed.min(max_len));
    memory::check_context(&ctx, &loaded.files, &cache, (positions, step))?;
    let mut generator = Generator::new(&ctx, &loaded.model, cache, step)?;
    interrupt::install();

    let mut shown = Shown { text: String::new(), live: !args.json, failure: None };
    if args.echo {
        shown.show(&text);
    }
    for &token in &prompt {
        sampler.accept(token);
    }
    let generated = generator.generate_with(
        &prompt,
        &loaded.tokenizer,
        &args.generate.options(),
        &mut sampler,
        &mut |piece| {
            shown.show(piece);
            if interrupt::is_set() || shown.failure.is_some() {
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        },
    );
    let generation = match generated {
        Ok(generation) => generation,
        Err(error) => {
            shown.end_line();
            // The first failure is the one to show; what the metrics file lacks comes second.
            let _ = device::finish(&ctx);
            return Err(error.into());
        }
    };
    let mut totals = Totals::default();
    totals.add(&generation);
    if args.json {
        let (reason, detail) = session::stop_reason(&generation);
        let mut report = json!({
            "text": shown.text,
            "ids": generation.ids,
            "prompt_ids": prompt,
            "stop": { "reason": reason, "detail": detail },
            "model": loaded.files.name(),
            "sampler": sampler.describe(),
            "seed": sampler.seed(),
            "context": max_len,
        });
        if let (Some(report), Some(costs)) =
            (report.as_object_mut(), summary::to_json(&ctx, &totals).as_object())
        {
            report.extend(costs.clone());
        }
        print_json(&report)?;
    } else {
        shown.end_line();
        if let Some(failure) = shown.failure {
            return Err(Error::Output(failure));
        }
    }
    totals.note_single_steps(&ctx, args.generate.steps_at_once);
    note!("{}", summary::line(&ctx, &totals));
    device::finish(&ctx)?;
    // A shell must not take half a text for a whole one.
    if generation.stop == StopReason::Interrupted { Err(Error::BrokenOff) } else { Ok(()) }
}

/// The prompt's tokens: as it stands, or as a user's message.
fn encode(args: &RunArgs, loaded: &Loaded, text: String) -> Result<Vec<u32>> {
    let Loaded { files, tokenizer, .. } = loaded;
    if !args.chat && args.system.is_none() {
        let mut ids = tokenizer.encode(&text, true, true)?;
        // A model without a BOS of its own still needs something to begin with.
        if ids.is_empty() {
            ids.extend(tokenizer.bos());
        }
        return Ok(ids);
    }
    let system = args.system.iter().map(|system| ChatMessage::new("system", system.clone()));
    let messages: Vec<_> = system.chain([ChatMessage::new("user", text)]).collect();
    let template = files.chat_template(tokenizer)?;
    Ok(template.encode(tokenizer, &messages, ChatOptions::default())?)
}

/// Generated text on its way to standard output.
struct Shown {
    text: String,
    /// Print at once; otherwise only collect.
    live: bool,
    failure: Option<io::Error>,
}

impl Shown {
    fn show(&mut self, piece: &str) {
        self.text.push_str(piece);
        if self.live && !piece.is_empty() && self.failure.is_none() {
            let mut out = io::stdout().lock();
            self.failure = out.write_all(piece.as_bytes()).and_then(|()| out.flush()).err();
        }
    }

    /// Ends the last line for whoever reads standard error on the same terminal.
    fn end_line(&self) {
        use std::io::IsTerminal;
        if self.live && io::stdout().is_terminal() && !self.text.ends_with('\n') {
            note!("");
        }
    }
}
