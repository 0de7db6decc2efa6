//! Text to token ids and back. Not: chat formats (`chat_template`), nor sampling.
//!
//! The splitting and merging is done by the `tokenizers` crate, whether the tokenizer comes from
//! a Hugging Face `tokenizer.json` or is built from the vocabulary of a GGUF file. Decoding is
//! done here, from a table of each token's bytes, so that it costs the same for every token.

mod byte_level;
mod gguf;
mod growth;
mod hf;
mod hf_steps;
mod pre_tokenizer;
mod sentencepiece;
mod shield;
mod special;
mod stream;
mod vocabulary;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{Error, Result};

use growth::Growth;
pub use hf::HfSettings;
pub use special::SpecialTokens;
pub use stream::StreamDecoder;
pub use vocabulary::{TokenKind, Vocabulary};

/// A tokenizer with everything a model file says about it. Can be shared between threads.
pub struct Tokenizer {
    /// Behind a lock because "parse special tokens" is a setting of the library's object.
    pipeline: Mutex<tokenizers::Tokenizer>,
    vocabulary: Arc<Vocabulary>,
    special: SpecialTokens,
    /// A space is put before the text; it is taken away again from whole decoded texts.
    space_prefix: bool,
    growth: Growth,
}

impl Tokenizer {
    fn new(
        pipeline: tokenizers::Tokenizer,
        vocabulary: Vocabulary,
        special: SpecialTokens,
        space_prefix: bool,
    ) -> Self {
        let pipeline = Mutex::new(pipeline);
        let (vocabulary, growth) = (Arc::new(vocabulary), Growth::NONE);
        Self { pipeline, vocabulary, special, space_prefix, growth }
    }

    /// The ids of `text`.
    ///
    /// With `add_special` the model's own frame is added: a BOS token, if the model file says
    /// so. With `parse_special` text like `<|im_end|>` becomes that control token; without, it
    /// is ordinary text and yields no control token whatever the text holds.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when the tokenizer cannot represent the text, [`Error::TextGrows`] when it
    /// could make too much of it.
    pub fn encode(&self, text: &str, add_special: bool, parse_special: bool) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        if add_special {
            ids.extend(&self.special.prefix);
        }
        self.encode_into(&mut ids, text, parse_special)?;
        if add_special {
            ids.extend(&self.special.suffix);
        }
        Ok(ids)
    }

    fn encode_into(&self, ids: &mut Vec<u32>, text: &str, parse_special: bool) -> Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        self.growth.check(text.len(), || self.pieces(text))?;
        let encoding = {
            let mut pipeline = self.pipeline.lock().unwrap_or_else(PoisonError::into_inner);
            pipeline.set_encode_special_tokens(!parse_special);
            pipeline
                .encode_fast(text, false)
                .map_err(|source| Error::Tokenizer { action: "encode this text", source })?
        };
        for &id in encoding.get_ids() {
            if !parse_special && self.vocabulary.kind(id) == TokenKind::Control {
                // The vocabulary itself leads to a control token: spell it byte by byte.
                ids.extend(self.vocabulary.spell(id));
            } else {
                ids.push(id);
            }
        }
        Ok(())
    }

    /// Pieces that special tokens may divide `text` into, at most.
    fn pieces(&self, text: &str) -> usize {
        let kinds = [TokenKind::Control, TokenKind::Unknown, TokenKind::UserDefined];
        let ids = kinds.into_iter().flat_map(|kind| self.vocabulary.of_kind(kind));
        let tokens = ids.filter_map(|id| std::str::from_utf8(self.vocabulary.bytes(id)?).ok());
        let found =
            tokens.filter(|token| !token.is_empty()).map(|token| text.matches(token).count());
        1 + found.sum::<usize>()
    }

    /// The text of `ids`. Ids without a token add nothing; bytes that are no UTF-8 become U+FFFD.
    /// With `skip_special` control tokens add nothing either.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let mut bytes = Vec::new();
        for &id in ids {
            if !(skip_special && self.is_special(id)) {
                bytes.extend(self.token_bytes(id).unwrap_or_default());
            }
        }
        let text = match &bytes[..] {
            [b' ', rest @ ..] if self.space_prefix => rest,
            all => all,
        };
        String::from_utf8_lossy(text).into_owned()
    }

    /// A decoder for ids that come one by one. It continues a text: other than
    /// [`Tokenizer::decode`] it keeps a leading space.
    pub fn stream_decoder(&self, skip_special: bool) -> StreamDecoder {
        StreamDecoder::new(Arc::clone(&self.vocabulary), skip_special)
    }

    /// The bytes a token stands for, perhaps only a part of a character; `None` past the
    /// vocabulary.
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        self.vocabulary.bytes(id)
    }

    /// The id of a token's text as the vocabulary stores it (`<|im_end|>`, `Ġthe`).
    pub fn token_id(&self, text: &str) -> Option<u32> {
        self.pipeline.lock().unwrap_or_else(PoisonError::into_inner).token_to_id(text)
    }

    /// The largest id plus one. The model's embedding may have more rows.
    pub fn vocab_size(&self) -> usize {
        self.vocabulary.len()
    }

    /// All tokens.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// The beginning-of-text token that the model file names, whether or not it is added.
    pub fn bos(&self) -> Option<u32> {
        self.special.bos
    }

    /// The end-of-text token that the model file names.
    pub fn eos(&self) -> Option<u32> {
        self.special.eos
    }

    /// The tokens that end a reply, ascending.
    pub fn eog(&self) -> &[u32] {
        &self.special.eog
    }

    /// True for a token that ends a reply.
    pub fn is_eog(&self, id: u32) -> bool {
        self.special.eog.binary_search(&id).is_ok()
    }

    /// True for control tokens and the unknown token: no text of a reply.
    pub fn is_special(&self, id: u32) -> bool {
        matches!(self.vocabulary.kind(id), TokenKind::Control | TokenKind::Unknown)
    }

    /// All that the model file says about special tokens.
    pub fn special(&self) -> &SpecialTokens {
        &self.special
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size())
            .field("special", &self.special)
            .finish_non_exhaustive()
    }
}
