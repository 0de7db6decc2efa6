//! Tokens of preprocessed MSL. White space is kept, so that what is not rewritten comes out as it was.

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// White space.
    Space,
    /// A line that begins with `#`: a line marker or a pragma.
    Directive,
    /// A string or a character literal.
    Text,
    /// A numeric literal.
    Number,
    /// A name or a keyword.
    Name,
    /// Anything else; `[[` and `]]` are single tokens where they enclose attributes.
    Punctuation,
}

/// One token with its line in the .metal source.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    pub(crate) kind: Kind,
    pub(crate) text: String,
    pub(crate) line: u32,
}

impl Token {
    /// Whether the token stands for something: neither white space nor a directive.
    pub(crate) fn is_code(&self) -> bool {
        !matches!(self.kind, Kind::Space | Kind::Directive)
    }

    /// Whether the token is this name or punctuation.
    pub(crate) fn is(&self, text: &str) -> bool {
        matches!(self.kind, Kind::Name | Kind::Punctuation) && self.text == text
    }
}

const LONG_PUNCTUATION: [&str; 24] = [
    "<<=", ">>=", "[[", "]]", "::", "->", "&&", "||", "<<", ">>", "+=", "-=", "*=", "/=", "%=",
    "&=", "|=", "^=", "<=", ">=", "==", "!=", "++", "--",
];

/// Splits preprocessed text into tokens.
pub(crate) fn tokens(text: &str) -> Vec<Token> {
    let mut found: Vec<Token> = Vec::new();
    let mut line = 1;
    let mut rest = text;
    let mut line_start = true;
    while let Some(first) = rest.chars().next() {
        let (kind, length) = next(rest, first, line_start);
        let (token, after) = rest.split_at(length);
        found.push(Token { kind, text: token.to_owned(), line });
        line += token.matches('\n').count() as u32;
        if kind == Kind::Directive {
            // The marker names the line after it, and its own line break still comes.
            if let Some(marked) = marked_line(token) {
                line = marked - 1;
            }
        }
        line_start = match kind {
            Kind::Space => line_start || token.contains('\n'),
            _ => false,
        };
        rest = after;
    }
    split_subscripts(found)
}

/// The kind and the length in bytes of the token at the front.
fn next(rest: &str, first: char, line_start: bool) -> (Kind, usize) {
    let until = |stop: &dyn Fn(char) -> bool| rest.find(stop).unwrap_or(rest.len());
    if first.is_whitespace() {
        // One line break a token: a directive may follow.
        let end = until(&|c| !c.is_whitespace());
        (Kind::Space, rest.find('\n').map_or(end, |at| end.min(at + 1)))
    } else if first == '#' && line_start {
        (Kind::Directive, until(&|c| c == '\n'))
    } else if first == '"' || first == '\'' {
        (Kind::Text, quoted_length(rest, first))
    } else if first.is_ascii_digit() || (first == '.' && second_is_digit(rest)) {
        (Kind::Number, number_length(rest))
    } else if first.is_alphabetic() || first == '_' {
        (Kind::Name, until(&|c| !(c.is_alphanumeric() || c == '_')))
    } else {
        let long = LONG_PUNCTUATION.iter().find(|long| rest.starts_with(**long));
        (Kind::Punctuation, long.map_or(first.len_utf8(), |long| long.len()))
    }
}

fn second_is_digit(rest: &str) -> bool {
    rest.chars().nth(1).is_some_and(|c| c.is_ascii_digit())
}

fn quoted_length(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

fn number_length(rest: &str) -> usize {
    let mut before = ' ';
    let hexadecimal = rest.starts_with("0x") || rest.starts_with("0X");
    for (at, c) in rest.char_indices() {
        let sign = (c == '+' || c == '-')
            && (matches!(before, 'p' | 'P') || (!hexadecimal && matches!(before, 'e' | 'E')));
        if !(c.is_alphanumeric() || c == '_' || c == '.' || sign) {
            return at;
        }
        before = c;
    }
    rest.len()
}

/// The line of `# 12 "file"` or `#line 12`.
fn marked_line(directive: &str) -> Option<u32> {
    let words = directive.trim_start_matches('#').trim_start();
    let words = words.strip_prefix("line").unwrap_or(words);
    words.split_whitespace().next()?.parse().ok()
}

/// `]]` closes an attribute, or two subscripts as in `a[b[i]]`.
fn split_subscripts(tokens: Vec<Token>) -> Vec<Token> {
    let mut open: Vec<&'static str> = Vec::new();
    let mut found = Vec::with_capacity(tokens.len());
    for token in tokens {
        let closes_two = match token.text.as_str() {
            "[[" => {
                open.push("[[");
                false
            }
            "[" => {
                open.push("[");
                false
            }
            "]" => {
                open.pop();
                false
            }
            "]]" => open.pop() != Some("[["),
            _ => false,
        };
        if closes_two {
            open.pop();
            let half = Token { text: "]".to_owned(), ..token };
            found.extend([half.clone(), half]);
            continue;
        }
        found.push(token);
    }
    found
}

/// The tokens that stand for something.
pub(crate) fn code(tokens: &[Token]) -> Vec<&Token> {
    tokens.iter().filter(|token| token.is_code()).collect()
}

/// The text of tokens as it was.
pub(crate) fn text(tokens: &[Token]) -> String {
    tokens.iter().map(|token| token.text.as_str()).collect()
}

/// Tokens without `[[...]]`, and the attributes, one text each.
pub(crate) fn without_attributes(tokens: &[Token]) -> (Vec<Token>, Vec<String>) {
    let mut kept = Vec::with_capacity(tokens.len());
    let mut attributes = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if !tokens[at].is("[[") {
            kept.push(tokens[at].clone());
            at += 1;
            continue;
        }
        let end = (at + 1..tokens.len()).find(|i| tokens[*i].is("]]")).unwrap_or(tokens.len());
        let inside = &tokens[at + 1..end];
        attributes.extend(split_commas(inside).iter().map(|part| text(part).trim().to_owned()));
        // Line breaks inside stay, or the lines below would move.
        kept.extend(
            inside.iter().filter(|t| t.kind == Kind::Space && t.text.contains('\n')).cloned(),
        );
        at = end + 1;
    }
    (kept, attributes)
}

/// Splits at the commas that stand in no brackets of any kind.
pub(crate) fn split_commas(tokens: &[Token]) -> Vec<Vec<Token>> {
    let mut parts = vec![Vec::new()];
    let (mut depth, mut angle) = (0i32, 0i32);
    for token in tokens {
        if token.kind == Kind::Punctuation {
            match token.text.as_str() {
                "(" | "[" | "{" | "[[" => depth += 1,
                ")" | "]" | "}" | "]]" => depth -= 1,
                "<" if depth == 0 => angle += 1,
                ">" if depth == 0 => angle = (angle - 1).max(0),
                ">>" if depth == 0 => angle = (angle - 2).max(0),
                "," if depth == 0 && angle == 0 => {
                    parts.push(Vec::new());
                    continue;
                }
                _ => {}
            }
        }
        parts.last_mut().expect("one part at least").push(token.clone());
    }
    if parts.last().is_some_and(|last| code(last).is_empty()) {
        parts.pop();
    }
    parts
}

/// The index of the bracket that closes the one at `open`, or the end.
pub(crate) fn closing(tokens: &[Token], open: usize) -> usize {
    let (opens, closes) = match tokens[open].text.as_str() {
        "(" => ("(", ")"),
        "{" => ("{", "}"),
        "<" => ("<", ">"),
        _ => ("[", "]"),
    };
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        if token.is(opens) {
            depth += 1;
        } else if token.is(closes) || (closes == ">" && token.is(">>")) {
            depth -= if token.text == ">>" { 2 } else { 1 };
            if depth <= 0 {
                return at;
            }
        }
    }
    tokens.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_keep_the_text_and_know_their_lines() {
        let source = "# 5 \"a\"\nfloat a = 1e-3 + x[y[i]];\n[[buffer(0)]] \"s\\\"\"";
        let found = tokens(source);
        assert_eq!(text(&found), source);
        let line_of = |word: &str| found.iter().find(|t| t.text == word).map(|t| t.line);
        assert_eq!(line_of("float"), Some(5));
        assert_eq!(line_of("[["), Some(6));
        assert_eq!(line_of("1e-3"), Some(5));
        assert_eq!(found.iter().filter(|t| t.is("]")).count(), 2);
    }

    #[test]
    fn commas_in_brackets_do_not_split() {
        let parts = split_commas(&tokens("a<b, c> x, f(1, 2), y"));
        let texts: Vec<String> = parts.iter().map(|part| text(part).trim().to_owned()).collect();
        assert_eq!(texts, ["a<b, c> x", "f(1, 2)", "y"]);
    }
}
