//! Inputs that do not fit `metallic op sdpa`, and outputs that cannot be written.

use std::os::unix::fs::PermissionsExt;

use safetensors::Dtype;

use crate::op_sdpa::{Files, Input, f32s, files, raw, values};
use crate::support::{metallic, text};

const Q: [usize; 4] = [1, 4, 2, 8];
const K: [usize; 4] = [1, 2, 3, 8];
const V: [usize; 4] = [1, 2, 3, 8];

fn qkv(q: &[usize], k: &[usize], v: &[usize]) -> Vec<Input> {
    let tensor = |name, shape: &[usize]| f32s(name, shape, &values(shape.iter().product(), 1));
    vec![tensor("q", q), tensor("k", k), tensor("v", v)]
}

fn with(extra: Input) -> Files {
    let mut tensors = qkv(&Q, &K, &V);
    tensors.push(extra);
    files(&tensors)
}

/// A refusal leaves no file behind, whole or half.
fn refused(files: &Files, args: &[&str], code: i32, words: &[&str]) {
    files.run(args).fails(code, words);
    let left: Vec<_> = std::fs::read_dir(files.dir.path()).unwrap().flatten().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn every_dimension_that_does_not_fit_is_named() {
    for (q, k, v, words) in [
        (Q, [2, 2, 3, 8], V, ["k axis 0 (batch)", "is 2"]),
        (Q, K, [3, 2, 3, 8], ["v axis 0 (batch)", "is 3"]),
        (Q, [1, 2, 3, 4], V, ["k axis 3 (head_dim)", "is 4"]),
        (Q, K, [1, 1, 3, 8], ["v axis 1 (kv_heads)", "is 1"]),
        (Q, K, [1, 2, 5, 8], ["v axis 2 (kv_len)", "is 5"]),
        ([1, 3, 2, 8], K, V, ["q axis 1 (q_heads)", "is 3"]),
    ] {
        refused(&files(&qkv(&q, &k, &v)), &[], 1, &words);
    }
    refused(&files(&qkv(&[4, 2, 8], &K, &V)), &[], 1, &["`q`", "[4, 2, 8]", "4 axes"]);
    let mask = |shape: &[usize]| with(f32s("mask", shape, &values(shape.iter().product(), 1)));
    refused(&mask(&[2, 4]), &[], 1, &["mask shape", "[2, 4]", "[1, 4, 2, 3]"]);
    refused(&mask(&[1, 1, 1, 2, 3]), &[], 1, &["`mask`", "1 to 4 axes"]);
}

#[test]
fn types_and_tensors_that_are_not_there() {
    let mut tensors = qkv(&Q, &K, &V);
    tensors.remove(1);
    refused(&files(&tensors), &[], 1, &["no tensor `k`", "q, v"]);
    tensors.push(raw("k", Dtype::I32, &K, vec![0; 192]));
    refused(&files(&tensors), &[], 1, &["`k`", "i32", "f16"]);
    refused(&with(raw("mask", Dtype::U8, &[2, 3], vec![1; 6])), &[], 1, &["`mask`", "u8", "bool"]);
    let float_lens = with(f32s("kv_lens", &[1], &[2.0]));
    refused(&float_lens, &[], 1, &["`kv_lens`", "f32", "i32 or i64"]);
}

#[test]
fn live_lengths_outside_their_range_name_the_sequence() {
    let batch2 = |lens: &[i32]| {
        let mut tensors = qkv(&[2, 4, 2, 8], &[2, 2, 3, 8], &[2, 2, 3, 8]);
        let bytes = lens.iter().flat_map(|len| len.to_le_bytes()).collect();
        tensors.push(raw("kv_lens", Dtype::I32, &[lens.len()], bytes));
        files(&tensors)
    };
    refused(&batch2(&[3, 4]), &[], 1, &["sequence 1", "is 4", "kv_len = 3"]);
    refused(&batch2(&[-1, 0]), &[], 1, &["sequence 0", "is -1"]);
    refused(&batch2(&[1]), &[], 1, &["kv_lens axis 0 (batch)", "is 1"]);
}

#[test]
fn flags_out_of_range() {
    let good = files(&qkv(&Q, &K, &V));
    refused(&good, &["--window-left", "-1"], 2, &["--window-left", "-1"]);
    refused(&good, &["--window-right", "x"], 2, &["--window-right"]);
    refused(&good, &["--causal-offset", "1"], 2, &["--causal-offset", "--causal"]);
    refused(&good, &["--softcap", "0"], 2, &["--softcap", "above 0"]);
    refused(&good, &["--scale", "inf"], 2, &["--scale", "finite"]);
    refused(&good, &["--device", "metal"], 2, &["metal", "macOS"]);
    refused(&good, &["--sdpa-backend", "cudnn"], 2, &["cudnn"]);
}

#[test]
fn files_that_are_no_tensors() {
    let good = files(&qkv(&Q, &K, &V));
    let whole = std::fs::read(&good.inputs).unwrap();
    for bytes in [&whole[..whole.len() - 1], &whole[..4], b"", b"GGUF\x03\0\0\0\0\0\0\0"] {
        std::fs::write(&good.inputs, bytes).unwrap();
        refused(&good, &[], 1, &["in.safetensors"]);
    }
    std::fs::remove_file(&good.inputs).unwrap();
    good.run(&[]).fails(1, &["in.safetensors"]);
}

#[test]
fn outputs_that_cannot_be_written_leave_nothing() {
    let mut good = files(&qkv(&Q, &K, &V));
    good.output = good.dir.path().join("missing/out.safetensors");
    refused(&good, &[], 1, &["missing", "does not exist"]);
    good.output = good.dir.path().to_owned();
    refused(&good, &[], 1, &[text(good.dir.path())]);
    // What stood there before is still there after a refusal, and replaced by a success.
    good.output = good.dir.path().join("out.safetensors");
    std::fs::write(&good.output, "before").unwrap();
    good.run(&["--require-backend", "legacy"]).fails(1, &["legacy is required"]);
    assert_eq!(std::fs::read(&good.output).unwrap(), b"before");
    good.run(&[]).ok();
    assert_ne!(std::fs::read(&good.output).unwrap(), b"before");
    let mode = std::fs::metadata(&good.output).unwrap().permissions().mode();
    assert_eq!(mode & 0o600, 0o600);
    assert_eq!(std::fs::read_dir(good.dir.path()).unwrap().count(), 2);
}

#[test]
fn inputs_that_are_no_files() {
    let files = files(&qkv(&Q, &K, &V));
    let folder = files.dir.path();
    for place in [folder, std::path::Path::new("/dev/null")] {
        metallic(&["op", "sdpa", "--inputs", text(place), "--output", text(&files.output)])
            .fails(1, &[text(place), "no regular file"]);
    }
}

#[test]
fn an_output_that_is_a_link_is_written_through() {
    let files = files(&qkv(&Q, &K, &V));
    let target = files.dir.path().join("target.safetensors");
    std::fs::write(&target, "before").unwrap();
    std::os::unix::fs::symlink(&target, &files.output).unwrap();
    files.run(&[]).ok();
    assert!(files.output.is_symlink());
    assert_ne!(std::fs::read(&target).unwrap(), b"before");
}
