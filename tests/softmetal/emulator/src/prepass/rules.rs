//! Rules of MSL that neither C++ nor C++ for OpenCL knows, checked on tokens.

use super::error;
use crate::token::{Kind, Token, code};

/// Types that never stand as an operand, so that `T *` declares or casts.
const TYPES: [&str; 15] = [
    "bool", "char", "uchar", "short", "ushort", "int", "uint", "long", "ulong", "half", "bfloat",
    "float", "size_t", "unsigned", "void",
];
const SPACES: [&str; 5] = ["device", "constant", "threadgroup", "thread", "threadgroup_imageblock"];
const FORBIDDEN: [(&str, &str); 7] = [
    ("double", "MSL has no double"),
    ("new", "MSL has no new"),
    ("delete", "MSL has no delete"),
    ("throw", "MSL has no exceptions"),
    ("try", "MSL has no exceptions"),
    ("goto", "MSL has no goto"),
    ("dynamic_cast", "MSL has no dynamic_cast"),
];

/// Checks the whole source.
pub(super) fn check(tokens: &[Token]) -> Result<(), String> {
    let words = code(tokens);
    for (at, word) in words.iter().enumerate() {
        if let Some((_, why)) = FORBIDDEN.iter().find(|(name, _)| word.is(name)) {
            return error(word.line, why);
        }
        if (word.is("*") || word.is("&"))
            && at > 0
            && is_type(words[at - 1])
            && !has_space(&words[..at])
        {
            let kind = &words[at - 1].text;
            return error(
                word.line,
                format!(
                    "{kind}{}: a pointer or reference needs an address space (device, constant, threadgroup or thread)",
                    word.text
                ),
            );
        }
    }
    Ok(())
}

fn is_type(token: &Token) -> bool {
    let name = token.text.as_str();
    let scalar = name.trim_start_matches("packed_").trim_end_matches(['2', '3', '4']);
    token.kind == Kind::Name && TYPES.contains(&scalar)
}

/// Whether the words of the type that ends here name an address space.
fn has_space(words: &[&Token]) -> bool {
    words
        .iter()
        .rev()
        .take_while(|word| word.kind == Kind::Name)
        .any(|word| SPACES.contains(&word.text.as_str()))
}
