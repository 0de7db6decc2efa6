//! How byte-level vocabularies of GGUF files cut text before merging, by `tokenizer.ggml.pre`.
//!
//! GGUF stores a name only; the rules are those of the models' own `tokenizer.json` files.

use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{NormalizerWrapper, SplitDelimiterBehavior};

use crate::error::{Error, Result};

/// What a name of `tokenizer.ggml.pre` stands for.
pub(super) struct PreTokenizer {
    pub(super) normalizer: Option<NormalizerWrapper>,
    pub(super) splitter: PreTokenizerWrapper,
    /// Words that are a token as a whole are not merged from bytes.
    pub(super) ignore_merges: bool,
    /// Whether a BOS token is added when the file does not say.
    pub(super) add_bos: bool,
}

/// Qwen 2 to 3: digits one by one, line breaks apart.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Llama 3: the same with up to three digits together.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

impl PreTokenizer {
    /// The rules of a name; without one, GPT-2's.
    pub(super) fn of_name(name: Option<&str>) -> Result<Self> {
        let gpt2 = ByteLevel::new(false, true, true);
        let plain =
            |splitter| Self { normalizer: None, splitter, ignore_merges: false, add_bos: false };
        match name {
            None | Some("default" | "gpt-2" | "gpt2") => Ok(plain(gpt2.into())),
            Some("smollm") => Ok(plain(sequence([Digits::new(true).into(), gpt2.into()]))),
            // Hugging Face composes accents first; llama.cpp does not.
            Some("qwen2" | "deepseek-r1-qwen") => {
                let normalizer = Some(NormalizerWrapper::NFC(NFC));
                Ok(Self { normalizer, ..plain(split_then_bytes(QWEN2)?) })
            }
            Some("llama-bpe" | "llama3" | "llama-v3") => {
                let splitter = split_then_bytes(LLAMA3)?;
                Ok(Self { ignore_merges: true, add_bos: true, ..plain(splitter) })
            }
            Some(other) => Err(Error::UnsupportedTokenizer {
                key: "tokenizer.ggml.pre",
                got: other.to_owned(),
                known: "default, gpt-2, llama-bpe, qwen2, smollm",
            }),
        }
    }
}

fn split_then_bytes(pattern: &str) -> Result<PreTokenizerWrapper> {
    let pattern = SplitPattern::Regex(pattern.to_owned());
    let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
        .map_err(|source| Error::Tokenizer { action: "be built", source })?;
    Ok(sequence([split.into(), ByteLevel::new(false, true, false).into()]))
}

fn sequence(parts: [PreTokenizerWrapper; 2]) -> PreTokenizerWrapper {
    Sequence::new(parts.into()).into()
}
