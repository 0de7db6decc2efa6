//! Three real kernels are right in every order of threads, with fast math too.

use softmetal_emulator::CompileOptions;

use crate::cases::{RMS_NORM_TYPES, flash_decode, gemm, rms_norm};
use crate::support::{ORDERS, function, options};

const GEMM: &str = include_str!("../kernels/gemm.metal");
const RMS_NORM: &str = include_str!("../kernels/rmsnorm.metal");
const FLASH_DECODE: &str = include_str!("../kernels/flash_decode.metal");

/// Every order, with and without fast math.
fn variants() -> impl Iterator<Item = CompileOptions> {
    [false, true]
        .into_iter()
        .flat_map(|fast_math| ORDERS.map(|order| CompileOptions { order, fast_math, ..options() }))
}

#[test]
fn gemm_on_simdgroup_matrices() {
    assert_eq!(function(GEMM, "gemm_f16", &[], &options()).static_threadgroup_bytes(), 11264);
    for options in variants() {
        for (shape, bias) in [([64, 64, 64], false), ([70, 130, 96], true), ([33, 64, 256], true)] {
            let error = gemm(GEMM, &options, shape, bias).unwrap();
            assert!(error < 1e-3, "{shape:?} {options:?}: {error}");
        }
    }
}

#[test]
fn rms_norm_in_three_types() {
    for options in variants() {
        for (name, make, read, tolerance) in RMS_NORM_TYPES {
            for residual in [false, true] {
                let error = rms_norm(RMS_NORM, &options, (name, make, read), residual).unwrap();
                assert!(error < tolerance, "{name} residual {residual} {options:?}: {error}");
            }
        }
    }
}

#[test]
fn flash_decode_with_grouped_heads() {
    for options in variants() {
        for (length, softcap) in [(3, 0.0), (33, 5.0), (300, 0.0)] {
            let error = flash_decode(FLASH_DECODE, &options, length, softcap).unwrap();
            assert!(error < 1e-3, "length {length} softcap {softcap} {options:?}: {error}");
        }
    }
}
