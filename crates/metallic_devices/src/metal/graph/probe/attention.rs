//! What the attention op does where its documentation is silent.

use metallic::Result;
use objc2::rc::Retained;
use objc2_metal_performance_shaders::MPSDataType;
use objc2_metal_performance_shaders_graph::{MPSGraph, MPSGraphTensor};

use super::rig::{Array, F16, F32, Rig, Spot, difference};
use crate::metal::graph::emit::Emitter;
use crate::metal::graph::value::Value;
use crate::probe::{Finding, Verdict};
use crate::process::peak_memory_bytes;

/// Heads, queries, keys, width of the small calls.
const H: usize = 4;
const N: usize = 8;
const KV: usize = 16;
const D: usize = 32;

fn not_before_15(rig: &Rig) -> Option<Finding> {
    (!rig.platform.at_least(15))
        .then(|| Finding::new(Verdict::NotAsked, "the op begins with macOS 15"))
}

/// The op on operands that [`Emitter::sdpa`] would refuse: the process may end here.
fn unchecked(emitter: &Emitter, [q, k, v, mask]: [&Value; 4], dims: &[isize]) -> Value {
    let graph: &MPSGraph = emitter.graph();
    // SAFETY: none but that this is what the probe asks; it runs in a process of its own.
    let tensor: Retained<MPSGraphTensor> = unsafe {
        graph.scaledDotProductAttentionWithQueryTensor_keyTensor_valueTensor_maskTensor_scale_name(
            &q.tensor,
            &k.tensor,
            &v.tensor,
            Some(&mask.tensor),
            1.0,
            None,
        )
    };
    Value { tensor, dims: dims.to_vec(), dtype: q.dtype }
}

/// Plain f32 attention with scale 1 over equal heads; key heads repeat.
fn reference(q: &Array, k: &Array, v: &Array, mask: &Array) -> Vec<f32> {
    let ([heads, rows, width], kv_heads, keys, v_width) =
        ([q.dims[1], q.dims[2], q.dims[3]], k.dims[1], k.dims[2], v.dims[3]);
    let mut out = Vec::new();
    for head in 0..heads {
        let kv_head = head * kv_heads / heads;
        for row in 0..rows {
            let at = (head * rows + row) * width;
            let query = &q.values[at..at + width];
            let scores = (0..keys).map(|key| {
                let at = (kv_head * keys + key) * width;
                let dot: f32 = query.iter().zip(&k.values[at..]).map(|(a, b)| a * b).sum();
                dot + mask.values[row * keys + key]
            });
            let scores: Vec<f32> = scores.collect();
            let most = scores.iter().fold(f32::NEG_INFINITY, |most, score| most.max(*score));
            let weights: Vec<f32> = scores.iter().map(|score| (score - most).exp()).collect();
            let sum: f32 = weights.iter().sum();
            out.extend((0..v_width).map(|column| {
                let at = |key: usize| v.values[(kv_head * keys + key) * v_width + column];
                weights.iter().enumerate().map(|(key, weight)| weight * at(key)).sum::<f32>() / sum
            }));
        }
    }
    out
}

fn operands(dtype: MPSDataType, kv_heads: usize, v_width: usize) -> [Array; 4] {
    [
        Array::noise(1, &[1, H, N, D], dtype),
        Array::noise(2, &[1, kv_heads, KV, D], dtype),
        Array::noise(3, &[1, kv_heads, KV, v_width], dtype),
        Array::new(&[1, 1, N, KV], dtype, vec![0.0; N * KV]),
    ]
}

/// Whether the op on `operands` agrees with plain arithmetic.
fn agrees(rig: &Rig, operands: &[Array; 4], v_width: usize) -> Result<Finding> {
    let dims = [1, H, N, v_width];
    let spot = Spot::dense(&dims, operands[0].dtype);
    let signed = dims.map(|dim| dim as isize);
    let got = rig.result(operands, &spot, |emitter, fed| {
        Ok(unchecked(emitter, [&fed[0], &fed[1], &fed[2], &fed[3]], &signed))
    })?;
    let [q, k, v, mask] = operands;
    let error = difference(&got, &reference(q, k, v, mask));
    let verdict = if error < 2e-2 { Verdict::Better } else { Verdict::AsAssumed };
    Ok(Finding::new(verdict, format!("largest error {error:.2e}")))
}

pub(super) fn masked_rows(rig: &Rig) -> Result<Finding> {
    if let Some(finding) = not_before_15(rig) {
        return Ok(finding);
    }
    let mut seen = Vec::new();
    let mut zeros = true;
    for (name, dtype) in [("f16", F16), ("f32", F32)] {
        let mut operands = operands(dtype, H, D);
        operands[3].values[..KV].fill(f32::NEG_INFINITY);
        let spot = Spot::dense(&[1, H, N, D], dtype);
        let got = rig.result(&operands, &spot, |emitter, fed| {
            emitter.sdpa([&fed[0], &fed[1], &fed[2]], &fed[3], 1.0)
        })?;
        let row = &got[..D];
        zeros &= row.iter().all(|value| *value == 0.0);
        let nans = row.iter().filter(|value| value.is_nan()).count();
        let others = got[D..].iter().filter(|value| value.is_nan()).count();
        seen.push(format!(
            "{name}: the row begins with {:?}, {nans} of {D} are NaN; {others} NaN in other rows",
            &row[..2]
        ));
    }
    let verdict = if zeros { Verdict::Better } else { Verdict::AsAssumed };
    Ok(Finding::new(verdict, seen.join("; ")))
}

pub(super) fn gqa_broadcast(rig: &Rig) -> Result<Finding> {
    if let Some(finding) = not_before_15(rig) {
        return Ok(finding);
    }
    agrees(rig, &operands(F16, 1, D), D)
}

pub(super) fn mask_type(rig: &Rig) -> Result<Finding> {
    if let Some(finding) = not_before_15(rig) {
        return Ok(finding);
    }
    let [q, k, v, mask] = operands(F16, H, D);
    agrees(rig, &[q, k, v, Array { dtype: F32, ..mask }], D)
}

pub(super) fn value_width(rig: &Rig) -> Result<Finding> {
    if let Some(finding) = not_before_15(rig) {
        return Ok(finding);
    }
    agrees(rig, &operands(F16, H, 2 * D), 2 * D)
}

/// Runs of the leaking op: enough that a few KiB each are seen.
const RUNS: usize = 500;

pub(super) fn f32_leak(rig: &Rig) -> Result<Finding> {
    if let Some(finding) = not_before_15(rig) {
        return Ok(finding);
    }
    let operands = operands(F32, H, D);
    let compiled = rig.compile(&operands, |emitter, fed| {
        emitter.sdpa([&fed[0], &fed[1], &fed[2]], &fed[3], 1.0)
    })?;
    let spot = Spot::dense(&[1, H, N, D], F32);
    for _ in 0..RUNS / 10 {
        rig.run(&compiled, &operands, &spot)?;
    }
    let before = peak_memory_bytes().unwrap_or(0);
    for _ in 0..RUNS {
        rig.run(&compiled, &operands, &spot)?;
    }
    let grown = peak_memory_bytes().unwrap_or(0).saturating_sub(before);
    // One matrix of scores a run would be 2 KiB.
    let leaks = grown > (RUNS * H * N * KV * 4) as u64;
    let expected = rig.platform.version.0 == 15;
    let verdict = match (leaks, expected) {
        (true, false) => Verdict::Worse,
        (false, true) => Verdict::Better,
        _ => Verdict::AsAssumed,
    };
    Ok(Finding::new(verdict, format!("{grown} bytes more after {RUNS} runs")))
}

pub(super) fn score_count(rig: &Rig) -> Result<Finding> {
    if let Some(finding) = not_before_15(rig) {
        return Ok(finding);
    }
    // 33 · 8192 · 8192 = 2.2e9 scores.
    let ([heads, len, width], v) = ([33, 8192, 32], 5);
    let array = |seed| Array::noise(seed, &[1, heads, len, width], F16);
    let mask = Array::new(&[1, 1, 1, len], F16, vec![0.0; len]);
    let operands = [array(1), array(2), array(v), mask];
    let spot = Spot::dense(&[1, heads, len, width], F16);
    let got = rig.result(&operands, &spot, |emitter, fed| {
        emitter.sdpa([&fed[0], &fed[1], &fed[2]], &fed[3], 1.0)
    })?;
    // The last row of the last head lies farthest.
    let tail = |array: &Array, rows: usize| {
        let first = (heads - 1) * len * width + (len - rows) * width;
        Array::new(&[1, 1, rows, width], F16, array.values[first..].to_vec())
    };
    let zeros = Array::new(&[1, 1, 1, len], F16, vec![0.0; len]);
    let [q, k, v, _] = &operands;
    let want = reference(&tail(q, 1), &tail(k, len), &tail(v, len), &zeros);
    let error = difference(&got[got.len() - width..], &want);
    let verdict = if error < 2e-2 { Verdict::Better } else { Verdict::AsAssumed };
    Ok(Finding::new(verdict, format!("largest error {error:.2e} in the last row")))
}
