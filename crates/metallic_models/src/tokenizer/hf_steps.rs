//! Steps of a `tokenizer.json` on which the library panics: refused before it sees them.

use serde_json::Value;
use tokenizers::utils::SysRegex;

use super::gguf::bad;
use super::hf::unsupported;
use crate::error::{Error, Result};

/// Texts in which a pattern that may match nothing does so.
const PROBES: [&str; 4] = ["", "a", "1 ", "▁é\n"];

/// Checks what stands under `normalizer` and `pre_tokenizer`.
///
/// # Errors
/// [`Error::UnsupportedTokenizer`] for a step that no BPE model has, [`Error::BadVocabulary`] for one
/// that replaces or prepends a text of no length, [`Error::Tokenizer`] for a pattern that is none.
pub(super) fn check(normalizer: Option<&Value>, pre_tokenizer: Option<&Value>) -> Result<()> {
    let kind = |step: &Value| step.get("type").and_then(Value::as_str).map(str::to_owned);
    for (index, step) in flat(normalizer, "normalizers").into_iter().enumerate() {
        match kind(step).as_deref() {
            // A table of SentencePiece's own, trusted byte for byte.
            Some(got @ "Precompiled") => {
                let known = "NFC, NFKC, Lowercase, Prepend, Replace and such";
                return Err(unsupported("normalizer.type", got.to_owned(), known));
            }
            Some("Replace") => check_replace(step, index)?,
            Some("Prepend") if step.get("prepend").and_then(Value::as_str) == Some("") => {
                return Err(bad("normalizer", index, "", "prepends a text of no length"));
            }
            _ => {}
        }
    }
    for step in flat(pre_tokenizer, "pretokenizers") {
        if let Some(got @ "FixedLength") = kind(step).as_deref() {
            let known = "ByteLevel, Split, Metaspace, Digits and such";
            return Err(unsupported("pre_tokenizer.type", got.to_owned(), known));
        }
    }
    Ok(())
}

fn check_replace(step: &Value, index: usize) -> Result<()> {
    let Some(pattern) = step.get("pattern") else { return Ok(()) };
    let of = |name: &str| pattern.get(name).and_then(Value::as_str);
    let (text, empty) = match (of("String"), of("Regex")) {
        (Some(text), _) => (text, text.is_empty()),
        (None, Some(regex)) => {
            let source = SysRegex::new(regex);
            let found = source.map_err(|source| Error::Tokenizer { action: "be built", source })?;
            let nothing = |probe: &&str| found.find_iter(probe).any(|(start, end)| start == end);
            (regex, PROBES.iter().any(nothing))
        }
        (None, None) => return Ok(()),
    };
    if empty {
        return Err(bad("normalizer", index, text, "replaces a text of no length"));
    }
    Ok(())
}

/// A step, or those of a sequence of them, however deep.
pub(super) fn flat<'a>(step: Option<&'a Value>, inner: &str) -> Vec<&'a Value> {
    let Some(step) = step else { return Vec::new() };
    match step.get(inner).and_then(Value::as_array) {
        Some(steps) => steps.iter().flat_map(|step| flat(Some(step), inner)).collect(),
        None => vec![step],
    }
}
