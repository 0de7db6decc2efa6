//! Literals: `1.0h` is a half, and an unsuffixed `1.0` a float, for MSL has no double.

use crate::token::{Kind, Token};

/// The token's text as C++ takes it.
pub(super) fn literal(token: &Token) -> String {
    let text = &token.text;
    if token.kind != Kind::Number {
        return text.clone();
    }
    let lower = text.to_ascii_lowercase();
    let hexadecimal = lower.starts_with("0x");
    if hexadecimal && !lower.contains('p') {
        return text.clone();
    }
    for (suffix, name) in [("bf", "bfloat"), ("h", "half")] {
        if let Some(digits) = lower.strip_suffix(suffix) {
            let point = if digits.contains(['.', 'e', 'p']) { "" } else { "." };
            return format!("{name}({digits}{point}f)");
        }
    }
    let floating = hexadecimal || lower.contains(['.', 'e']);
    if floating && !lower.ends_with('f') && !lower.ends_with('l') {
        format!("{text}f")
    } else {
        text.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_have_mslls_types() {
        let of =
            |text: &str| literal(&Token { kind: Kind::Number, text: text.to_owned(), line: 1 });
        let cases = [
            ("1.0", "1.0f"),
            ("1e-5", "1e-5f"),
            ("2.5f", "2.5f"),
            ("1.0h", "half(1.0f)"),
            ("2h", "half(2.f)"),
            ("1.5bf", "bfloat(1.5f)"),
            ("0x1F", "0x1F"),
            ("0xEE", "0xEE"),
            ("42", "42"),
            ("42u", "42u"),
            ("0x1p-3", "0x1p-3f"),
            (".5", ".5f"),
        ];
        for (source, expected) in cases {
            assert_eq!(of(source), expected, "{source}");
        }
    }
}
