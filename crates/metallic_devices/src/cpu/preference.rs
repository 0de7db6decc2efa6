//! What `auto` runs on the CPU, by phase and length.
//!
//! Each class carries the ratio of legacy's time to graph's, measured side by side on two AVX-512
//! cores with 14/2, 9/3, 28/4 and 8/8 heads of 64 and 128, f16 and f32 keys, at most 4096 of them
//! (`metallic bench sdpa`, bench/runs/2026-11-23-amd-epyc-2c/classes.txt). The ranges are over shapes.
//! Quantised keys are a class of their own.

use metallic::dispatch::{Backend, Preference};
use metallic::op::{Phase, SdpaSpec};

struct Class {
    phase: Phase,
    /// Most query rows, rounded up to a power of two.
    q_bucket: usize,
    /// Most keys, rounded up to the key bucket.
    kv_bucket: usize,
    preference: Preference,
}

const fn graph(phase: Phase, q_bucket: usize, kv_bucket: usize, reason: &'static str) -> Class {
    let preference = Preference { backend: Backend::Graph, reason };
    Class { phase, q_bucket, kv_bucket, preference }
}

/// The first class that holds a call decides.
const CLASSES: [Class; 4] = [
    graph(Phase::Decode, 1, 512, "decode, kv <= 512: graph 2.7 to 4.3 times as fast as legacy"),
    graph(
        Phase::Decode,
        1,
        usize::MAX,
        "decode, kv > 512: graph 2.6 to 4.5 times as fast as legacy",
    ),
    graph(
        Phase::Prefill,
        16,
        usize::MAX,
        "prefill, q <= 16: graph 1.2 to 2.3 times as fast as legacy",
    ),
    graph(
        Phase::Prefill,
        usize::MAX,
        usize::MAX,
        "prefill, q > 16: graph 2.0 to 4.9 times as fast as legacy",
    ),
];

/// One new token over quantised keys and values, at 512 to 32768 keys, heads 14/2 of 64 and 28/4
/// of 128, one and two threads (`benches/sdpa_kernels.rs`).
const QUANTIZED_DECODE: Preference = Preference {
    backend: Backend::Graph,
    reason: "decode over q8_0 keys: graph 1.6 to 2.2 times as fast as legacy",
};

/// Keys and values of different types, where the fused loop unpacks tiles.
const MIXED_DECODE: Preference = Preference {
    backend: Backend::Legacy,
    reason: "decode over q8_0 beside another type: graph is not measured there yet",
};

/// The built-in preference for a call.
pub(super) fn sdpa(spec: &SdpaSpec) -> Preference {
    if spec.phase == Phase::Decode && (spec.k_dtype.is_quantized() || spec.v_dtype.is_quantized()) {
        return if spec.k_dtype == spec.v_dtype { QUANTIZED_DECODE } else { MIXED_DECODE };
    }
    let lengths = &spec.lengths;
    CLASSES
        .iter()
        .find(|class| {
            class.phase == spec.phase
                && lengths.q_bucket <= class.q_bucket
                && lengths.kv_bucket <= class.kv_bucket
        })
        .map_or(CLASSES[CLASSES.len() - 1].preference, |class| class.preference)
}
