//! A tokenizer from the vocabulary, merges and settings of a GGUF file.

use std::collections::HashMap;

use tokenizers::models::bpe::{BPE, BpeBuilder, Vocab};
use tokenizers::normalizers::{Prepend, Replace, Sequence};
use tokenizers::{AddedToken, NormalizerWrapper};

use super::pre_tokenizer::PreTokenizer;
use super::sentencepiece::{self, Piece};
use super::special::SpecialTokens;
use super::vocabulary::{TokenKind, Vocabulary};
use super::{Tokenizer, byte_level};
use crate::error::{BoxedError, Error, Result};
use crate::gguf::Metadata;

/// Bytes of the longest token that makes sense; merges cost its square.
const MAX_TOKEN_BYTES: usize = 4096;

impl Tokenizer {
    /// Builds the tokenizer that a GGUF file describes: model `gpt2` (byte-level BPE) or `llama`
    /// (SentencePiece).
    ///
    /// # Errors
    /// [`Error::UnsupportedTokenizer`] for other kinds, [`Error::BadVocabulary`] when merges and
    /// tokens contradict each other, or what is wrong with a key.
    pub fn from_gguf(metadata: &Metadata) -> Result<Self> {
        let key = "tokenizer.ggml.model";
        let tokens = Tokens::read(metadata)?;
        match metadata.str(key)? {
            "gpt2" => tokens.byte_level(metadata),
            "llama" => tokens.sentencepiece(metadata),
            other => Err(Error::UnsupportedTokenizer {
                key,
                got: other.to_owned(),
                known: "gpt2, llama",
            }),
        }
    }
}

/// The token list.
struct Tokens<'a> {
    texts: &'a [String],
    kinds: Vec<TokenKind>,
    /// The first id of each text.
    ids: HashMap<&'a str, u32>,
}

impl<'a> Tokens<'a> {
    fn read(metadata: &'a Metadata) -> Result<Self> {
        let texts = metadata.strings("tokenizer.ggml.tokens")?;
        let types = metadata.find_i32s("tokenizer.ggml.token_type")?;
        let kinds: Vec<TokenKind> = match types {
            Some(types) => types.into_iter().map(kind_of_type).collect(),
            None => vec![TokenKind::Normal; texts.len()],
        };
        same_length("tokenizer.ggml.token_type", kinds.len(), texts.len())?;
        let mut ids = HashMap::with_capacity(texts.len());
        for (id, text) in (0u32..).zip(texts) {
            if text.len() > MAX_TOKEN_BYTES {
                let problem = "is longer than 4096 bytes";
                return Err(bad("token", id as usize, text, problem));
            }
            ids.entry(text.as_str()).or_insert(id);
        }
        Ok(Self { texts, kinds, ids })
    }

    fn byte_level(self, metadata: &Metadata) -> Result<Tokenizer> {
        let pre = PreTokenizer::of_name(metadata.find_str("tokenizer.ggml.pre")?)?;
        let mut merges = Vec::new();
        let mut union = String::new();
        for (index, merge) in metadata.strings("tokenizer.ggml.merges")?.iter().enumerate() {
            let Some((left, right)) = merge.split_once(' ') else {
                return Err(bad("merge", index, merge, "is not two tokens"));
            };
            union.clear();
            union.extend([left, right]);
            if [left, right, &union].iter().any(|text| !self.ids.contains_key(*text)) {
                return Err(bad("merge", index, merge, "uses a token that does not exist"));
            }
            merges.push((left.to_owned(), right.to_owned()));
        }
        let model =
            BPE::builder().vocab_and_merges(self.vocab(), merges).ignore_merges(pre.ignore_merges);
        let mut pipeline = build(model)?;
        set_normalizer(&mut pipeline, pre.normalizer)?;
        pipeline.with_pre_tokenizer(Some(pre.splitter));

        let vocabulary = self.vocabulary(|text, kind| match kind {
            TokenKind::Normal | TokenKind::Unused => byte_level::bytes_of_token(text),
            _ => text.as_bytes().to_vec(),
        });
        self.finish(
            metadata,
            pipeline,
            vocabulary,
            Defaults { add_bos: pre.add_bos, ..NO_DEFAULTS },
        )
    }

    fn sentencepiece(self, metadata: &Metadata) -> Result<Tokenizer> {
        let scores = metadata.f32s("tokenizer.ggml.scores")?;
        same_length("tokenizer.ggml.scores", scores.len(), self.texts.len())?;
        // Merging must not lead to `</s>` or `<0x41>`: only text takes part.
        let pieces: Vec<Piece<'_>> = self
            .texts
            .iter()
            .zip(&self.kinds)
            .zip(scores)
            .filter(|((_, kind), _)| matches!(kind, TokenKind::Normal | TokenKind::UserDefined))
            .map(|((text, _), &score)| Piece { text, score })
            .collect();
        let mut model = BPE::builder()
            .vocab_and_merges(self.vocab(), sentencepiece::merges(&pieces))
            .byte_fallback(self.kinds.contains(&TokenKind::Byte))
            .fuse_unk(true);
        let unknown = self.kinds.iter().position(|&kind| kind == TokenKind::Unknown);
        if let Some(text) = unknown.and_then(|id| self.texts.get(id)) {
            model = model.unk_token(text.clone());
        }
        let mut pipeline = build(model)?;
        let space_prefix = metadata.find_bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
        let mut steps: Vec<NormalizerWrapper> = Vec::new();
        if space_prefix {
            steps.push(Prepend::new(sentencepiece::SPACE.to_string()).into());
        }
        steps.push(Replace::new(" ", sentencepiece::SPACE).map_err(refused)?.into());
        set_normalizer(&mut pipeline, Some(Sequence::new(steps).into()))?;

        let vocabulary = self.vocabulary(sentencepiece::bytes_of_token);
        let defaults = Defaults { bos: Some(1), eos: Some(2), add_bos: true, space_prefix };
        self.finish(metadata, pipeline, vocabulary, defaults)
    }

    fn vocab(&self) -> Vocab {
        self.ids.iter().map(|(&text, &id)| (text.to_owned(), id)).collect()
    }

    fn vocabulary(&self, bytes: impl Fn(&str, TokenKind) -> Vec<u8>) -> Vocabulary {
        let mut vocabulary = Vocabulary::default();
        for (text, &kind) in self.texts.iter().zip(&self.kinds) {
            vocabulary.push(&bytes(text, kind), kind);
        }
        vocabulary
    }

    fn finish(
        self,
        metadata: &Metadata,
        mut pipeline: tokenizers::Tokenizer,
        vocabulary: Vocabulary,
        defaults: Defaults,
    ) -> Result<Tokenizer> {
        let added = self.texts.iter().zip(&self.kinds).filter_map(|(text, kind)| match kind {
            // `<unk>` too, as Hugging Face and llama.cpp do.
            TokenKind::Control | TokenKind::Unknown => {
                Some(AddedToken::from(text.as_str(), true).normalized(false))
            }
            // SentencePiece's runs of spaces are found by merging: the text has other spaces.
            TokenKind::UserDefined if !text.contains(sentencepiece::SPACE) => {
                Some(AddedToken::from(text.as_str(), false).normalized(false))
            }
            _ => None,
        });
        pipeline.add_tokens(added).map_err(refused)?;

        let id = |name: &str, default: Option<u32>| -> Result<Option<u32>> {
            let key = format!("tokenizer.ggml.{name}");
            let Some(id) = metadata.find_u32(&key)? else {
                return Ok(default.filter(|&id| vocabulary.kind(id) == TokenKind::Control));
            };
            if (id as usize) < vocabulary.len() {
                return Ok(Some(id));
            }
            let expected = format!("below the {} tokens", vocabulary.len());
            Err(Error::BadValue { key, got: id.to_string(), expected })
        };
        let flag = |name: &str, default: bool| -> Result<bool> {
            Ok(metadata.find_bool(&format!("tokenizer.ggml.{name}"))?.unwrap_or(default))
        };
        let mut special = SpecialTokens {
            bos: id("bos_token_id", defaults.bos)?,
            eos: id("eos_token_id", defaults.eos)?,
            pad: id("padding_token_id", None)?,
            ..SpecialTokens::default()
        };
        if flag("add_bos_token", defaults.add_bos)? {
            special.prefix.extend(special.bos);
        }
        if flag("add_eos_token", false)? {
            special.suffix.extend(special.eos);
        }
        let listed = [id("eot_token_id", None)?, id("eom_token_id", None)?];
        special.collect_eog(&vocabulary, listed.into_iter().flatten());
        Ok(Tokenizer::new(pipeline, vocabulary, special, defaults.space_prefix))
    }
}

/// What holds where the file says nothing.
struct Defaults {
    bos: Option<u32>,
    eos: Option<u32>,
    add_bos: bool,
    space_prefix: bool,
}

const NO_DEFAULTS: Defaults =
    Defaults { bos: None, eos: None, add_bos: false, space_prefix: false };

/// `tokenizer.ggml.token_type`, as `llama.cpp` numbers it.
fn kind_of_type(token_type: i32) -> TokenKind {
    match token_type {
        2 => TokenKind::Unknown,
        3 => TokenKind::Control,
        4 => TokenKind::UserDefined,
        5 => TokenKind::Unused,
        6 => TokenKind::Byte,
        _ => TokenKind::Normal,
    }
}

fn build(model: BpeBuilder) -> Result<tokenizers::Tokenizer> {
    Ok(tokenizers::Tokenizer::new(model.build().map_err(refused)?))
}

fn set_normalizer(
    pipeline: &mut tokenizers::Tokenizer,
    normalizer: Option<NormalizerWrapper>,
) -> Result<()> {
    pipeline.with_normalizer(normalizer).map_err(refused)?;
    Ok(())
}

fn refused(source: BoxedError) -> Error {
    Error::Tokenizer { action: "be built", source }
}

fn same_length(key: &str, got: usize, tokens: usize) -> Result<()> {
    if got == tokens {
        return Ok(());
    }
    Err(Error::BadValue {
        key: key.to_owned(),
        got: format!("{got} entries long"),
        expected: format!("one entry for each of the {tokens} tokens"),
    })
}

/// A contradiction in the vocabulary; `text` is shortened for the message.
pub(super) fn bad(what: &'static str, index: usize, text: &str, problem: &'static str) -> Error {
    Error::BadVocabulary { what, index, text: text.chars().take(60).collect(), problem }
}
