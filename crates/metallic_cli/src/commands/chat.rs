//! `metallic chat`: a conversation in which every turn only processes what is new.

use std::io::{self, Write};
use std::ops::ControlFlow;

use metallic_models::chat_template::{ChatMessage, ChatOptions, ChatTemplate};
use metallic_models::generate::{GenerateOptions, Generator, StopReason};
use metallic_models::sampler::Sampler;
use metallic_models::tokenizer::Tokenizer;

use crate::args::ChatArgs;
use crate::commands::chat_input::{Input, Line};
use crate::error::{Error, Result};
use crate::output::note;
use crate::summary::{self, Totals};
use crate::{device, interrupt, memory, model};

const HELP: &str = "/exit ends, /clear begins anew, /regen answers again, /help shows this";

/// Runs the command.
///
/// # Errors
/// Whatever is wrong with flags, model or device; a model without a chat template.
pub(super) fn run(args: &ChatArgs) -> Result<()> {
    let verbose = args.backend.verbose;
    let ctx = device::open_for_model(&args.backend, args.context.exact)?;
    let loaded = model::load(&ctx, &args.model, args.context.exact, verbose)?;
    let config = loaded.model.config();
    let sampler = args.sampling.sampler(config.vocab)?;
    let template = loaded.files.chat_template(&loaded.tokenizer)?;
    let max_len = args.context.context_len(config, 0);
    if verbose {
        note!("sampler: {}", sampler.describe());
        note!("seed: {}", sampler.seed());
        note!("context: {max_len} tokens");
    }
    let cache = args.context.cache(max_len, 0);
    let step = args.context.step(ctx.device().id().kind);
    memory::check_context(&ctx, &loaded.files, &cache, (max_len, step))?;
    let generator = Generator::new(&ctx, &loaded.model, cache, step)?;
    let system: Vec<_> =
        args.system.iter().map(|system| ChatMessage::new("system", system.clone())).collect();
    let mut conversation = Conversation {
        generator,
        tokenizer: &loaded.tokenizer,
        template,
        sampler,
        options: args.generate.options(),
        messages: system.clone(),
        totals: Totals::default(),
    };
    interrupt::install();
    let mut input = Input::open()?;
    if input.is_interactive() {
        note!("{}: {HELP}", loaded.files.name());
    }
    let ended = talk(&mut conversation, &mut input, &system);
    input.save();
    conversation.totals.note_single_steps(&ctx, args.generate.steps_at_once);
    note!("{}", summary::line(&ctx, &conversation.totals));
    device::finish(&ctx)?;
    ended
}

fn talk(
    conversation: &mut Conversation<'_>,
    input: &mut Input,
    system: &[ChatMessage],
) -> Result<()> {
    loop {
        interrupt::set_waiting(true);
        let line = input.read();
        interrupt::set_waiting(false);
        let text = match line? {
            Line::Text(text) => text,
            Line::End => return Ok(()),
        };
        let answered = match text.trim() {
            "" => continue,
            "/exit" | "/quit" | "/bye" => return Ok(()),
            "/help" | "/?" => {
                note!("{HELP}");
                continue;
            }
            "/clear" => {
                conversation.messages = system.to_vec();
                conversation.generator.truncate(0);
                conversation.sampler.reset();
                note!("the conversation begins anew");
                continue;
            }
            "/regen" => conversation.regenerate(),
            command if is_command(command) => {
                note!("unknown command {command}; {HELP}");
                continue;
            }
            _ => conversation.say(text),
        };
        match answered {
            Ok(()) => {}
            Err(Error::Models(error @ metallic_models::Error::PromptTooLong { .. })) => {
                note!("error: {error}, or begin anew with /clear");
                if !input.is_interactive() {
                    return Err(error.into());
                }
            }
            Err(error) => return Err(error),
        }
    }
}

/// A slash and one word: a slip of the hand, not a path or a question.
fn is_command(text: &str) -> bool {
    text.strip_prefix('/').is_some_and(|word| word.bytes().all(|byte| byte.is_ascii_lowercase()))
}

struct Conversation<'a> {
    generator: Generator<'a>,
    tokenizer: &'a Tokenizer,
    template: ChatTemplate,
    sampler: Sampler,
    options: GenerateOptions,
    messages: Vec<ChatMessage>,
    totals: Totals,
}

impl Conversation<'_> {
    /// Takes a message of the user and answers it.
    fn say(&mut self, text: String) -> Result<()> {
        self.messages.push(ChatMessage::new("user", text));
        let answered = self.answer();
        if !matches!(answered, Ok(Answered::Kept)) {
            self.messages.pop();
        }
        answered.map(drop)
    }

    /// Answers the last message of the user once more.
    fn regenerate(&mut self) -> Result<()> {
        let Some(answer) = self.messages.pop_if(|last| last.role == "assistant") else {
            note!("there is no answer yet");
            return Ok(());
        };
        let answered = self.answer();
        if !matches!(answered, Ok(Answered::Kept)) {
            self.messages.push(answer);
        }
        answered.map(drop)
    }

    fn answer(&mut self) -> Result<Answered> {
        let ids = self.template.encode(self.tokenizer, &self.messages, ChatOptions::default())?;
        // What the cache holds already need not be processed again; the last token must, for its
        // logits.
        let cached = self.generator.tokens();
        let common = cached.iter().zip(&ids).take_while(|(a, b)| a == b).count();
        let common = common.min(ids.len().saturating_sub(1));
        self.generator.truncate(common);
        let new = ids.get(common..).unwrap_or_default();
        interrupt::clear();
        let (mut text, mut failure) = (String::new(), None);
        // The penalties look at the text as it stands now, without an answer that was taken back.
        self.sampler.retell(&ids);
        let options = within(&self.options, self.generator.cache().max_len(), ids.len());
        let generation = self.generator.generate_with(
            new,
            self.tokenizer,
            &options,
            &mut self.sampler,
            &mut |piece| {
                text.push_str(piece);
                if failure.is_none() {
                    failure = print(piece).err();
                }
                if failure.is_some() || interrupt::is_set() {
                    return ControlFlow::Break(());
                }
                ControlFlow::Continue(())
            },
        )?;
        failure.map_or_else(|| print("\n"), Err)?;
        self.totals.add(&generation);
        if generation.stop == StopReason::ContextFull {
            note!("the context is full; begin anew with /clear, or start with a larger -c");
        }
        if generation.stop == StopReason::Interrupted && text.is_empty() {
            note!("interrupted before the first word; your message is taken back");
            return Ok(Answered::TakenBack);
        }
        self.messages.push(ChatMessage::new("assistant", text));
        Ok(Answered::Kept)
    }
}

/// What became of a question.
enum Answered {
    /// Its answer stands in the conversation.
    Kept,
    /// Ctrl-C came before any text.
    TakenBack,
}

/// `options` for a prompt of `prompt` tokens in a context of `context`: where the answer's bound is
/// beyond the end of the context, that end is the bound.
fn within(options: &GenerateOptions, context: usize, prompt: usize) -> GenerateOptions {
    let left = context.saturating_sub(prompt);
    let max_tokens = options.max_tokens.filter(|most| *most <= left);
    GenerateOptions { max_tokens, ..options.clone() }
}

fn print(piece: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(piece.as_bytes()).and_then(|()| out.flush())
}
