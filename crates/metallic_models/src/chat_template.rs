//! Chat templates: from messages to the text a model was trained on.
//!
//! Templates are Jinja, written for Hugging Face `transformers`; this gives them the surroundings
//! they have there. Not: encoding, except for the one call that does both safely.

mod functions;

use std::fmt;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Value, context};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde_json::Map;

use crate::error::{Error, Result};
use crate::gguf::Metadata;
use crate::hf_folder::HfFolder;
use crate::tokenizer::Tokenizer;
use functions::Raised;

/// What a model without a template gets if it has ChatML's tokens.
const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' \
    + message['content'] + '<|im_end|>\n' }}{% endfor %}\
    {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

const NAME: &str = "chat template";

/// What rendering may cost: instructions, and 64 bytes of text each. Some thousand times what a
/// conversation takes; a template without an end stops after part of a second.
const FUEL: u64 = 10_000_000;

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatMessage {
    /// `system`, `user` or `assistant`; some templates know `tool`.
    pub role: String,
    /// The text.
    pub content: String,
}

impl ChatMessage {
    /// A message.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// What a template is told besides the messages.
#[derive(Clone, Copy, Debug)]
pub struct ChatOptions {
    /// End with the beginning of the assistant's turn.
    pub add_generation_prompt: bool,
    /// The switch of models that can think aloud (Qwen 3); `None` leaves the template's default.
    pub enable_thinking: Option<bool>,
}

impl Default for ChatOptions {
    fn default() -> Self {
        Self { add_generation_prompt: true, enable_thinking: None }
    }
}

/// A compiled chat template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    bos_token: String,
    eos_token: String,
}

impl ChatTemplate {
    /// Compiles a template. `bos` and `eos` are texts that templates may write themselves.
    ///
    /// # Errors
    /// [`Error::TemplateSyntax`] with the line.
    pub fn new(source: &str, bos: Option<&str>, eos: Option<&str>) -> Result<Self> {
        let syntax_error = |source| Error::TemplateSyntax { source };
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(syntax_error)?);
        environment.set_unknown_method_callback(unknown_method_callback);
        environment.set_fuel(Some(FUEL));
        functions::add_to(&mut environment);
        let template = functions::without_generation_marks(source);
        environment.add_template_owned(NAME, template).map_err(syntax_error)?;
        Ok(Self {
            environment,
            source: source.to_owned(),
            bos_token: bos.unwrap_or_default().to_owned(),
            eos_token: eos.unwrap_or_default().to_owned(),
        })
    }

    /// The template of a GGUF file (`tokenizer.chat_template`), else ChatML if its tokens exist.
    ///
    /// # Errors
    /// [`Error::NoChatTemplate`], [`Error::TemplateSyntax`], [`Error::WrongType`].
    pub fn from_gguf(metadata: &Metadata, tokenizer: &Tokenizer) -> Result<Self> {
        let source = metadata.find_str("tokenizer.chat_template")?;
        Self::of_tokenizer(source, tokenizer)
    }

    /// The template of a Hugging Face folder: `chat_template.jinja`, else `chat_template` of
    /// `tokenizer_config.json` (text, or a list of named ones with a `default`), else ChatML if
    /// its tokens exist.
    ///
    /// # Errors
    /// [`Error::NoChatTemplate`], [`Error::TemplateSyntax`].
    pub fn from_hf(folder: &HfFolder, tokenizer: &Tokenizer) -> Result<Self> {
        let source = folder.template_file().or_else(|| named(folder.tokenizer_config()));
        Self::of_tokenizer(source, tokenizer)
    }

    fn of_tokenizer(source: Option<&str>, tokenizer: &Tokenizer) -> Result<Self> {
        let source = match source {
            Some(source) => source,
            None if tokenizer.token_id("<|im_start|>").is_some() => CHATML,
            None => return Err(Error::NoChatTemplate),
        };
        let text = |id: Option<u32>| {
            id.and_then(|id| tokenizer.token_bytes(id))
                .and_then(|bytes| std::str::from_utf8(bytes).ok())
        };
        Self::new(source, text(tokenizer.bos()), text(tokenizer.eos()))
    }

    /// The template's own text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The text of a conversation. It may begin with the BOS token: encode it with
    /// [`Tokenizer::encode_chat`].
    ///
    /// # Errors
    /// [`Error::TemplateRaised`] when the template refuses the messages,
    /// [`Error::TemplateRender`] when it fails.
    pub fn render(&self, messages: &[ChatMessage], options: ChatOptions) -> Result<String> {
        let values = messages.iter().map(|message| {
            context! { role => message.role.as_str(), content => message.content.as_str() }
        });
        let mut context = context! {
            messages => values.collect::<Vec<Value>>(),
            add_generation_prompt => options.add_generation_prompt,
            bos_token => self.bos_token.as_str(),
            eos_token => self.eos_token.as_str(),
            // `transformers` passes these as None, and templates ask whether they are.
            tools => Value::from(()),
            documents => Value::from(()),
        };
        if let Some(enable_thinking) = options.enable_thinking {
            context = context! { enable_thinking => enable_thinking, ..context };
        }
        let template = self.environment.get_template(NAME);
        template.and_then(|template| template.render(context)).map_err(|source| {
            match Raised::find_in(&source) {
                Some(message) => Error::TemplateRaised { message },
                None => Error::TemplateRender { source },
            }
        })
    }

    /// The ids of a conversation, in which text of a message never becomes a control token.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`] and [`Tokenizer::encode_chat`].
    pub fn encode(
        &self,
        tokenizer: &Tokenizer,
        messages: &[ChatMessage],
        options: ChatOptions,
    ) -> Result<Vec<u32>> {
        let shield = |message: &ChatMessage| {
            ChatMessage::new(message.role.clone(), tokenizer.shield(&message.content))
        };
        let shielded: Vec<ChatMessage> = messages.iter().map(shield).collect();
        tokenizer.encode_chat(&self.render(&shielded, options)?)
    }
}

/// `chat_template` of `tokenizer_config.json`.
fn named(config: &Map<String, serde_json::Value>) -> Option<&str> {
    let value = config.get("chat_template")?;
    if let Some(list) = value.as_array() {
        let is_default = |entry: &&serde_json::Value| {
            entry.get("name").and_then(serde_json::Value::as_str) == Some("default")
        };
        return list.iter().find(is_default)?.get("template")?.as_str();
    }
    value.as_str()
}

impl fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatTemplate").field("source", &self.source).finish_non_exhaustive()
    }
}
