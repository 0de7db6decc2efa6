//! Three real kernels with their f64 references: the source is given, so that mutants run the same cases.

use softmetal_emulator::{CompileOptions, Constant, ConstantValue, Grid, Library};

use crate::support::{Bytes, Numbers, dispatch, error};

/// A kernel file's case: gives the largest error, relative to the largest expected value.
pub(crate) type Case = fn(&str, &CompileOptions) -> Result<f64, String>;

/// C[m, n] = A[m, k] · B[n, k]ᵀ + bias[n], with simdgroup matrices.
pub(crate) fn gemm(
    source: &str,
    options: &CompileOptions,
    [m, n, k]: [usize; 3],
    bias: bool,
) -> Result<f64, String> {
    let mut numbers = Numbers(1);
    let (a, b, bias_values) = (numbers.halves(m * k), numbers.halves(n * k), numbers.halves(n));
    let product = |at: usize| {
        let (row, column) = (at / n, at % n);
        let terms = (0..k).map(|i| f64::from(a[row * k + i]) * f64::from(b[column * k + i]));
        terms.sum::<f64>() + if bias { f64::from(bias_values[column]) } else { 0.0 }
    };
    let expected: Vec<f64> = (0..m * n).map(product).collect();
    let constants = [Constant { index: 0, value: ConstantValue::Bool(true) }];
    let constants = if bias { &constants[..] } else { &[] };
    let gemm = Library::compile(source, options)?.function("gemm_f16", constants)?;
    let [m, n, k] = [m, n, k].map(|size| size as u32);
    let parameters = Bytes::u32(&[m, n, k, k, k, n]);
    let c = Bytes::zeros(expected.len() * 2);
    let mut buffers = [Bytes::f16(&a), Bytes::f16(&b), c, parameters, Bytes::f16(&bias_values)];
    let grid = Grid::Threadgroups([n.div_ceil(64), m.div_ceil(64), 1]);
    dispatch(&gemm, &mut buffers, &[], grid, [128, 1, 1])?;
    Ok(error(&buffers[2].to_f16(), &expected))
}

/// The types that `rms_norm` has instances for.
pub(crate) const RMS_NORM_TYPES: [(&str, Make, Read, f64); 3] = [
    ("rms_norm_f32", Bytes::f32, Bytes::to_f32, 1e-6),
    ("rms_norm_f16", Bytes::f16, Bytes::to_f16, 1e-3),
    ("rms_norm_bf16", Bytes::bf16, Bytes::to_bf16, 8e-3),
];
type Make = fn(&[f32]) -> Bytes;
type Read = fn(&Bytes) -> Vec<f32>;

/// y = x · rsqrt(mean(x²) + eps) · w over each row of x [3, 896], perhaps with a residual added to x.
pub(crate) fn rms_norm(
    source: &str,
    options: &CompileOptions,
    (name, make, read): (&str, Make, Read),
    residual: bool,
) -> Result<f64, String> {
    let (rows, n) = (3, 896);
    let mut numbers = Numbers(2);
    let [x, w, added] = [rows * n, n, rows * n].map(|count| make(&numbers.list(count)));
    let wide = |bytes: &Bytes| read(bytes).into_iter().map(f64::from).collect::<Vec<f64>>();
    let (x64, w64, added64) = (wide(&x), wide(&w), wide(&added));
    let sums = x64.iter().zip(&added64).map(|(x, r)| if residual { x + r } else { *x });
    let mut expected: Vec<f64> = sums.collect();
    for row in expected.chunks_mut(n) {
        let mean = row.iter().map(|v| v * v).sum::<f64>() / n as f64;
        row.iter_mut().zip(&w64).for_each(|(v, w)| *v *= w / (mean + 1e-5).sqrt());
    }
    let constants = [Constant { index: 0, value: ConstantValue::Bool(residual) }];
    let norm = Library::compile(source, options)?.function(name, &constants)?;
    let parameters = Bytes::u32(&[n as u32, n as u32, 1e-5f32.to_bits()]);
    let y = Bytes::zeros(x.bytes().len());
    let mut buffers = vec![x, w, y, parameters];
    buffers.extend(residual.then_some(added));
    dispatch(&norm, &mut buffers, &[], Grid::Threadgroups([rows as u32, 1, 1]), [128, 1, 1])?;
    Ok(error(&read(&buffers[2]), &expected))
}

/// Attention of one token: q [4, 64], k and v [2, length, 64]; `softcap` 0: none.
pub(crate) fn flash_decode(
    source: &str,
    options: &CompileOptions,
    length: usize,
    softcap: f64,
) -> Result<f64, String> {
    let (heads, kv_heads, dim) = (4, 2, 64);
    let mut numbers = Numbers(3);
    let q = numbers.halves(heads * dim);
    let [k, v] = [0; 2].map(|_| numbers.halves(kv_heads * length * dim));
    let scale = (dim as f64).sqrt().recip();
    let mut expected = vec![0.0; heads * dim];
    for (head, out) in expected.chunks_mut(dim).enumerate() {
        let start = head / (heads / kv_heads) * length * dim;
        let score = |key: &[f32]| {
            let terms =
                key.iter().zip(&q[head * dim..]).map(|(k, q)| f64::from(*k) * f64::from(*q));
            let score = terms.sum::<f64>() * scale;
            if softcap > 0.0 { softcap * (score / softcap).tanh() } else { score }
        };
        let keys = k[start..].chunks(dim).take(length);
        let weights: Vec<f64> = keys.map(|key| score(key).exp()).collect();
        let sum: f64 = weights.iter().sum();
        for (weight, value) in weights.iter().zip(v[start..].chunks(dim)) {
            out.iter_mut().zip(value).for_each(|(o, v)| *o += weight / sum * f64::from(*v));
        }
    }
    let mut parameters: Vec<u32> = vec![heads as u32, kv_heads as u32, length as u32, 0];
    // Strides are 64 bits wide.
    parameters.extend([dim, length * dim, 0].iter().flat_map(|stride| [*stride as u32, 0]));
    parameters.extend([(scale as f32).to_bits(), (softcap as f32).to_bits()]);
    let constants = [Constant { index: 0, value: ConstantValue::Bool(softcap > 0.0) }];
    let library = Library::compile(source, options)?;
    let attention = library.function("flash_decode_f16_d64", &constants)?;
    let out = Bytes::zeros(heads * dim * 2);
    let parameters = Bytes::u32(&parameters);
    let mut buffers = [Bytes::f16(&q), Bytes::f16(&k), Bytes::f16(&v), out, parameters];
    let grid = Grid::Threadgroups([heads as u32, 1, 1]);
    dispatch(&attention, &mut buffers, &[(0, 8 * dim * 4)], grid, [256, 1, 1])?;
    Ok(error(&buffers[3].to_f16(), &expected))
}

/// The files with the small case that mutants run, and its tolerance.
pub(crate) const SMALL: [(&str, &str, Case, f64); 3] = [
    (
        "gemm.metal",
        include_str!("../kernels/gemm.metal"),
        |source, options| gemm(source, options, [70, 64, 64], true),
        1e-3,
    ),
    (
        "rmsnorm.metal",
        include_str!("../kernels/rmsnorm.metal"),
        |source, options| {
            let (name, make, read, _) = RMS_NORM_TYPES[0];
            rms_norm(source, options, (name, make, read), true)
        },
        1e-6,
    ),
    (
        "flash_decode.metal",
        include_str!("../kernels/flash_decode.metal"),
        |source, options| flash_decode(source, options, 33, 0.0),
        1e-3,
    ),
];
