//! `metallic tokenize`: the tokens of a text.

use std::io::{self, Write};

use serde_json::json;

use crate::args::TokenizeArgs;
use crate::error::Result;
use crate::output::print_json;
use crate::{model, session};

/// Prints the tokens.
///
/// # Errors
/// No text, no model, or a text the tokenizer cannot represent.
pub(super) fn run(args: &TokenizeArgs) -> Result<()> {
    let text = session::exact_text(&args.prompt)?;
    let tokenizer = model::open(&args.model)?.tokenizer()?;
    let ids = tokenizer.encode(&text, !args.no_special, !args.no_parse_special)?;
    let piece = |id: u32| {
        String::from_utf8_lossy(tokenizer.token_bytes(id).unwrap_or_default()).into_owned()
    };
    if args.json {
        let tokens: Vec<_> = ids.iter().map(|&id| json!({ "id": id, "text": piece(id) })).collect();
        return print_json(&json!({ "count": ids.len(), "ids": ids, "tokens": tokens }));
    }
    let mut out = io::stdout().lock();
    if args.ids {
        serde_json::to_writer(&mut out, &ids)?;
        writeln!(out)?;
    } else {
        for id in ids {
            writeln!(out, "{id:>8}  {:?}", piece(id))?;
        }
    }
    Ok(())
}
