//! SentencePiece vocabularies (GGUF's `llama`): the merges that their scores imply.
//!
//! SentencePiece joins the two neighbours whose union has the best score. As ranked merges: for
//! every piece, each way to cut it into two other pieces, the best score first. Hugging Face
//! converts such models in the same way and the same order.

use std::cmp::Reverse;
use std::collections::HashMap;

use super::vocabulary::TokenKind;

/// The character that stands for a space.
pub(super) const SPACE: char = '▁';

/// The bytes of a token's text.
pub(super) fn bytes_of_token(text: &str, kind: TokenKind) -> Vec<u8> {
    match kind {
        TokenKind::Byte => match byte_of_token(text) {
            Some(byte) => vec![byte],
            None => text.as_bytes().to_vec(),
        },
        TokenKind::Control | TokenKind::Unknown => text.as_bytes().to_vec(),
        _ => text.replace(SPACE, " ").into_bytes(),
    }
}

/// The byte of `<0x41>`.
pub(super) fn byte_of_token(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() != 2 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    u8::from_str_radix(digits, 16).ok()
}

/// A piece that may be merged.
pub(super) struct Piece<'a> {
    pub(super) text: &'a str,
    pub(super) score: f32,
}

/// All merges, the first to apply first.
pub(super) fn merges(pieces: &[Piece<'_>]) -> Vec<(String, String)> {
    let place: HashMap<&str, usize> =
        pieces.iter().enumerate().map(|(place, piece)| (piece.text, place)).collect();
    let mut found = Vec::new();
    for piece in pieces {
        let mut cuts: Vec<(usize, usize, &str, &str)> = Vec::new();
        for (cut, _) in piece.text.char_indices().skip(1) {
            let (left, right) = piece.text.split_at(cut);
            if let (Some(&l), Some(&r)) = (place.get(left), place.get(right)) {
                cuts.push((l, r, left, right));
            }
        }
        cuts.sort_unstable_by_key(|&(l, r, _, _)| (l, r));
        found.extend(cuts.into_iter().map(|(_, _, left, right)| (piece.score, left, right)));
    }
    let chars = |text: &str| Reverse(text.chars().count());
    found.sort_by(|a, b| {
        let lengths = || (chars(a.1), chars(a.2)).cmp(&(chars(b.1), chars(b.2)));
        b.0.total_cmp(&a.0).then_with(lengths)
    });
    found.into_iter().map(|(_, left, right)| (left.to_owned(), right.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn better_scores_merge_first() {
        let texts = ["a", "b", "c", "bc", "ab", "abc"];
        let scores = [-1.0, -2.0, -3.0, -5.0, -4.0, -6.0];
        let pieces: Vec<_> =
            texts.into_iter().zip(scores).map(|(text, score)| Piece { text, score }).collect();
        let merges = merges(&pieces);
        let merges: Vec<_> = merges.iter().map(|(l, r)| (l.as_str(), r.as_str())).collect();
        assert_eq!(merges, [("a", "b"), ("b", "c"), ("ab", "c"), ("a", "bc")]);
    }

    #[test]
    fn byte_tokens_are_read() {
        assert_eq!(byte_of_token("<0x0A>"), Some(10));
        assert_eq!(byte_of_token("<0x+1>"), None);
        assert_eq!(byte_of_token("<0x123>"), None);
        assert_eq!(bytes_of_token("▁a", TokenKind::Normal), b" a");
    }
}
