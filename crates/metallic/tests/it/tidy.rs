//! The rules of the house that no compiler checks, checked on the text of the workspace.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("the crate lies two folders below the workspace").to_owned()
}

/// Every Rust file of the workspace's crates, as (path from the root, text).
fn sources() -> Vec<(String, String)> {
    let root = root();
    let mut folders = vec![root.join("crates")];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                if !path.ends_with("target") {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&root).unwrap().to_str().unwrap().replace('\\', "/");
                sources.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(sources.len() > 50, "found {} files only", sources.len());
    sources.sort();
    sources
}

/// The code of a line: without its comment, and without what stands in double quotes.
fn code(line: &str) -> String {
    let mut kept = String::new();
    let mut quoted = false;
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\\' if quoted => _ = characters.next(),
            '"' => quoted = !quoted,
            '/' if !quoted && characters.peek() == Some(&'/') => break,
            _ if !quoted => kept.push(character),
            _ => {}
        }
    }
    kept
}

/// Fails with every line of code that contains one of `words` outside of the files where
/// `allowed` says yes.
fn only_in(words: &[&str], allowed: impl Fn(&str) -> bool) {
    let mut found = Vec::new();
    for (path, text) in sources() {
        // This file names what it forbids.
        if allowed(&path) || path.ends_with("tests/it/tidy.rs") {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            let code = code(line);
            if words.iter().any(|word| has_word(&code, word)) {
                found.push(format!("{path}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "{words:?} where it does not belong:\n{}", found.join("\n"));
}

/// Whether `word` stands in `code`, not as a part of a longer name.
fn has_word(code: &str, word: &str) -> bool {
    let part = |character: char| character.is_alphanumeric() || character == '_';
    code.match_indices(word)
        .any(|(at, _)| !code[..at].ends_with(part) && !code[at + word.len()..].starts_with(part))
}

#[test]
fn the_reader_of_code_lines_reads_code() {
    assert_eq!(code(r#"let a = "unsafe // \" b"; c // unsafe"#), "let a = ; c ");
    assert!(has_word("x = unsafe { y }", "unsafe"));
    assert!(!has_word("#![forbid(unsafe_code)]", "unsafe"));
    assert!(!has_word("eprintln!()", "println!"));
}

#[test]
fn files_are_short_and_say_what_they_are() {
    for (path, text) in sources() {
        let lines = text.lines().count();
        assert!(lines <= 500, "{path} has {lines} lines, at most 500");
        assert!(text.starts_with("//!"), "{path} does not open with //!");
        assert!(!path.ends_with("/utils.rs"), "{path}: name what it holds");
    }
}

#[test]
fn unsafe_code_lies_in_the_devices_alone() {
    only_in(&["unsafe"], |path| path.starts_with("crates/metallic_devices/"));
}

#[test]
fn operating_systems_are_told_apart_in_one_file() {
    only_in(
        &["cfg(target_os", "cfg(all(target_os", "cfg(not(target_os", "cfg(any(target_os"],
        |path| path == "crates/metallic_devices/src/lib.rs",
    );
}

#[test]
fn nothing_is_left_for_later() {
    only_in(&["todo!", "unimplemented!", "#[ignore"], |_| false);
}

#[test]
fn the_environment_is_read_in_one_file() {
    only_in(&["env::var", "env::var_os", "env::vars"], |path| {
        // Cargo talks to build scripts in variables, and reads what they print.
        path == "crates/metallic/src/config.rs" || path.ends_with("/build.rs")
    });
}

#[test]
fn only_the_command_line_prints() {
    only_in(&["println!", "eprintln!", "print!", "eprint!"], |path| {
        path.starts_with("crates/metallic_cli/")
            || path.contains("/benches/")
            || path.ends_with("/build.rs")
    });
}

#[test]
fn crates_know_each_other_in_one_direction() {
    let allowed: [(&str, &[&str]); 6] = [
        ("metallic_instrumentation", &[]),
        ("metallic", &["metallic_instrumentation"]),
        ("metallic_devices", &["metallic", "metallic_instrumentation"]),
        ("metallic_models", &["metallic", "metallic_instrumentation"]),
        ("metallic_testkit", &["metallic", "metallic_instrumentation"]),
        (
            "metallic_cli",
            &[
                "metallic",
                "metallic_devices",
                "metallic_instrumentation",
                "metallic_models",
                "metallic_testkit",
            ],
        ),
    ];
    let folders = fs::read_dir(root().join("crates")).unwrap().count();
    assert_eq!(folders, allowed.len(), "a new crate needs its place here");
    for (name, allowed) in allowed {
        let manifest = root().join("crates").join(name).join("Cargo.toml");
        let text = fs::read_to_string(&manifest).unwrap();
        for known in dependencies(&text) {
            assert!(allowed.contains(&known.as_str()), "{name} depends on {known}");
        }
    }
}

/// The workspace's own crates among the `[dependencies]` of a manifest, those of a platform and
/// build dependencies too; tests may use what they like.
fn dependencies(manifest: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut inside = false;
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            let section = line.trim_matches(['[', ']']);
            inside = section.ends_with("dependencies") && !section.ends_with("dev-dependencies");
        } else if inside && line.starts_with("metallic") {
            found.extend(line.split(['.', ' ', '=']).next().map(str::to_owned));
        }
    }
    found
}

#[test]
fn manifests_are_read_as_cargo_reads_them() {
    let manifest = "[dependencies]\nmetallic.workspace = true\nserde = \"1\"\n\
                    [target.'cfg(unix)'.dependencies]\nmetallic_devices = { path = \"x\" }\n\
                    [dev-dependencies]\nmetallic_testkit.workspace = true\n[lints]\n";
    assert_eq!(dependencies(manifest), ["metallic", "metallic_devices"]);
}
