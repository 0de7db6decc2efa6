//! Plain structs, read far enough to export their layout.

use crate::token::{Kind, Token, code, split_commas};

/// A struct of the outermost level with its data members.
pub(super) struct Struct {
    pub(super) name: String,
    pub(super) qualified: String,
    pub(super) fields: Vec<String>,
}

/// The struct that `head { body }` defines; none for templates, derived structs and other declarations.
pub(super) fn read(head: &[Token], body: &[Token], qualified: &str) -> Option<Struct> {
    let words = code(head);
    let is_struct = words.iter().any(|t| t.is("struct"));
    if !is_struct || words.iter().any(|t| t.is("template") || t.is(":") || t.is("(")) {
        return None;
    }
    let inside: Vec<Token> = code(&body[1..body.len() - 1]).into_iter().cloned().collect();
    let mut fields = Vec::new();
    let mut at = 0;
    while at < inside.len() {
        let mut depth = 0;
        let mut end = at;
        let mut has_body = false;
        while end < inside.len() {
            match inside[end].text.as_str() {
                "{" => {
                    has_body = true;
                    depth += 1;
                }
                "}" => {
                    depth -= 1;
                    // A member function has no semicolon after its body.
                    if depth == 0 && !inside.get(end + 1).is_some_and(|t| t.is(";")) {
                        break;
                    }
                }
                ";" if depth == 0 => break,
                _ => {}
            }
            end += 1;
        }
        let member = &inside[at..end.min(inside.len())];
        if !has_body {
            fields.extend(member_names(member));
        }
        at = end + 1;
    }
    let name = qualified.rsplit("::").next()?.to_owned();
    Some(Struct { name, qualified: qualified.to_owned(), fields })
}

/// The names that `type a, b[4]` declares; none for functions, statics and types.
fn member_names(member: &[Token]) -> Vec<String> {
    let skip = [
        "static",
        "constexpr",
        "using",
        "typedef",
        "enum",
        "struct",
        "friend",
        "template",
        "(",
        ":",
    ];
    if member.iter().any(|t| skip.iter().any(|word| t.is(word))) {
        return Vec::new();
    }
    let mut names = Vec::new();
    for part in split_commas(member) {
        let declared = part.split(|t| t.is("[") || t.is("=")).next().unwrap_or(&[]);
        names.extend(declared.iter().rfind(|t| t.kind == Kind::Name).map(|t| t.text.clone()));
    }
    names
}
