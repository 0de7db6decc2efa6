//! Declarations of the outermost level and of namespaces, one after another.

use std::collections::BTreeSet;

use super::kernel::{self, Instance};
use super::literals::literal;
use super::{FunctionConstant, Prepass, Target, error, structs};
use crate::token::{Kind, Token, closing, code, text, without_attributes};

impl Prepass {
    /// Translates all declarations into `out`.
    pub(super) fn declarations(&mut self) -> Result<(), String> {
        let tokens = std::mem::take(&mut self.tokens);
        let mut at = 0;
        while at < tokens.len() {
            let Some(end) = end_of_head(&tokens, at) else {
                self.out += &text(&tokens[at..]);
                break;
            };
            let head = &tokens[at..end];
            match tokens[end].text.as_str() {
                "}" => {
                    self.emit(head);
                    self.out.push('}');
                    self.namespaces.pop();
                    at = end + 1;
                }
                "{" if opens_namespace(head) => {
                    self.emit(head);
                    self.out.push('{');
                    let name = code(head).last().map_or(String::new(), |t| t.text.clone());
                    self.namespaces.push(name);
                    at = end + 1;
                }
                "{" => {
                    let close = closing(&tokens, end);
                    if close == tokens.len() {
                        return error(tokens[end].line, "this brace is never closed");
                    }
                    self.with_body(head, &tokens[end..=close])?;
                    at = close + 1;
                }
                _ => {
                    self.statement(head)?;
                    at = end + 1;
                }
            }
        }
        Ok(())
    }

    /// Tokens as C++, without attributes.
    pub(super) fn cpp(&self, tokens: &[Token]) -> String {
        without_attributes(tokens).0.iter().map(literal).collect()
    }

    fn emit(&mut self, tokens: &[Token]) {
        let cpp = self.cpp(tokens);
        self.out += &cpp;
    }

    /// `name` with its namespaces: `::a::name`.
    fn qualified(&self, name: &str) -> String {
        self.namespaces.iter().fold(String::new(), |path, part| format!("{path}::{part}"))
            + "::"
            + name
    }

    fn note_mentions(&mut self, name: &str, tokens: &[&[Token]]) {
        let words = self.mentions.entry(name.to_owned()).or_default();
        for token in tokens.iter().flat_map(|part| part.iter()).filter(|t| t.kind == Kind::Name) {
            words.insert(token.text.clone());
        }
        let all: Vec<&Token> = tokens.iter().flat_map(|part| code(part)).collect();
        for window in all.windows(3) {
            if window[0].is("is_function_constant_defined") {
                self.optional.insert(window[2].text.clone());
            }
        }
    }

    /// A declaration that ends in `;`.
    fn statement(&mut self, head: &[Token]) -> Result<(), String> {
        let (plain, attributes) = without_attributes(head);
        let words = code(&plain);
        let has = |word: &str| words.iter().any(|token| token.is(word));
        let is_kernel = code(head).iter().any(|token| token.is("kernel"));
        if words.first().is_some_and(|t| t.is("template"))
            && words.get(1).is_some_and(|t| !t.is("<"))
        {
            if is_kernel {
                return self.instance(head, &plain, &attributes);
            }
        } else if is_kernel {
            let declared: Vec<Token> =
                plain.into_iter().filter(|token| !token.is("kernel")).collect();
            self.emit(&declared);
            self.out.push(';');
            return Ok(());
        }
        let constant = has("constant") && !has("using") && !has("typedef");
        if constant && let Some(index) = function_constant_index(&attributes) {
            let (name, kind) = name_and_type(&plain);
            self.out += &leading_space(head);
            self.out += &match self.target {
                Target::Run => format!("static {kind} {name}; static bool {name}_is_defined;"),
                Target::Check => format!(
                    "static const __global {kind} {name} = {kind}(0); static const __global bool {name}_is_defined = false;"
                ),
            };
            self.constant_names.insert(name.clone());
            self.constants.push(FunctionConstant { qualified: self.qualified(&name), name, index });
            return Ok(());
        }
        let equals = plain.iter().position(|token| token.is("="));
        if constant
            && !has("constexpr")
            && let Some(equals) = equals
        {
            return self.constant_variable(&plain, equals, &[]);
        }
        self.emit(head);
        self.out.push(';');
        Ok(())
    }

    /// `constant T name = value`; with `body`, the value continues in braces.
    fn constant_variable(
        &mut self,
        plain: &[Token],
        equals: usize,
        body: &[Token],
    ) -> Result<(), String> {
        let value = &plain[equals + 1..];
        let words: BTreeSet<&str> = value
            .iter()
            .chain(body)
            .filter(|t| t.kind == Kind::Name)
            .map(|t| t.text.as_str())
            .collect();
        let derived = words.contains("is_function_constant_defined")
            || words.iter().any(|word| self.constant_names.contains(*word));
        let (name, kind) = name_and_type(&plain[..equals]);
        self.note_mentions(&name, &[value, body]);
        self.out += &leading_space(plain);
        let cpp_value = self.cpp(value) + &self.cpp(body);
        if !derived {
            let declared: Vec<Token> =
                plain[..equals].iter().filter(|t| !is_storage(t)).cloned().collect();
            let declared = self.cpp(&declared);
            self.out += &match self.target {
                Target::Run => format!("static const {} ={cpp_value};", declared.trim_start()),
                Target::Check => checked_constant(&plain[..equals], &name, &kind, &cpp_value),
            };
            return Ok(());
        }
        if !body.is_empty() {
            return error(
                plain[equals].line,
                format!("constant {name}: a list cannot be made from function constants"),
            );
        }
        self.out += &match self.target {
            Target::Run => format!(
                "static {kind} {name}; static void {name}_derive() {{ {name} ={cpp_value}; }}"
            ),
            Target::Check => format!("static const __global {kind} {name} ={cpp_value};"),
        };
        self.derived.push(self.qualified(&format!("{name}_derive")));
        self.constant_names.insert(name);
        Ok(())
    }

    /// A declaration with a body in braces.
    fn with_body(&mut self, head: &[Token], body: &[Token]) -> Result<(), String> {
        let words = code(head);
        if let Some(equals) = initialiser(head) {
            let (plain, _) = without_attributes(head);
            let has = |word: &str| words.iter().any(|token| token.is(word));
            if has("constant") && !has("constexpr") {
                let equals = plain.iter().position(|token| token.is("=")).unwrap_or(equals);
                return self.constant_variable(&plain, equals, body);
            }
            self.emit(head);
            self.emit(body);
            return Ok(());
        }
        if words.iter().any(|token| token.is("kernel")) {
            return self.kernel(head, body);
        }
        if let Some(name) = declared_name(head) {
            self.note_mentions(&name, &[head, body]);
            if let Some(found) = structs::read(head, body, &self.qualified(&name)) {
                self.structs.push(found);
            }
        }
        self.emit(head);
        let body = self.body(body, None)?;
        self.out += &body;
        Ok(())
    }

    fn kernel(&mut self, head: &[Token], body: &[Token]) -> Result<(), String> {
        let signature = kernel::signature(head, &self.namespaces)?;
        let name = signature.kernel.name.clone();
        self.note_mentions(&name, &[head, body]);
        self.emit(&signature.before);
        let parameters: Vec<String> =
            signature.plain_parameters.iter().map(|part| self.cpp(part)).collect();
        self.out += &format!("({}) ", parameters.join(","));
        let body = self.body(body, Some(&signature.kernel))?;
        self.out += &body;
        if signature.kernel.template.is_empty() {
            self.instances.push(Instance {
                host_name: signature.host_name.unwrap_or_else(|| name.clone()),
                function: signature.kernel.qualified.clone(),
                kernel: name.clone(),
            });
        }
        self.kernels.insert(name, signature.kernel);
        Ok(())
    }

    /// `template [[host_name("x")]] kernel void f<half>(...);`
    fn instance(
        &mut self,
        head: &[Token],
        plain: &[Token],
        attributes: &[String],
    ) -> Result<(), String> {
        let line = code(head).first().map_or(0, |token| token.line);
        let Some(host_name) = kernel::host_name(attributes) else {
            return error(line, "an instance of a kernel template needs [[host_name(\"...\")]]");
        };
        let at = (0..plain.len())
            .rev()
            .find(|i| plain[*i].kind == Kind::Name && self.kernels.contains_key(&plain[*i].text));
        let Some(at) = at else {
            return error(line, "an instance of a kernel that is not defined above");
        };
        let kernel = &self.kernels[&plain[at].text];
        let open =
            (at + 1..plain.len()).find(|i| plain[*i].is_code()).filter(|i| plain[*i].is("<"));
        let arguments = open.map_or(String::new(), |open| {
            self.cpp(&plain[open..=closing(plain, open).min(plain.len() - 1)])
        });
        self.instances.push(Instance {
            host_name,
            function: kernel.qualified.clone() + &arguments,
            kernel: kernel.name.clone(),
        });
        // Only the line breaks stay; the entry instantiates the template.
        self.out += &text(head).chars().filter(|c| *c == '\n').collect::<String>();
        Ok(())
    }
}

/// The index of the `;`, `{` or `}` that ends the head of the declaration at `from`.
fn end_of_head(tokens: &[Token], from: usize) -> Option<usize> {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate().skip(from) {
        if token.kind != Kind::Punctuation {
            continue;
        }
        match token.text.as_str() {
            "(" | "[" | "[[" => depth += 1,
            ")" | "]" | "]]" => depth -= 1,
            ";" | "{" | "}" if depth == 0 => return Some(at),
            _ => {}
        }
    }
    None
}

fn opens_namespace(head: &[Token]) -> bool {
    let words = code(head);
    words.iter().any(|t| t.is("namespace")) || (words.len() == 2 && words[0].is("extern"))
}

/// The `=` of `type name = {`; none where a function or template default has it.
fn initialiser(head: &[Token]) -> Option<usize> {
    let mut angle = 0i32;
    for (at, token) in head.iter().enumerate() {
        match token.text.as_str() {
            "<" => angle += 1,
            ">" => angle -= 1,
            ">>" => angle -= 2,
            "(" | "operator" if angle <= 0 => return None,
            "=" if angle <= 0 => return Some(at),
            _ => {}
        }
    }
    None
}

/// The name of a function (before its parameters) or of a struct.
fn declared_name(head: &[Token]) -> Option<String> {
    let words = code(head);
    let mut angle = 0i32;
    for pair in words.windows(2) {
        match pair[0].text.as_str() {
            "<" => angle += 1,
            ">" => angle -= 1,
            ">>" => angle -= 2,
            _ => {}
        }
        let special = ["alignas", "decltype", "__attribute__"].contains(&pair[0].text.as_str());
        if angle <= 0 && pair[1].is("(") && pair[0].kind == Kind::Name && !special {
            return Some(pair[0].text.clone());
        }
    }
    let at = words
        .iter()
        .rposition(|t| t.is("struct") || t.is("union") || t.is("class") || t.is("enum"))?;
    words[at + 1..].iter().find(|t| t.kind == Kind::Name && !t.is("class")).map(|t| t.text.clone())
}

fn function_constant_index(attributes: &[String]) -> Option<String> {
    let attribute = attributes.iter().find(|a| a.starts_with("function_constant"))?;
    Some(attribute.split_once('(')?.1.strip_suffix(')')?.trim().to_owned())
}

fn is_storage(token: &Token) -> bool {
    ["constant", "const", "static"].iter().any(|word| token.is(word))
}

/// The last name, and the type before it, of a declaration without arrays.
fn name_and_type(declared: &[Token]) -> (String, String) {
    let words: Vec<&Token> = code(declared).into_iter().filter(|t| !is_storage(t)).collect();
    let at = words.iter().position(|t| t.is("[")).unwrap_or(words.len()).saturating_sub(1);
    let name = words.get(at).map_or(String::new(), |t| t.text.clone());
    let kind: Vec<&str> = words[..at].iter().map(|t| t.text.as_str()).collect();
    (name, kind.join(" "))
}

/// Data of the outermost level must lie in __global: what the source sees is a reference into the space
/// that stands for `constant`.
fn checked_constant(declared: &[Token], name: &str, kind: &str, value: &str) -> String {
    let words = code(declared);
    let start = words.iter().position(|t| t.is("[")).unwrap_or(words.len());
    let dimensions: String = words[start..].iter().map(|t| t.text.as_str()).collect();
    let counted = format!("[sizeof(msl_data_{name}) / sizeof(msl_data_{name}[0])]");
    let sized = dimensions.strip_prefix("[]").map_or(dimensions.clone(), |rest| counted + rest);
    format!(
        "static const __global {kind} msl_data_{name} {dimensions} ={value}; \
         static constant {kind} (&{name}) {sized} = *(constant {kind} (*) {sized})&msl_data_{name};"
    )
}

/// White space and directives before the first word.
fn leading_space(tokens: &[Token]) -> String {
    tokens.iter().take_while(|t| !t.is_code()).map(|t| t.text.as_str()).collect()
}
