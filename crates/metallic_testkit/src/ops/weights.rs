//! Random stored rows of any weight type: random codes under scales of a sane size.

use half::{bf16, f16};
use metallic::tensor::DType;

use crate::random::Random;

/// Where the f16 scales and minimums of a block stand, in bytes.
fn scales_at(dtype: DType) -> &'static [usize] {
    match dtype {
        DType::Q8_0 | DType::Q4_0 | DType::Q5_0 | DType::Iq4Nl | DType::Iq4Xs => &[0],
        DType::Q4_1 | DType::Q5_1 | DType::Q4K | DType::Q5K => &[0, 2],
        DType::Q2K => &[80, 82],
        DType::Q3K => &[108],
        DType::Q6K => &[208],
        DType::F32 | DType::F16 | DType::Bf16 | DType::I32 | DType::I64 | DType::Bool => &[],
    }
}

/// `elements` stored elements: standard normal for floats, whole blocks of random codes else.
pub(super) fn stored(random: &mut Random, dtype: DType, elements: usize) -> Vec<u8> {
    let mut normal = || random.normal();
    match dtype {
        DType::F32 => (0..elements).flat_map(|_| (normal() as f32).to_le_bytes()).collect(),
        DType::F16 => (0..elements).flat_map(|_| f16::from_f64(normal()).to_le_bytes()).collect(),
        DType::Bf16 => (0..elements).flat_map(|_| bf16::from_f64(normal()).to_le_bytes()).collect(),
        _ => {
            let blocks = elements / dtype.block_len();
            let bytes = blocks * dtype.block_bytes();
            let mut stored: Vec<u8> = (0..bytes).map(|_| random.bits() as u8).collect();
            for block in stored.chunks_exact_mut(dtype.block_bytes()) {
                for &at in scales_at(dtype) {
                    let scale = f16::from_f64(0.002 + 0.02 * random.uniform());
                    block[at..at + 2].copy_from_slice(&scale.to_le_bytes());
                }
            }
            stored
        }
    }
}

/// `count` standard normal numbers.
pub(super) fn normals(random: &mut Random, count: usize) -> Vec<f32> {
    (0..count).map(|_| random.normal() as f32).collect()
}
