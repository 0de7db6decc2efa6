//! What flags mean for a generation: the prompt's text, the context's size, the sampler.

use std::path::Path;

use metallic::tensor::DType;
use metallic_models::generate::{GenerateOptions, Generation};
use metallic_models::kv_cache::KvCacheOptions;
use metallic_models::sampler::{Sampler, SamplerConfig};
use metallic_models::transformer::config::ModelConfig;

use crate::args::{ContextArgs, GenerateArgs, PromptArgs, SamplingArgs};
use crate::error::{Error, Result};
use crate::inputs;
use crate::output::note;

/// The context when nothing is said, as long as the model was made for that many tokens.
const DEFAULT_CONTEXT: usize = 4096;

/// Tokens of a prompt processed in one step when nothing is said.
const DEFAULT_STEP: usize = 512;
/// The same on an NVIDIA GPU: products of more rows keep more multiprocessors busy (`docs/cuda.md`).
const CUDA_STEP: usize = 2048;

/// The text of a prompt; one newline at the end of a file or of standard input is no part of it.
///
/// # Errors
/// As [`exact_text`].
pub(crate) fn prompt_text(args: &PromptArgs) -> Result<String> {
    let mut text = exact_text(args)?;
    let typed = args.prompt.as_deref().is_some_and(|prompt| prompt != "-");
    if !typed && text.ends_with('\n') {
        text.pop();
    }
    Ok(text)
}

/// The text that the flags name, to the last byte.
///
/// # Errors
/// [`Error::NoPrompt`] without one, [`Error::Read`], [`Error::NotUtf8`].
pub(crate) fn exact_text(args: &PromptArgs) -> Result<String> {
    match (args.prompt.as_deref(), args.file.as_deref()) {
        (Some("-"), _) => read_text(Path::new("-")),
        (Some(text), _) => Ok(text.to_owned()),
        (None, Some(file)) => read_text(file),
        (None, None) => Err(Error::NoPrompt),
    }
}

/// The text of a file, or of standard input for `-`.
///
/// # Errors
/// [`Error::Read`], [`Error::NotUtf8`].
pub(crate) fn read_text(path: &Path) -> Result<String> {
    String::from_utf8(inputs::read(path)?).map_err(|error| {
        let standard = path == Path::new("-");
        let what = if standard { "standard input".into() } else { path.display().to_string() };
        Error::NotUtf8 { what, offset: error.utf8_error().valid_up_to() }
    })
}

impl ContextArgs {
    /// Tokens of the context when `needed` are known to be wanted.
    pub(crate) fn context_len(&self, config: &ModelConfig, needed: usize) -> usize {
        let model = config.context_length;
        match self.ctx_size {
            Some(0) => model,
            Some(wanted) => {
                if wanted > model {
                    note!("warning: -c {wanted} is more than the {model} the model was made for");
                }
                wanted
            }
            None => needed.max(DEFAULT_CONTEXT).min(model),
        }
    }

    /// Element types of cached keys and values.
    pub(crate) fn cache_types(&self) -> (DType, DType) {
        let default = if self.exact { DType::F32 } else { DType::F16 };
        (self.cache_type_k.unwrap_or(default), self.cache_type_v.unwrap_or(default))
    }

    /// The cache of one sequence that will probably reach `expected` positions.
    pub(crate) fn cache(&self, max_len: usize, expected: usize) -> KvCacheOptions {
        let (k_dtype, v_dtype) = self.cache_types();
        KvCacheOptions {
            k_dtype,
            v_dtype,
            expected_len: expected.min(max_len),
            ..KvCacheOptions::new(max_len)
        }
    }

    /// Tokens of a prompt processed in one step on a device of this kind.
    pub(crate) fn step(&self, kind: &str) -> usize {
        let default = if kind == "cuda" { CUDA_STEP } else { DEFAULT_STEP };
        self.ubatch_size.unwrap_or(default).min(self.batch_size)
    }
}

impl GenerateArgs {
    /// Most tokens to generate; `None` for no bound.
    pub(crate) fn max_tokens(&self) -> Option<usize> {
        usize::try_from(self.n_predict).ok()
    }

    pub(crate) fn options(&self) -> GenerateOptions {
        GenerateOptions {
            max_tokens: self.max_tokens(),
            stop: self.stop.clone(),
            ignore_eos: self.ignore_eos,
            steps_at_once: self.steps_at_once,
        }
    }
}

impl SamplingArgs {
    /// The sampler for a vocabulary of `vocab` tokens.
    ///
    /// # Errors
    /// A setting outside its range, a bias for a token that there is not.
    pub(crate) fn sampler(&self, vocab: usize) -> Result<Sampler> {
        if let Some(biased) = self.logit_bias.iter().find(|bias| bias.token as usize >= vocab) {
            return Err(Error::BadFlag {
                flag: "--logit-bias",
                got: format!("for token {}", biased.token),
                expected: format!("a token below {vocab}"),
            });
        }
        Ok(Sampler::new(SamplerConfig {
            temperature: self.temp,
            top_k: usize::try_from(self.top_k).unwrap_or(0),
            top_p: self.top_p,
            min_p: self.min_p,
            typical_p: self.typical,
            repeat_penalty: self.repeat_penalty,
            repeat_last_n: usize::try_from(self.repeat_last_n).ok(),
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            logit_bias: self.logit_bias.iter().map(|bias| (bias.token, bias.bias)).collect(),
            seed: u64::try_from(self.seed).ok(),
        })?)
    }
}

/// Why a generation ended, as one word and what it was.
pub(crate) fn stop_reason(generation: &Generation) -> (&'static str, Option<String>) {
    use metallic_models::generate::StopReason;
    match &generation.stop {
        StopReason::EndOfText(id) => ("end_of_text", Some(id.to_string())),
        StopReason::StopString(text) => ("stop_string", Some(text.clone())),
        StopReason::Length => ("length", None),
        StopReason::ContextFull => ("context_full", None),
        StopReason::Interrupted => ("interrupted", None),
    }
}
