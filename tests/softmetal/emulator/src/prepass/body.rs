//! Function bodies: threadgroup variables become references into the group's memory.

use super::kernel::Kernel;
use super::literals::literal;
use super::{Prepass, Target, error};
use crate::token::{Kind, Token, closing, code, split_commas, text, without_attributes};

impl Prepass {
    /// A body in braces as C++. `kernel`: the kernel it belongs to.
    pub(super) fn body(
        &mut self,
        body: &[Token],
        kernel: Option<&Kernel>,
    ) -> Result<String, String> {
        let (tokens, _) = without_attributes(body);
        let mut out = String::new();
        let mut statement_start = true;
        let mut at = 0;
        while at < tokens.len() {
            let token = &tokens[at];
            if statement_start
                && token.is_code()
                && let Some(word) = threadgroup_word(&tokens, at)
            {
                let end = end_of_statement(&tokens, word);
                let declared = &tokens[word + 1..end];
                if is_variable(declared) {
                    out += &self.threadgroup_variables(&tokens[at..word], declared, kernel)?;
                    at = end;
                    statement_start = false;
                    continue;
                }
            }
            out += &literal(token);
            if token.is_code() {
                statement_start = [";", "{", "}"].iter().any(|mark| token.is(mark));
            }
            at += 1;
        }
        Ok(out)
    }

    fn threadgroup_variables(
        &mut self,
        before: &[Token],
        declared: &[Token],
        kernel: Option<&Kernel>,
    ) -> Result<String, String> {
        let parts = split_commas(declared);
        let line = declared.first().map_or(0, |token| token.line);
        let Some((kind, first)) = parts.first().and_then(|part| split_type(part)) else {
            return error(line, "a threadgroup variable without a type and a name");
        };
        let alignment = before.iter().chain(declared).position(|t| t.is("alignas")).map(|_| {
            let all: Vec<Token> = before.iter().chain(declared).cloned().collect();
            let open = all.iter().position(|t| t.is("(")).unwrap_or(0);
            text(&all[open..=closing(&all, open).min(all.len() - 1)])
        });
        let mut out = String::new();
        let declarators = std::iter::once(first)
            .chain(parts[1..].iter().map(|part| code(part).into_iter().cloned().collect()));
        for declarator in declarators {
            let name = declarator.first().map_or(String::new(), |token: &Token| token.text.clone());
            let Some(kernel) = kernel else {
                return error(
                    line,
                    format!("threadgroup variable {name} is declared outside of a kernel"),
                );
            };
            if declarator.iter().any(|token| token.is("=")) {
                return error(line, format!("threadgroup variable {name} cannot be initialised"));
            }
            let id = self.variables;
            self.variables += 1;
            let dimensions: String = declarator[1..].iter().map(literal).collect();
            out += &format!(
                "typedef {kind} msl_variable_{id} {dimensions}; threadgroup msl_variable_{id}& {name} = *(threadgroup msl_variable_{id}*)"
            );
            out += &match self.target {
                Target::Check => "(threadgroup void*)0; ".to_owned(),
                Target::Run => {
                    let aligned = format!("alignof(msl_variable_{id})");
                    let alignment = alignment.as_ref().map_or(aligned.clone(), |a| {
                        format!("({a} > {aligned} ? {a} : {aligned})")
                    });
                    let function = kernel.self_name();
                    format!(
                        "metal::threadgroup_address(metal::threadgroup_variable<&{function}, {id}, sizeof(msl_variable_{id}), {alignment}>::variable); "
                    )
                }
            };
        }
        out += &declared
            .iter()
            .filter(|t| t.kind == Kind::Space)
            .flat_map(|t| t.text.chars())
            .filter(|c| *c == '\n')
            .collect::<String>();
        Ok(out)
    }
}

/// The index of `threadgroup` where a statement begins with it, perhaps after `alignas(...)` and such.
fn threadgroup_word(tokens: &[Token], from: usize) -> Option<usize> {
    let mut at = from;
    while at < tokens.len() {
        let token = &tokens[at];
        if token.is("threadgroup") {
            return Some(at);
        }
        let skipped =
            !token.is_code() || ["static", "const", "volatile"].iter().any(|word| token.is(word));
        if token.is("alignas") {
            let open = (at + 1..tokens.len()).find(|i| tokens[*i].is("("))?;
            at = closing(tokens, open);
        } else if !skipped {
            return None;
        }
        at += 1;
    }
    None
}

fn end_of_statement(tokens: &[Token], from: usize) -> usize {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate().skip(from) {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            ";" if depth == 0 => return at,
            _ => {}
        }
    }
    tokens.len()
}

/// Whether the declaration makes a variable, and not a pointer or a reference to one.
fn is_variable(declared: &[Token]) -> bool {
    let (mut square, mut angle) = (0i32, 0i32);
    for token in declared {
        match token.text.as_str() {
            "[" => square += 1,
            "]" => square -= 1,
            "<" if square == 0 => angle += 1,
            ">" if square == 0 => angle -= 1,
            "=" if square == 0 && angle <= 0 => return true,
            "*" | "&" if square == 0 && angle <= 0 => return false,
            _ => {}
        }
    }
    true
}

/// The type, and the declarator that starts with the name: `float x[4]` -> (`float`, `x[4]`).
fn split_type(part: &[Token]) -> Option<(String, Vec<Token>)> {
    let mut words: Vec<Token> = code(part).into_iter().cloned().collect();
    if let Some(at) = words.iter().position(|t| t.is("alignas")) {
        let close = closing(&words, at + 1);
        words.drain(at..=close.min(words.len() - 1));
    }
    let mut angle = 0i32;
    let mut name = None;
    for (at, token) in words.iter().enumerate() {
        match token.text.as_str() {
            "<" => angle += 1,
            ">" => angle -= 1,
            ">>" => angle -= 2,
            "[" | "=" if angle <= 0 => break,
            _ if token.kind == Kind::Name && angle <= 0 => name = Some(at),
            _ => {}
        }
    }
    let name = name.filter(|at| *at > 0)?;
    let kind: Vec<&str> =
        words[..name].iter().map(|t| t.text.as_str()).filter(|t| *t != "const").collect();
    Some((kind.join(" "), words[name..].to_vec()))
}
