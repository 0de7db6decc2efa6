//! `msl-check [--rules] FILE...`: checks .metal files against MSL's rules of the language and, without
//! `--rules`, compiles each kernel.
//! `#include "..."` of a file beside is resolved; every file is taken once, as the host flattens them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs};

use softmetal_emulator::{CompileOptions, Library, check_rules};

fn main() -> ExitCode {
    let mut files: Vec<PathBuf> = env::args_os().skip(1).map(PathBuf::from).collect();
    let rules = files.first().is_some_and(|first| first == Path::new("--rules"));
    if rules {
        files.remove(0);
    }
    if files.is_empty() {
        report("usage: msl-check [--rules] FILE...");
        return ExitCode::from(2);
    }
    let options = CompileOptions::new(env::temp_dir().join("softmetal-msl-check"));
    let mut failed = false;
    for file in files {
        let mut flat = Flat::default();
        let result = flat.add(&file).and_then(|()| match rules {
            true => check_rules(&flat.text, &options.cache_dir).map(|()| "rules hold".to_owned()),
            false => Library::compile(&flat.text, &options)
                .map(|library| format!("{} kernels", library.function_names().len())),
        });
        match result {
            Ok(found) => report(&format!("{}: {found}", file.display())),
            Err(error) => {
                report(&format!("{}:\n{}", file.display(), flat.with_file_names(&error)));
                failed = true;
            }
        }
    }
    ExitCode::from(u8::from(failed))
}

/// A source with its includes in it, and where each line came from.
#[derive(Default)]
struct Flat {
    text: String,
    lines: Vec<(PathBuf, usize)>,
    seen: BTreeSet<PathBuf>,
}

impl Flat {
    fn add(&mut self, file: &Path) -> Result<(), String> {
        let text =
            fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
        if !self.seen.insert(file.to_owned()) {
            return Ok(());
        }
        for (number, line) in text.lines().enumerate() {
            let included =
                line.trim().strip_prefix("#include \"").and_then(|rest| rest.strip_suffix('"'));
            if let Some(name) = included {
                self.add(&file.with_file_name(name))?;
            } else if line.trim() != "#pragma once" {
                self.text += line;
                self.text.push('\n');
                self.lines.push((file.to_owned(), number + 1));
            }
        }
        Ok(())
    }

    /// Messages with the files' own names and lines for `program_source:LINE`.
    fn with_file_names(&self, messages: &str) -> String {
        let line = |message: &str| {
            let (number, after) = message.strip_prefix("program_source:")?.split_once(':')?;
            let (file, line) = self.lines.get(number.parse::<usize>().ok()?.checked_sub(1)?)?;
            Some(format!("{}:{line}:{after}", file.display()))
        };
        let lines =
            messages.lines().map(|message| line(message).unwrap_or_else(|| message.to_owned()));
        lines.collect::<Vec<_>>().join("\n")
    }
}

#[allow(clippy::print_stdout, reason = "this is a command")]
fn report(text: &str) {
    println!("{text}");
}
