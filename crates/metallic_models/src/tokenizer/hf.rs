//! A tokenizer from Hugging Face files: `tokenizer.json` and the settings beside it.
//!
//! `tokenizer.json` is read twice: here for what must be checked and kept (the library panics on
//! some contradictions), and by the library for its pipeline.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::gguf::bad;
use super::growth::Growth;
use super::special::SpecialTokens;
use super::vocabulary::{TokenKind, Vocabulary};
use super::{Tokenizer, byte_level, hf_steps, sentencepiece};
use crate::error::{Error, Result};
use crate::hf_folder::HfFolder;

/// Every id is below: a bound on the table of a damaged file.
const MAX_ID: u32 = 1 << 24;

/// The JSON files beside `tokenizer.json` that name special tokens. Any may be empty.
#[derive(Clone, Copy, Debug, Default)]
pub struct HfSettings<'a> {
    /// `tokenizer_config.json`.
    pub tokenizer_config: Option<&'a Map<String, Value>>,
    /// `generation_config.json`.
    pub generation_config: Option<&'a Map<String, Value>>,
    /// `config.json`.
    pub config: Option<&'a Map<String, Value>>,
}

#[derive(Deserialize)]
struct KindJson {
    model: ModelKindJson,
}

#[derive(Deserialize)]
struct ModelKindJson {
    #[serde(rename = "type")]
    kind: Option<String>,
}

#[derive(Deserialize)]
struct TokenizerJson {
    #[serde(default)]
    added_tokens: Vec<AddedTokenJson>,
    model: ModelJson,
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    decoder: Option<Value>,
    post_processor: Option<Value>,
}

#[derive(Deserialize)]
struct AddedTokenJson {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
struct ModelJson {
    vocab: HashMap<String, u32>,
    merges: Vec<MergeJson>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum MergeJson {
    Pair(String, String),
    Joined(String),
}

impl Tokenizer {
    /// The tokenizer of a folder.
    ///
    /// # Errors
    /// See [`Tokenizer::from_json`].
    pub fn from_hf(folder: &HfFolder) -> Result<Self> {
        let settings = HfSettings {
            tokenizer_config: Some(folder.tokenizer_config()),
            generation_config: Some(folder.generation_config()),
            config: Some(folder.config()),
        };
        Self::from_json(folder.tokenizer(), &settings)
    }

    /// A tokenizer from the bytes of a `tokenizer.json`; BPE models only.
    ///
    /// # Errors
    /// [`Error::Json`], [`Error::UnsupportedTokenizer`], [`Error::BadVocabulary`] when merges and
    /// tokens contradict each other, or the library's refusal.
    pub fn from_json(bytes: &[u8], settings: &HfSettings<'_>) -> Result<Self> {
        let json_error = |source| Error::Json { file: "tokenizer.json".to_owned(), source };
        let kind: KindJson = serde_json::from_slice(bytes).map_err(json_error)?;
        if let Some(kind) = kind.model.kind
            && kind != "BPE"
        {
            return Err(unsupported("model.type", kind, "BPE"));
        }
        let json: TokenizerJson = serde_json::from_slice(bytes).map_err(json_error)?;
        json.model.check()?;
        hf_steps::check(json.normalizer.as_ref(), json.pre_tokenizer.as_ref())?;
        let decoding = Decoding::of_decoder(json.decoder.as_ref())?;
        let vocabulary = json.vocabulary(&decoding)?;

        let refused = |source| Error::Tokenizer { action: "be built", source };
        let mut pipeline = tokenizers::Tokenizer::from_bytes(bytes).map_err(refused)?;
        pipeline.with_truncation(None).map_err(refused)?;
        pipeline.with_padding(None);
        for added in &json.added_tokens {
            if pipeline.token_to_id(&added.content) != Some(added.id) {
                let problem = "has an id that does not follow the vocabulary";
                return Err(bad("added token", added.id as usize, &added.content, problem));
            }
        }

        let special = json.special(settings, &vocabulary, &|text| pipeline.token_to_id(text))?;
        let space_prefix = matches!(decoding, Decoding::SentencePiece { space_prefix: true });
        let growth = Growth::of(json.normalizer.as_ref(), json.pre_tokenizer.as_ref());
        Ok(Self { growth, ..Self::new(pipeline, vocabulary, special, space_prefix) })
    }
}

impl ModelJson {
    fn check(&self) -> Result<()> {
        for (key, affix) in [
            ("model.continuing_subword_prefix", &self.continuing_subword_prefix),
            ("model.end_of_word_suffix", &self.end_of_word_suffix),
        ] {
            if let Some(affix) = affix.as_ref().filter(|affix| !affix.is_empty()) {
                return Err(unsupported(key, affix.clone(), "none"));
            }
        }
        let mut union = String::new();
        for (index, merge) in self.merges.iter().enumerate() {
            let (left, right) = match merge {
                MergeJson::Pair(left, right) => (left.as_str(), right.as_str()),
                MergeJson::Joined(joined) => joined
                    .split_once(' ')
                    .ok_or_else(|| bad("merge", index, joined, "is not two tokens"))?,
            };
            union.clear();
            union.extend([left, right]);
            if [left, right, &union].iter().any(|text| !self.vocab.contains_key(*text)) {
                return Err(bad("merge", index, &union, "uses a token that does not exist"));
            }
        }
        Ok(())
    }
}

impl TokenizerJson {
    fn vocabulary(&self, decoding: &Decoding) -> Result<Vocabulary> {
        let plain = self.model.vocab.iter().map(|(text, &id)| (id, text.as_str()));
        let added = self.added_tokens.iter().map(|added| (added.id, added.content.as_str()));
        let mut length = 0;
        for (id, text) in plain.clone().chain(added) {
            if id >= MAX_ID {
                return Err(bad("token", id as usize, text, "has an impossible id"));
            }
            length = length.max(id as usize + 1);
        }
        let mut table: Vec<(&str, TokenKind)> = vec![("", TokenKind::Unused); length];
        let mut set = |id: u32, text, kind| {
            if let Some(entry) = table.get_mut(id as usize) {
                *entry = (text, kind);
            }
        };
        let unknown = self.model.unk_token.as_deref();
        for (id, text) in plain {
            let kind = match decoding {
                _ if Some(text) == unknown => TokenKind::Unknown,
                Decoding::SentencePiece { .. } if sentencepiece::byte_of_token(text).is_some() => {
                    TokenKind::Byte
                }
                _ => TokenKind::Normal,
            };
            set(id, text, kind);
        }
        for added in &self.added_tokens {
            let kind = match added.special {
                true if Some(added.content.as_str()) == unknown => TokenKind::Unknown,
                true => TokenKind::Control,
                false => TokenKind::UserDefined,
            };
            set(added.id, &added.content, kind);
        }
        let mut vocabulary = Vocabulary::default();
        for (text, kind) in table {
            let bytes = match (decoding, kind) {
                (Decoding::ByteLevel, TokenKind::Normal) => byte_level::bytes_of_token(text),
                (Decoding::ByteLevel, _) => text.as_bytes().to_vec(),
                (Decoding::SentencePiece { .. }, _) => sentencepiece::bytes_of_token(text, kind),
            };
            vocabulary.push(&bytes, kind);
        }
        Ok(vocabulary)
    }

    fn special(
        &self,
        settings: &HfSettings<'_>,
        vocabulary: &Vocabulary,
        token_to_id: &dyn Fn(&str) -> Option<u32>,
    ) -> Result<SpecialTokens> {
        // By text in tokenizer_config.json, else by id, the first of a list, in the others.
        let ids = |file: Option<&Map<String, Value>>, key: &str| -> Vec<u32> {
            let number = |value: &Value| u32::try_from(value.as_u64()?).ok();
            match file.and_then(|file| file.get(key)) {
                Some(Value::Array(list)) => list.iter().filter_map(number).collect(),
                Some(value) => number(value).into_iter().collect(),
                None => Vec::new(),
            }
        };
        let role = |name: &str| {
            let named = settings.tokenizer_config.and_then(|file| token_text(file, name));
            let key = format!("{name}_id");
            let from = |file| ids(file, &key).first().copied();
            named
                .and_then(token_to_id)
                .or_else(|| from(settings.generation_config))
                .or_else(|| from(settings.config))
                .filter(|&id| (id as usize) < vocabulary.len())
        };
        let mut special = SpecialTokens {
            bos: role("bos_token"),
            eos: role("eos_token"),
            pad: role("pad_token"),
            ..SpecialTokens::default()
        };
        if let Some(processor) = &self.post_processor {
            (special.prefix, special.suffix) = template_frame(processor);
            special.prefix.retain(|&id| (id as usize) < vocabulary.len());
            special.suffix.retain(|&id| (id as usize) < vocabulary.len());
        }
        let key = "eos_token_id";
        let mut listed = ids(settings.generation_config, key);
        listed.extend(ids(settings.config, key));
        // A text that cannot end would be the outcome.
        if let Some(beyond) = listed.iter().find(|id| **id as usize >= vocabulary.len()) {
            let expected = format!("below the {} tokens", vocabulary.len());
            let (key, got) = (key.to_owned(), beyond.to_string());
            return Err(Error::BadValue { key, got, expected });
        }
        special.collect_eog(vocabulary, listed);
        Ok(special)
    }
}

/// A token in `tokenizer_config.json`: its text, or an object with the text as `content`.
pub(crate) fn token_text<'a>(file: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    let value = file.get(name)?;
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// What a `TemplateProcessing` step puts before and after one text.
fn template_frame(processor: &Value) -> (Vec<u32>, Vec<u32>) {
    let (mut prefix, mut suffix) = (Vec::new(), Vec::new());
    if let Some(steps) = processor.get("processors").and_then(Value::as_array) {
        for step in steps {
            let (before, after) = template_frame(step);
            prefix.splice(0..0, before);
            suffix.extend(after);
        }
    }
    let mut seen_text = false;
    for piece in processor.get("single").and_then(Value::as_array).into_iter().flatten() {
        if piece.get("Sequence").is_some() {
            seen_text = true;
        }
        let name = piece.get("SpecialToken").and_then(|token| token.get("id")?.as_str());
        let ids = name
            .and_then(|name| processor.get("special_tokens")?.get(name)?.get("ids")?.as_array());
        let side = if seen_text { &mut suffix } else { &mut prefix };
        let number = |id: &Value| u32::try_from(id.as_u64()?).ok();
        side.extend(ids.into_iter().flatten().filter_map(number));
    }
    (prefix, suffix)
}

/// How tokens become bytes.
enum Decoding {
    ByteLevel,
    SentencePiece { space_prefix: bool },
}

impl Decoding {
    fn of_decoder(decoder: Option<&Value>) -> Result<Self> {
        let mut steps = Vec::new();
        if let Some(decoder) = decoder {
            match decoder.get("decoders").and_then(Value::as_array) {
                Some(nested) => steps.extend(nested),
                None => steps.push(decoder),
            }
        }
        let step = |kind: &str| {
            let is_kind = |step: &&&Value| step.get("type").and_then(Value::as_str) == Some(kind);
            steps.iter().find(is_kind).copied()
        };
        if step("ByteLevel").is_some() {
            return Ok(Decoding::ByteLevel);
        }
        if let Some(metaspace) = step("Metaspace") {
            let never = metaspace.get("prepend_scheme").and_then(Value::as_str) == Some("never")
                || metaspace.get("add_prefix_space").and_then(Value::as_bool) == Some(false);
            return Ok(Decoding::SentencePiece { space_prefix: !never });
        }
        if step("ByteFallback").is_some() {
            let strip = step("Strip").and_then(|strip| strip.get("start")?.as_u64());
            return Ok(Decoding::SentencePiece { space_prefix: strip.is_some_and(|n| n > 0) });
        }
        let got = decoder.and_then(|decoder| decoder.get("type")?.as_str()).unwrap_or("none");
        Err(unsupported("decoder.type", got.to_owned(), "ByteLevel, ByteFallback, Metaspace"))
    }
}

pub(super) fn unsupported(key: &'static str, got: String, known: &'static str) -> Error {
    Error::UnsupportedTokenizer { key, got, known }
}
