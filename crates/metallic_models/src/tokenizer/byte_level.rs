//! GPT-2's printable alphabet for bytes, read backwards.
//!
//! A byte-level vocabulary writes each byte as one printable character: itself where it is
//! printable Latin-1, otherwise the next unused character from U+0100 on.

/// The byte that a character of the alphabet stands for.
fn byte_of_char(character: char) -> Option<u8> {
    let code = u32::from(character);
    match code {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => u8::try_from(code).ok(),
        // The 68 others in ascending order: 0x00 to 0x20, 0x7f to 0xa0, 0xad.
        0x100..=0x120 => u8::try_from(code - 0x100).ok(),
        0x121..=0x142 => u8::try_from(code - 0x121 + 0x7f).ok(),
        0x143 => Some(0xad),
        _ => None,
    }
}

/// The bytes of a token's text; the text's own UTF-8 if it uses another character.
pub(super) fn bytes_of_token(text: &str) -> Vec<u8> {
    let bytes: Option<Vec<u8>> = text.chars().map(byte_of_char).collect();
    bytes.unwrap_or_else(|| text.as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_covers_every_byte_once() {
        let mut seen = [false; 256];
        for character in '\0'..='\u{200}' {
            if let Some(byte) = byte_of_char(character) {
                assert!(!std::mem::replace(&mut seen[usize::from(byte)], true));
            }
        }
        assert!(seen.iter().all(|&seen| seen));
        assert_eq!(bytes_of_token("Ġthe"), b" the");
        assert_eq!(bytes_of_token("Ċ"), b"\n");
        assert_eq!(bytes_of_token("a b"), b"a b");
    }
}
