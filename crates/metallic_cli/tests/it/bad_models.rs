//! Models that are missing, cut, damaged or of another kind: one line that says which.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use metallic::tensor::{DType, HostBytes};
use metallic_models::gguf::{GgufWriter, TensorInfo, Value};
use metallic_models::tiny;

use crate::support::{Outcome, binary, edited, file, folder, metallic, text, with_metadata};

/// Runs a model of these bytes.
fn run(bytes: impl AsRef<[u8]>) -> Outcome {
    run_with(bytes, &[])
}

fn run_with(bytes: impl AsRef<[u8]>, args: &[&str]) -> Outcome {
    let dir = folder();
    let path = file(&dir, "model.gguf", bytes);
    metallic(&[&["run", "-m", text(&path), "-p", "Once upon a time", "-n", "2"], args].concat())
}

#[test]
fn nothing_there() {
    metallic(&["run", "-m", "/nonexistent/model.gguf", "-p", "a"])
        .fails(1, &["/nonexistent/model.gguf"]);
    let dir = folder();
    metallic(&["run", "-m", text(dir.path()), "-p", "a"]).fails(1, &["no model", ".gguf"]);
    file(&dir, "a.gguf", tiny::GGUF);
    file(&dir, "b.gguf", tiny::GGUF);
    metallic(&["run", "-m", text(dir.path()), "-p", "a"]).fails(1, &["a.gguf, b.gguf"]);
}

#[test]
fn the_copy_of_the_embedded_model_runs() {
    run(with_metadata(|_, value| Some(value))).ok();
}

#[test]
fn cut_in_every_section() {
    let whole = with_metadata(|_, value| Some(value));
    let find = |needle: &[u8]| whole.windows(needle.len()).position(|at| at == needle).unwrap();
    for (section, cut) in [
        ("header", 12),
        ("metadata", find(b"general.name") + 4),
        ("metadata", find(b"tokenizer.ggml.tokens") + 4000),
        ("tensor list", find(b"blk.3.ffn_norm.weight") + 3),
        ("tensor", whole.len() - 4000),
    ] {
        run(&whole[..cut]).fails(1, &[section, "incomplete", "model.gguf"]);
    }
    run(&whole[..0]).fails(1, &["ends inside the header"]);
}

#[test]
fn headers_that_lie() {
    let whole = with_metadata(|_, value| Some(value));
    let huge = (1u64 << 60).to_le_bytes();
    for offset in [8, 16] {
        let mut bytes = whole.clone();
        bytes[offset..offset + 8].copy_from_slice(&huge);
        run(bytes).fails(1, &["model.gguf"]);
    }
    let mut wrong = whole.clone();
    wrong[..4].copy_from_slice(b"PK\x03\x04");
    run(wrong).fails(1, &["not a GGUF file"]);
    let mut version = whole;
    version[4] = 9;
    run(version).fails(1, &["version 9"]);
}

#[test]
fn tensors_of_unknown_type_or_past_the_end() {
    let bool_type = |info: TensorInfo| match info.name.as_str() {
        // The writer gives types that GGUF lacks a number nobody knows.
        "output_norm.weight" => Some(TensorInfo { dtype: DType::Bool, ..info }),
        _ => Some(info),
    };
    run(edited(|_, value| Some(value), bool_type)).fails(1, &["output_norm.weight", "type"]);

    let whole = with_metadata(|_, value| Some(value));
    let name = b"output_norm.weight";
    let at = whole.windows(name.len()).position(|window| window == name).unwrap();
    // After the name: rank, one axis, type, then the offset.
    let offset = at + name.len() + 4 + 8 + 4;
    let mut past = whole;
    past[offset..offset + 8].copy_from_slice(&(1u64 << 40).to_le_bytes());
    run(past).fails(1, &["tensor data", "incomplete"]);
}

#[test]
fn a_path_need_not_be_unicode() {
    let dir = folder();
    let name = OsStr::from_bytes(b"caf\xe9.gguf");
    // Some file systems, as Apple's, have no such name.
    if std::fs::write(dir.path().join(name), with_metadata(|_, value| Some(value))).is_err() {
        return;
    }
    let run = |model: &OsStr| {
        binary().current_dir(dir.path()).arg("inspect").arg(model).output().unwrap()
    };
    assert!(run(name).status.success());
    let missing = run(OsStr::from_bytes(b"\xe9"));
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8(missing.stderr).unwrap().contains("folder `\u{fffd}`;"));
}

#[test]
fn another_architecture() {
    let other = with_metadata(|key, value| {
        Some(if key == "general.architecture" { Value::from("mamba") } else { value })
    });
    run(other).fails(1, &["mamba", "known: llama, mistral, qwen2, qwen3"]);
}

#[test]
fn tokenizers_and_templates() {
    let silent = with_metadata(|key, value| (!key.starts_with("tokenizer.")).then_some(value));
    run(silent).fails(1, &["tokenizer.ggml"]);
    let template = |source: &'static str| {
        with_metadata(move |key, value| {
            Some(if key == "tokenizer.chat_template" { Value::from(source) } else { value })
        })
    };
    run_with(template("{% if %}"), &["--chat"]).fails(1, &["template", "syntax"]);
    run_with(template("{{ 1 + none }}"), &["--chat"]).fails(1, &["template"]);
    run_with(template("{{ raise_exception('no cats') }}"), &["--chat"]).fails(1, &["no cats"]);
    // Without --chat nobody asks the template.
    run(template("{% if %}")).ok();
}

#[test]
fn weights_that_are_not_numbers() {
    let nan = |info: TensorInfo| {
        let bytes = f32::NAN.to_le_bytes().repeat(info.shape[0]);
        Some(match info.name.as_str() {
            "output_norm.weight" => TensorInfo { bytes: HostBytes::new(bytes), ..info },
            _ => info,
        })
    };
    let bytes = edited(|_, value| Some(value), nan);
    for backend in ["legacy", "graph"] {
        run_with(&bytes, &["--sdpa-backend", backend]).fails(1, &["not finite", "NaN"]);
    }
    let dir = folder();
    let (model, story) = (file(&dir, "m.gguf", &bytes), file(&dir, "t.txt", "Once upon a time"));
    metallic(&["perplexity", "-m", text(&model), "-f", text(&story)]).fails(1, &["not finite"]);
}

#[test]
fn tensors_that_are_missing_or_of_another_shape() {
    let gone = |info: TensorInfo| (info.name != "blk.2.ffn_up.weight").then_some(info);
    run(edited(|_, value| Some(value), gone)).fails(1, &["blk.2.ffn_up.weight"]);
    let other = GgufWriter::new("qwen2").finish();
    run(other).fails(1, &["model.gguf"]);
}
