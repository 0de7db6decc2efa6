//! Rules of MSL that neither C++ nor C++ for OpenCL knows, checked on tokens.

use std::collections::BTreeSet;

use super::error;
use crate::token::{Kind, Token, code};

/// Scalar types; with 2, 3 or 4 behind them, vectors.
const SCALARS: [&str; 15] = [
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
    let types = declared_types(&words);
    for (at, word) in words.iter().enumerate() {
        if let Some((_, why)) = FORBIDDEN.iter().find(|(name, _)| word.is(name)) {
            return error(word.line, why);
        }
        // A type is never an operand: behind it, these declare or cast.
        if !(word.is("*") || word.is("&")) {
            continue;
        }
        let Some(start) = type_before(&words[..at], &types) else { continue };
        if !has_space(&words[..start]) && !has_space(&words[..at]) {
            let kind: String = words[start..at].iter().map(|word| word.text.as_str()).collect();
            let mark = &word.text;
            return error(
                word.line,
                format!(
                    "{kind}{mark}: a pointer or reference needs an address space \
                     (device, constant, threadgroup or thread)"
                ),
            );
        }
    }
    Ok(())
}

/// The names of structs, type parameters and aliases.
fn declared_types(words: &[&Token]) -> BTreeSet<String> {
    let mut types = BTreeSet::from(["simdgroup_matrix", "vec", "array"].map(str::to_owned));
    for pair in words.windows(2) {
        let declares = ["struct", "union", "class", "typename", "using"];
        if declares.iter().any(|word| pair[0].is(word)) && pair[1].kind == Kind::Name {
            types.insert(pair[1].text.clone());
        }
    }
    types.remove("namespace");
    types
}

/// Where the type that ends here begins; none where no type ends.
fn type_before(words: &[&Token], types: &BTreeSet<String>) -> Option<usize> {
    let last = words.len().checked_sub(1)?;
    let known = |at: usize| {
        let name = words[at].text.as_str();
        let scalar = name.trim_start_matches("packed_").trim_end_matches(['2', '3', '4']);
        let is_type = SCALARS.contains(&scalar) || types.contains(name);
        // `p.float_value` and the like are members.
        let member = at > 0 && (words[at - 1].is(".") || words[at - 1].is("->"));
        words[at].kind == Kind::Name && is_type && !member
    };
    if known(last) {
        return Some(last);
    }
    // `name<...>`
    if !words[last].is(">") {
        return None;
    }
    let mut depth = 0;
    for at in (0..=last).rev() {
        match words[at].text.as_str() {
            ">" => depth += 1,
            ">>" => depth += 2,
            "<" => depth -= 1,
            ";" | "{" | "}" => return None,
            _ => {}
        }
        if depth == 0 {
            return at.checked_sub(1).filter(|name| known(*name));
        }
    }
    None
}

/// Whether the words of the type that ends here name an address space.
fn has_space(words: &[&Token]) -> bool {
    let names = words.iter().rev().take_while(|word| word.kind == Kind::Name);
    names.into_iter().any(|word| SPACES.contains(&word.text.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::tokens;

    #[test]
    fn pointers_and_references_need_an_address_space() {
        let right = [
            "void f(device float *a, thread const T &b, float device *c) { int x = a * b; }",
            "struct S { int a; }; void f(device S *s, thread simdgroup_matrix<T, 8, 8> &m);",
            "template <typename T> void f(thread T &t) { if (a > *p) x = (device const T *)q; n = sizeof(T) * 2; }",
            "x = i < n && j > *limit; y = p.half * 2;",
        ];
        for source in right {
            check(&tokens(source)).unwrap_or_else(|error| panic!("{source}: {error}"));
        }
        let wrong = [
            "void f(float *a);",
            "void f(const float4 &a);",
            "struct S { int a; }; void f(S &s);",
            "template <typename T> void f(T *t);",
            "x = (half4 *)p;",
            "void f(simdgroup_matrix<float, 8, 8> &m);",
            "x = 1; double y;",
        ];
        for source in wrong {
            assert!(check(&tokens(source)).is_err(), "{source}");
        }
    }
}
