//! Keeps control tokens out of what people write in a chat.
//!
//! A chat template mixes its own control tokens with the messages' text in one string. To tell
//! them apart, control tokens within a message are put between two marks before rendering, and
//! what lies between the marks is encoded as ordinary text.

use std::borrow::Cow;

use super::{TokenKind, Tokenizer};
use crate::error::Result;

/// Marks: two of Unicode's noncharacters, which no text for interchange holds.
const OPEN: char = '\u{fdd0}';
const CLOSE: char = '\u{fdd1}';

impl Tokenizer {
    /// Marks each control token's text within a message, for [`Tokenizer::encode_chat`].
    pub fn shield<'a>(&self, message: &'a str) -> Cow<'a, str> {
        let controls: Vec<&str> = [TokenKind::Control, TokenKind::Unknown]
            .into_iter()
            .flat_map(|kind| self.vocabulary.of_kind(kind))
            .filter_map(|id| std::str::from_utf8(self.vocabulary.bytes(id)?).ok())
            .filter(|text| !text.is_empty() && message.contains(text))
            .collect();
        if controls.is_empty() && !message.contains([OPEN, CLOSE]) {
            return Cow::Borrowed(message);
        }
        let mut shielded = String::with_capacity(message.len() + 16);
        let mut rest = message;
        while let Some(character) = rest.chars().next() {
            let found = controls.iter().filter(|text| rest.starts_with(**text));
            match found.max_by_key(|text| text.len()) {
                Some(text) => {
                    shielded.push(OPEN);
                    shielded.push_str(text);
                    shielded.push(CLOSE);
                    rest = rest.get(text.len()..).unwrap_or_default();
                }
                None => {
                    if character != OPEN && character != CLOSE {
                        shielded.push(character);
                    }
                    rest = rest.get(character.len_utf8()..).unwrap_or_default();
                }
            }
        }
        Cow::Owned(shielded)
    }

    /// The ids of a rendered chat: the template's control tokens count, shielded text does not.
    /// BOS is added if the model wants it and the template has not written it.
    ///
    /// # Errors
    /// [`crate::Error::Tokenizer`].
    pub fn encode_chat(&self, rendered: &str) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        let mut parts = rendered.split(OPEN);
        self.encode_into(&mut ids, parts.next().unwrap_or_default(), true)?;
        for part in parts {
            let (shielded, open) = part.split_once(CLOSE).unwrap_or((part, ""));
            self.encode_into(&mut ids, shielded, false)?;
            self.encode_into(&mut ids, open, true)?;
        }
        if !ids.starts_with(&self.special.prefix) {
            ids.splice(0..0, self.special.prefix.iter().copied());
        }
        Ok(ids)
    }
}
