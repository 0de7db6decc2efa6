//! Decoding ids one by one, never in the middle of a character.

use std::sync::Arc;

use super::vocabulary::{TokenKind, Vocabulary};

/// Turns ids into text as they come. The cost of a token depends on its own length alone.
#[derive(Clone, Debug)]
pub struct StreamDecoder {
    vocabulary: Arc<Vocabulary>,
    skip_special: bool,
    /// The beginning of a character that is not complete: at most 3 bytes between calls.
    pending: Vec<u8>,
}

impl StreamDecoder {
    pub(super) fn new(vocabulary: Arc<Vocabulary>, skip_special: bool) -> Self {
        Self { vocabulary, skip_special, pending: Vec::new() }
    }

    /// The text that is complete with this token; `None` when none is, or the token has none.
    pub fn push(&mut self, id: u32) -> Option<String> {
        let kind = self.vocabulary.kind(id);
        if self.skip_special && matches!(kind, TokenKind::Control | TokenKind::Unknown) {
            return None;
        }
        self.pending.extend(self.vocabulary.bytes(id)?);
        let mut text = String::new();
        let mut done = 0;
        while let Some(rest) = self.pending.get(done..).filter(|rest| !rest.is_empty()) {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    done = self.pending.len();
                }
                Err(error) => {
                    let (valid, _) = rest.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    done += valid.len();
                    // Without a length the rest may still become a character.
                    let Some(invalid) = error.error_len() else { break };
                    text.push(char::REPLACEMENT_CHARACTER);
                    done += invalid;
                }
            }
        }
        self.pending.drain(..done);
        (!text.is_empty()).then_some(text)
    }

    /// Ends the text: U+FFFD if it ended within a character. The decoder can be used again.
    pub fn finish(&mut self) -> Option<String> {
        let rest = std::mem::take(&mut self.pending);
        (!rest.is_empty()).then(|| char::REPLACEMENT_CHARACTER.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoder(tokens: &[&[u8]]) -> StreamDecoder {
        let mut vocabulary = Vocabulary::default();
        tokens.iter().for_each(|bytes| vocabulary.push(bytes, TokenKind::Normal));
        vocabulary.push(b"<end>", TokenKind::Control);
        StreamDecoder::new(Arc::new(vocabulary), true)
    }

    #[test]
    fn characters_come_out_whole() {
        let mut stream = decoder(&[b"a\xf0\x9f", b"\x98", b"\x80b", b"\xff", b"\xe2\x82"]);
        assert_eq!(stream.push(0).as_deref(), Some("a"));
        assert_eq!(stream.push(1), None);
        assert_eq!(stream.push(2).as_deref(), Some("😀b"));
        assert_eq!(stream.push(3).as_deref(), Some("\u{fffd}"));
        assert_eq!(stream.push(5), None, "control tokens are skipped");
        assert_eq!(stream.push(99), None, "no such token");
        assert_eq!(stream.push(4), None);
        assert_eq!(stream.push(3).as_deref(), Some("\u{fffd}\u{fffd}"));
        assert_eq!(stream.push(4), None);
        assert_eq!(stream.finish().as_deref(), Some("\u{fffd}"));
        assert_eq!(stream.finish(), None);
    }
}
