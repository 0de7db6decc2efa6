//! Contexts of both devices, data, and the comparison.

use metallic::Context;
use metallic::dispatch::Policies;
use metallic::tensor::{DType, Shape, Tensor};
use metallic_devices::cpu::{CpuDevice, CpuOptions};
use metallic_devices::metal::{MetalDevice, MetalOptions};
use metallic_instrumentation::Recorder;
use metallic_testkit::random::Random;

/// The stand-in GPU with its kernels.
pub(crate) fn metal() -> Context {
    metal_with(MetalOptions::default(), Recorder::disabled())
}

pub(crate) fn metal_with(options: MetalOptions, recorder: Recorder) -> Context {
    MetalDevice::context(options, Policies::default(), recorder).unwrap()
}

/// The CPU with its kernels.
pub(crate) fn cpu() -> Context {
    let options = CpuOptions { threads: 1, ..CpuOptions::default() };
    CpuDevice::context(options, Policies::default(), Recorder::disabled())
}

/// `len` values of variance 1, the same for each `name`.
pub(crate) fn normal(name: &str, len: usize) -> Vec<f32> {
    let mut random = Random::named(name);
    (0..len).map(|_| random.normal() as f32).collect()
}

/// A dense f32 tensor of [`normal`] values.
pub(crate) fn tensor(ctx: &Context, name: &str, shape: impl Into<Shape>) -> Tensor {
    let shape = shape.into();
    ctx.upload_f32(shape, &normal(name, shape.elements())).unwrap()
}

/// Random stored bytes of `elements` elements of `dtype`, with scales of about 0.02.
pub(crate) fn stored(name: &str, dtype: DType, elements: usize) -> Vec<u8> {
    let mut random = Random::named(name);
    let values = |random: &mut Random| random.normal() as f32;
    match dtype {
        DType::F32 => {
            return (0..elements).flat_map(|_| values(&mut random).to_le_bytes()).collect();
        }
        DType::F16 => {
            let half = |random: &mut Random| half::f16::from_f32(values(random)).to_le_bytes();
            return (0..elements).flat_map(|_| half(&mut random)).collect();
        }
        DType::Bf16 => {
            let half = |random: &mut Random| half::bf16::from_f32(values(random)).to_le_bytes();
            return (0..elements).flat_map(|_| half(&mut random)).collect();
        }
        _ => {}
    }
    let scales: &[usize] = match dtype {
        DType::Q4_1 | DType::Q5_1 | DType::Q4K | DType::Q5K => &[0, 2],
        DType::Q2K => &[80, 82],
        DType::Q3K => &[108],
        DType::Q6K => &[208],
        _ => &[0],
    };
    let bytes = dtype.row_bytes(elements).unwrap();
    let mut bytes: Vec<u8> = (0..bytes).map(|_| random.bits() as u8).collect();
    for block in bytes.chunks_exact_mut(dtype.block_bytes()) {
        for &at in scales {
            let scale = half::f16::from_f64(0.02 * random.normal());
            block[at..at + 2].copy_from_slice(&scale.to_le_bytes());
        }
    }
    bytes
}

/// Runs `work` on both devices and compares what it downloads: within `tolerance` times the larger
/// of 1 and the CPU's magnitude, NaN where the CPU has NaN.
#[track_caller]
pub(crate) fn alike(what: &str, tolerance: f32, work: impl Fn(&Context) -> Vec<f32>) {
    let (want, got) = (work(&cpu()), work(&metal()));
    assert_eq!(want.len(), got.len(), "{what}");
    for (index, (want, got)) in want.iter().zip(&got).enumerate() {
        let near = (want - got).abs() <= tolerance * want.abs().max(1.0)
            || want == got
            || (want.is_nan() && got.is_nan());
        assert!(near, "{what}: element {index} is {got}, on the CPU {want}");
    }
}
