//! llama.cpp's flags that the flag parser does not know: short ones of several letters (`-ub`, `-ctk`),
//! and those that have no meaning here, for which there is an answer.

use std::ffi::OsString;

use clap::Arg;

use crate::args;
use crate::error::{Error, Result};

/// Each flag and the long one it stands for.
const FLAGS: [(&str, &str); 9] = [
    ("-ub", "ubatch-size"),
    ("-ctk", "cache-type-k"),
    ("-ctv", "cache-type-v"),
    ("-oe", "output-err"),
    ("-pg", "pg"),
    ("-hf", "model"),
    ("-hfr", "model"),
    ("-sys", "system"),
    ("-tb", "threads"),
];

/// Flags without a meaning here, and what to do instead.
const FOREIGN: [(&[&str], &str); 7] = [
    (
        &["-ngl", "--n-gpu-layers", "--gpu-layers"],
        "every layer runs on the device that --device names; leave it out",
    ),
    (&["-fa", "--flash-attn"], "how attention runs is for --sdpa-backend to say; leave it out"),
    (&["--mmap", "--no-mmap", "-mmp"], "model files are always mapped; leave it out"),
    (&["--mlock"], "no memory is locked; leave it out"),
    (&["-cnv", "--conversation"], "use `metallic chat`, or `metallic run --chat` for one answer"),
    (
        &["-no-cnv", "--no-conversation", "-st", "--single-turn"],
        "`metallic run` holds no conversation; leave it out",
    ),
    (
        &["--warmup", "--no-warmup"],
        "`bench` shows its first run apart, and nothing else has one; leave it out",
    ),
];

/// The arguments with every short flag of several letters written out, up to `--`; texts stay as they
/// are.
///
/// # Errors
/// [`Error::ForeignFlag`]; [`Error::NoSuchFlag`] for such a short flag that the command lacks.
pub(crate) fn rewrite(args: impl IntoIterator<Item = OsString>) -> Result<Vec<OsString>> {
    let args: Vec<OsString> = args.into_iter().collect();
    let (command, path) = args::named_command(&args);
    let flags: Vec<&Arg> = command.get_arguments().collect();
    let mut rewritten = Vec::with_capacity(args.len());
    let (mut verbatim, mut is_text) = (false, false);
    for arg in args {
        let text = arg.to_str().unwrap_or_default();
        verbatim |= text == "--" && !is_text;
        if verbatim || is_text {
            is_text = false;
            rewritten.push(arg);
            continue;
        }
        is_text = flags.iter().any(|flag| takes_text(flag, text));
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (text, None),
        };
        if let Some((flag, advice)) = foreign(name) {
            return Err(Error::ForeignFlag { flag, advice });
        }
        let Some(&(flag, long)) = FLAGS.iter().find(|(short, _)| *short == name) else {
            rewritten.push(arg);
            continue;
        };
        let Some(known) = flags.iter().find(|flag| flag.get_long() == Some(long)) else {
            return Err(Error::NoSuchFlag { flag, command: path });
        };
        let long = format!("--{long}");
        is_text = value.is_none() && takes_text(known, &long);
        rewritten.push(value.map_or(long.clone(), |value| format!("{long}={value}")).into());
    }
    Ok(rewritten)
}

fn foreign(name: &str) -> Option<(&'static str, &'static str)> {
    FOREIGN.iter().find_map(|(flags, advice)| {
        flags.iter().find(|flag| **flag == name).map(|flag| (*flag, *advice))
    })
}

/// Whether `written` is `flag`, and what follows it is a text that may look like a flag.
fn takes_text(flag: &Arg, written: &str) -> bool {
    let long = |name: &str| written.strip_prefix("--") == Some(name);
    let is_it = flag.get_long().is_some_and(long)
        || flag.get_all_aliases().unwrap_or_default().into_iter().any(long)
        || flag.get_short().is_some_and(|short| written == format!("-{short}"));
    is_it && flag.is_allow_hyphen_values_set()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(args: &[&str]) -> Vec<String> {
        let args = ["metallic"].iter().chain(args).map(OsString::from);
        let all = rewrite(args).unwrap().into_iter().skip(1);
        all.map(|arg| arg.into_string().unwrap()).collect()
    }

    fn refused(args: &[&str]) -> String {
        let args = ["metallic"].iter().chain(args).map(OsString::from);
        let error = rewrite(args).unwrap_err();
        assert!(error.is_usage());
        error.to_string()
    }

    #[test]
    fn flags_of_several_letters_become_long_ones() {
        assert_eq!(
            rewritten(&["run", "-ub", "64", "-ctk=q8_0"]),
            ["run", "--ubatch-size", "64", "--cache-type-k=q8_0"]
        );
        assert_eq!(rewritten(&["bench", "-pg", "16,4"]), ["bench", "--pg", "16,4"]);
    }

    #[test]
    fn texts_and_what_follows_two_dashes_stay() {
        assert_eq!(
            rewritten(&["run", "-p", "-ub", "-ub", "1"]),
            ["run", "-p", "-ub", "--ubatch-size", "1"]
        );
        for flag in ["-r", "--stop", "--reverse-prompt", "--system", "--system-prompt"] {
            assert_eq!(rewritten(&["run", flag, "-ngl"]), ["run", flag, "-ngl"]);
        }
        assert_eq!(rewritten(&["chat", "-sys", "-ub"]), ["chat", "--system", "-ub"]);
        assert_eq!(rewritten(&["run", "--", "-ub"]), ["run", "--", "-ub"]);
    }

    #[test]
    fn flags_of_others_get_an_answer() {
        assert!(
            refused(&["run", "-ngl", "99"]).starts_with("-ngl has no meaning here: every layer")
        );
        assert!(refused(&["run", "--flash-attn=on"]).contains("--sdpa-backend"));
        assert!(refused(&["chat", "-cnv"]).contains("metallic chat"));
        assert!(refused(&["tokenize", "-ub", "4"]).contains("`metallic tokenize` has no flag -ub"));
    }
}
