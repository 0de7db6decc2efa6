//! `metallic op sdpa`: files in, file out.

use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use tempfile::TempDir;

use crate::support::{Outcome, folder, metallic, text};

/// A tensor for an input file.
pub(crate) struct Input {
    name: &'static str,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

pub(crate) fn f32s(name: &'static str, shape: &[usize], values: &[f32]) -> Input {
    let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Input { name, dtype: Dtype::F32, shape: shape.to_vec(), bytes }
}

pub(crate) fn f16s(name: &'static str, shape: &[usize], values: &[f32]) -> Input {
    let bytes = values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect();
    Input { name, dtype: Dtype::F16, shape: shape.to_vec(), bytes }
}

pub(crate) fn raw(name: &'static str, dtype: Dtype, shape: &[usize], bytes: Vec<u8>) -> Input {
    Input { name, dtype, shape: shape.to_vec(), bytes }
}

/// Some numbers, the same every time.
pub(crate) fn values(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// An input file and the place of its output.
pub(crate) struct Files {
    pub(crate) dir: TempDir,
    pub(crate) inputs: PathBuf,
    pub(crate) output: PathBuf,
}

pub(crate) fn files(tensors: &[Input]) -> Files {
    let dir = folder();
    let (inputs, output) = (dir.path().join("in.safetensors"), dir.path().join("out.safetensors"));
    let views = tensors.iter().map(|tensor| {
        let view = TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes).unwrap();
        (tensor.name, view)
    });
    std::fs::write(&inputs, safetensors::serialize(views, None).unwrap()).unwrap();
    Files { dir, inputs, output }
}

impl Files {
    pub(crate) fn run(&self, args: &[&str]) -> Outcome {
        let files = ["op", "sdpa", "--inputs", text(&self.inputs), "--output", text(&self.output)];
        metallic(&[&files[..], args].concat())
    }
}

pub(crate) fn out(path: &Path) -> (Dtype, Vec<usize>, Vec<f32>) {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.names(), ["out"]);
    let view = file.tensor("out").unwrap();
    let data = view.data();
    let values = match view.dtype() {
        Dtype::F32 => data.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
        Dtype::F16 => data
            .chunks(2)
            .map(|b| half::f16::from_le_bytes(b.try_into().unwrap()).to_f32())
            .collect(),
        other => panic!("{other:?}"),
    };
    (view.dtype(), view.shape().to_vec(), values)
}

/// Queries of zeros: every visible key weighs the same, so a row is the mean of visible values.
fn uniform(extra: Vec<Input>) -> Files {
    let mut tensors = vec![
        f32s("q", &[1, 2, 2, 4], &[0.0; 16]),
        f32s("k", &[1, 1, 3, 4], &values(12, 1)),
        f32s("v", &[1, 1, 3, 1], &[1.0, 2.0, 6.0]),
    ];
    tensors.extend(extra);
    files(&tensors)
}

const BACKENDS: [&str; 2] = ["legacy", "graph"];

/// Both backends must give these rows, the same for both heads.
fn expect(files: &Files, args: &[&str], rows: [f32; 2]) {
    for backend in BACKENDS {
        files.run(&[args, &["--sdpa-backend", backend]].concat()).ok();
        let (_, shape, got) = out(&files.output);
        assert_eq!(shape, [1, 2, 2, 1]);
        for (index, got) in got.iter().enumerate() {
            assert!((got - rows[index % 2]).abs() < 1e-5, "{backend} {args:?}: {got}");
        }
    }
}

#[test]
fn masks_and_windows_leave_the_means_of_what_is_seen() {
    let plain = uniform(vec![]);
    expect(&plain, &[], [3.0, 3.0]);
    // Lower right: query 0 sees keys 0 and 1.
    expect(&plain, &["--causal"], [1.5, 3.0]);
    expect(&plain, &["--causal", "--causal-offset", "0"], [1.0, 1.5]);
    // Before the first key there is nothing, and nothing gives zero.
    expect(&plain, &["--causal", "--causal-offset", "-1"], [0.0, 1.0]);
    expect(&plain, &["--causal", "--window-left", "0"], [2.0, 6.0]);
    // Windows count from the same diagonal without --causal.
    expect(&plain, &["--window-left", "0", "--window-right", "1"], [4.0, 6.0]);
    expect(&plain, &["--window-right", "0"], [1.5, 3.0]);
    expect(&plain, &["--causal", "--window-right", "5"], [1.5, 3.0]);
}

#[test]
fn mask_tensors_broadcast() {
    let bool_mask = |shape: &[usize], bytes: &[u8]| {
        uniform(vec![raw("mask", Dtype::BOOL, shape, bytes.to_vec())])
    };
    expect(&bool_mask(&[3], &[1, 0, 1]), &[], [3.5, 3.5]);
    expect(&bool_mask(&[2, 3], &[1, 0, 0, 0, 1, 1]), &[], [1.0, 4.0]);
    expect(&bool_mask(&[1, 1, 2, 1], &[0, 1]), &[], [0.0, 3.0]);
    expect(&bool_mask(&[3], &[0, 1, 1]), &["--causal"], [2.0, 4.0]);
    let hidden = f32::NEG_INFINITY;
    expect(&uniform(vec![f32s("mask", &[1, 3], &[hidden, 0.0, 0.0])]), &[], [4.0, 4.0]);
    expect(&uniform(vec![f16s("mask", &[3], &[0.0, hidden, hidden])]), &[], [1.0, 1.0]);
}

#[test]
fn live_lengths_move_the_diagonal() {
    for lens in [
        raw("kv_lens", Dtype::I32, &[1], 2i32.to_le_bytes().to_vec()),
        raw("kv_lens", Dtype::I64, &[1], 2i64.to_le_bytes().to_vec()),
    ] {
        let files = uniform(vec![lens]);
        expect(&files, &[], [1.5, 1.5]);
        expect(&files, &["--causal"], [1.0, 1.5]);
    }
    let none = uniform(vec![raw("kv_lens", Dtype::I32, &[1], vec![0; 4])]);
    expect(&none, &[], [0.0, 0.0]);
}

#[test]
fn types_may_differ_and_the_output_has_the_query_s() {
    let q = values(2 * 4 * 5 * 32, 3);
    let (k, v) = (values(2 * 2 * 9 * 32, 4), values(2 * 2 * 9 * 16, 5));
    let scaled = ["--causal", "--scale", "0.3", "--softcap", "2"];
    let exact = files(&[
        f32s("q", &[2, 4, 5, 32], &q),
        f32s("k", &[2, 2, 9, 32], &k),
        f32s("v", &[2, 2, 9, 16], &v),
    ]);
    exact.run(&[&scaled[..], &["--sdpa-backend", "legacy"]].concat()).ok();
    let (_, _, reference) = out(&exact.output);
    let mixed = files(&[
        f16s("q", &[2, 4, 5, 32], &q),
        f32s("k", &[2, 2, 9, 32], &k),
        f16s("v", &[2, 2, 9, 16], &v),
    ]);
    for backend in BACKENDS {
        mixed.run(&[&scaled[..], &["--sdpa-backend", backend]].concat()).ok();
        let (dtype, shape, got) = out(&mixed.output);
        assert_eq!((dtype, shape), (Dtype::F16, vec![2, 4, 5, 16]));
        for (got, want) in got.iter().zip(&reference) {
            assert!((got - want).abs() < 4e-3, "{backend}: {got} {want}");
        }
    }
}

#[test]
fn the_report_says_what_ran_and_how_long() {
    let files = uniform(vec![]);
    let report = files.run(&["--causal", "--json", "--sdpa-backend", "graph"]).ok().json();
    assert_eq!(report["backend"], "graph");
    assert!(report["reason"].as_str().unwrap().contains("--sdpa-backend"));
    assert_eq!(report["tensors"]["q"]["shape"], serde_json::json!([1, 2, 2, 4]));
    assert_eq!(report["tensors"]["out"]["dtype"], "f32");
    assert_eq!(report["cache_events"][0]["hit"], false);
    assert!(report["compile_us"].is_u64() && report["encode_us"].is_u64(), "{report}");
    assert!(report["execute_us"].as_f64().unwrap() >= 0.0);
    let plain = files.run(&["--sdpa-backend", "legacy"]).ok();
    assert_eq!(plain.stdout, "");
    assert!(plain.stderr.contains("by legacy"), "{}", plain.stderr);
}

#[test]
fn a_tensor_of_another_name_is_refused() {
    let of = |name, shape: &[usize]| uniform(vec![f32s(name, shape, &[0.0; 6])]);
    of("Mask", &[2, 3]).run(&[]).fails(1, &["does not know: Mask;", "q, k, v, mask, kv_lens"]);
    of("sinks", &[6]).run(&[]).fails(1, &["sinks", "rename or remove"]);
    // A result to compare with.
    of("out", &[6]).run(&[]).ok();
}
