//! How much longer the steps of a `tokenizer.json` may make a text before it is split.
//!
//! Each step is harmless; thirty of them that double the text are not. So texts are refused whose
//! normalised form could outgrow the memory, by a bound from the steps alone: bytes that one byte
//! of a text becomes at most, and bytes that are added to each piece of it. Not: what the library
//! panics on (`hf_steps`).

use serde_json::Value;

use super::hf_steps::flat;
use crate::error::{Error, Result};

/// Most bytes of a normalised text: of each the library keeps another 16 bytes, so this is 4 GB.
const MOST_BYTES: usize = 256 << 20;

/// The growth of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Growth {
    /// Bytes that one byte becomes, at most.
    factor: usize,
    /// Bytes that come to each piece between special tokens.
    added: usize,
}

impl Growth {
    /// Of steps that are known to add little.
    pub(super) const NONE: Growth = Growth { factor: 1, added: 0 };

    /// Of what stands under `normalizer` and `pre_tokenizer`.
    pub(super) fn of(normalizer: Option<&Value>, pre_tokenizer: Option<&Value>) -> Self {
        let mut growth = Self::NONE;
        // Unicode's forms lengthen a user's text a few times, and not again what they made; only
        // what other steps insert do they lengthen without a bound.
        let mut inserted = false;
        for step in flat(normalizer, "normalizers") {
            let text = |key: &str| step.get(key).and_then(Value::as_str).map_or(0, str::len);
            match step.get("type").and_then(Value::as_str) {
                Some("Replace") => {
                    let pattern = step.get("pattern").and_then(|pattern| pattern.get("String"));
                    // What a regular expression finds has at least a byte.
                    let least = pattern.and_then(Value::as_str).map_or(1, str::len).max(1);
                    growth = growth.times(text("content").div_ceil(least));
                    inserted = true;
                }
                Some("Prepend") => {
                    growth.added = growth.added.saturating_add(text("prepend"));
                    inserted = true;
                }
                // U+FDFA, three bytes, has a decomposition of 33.
                Some("NFKC" | "NFKD") if inserted => growth = growth.times(11),
                Some("NFC" | "NFD") if inserted => growth = growth.times(3),
                Some("ByteLevel" | "BertNormalizer" | "Lowercase") => growth = growth.times(2),
                _ => {}
            }
        }
        for step in flat(pre_tokenizer, "pretokenizers") {
            match step.get("type").and_then(Value::as_str) {
                // Two bytes for one, and perhaps a space before each word.
                Some("ByteLevel") => growth = growth.times(3),
                // Three bytes for a space, and perhaps as many before each word.
                Some("Metaspace") => growth = growth.times(4),
                _ => {}
            }
        }
        growth
    }

    fn times(self, factor: usize) -> Self {
        let times = |bytes: usize| bytes.saturating_mul(factor.max(1));
        Self { factor: times(self.factor), added: times(self.added) }
    }

    /// Refuses a text of `bytes` bytes that could grow too long; `pieces` tells how many pieces the
    /// special tokens in it leave, and is asked only where that decides.
    ///
    /// # Errors
    /// [`Error::TextGrows`].
    pub(super) fn check(self, bytes: usize, pieces: impl FnOnce() -> usize) -> Result<()> {
        let grown = |pieces: usize| {
            let all = bytes.saturating_mul(self.factor);
            all.saturating_add(pieces.saturating_mul(self.added))
        };
        if self == Self::NONE || grown(bytes.saturating_add(1)) <= MOST_BYTES {
            return Ok(());
        }
        match grown(pieces()) {
            ..=MOST_BYTES => Ok(()),
            grown => Err(Error::TextGrows { bytes, grown, most: MOST_BYTES }),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(normalizer: &[Value], pre_tokenizer: &Value) -> Growth {
        let normalizer = json!({ "type": "Sequence", "normalizers": normalizer });
        Growth::of(Some(&normalizer), Some(pre_tokenizer))
    }

    fn replace(from: &str, to: &str) -> Value {
        json!({ "type": "Replace", "pattern": { "String": from }, "content": to })
    }

    #[test]
    fn a_bound_follows_from_the_steps() {
        let byte_level = json!({ "type": "ByteLevel" });
        let nfc = json!({ "type": "NFC" });
        assert_eq!(of(std::slice::from_ref(&nfc), &byte_level), Growth { factor: 3, added: 0 });
        let prepend = json!({ "type": "Prepend", "prepend": "▁" });
        let llama = of(&[prepend, replace(" ", "▁")], &Value::Null);
        assert_eq!(llama, Growth { factor: 3, added: 9 });
        assert_eq!(of(&[replace("``", "\"")], &Value::Null), Growth::NONE);
        assert_eq!(of(&[replace("a", "ﷺ"), nfc], &Value::Null), Growth { factor: 9, added: 0 });
        let twice = vec![replace("a", "aa"); 40];
        assert_eq!(of(&twice, &Value::Null).factor, 1 << 40);
        assert_eq!(of(&[&twice[..], &twice].concat(), &Value::Null).factor, usize::MAX);
    }

    #[test]
    fn long_texts_pass_and_those_that_grow_without_end_do_not() {
        // The longest text that the program reads.
        let long = 64 << 20;
        let llama = Growth { factor: 3, added: 9 };
        llama.check(long, || 1000).unwrap();
        Growth::NONE.check(usize::MAX, || usize::MAX).unwrap();
        Growth { factor: 4, added: 0 }.check(long, || 1).unwrap();
        let error = Growth { factor: 1 << 40, added: 0 }.check(4, || 1).unwrap_err().to_string();
        assert!(error.contains("4 bytes") && error.contains("normalizer"), "{error}");
        assert!(Growth { factor: 1, added: 1 << 30 }.check(4, || 2).is_err());
    }
}
