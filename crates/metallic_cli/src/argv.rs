//! llama.cpp's short flags of several letters (`-ub`, `-ctk`), which the flag parser does not know.

use std::ffi::OsString;

/// Each flag and the long one it stands for.
const FLAGS: [(&str, &str); 9] = [
    ("-ub", "--ubatch-size"),
    ("-ctk", "--cache-type-k"),
    ("-ctv", "--cache-type-v"),
    ("-oe", "--output-err"),
    ("-hf", "--model"),
    ("-hfr", "--model"),
    ("-sys", "--system"),
    ("-tb", "--threads"),
    ("-cnv", "--chat"),
];

/// Flags whose value may look like a flag.
const TEXT_FLAGS: [&str; 2] = ["-p", "--prompt"];

/// The arguments with every such flag written out, up to `--`; texts of prompts stay as they are.
pub(crate) fn rewrite(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut rewritten = Vec::new();
    let mut verbatim = false;
    let mut is_text = false;
    for arg in args {
        let text = arg.to_str().unwrap_or_default();
        verbatim |= text == "--" && !is_text;
        let long = match (verbatim || is_text, text.split_once('=')) {
            (true, _) => None,
            (false, Some((flag, value))) => long(flag).map(|long| format!("{long}={value}")),
            (false, None) => long(text).map(str::to_owned),
        };
        is_text = TEXT_FLAGS.contains(&text);
        rewritten.push(long.map_or(arg, OsString::from));
    }
    rewritten
}

fn long(flag: &str) -> Option<&'static str> {
    FLAGS.iter().find(|(short, _)| *short == flag).map(|&(_, long)| long)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(args: &[&str]) -> Vec<String> {
        let all = rewrite(args.iter().map(OsString::from));
        all.into_iter().map(|arg| arg.into_string().unwrap()).collect()
    }

    #[test]
    fn flags_of_several_letters_become_long_ones() {
        assert_eq!(
            rewritten(&["run", "-ub", "64", "-ctk=q8_0"]),
            ["run", "--ubatch-size", "64", "--cache-type-k=q8_0"]
        );
    }

    #[test]
    fn prompts_and_what_follows_two_dashes_stay() {
        assert_eq!(rewritten(&["-p", "-ub", "-ub"]), ["-p", "-ub", "--ubatch-size"]);
        assert_eq!(rewritten(&["--", "-ub"]), ["--", "-ub"]);
    }
}
