//! Data and references for the tests of the numeric code.

use metallic::tensor::DType;

use super::*;
use crate::cpu::quant::dequantize_row;

/// Pseudo-random bits: SplitMix64.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Roughly gaussian, of variance 1: a sum of 12 uniform numbers.
    pub(crate) fn gaussian(&mut self) -> f32 {
        let sum: f64 = (0..12).map(|_| (self.bits() >> 11) as f64 / (1u64 << 53) as f64).sum();
        (sum - 6.0) as f32
    }
}

/// `len` roughly gaussian numbers.
pub(crate) fn gaussian(seed: u64, len: usize) -> Vec<f32> {
    let mut random = Random::new(seed);
    (0..len).map(|_| random.gaussian()).collect()
}

/// Random stored bytes of `elements` elements, with scales of about 0.02.
pub(crate) fn random_bytes(seed: u64, dtype: DType, elements: usize) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut bytes: Vec<u8> =
        (0..dtype.row_bytes(elements).unwrap()).map(|_| random.bits() as u8).collect();
    let halves: &[usize] = match dtype {
        DType::F32 => return bytemuck::cast_slice(&gaussian(seed, elements)).to_vec(),
        DType::F16 | DType::Bf16 => {
            let level = Level::detect();
            crate::cpu::kernels::convert::encode_row(
                level,
                dtype,
                &gaussian(seed, elements),
                &mut bytes,
            );
            return bytes;
        }
        DType::Q4_1 | DType::Q5_1 | DType::Q4K | DType::Q5K => &[0, 2],
        DType::Q2K => &[80, 82],
        DType::Q3K => &[108],
        DType::Q6K => &[208],
        _ => &[0],
    };
    for block in bytes.chunks_exact_mut(dtype.block_bytes()) {
        for at in halves {
            let scale = half::f16::from_f32(0.02 * random.gaussian());
            block[*at..at + 2].copy_from_slice(&scale.to_le_bytes());
        }
    }
    bytes
}

/// `x · Wᵀ + bias` in f64, and the sum of the magnitudes of each product.
pub(crate) fn reference(x: &[f32], args: &Linear) -> Vec<(f64, f64)> {
    let LinearWeight { dtype, rows: n, cols: k, bytes } = args.weight;
    let mut w = vec![0.0; n * k];
    let row_bytes = dtype.row_bytes(k).unwrap();
    for (row, out) in bytes.chunks_exact(row_bytes).zip(w.chunks_exact_mut(k)) {
        dequantize_row(dtype, row, out);
    }
    let mut y = Vec::new();
    for x in x.chunks_exact(k) {
        for (col, w) in w.chunks_exact(k).enumerate() {
            let bias = args.bias.map_or(0.0, |bias| f64::from(bias[col]));
            let products = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w));
            y.push(products.fold((bias, bias.abs()), |(sum, size), p| (sum + p, size + p.abs())));
        }
    }
    y
}

/// x as the integer paths see it: rounded to 8 bits per 32 elements.
pub(crate) fn rounded(x: &[f32]) -> Vec<f32> {
    let mut out = Vec::new();
    for block in x.chunks_exact(32) {
        let mut codes = [0i8; 32];
        let scale = activations::quantize_block(block.try_into().unwrap(), &mut codes);
        out.extend(codes.map(|code| f32::from(code) * scale));
    }
    out
}

#[test]
fn every_type_level_and_precision() {
    let pools = [ThreadPool::new(1), ThreadPool::new(2)];
    for dtype in DType::ALL.into_iter().filter(|d| d.is_float() || d.is_quantized()) {
        let block = dtype.block_len().max(32);
        // Odd counts of blocks and rows, and rows of x on every path.
        for (m, n, blocks) in
            [(1, 7, 1), (1, 37, 5), (2, 5, 3), (3, 33, 2), (5, 17, 3), (8, 9, 1), (13, 67, 3)]
        {
            let k = blocks * block;
            let x = gaussian(5, m * k);
            let bytes = random_bytes(9, dtype, n * k);
            let bias = gaussian(6, n);
            for level in Level::available() {
                for precision in [Precision::Exact, Precision::Quantized] {
                    let weight = LinearWeight { dtype, rows: n, cols: k, bytes: &bytes };
                    let bias = (n % 2 == 1).then_some(&*bias);
                    let args = Linear { x: &x, m, weight, bias, precision, level };
                    let integer = precision == Precision::Quantized && dtype.is_quantized();
                    let want = reference(&if integer { rounded(&x) } else { x.clone() }, &args);
                    let mut y = vec![f32::NAN; m * n];
                    linear(&pools[m % 2], &args, &mut y);
                    for (i, (got, (want, size))) in y.iter().zip(&want).enumerate() {
                        let error = (f64::from(*got) - want).abs();
                        assert!(
                            error <= 3e-6 * size,
                            "{dtype} {level:?} {precision:?} m {m} n {n} k {k} at {i}: {got} {want}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn products_of_one_x_are_those_of_each_alone() {
    let (n, k) = ([70, 33, 5], 256);
    let weights = [DType::Q4K, DType::Q6K, DType::Q8_0, DType::Q4_1, DType::F16];
    for level in Level::available() {
        for precision in [Precision::Quantized, Precision::Exact] {
            for (m, first) in [(1, 0), (3, 1), (13, 2), (29, 0)] {
                let (x, bias) = (gaussian(5, m * k), gaussian(6, n[0]));
                let dtypes: [DType; 3] = std::array::from_fn(|i| weights[first + i]);
                let bytes: [_; 3] =
                    std::array::from_fn(|i| random_bytes(i as u64, dtypes[i], n[i] * k));
                let weight = |i: usize| LinearWeight {
                    dtype: dtypes[i],
                    rows: n[i],
                    cols: k,
                    bytes: &bytes[i],
                };
                let bias = |i: usize| (i == 0).then_some(&*bias);
                let alone: [Vec<f32>; 3] = std::array::from_fn(|i| {
                    let mut y = vec![f32::NAN; m * n[i]];
                    let (weight, bias) = (weight(i), bias(i));
                    let args = Linear { x: &x, m, weight, bias, precision, level };
                    linear(&ThreadPool::new(1), &args, &mut y);
                    y
                });
                // Rows of x appear only when they are asked for.
                let mut late = vec![f32::NAN; m * k];
                let at = Address(late.as_mut_ptr());
                let prepare = |rows: std::ops::Range<usize>| {
                    let (at, rows) = (&at, rows.start * k..rows.end * k);
                    // SAFETY: rows of `late`, each asked for once.
                    unsafe { at.0.add(rows.start).copy_from(x[rows.clone()].as_ptr(), rows.len()) };
                };
                let mut together = alone.each_ref().map(|y| vec![f32::NAN; y.len()]);
                let mut parts = together.iter_mut().enumerate().map(|(i, y)| Part {
                    weight: weight(i),
                    bias: bias(i),
                    y: y.as_mut_ptr(),
                });
                let parts: [Part; 3] = std::array::from_fn(|_| parts.next().unwrap());
                let prepare = Some(&prepare as &(dyn Fn(_) + Sync));
                let input = Input { x: at.0, m, k, prepare, precision, level };
                // SAFETY: the vectors have the shapes, and nothing else touches them.
                unsafe { products(&ThreadPool::new(2), &input, parts) };
                assert!(alone == together, "{dtypes:?} {level:?} {precision:?} m {m}");
            }
        }
    }
}

struct Address(*mut f32);

// SAFETY: tasks write their own rows.
unsafe impl Sync for Address {}

#[test]
fn eight_bit_activations_cost_under_one_percent() {
    let (m, n, k) = (4, 64, 1024);
    let x = gaussian(7, m * k);
    for dtype in DType::ALL.into_iter().filter(|d| d.is_quantized()) {
        let bytes = random_bytes(8, dtype, n * k);
        let weight = LinearWeight { dtype, rows: n, cols: k, bytes: &bytes };
        let (precision, level) = (Precision::Quantized, Level::detect());
        let args = Linear { x: &x, m, weight, bias: None, precision, level };
        let mut y = vec![0.0; m * n];
        linear(&ThreadPool::new(2), &args, &mut y);
        let (mut error, mut size) = (0.0, 0.0);
        for (got, (want, _)) in y.iter().zip(reference(&x, &args)) {
            error += (f64::from(*got) - want).powi(2);
            size += want * want;
        }
        assert!((error / size).sqrt() < 0.01, "{dtype}: {}", (error / size).sqrt());
    }
}

#[test]
fn empty_products() {
    let weight = LinearWeight { dtype: DType::F32, rows: 2, cols: 0, bytes: &[] };
    let (precision, level) = (Precision::Exact, Level::detect());
    let mut args = Linear { x: &[], m: 2, weight, bias: Some(&[1.0, 2.0]), precision, level };
    let mut y = [9.0; 4];
    linear(&ThreadPool::new(1), &args, &mut y);
    assert_eq!(y, [1.0, 2.0, 1.0, 2.0]);
    args.m = 0;
    linear(&ThreadPool::new(1), &args, &mut []);
}
