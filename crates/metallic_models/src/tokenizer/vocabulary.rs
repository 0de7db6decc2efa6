//! The table behind decoding: the bytes and the kind of every token.

use std::collections::HashMap;

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenKind {
    /// Text.
    Normal,
    /// Stands for characters that the vocabulary lacks.
    Unknown,
    /// Steers the model and is no text: `<|im_end|>`.
    Control,
    /// Text that is always one token: `<tool_call>`.
    UserDefined,
    /// One byte.
    Byte,
    /// No token has this id, or it is a placeholder.
    Unused,
}

/// Bytes and kinds of all tokens, by id.
#[derive(Clone, Debug, Default)]
pub struct Vocabulary {
    bytes: Vec<u8>,
    /// Where a token's bytes end; they begin where those of the id before end.
    ends: Vec<usize>,
    kinds: Vec<TokenKind>,
    /// Tokens that are exactly one byte.
    by_byte: HashMap<u8, u32>,
}

impl Vocabulary {
    /// Appends the token of the next id.
    pub(super) fn push(&mut self, bytes: &[u8], kind: TokenKind) {
        if let ([byte], TokenKind::Normal | TokenKind::Byte) = (bytes, kind) {
            let id = self.ends.len() as u32;
            // SentencePiece has `<0x41>` and `A`: the byte token counts.
            match kind {
                TokenKind::Byte => _ = self.by_byte.insert(*byte, id),
                _ => _ = self.by_byte.entry(*byte).or_insert(id),
            }
        }
        self.bytes.extend(bytes);
        self.ends.push(self.bytes.len());
        self.kinds.push(kind);
    }

    /// Number of ids.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// True without tokens.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The bytes of a token; `None` past the end.
    pub fn bytes(&self, id: u32) -> Option<&[u8]> {
        let id = usize::try_from(id).ok()?;
        let end = *self.ends.get(id)?;
        let start = match id.checked_sub(1) {
            Some(before) => *self.ends.get(before)?,
            None => 0,
        };
        self.bytes.get(start..end)
    }

    /// What a token is for; [`TokenKind::Unused`] past the end.
    pub fn kind(&self, id: u32) -> TokenKind {
        let kind = usize::try_from(id).ok().and_then(|id| self.kinds.get(id));
        kind.copied().unwrap_or(TokenKind::Unused)
    }

    /// Ids of one kind, ascending.
    pub fn of_kind(&self, kind: TokenKind) -> impl Iterator<Item = u32> {
        let ids = (0u32..).zip(&self.kinds);
        ids.filter(move |&(_, of_token)| *of_token == kind).map(|(id, _)| id)
    }

    /// The bytes of a token, each as a token of its own. Bytes without one are left out.
    pub(super) fn spell(&self, id: u32) -> impl Iterator<Item = u32> {
        let bytes = self.bytes(id).unwrap_or_default();
        bytes.iter().filter_map(|byte| self.by_byte.get(byte).copied())
    }
}
