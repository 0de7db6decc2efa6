//! Three real kernels: RMSNorm, a tiled GEMM on simdgroup matrices, attention of one token.

use softmetal_emulator::{CompileOptions, Constant, ConstantValue, Grid};

use crate::support::{Bytes, Numbers, ORDERS, dispatch, error, function, options};

const GEMM: &str = include_str!("../kernels/gemm.metal");

/// C[m, n] = A[m, k] · B[n, k]ᵀ + bias[n]
#[test]
fn gemm_on_simdgroup_matrices() {
    for (m, n, k, bias) in [(64, 64, 64, false), (70, 130, 96, true), (33, 64, 256, true)] {
        let mut numbers = Numbers(1);
        let (a, b, bias_values) = (numbers.halves(m * k), numbers.halves(n * k), numbers.halves(n));
        let expected: Vec<f64> = (0..m * n)
            .map(|at| {
                let (row, column) = (at / n, at % n);
                let products =
                    (0..k).map(|i| f64::from(a[row * k + i]) * f64::from(b[column * k + i]));
                products.sum::<f64>() + if bias { f64::from(bias_values[column]) } else { 0.0 }
            })
            .collect();
        let constants = [Constant { index: 0, value: ConstantValue::Bool(true) }];
        let constants = if bias { &constants[..] } else { &[] };
        for order in ORDERS {
            let options = CompileOptions { order, ..options() };
            let gemm = function(GEMM, "gemm_f16", constants, &options);
            assert_eq!(gemm.static_threadgroup_bytes(), 11264);
            let [m32, n32, k32] = [m as u32, n as u32, k as u32];
            let mut buffers = [
                Bytes::f16(&a),
                Bytes::f16(&b),
                Bytes::zeros(m * n * 2),
                Bytes::u32(&[m32, n32, k32, k32, k32, n32]),
                Bytes::f16(&bias_values),
            ];
            let grid = Grid::Threadgroups([n32.div_ceil(64), m32.div_ceil(64), 1]);
            dispatch(&gemm, &mut buffers, &[], grid, [128, 1, 1]).unwrap();
            let error = error(&buffers[2].to_f16(), &expected);
            assert!(error < 1e-3, "{m}x{n}x{k} {order:?}: {error}");
        }
    }
}

/// y = x · rsqrt(mean(x²) + eps) · w over each row of x [rows, n]
#[test]
fn rms_norm_in_three_types() {
    let source = include_str!("../kernels/rmsnorm.metal");
    let (rows, n) = (3, 896);
    type Make = fn(&[f32]) -> Bytes;
    type Read = fn(&Bytes) -> Vec<f32>;
    let types: [(&str, Make, Read, f64); 3] = [
        ("rms_norm_f32", Bytes::f32, Bytes::to_f32, 1e-6),
        ("rms_norm_f16", Bytes::f16, Bytes::to_f16, 1e-3),
        ("rms_norm_bf16", Bytes::bf16, Bytes::to_bf16, 8e-3),
    ];
    for (name, make, read, tolerance) in types {
        for residual in [false, true] {
            let mut numbers = Numbers(2);
            let values = [numbers.list(rows * n), numbers.list(n), numbers.list(rows * n)];
            let [x, w, added] = values.each_ref().map(|list| make(list));
            let [x64, w64, added64] = [&x, &w, &added]
                .map(|bytes| read(bytes).into_iter().map(f64::from).collect::<Vec<_>>());
            let sum: Vec<f64> =
                x64.iter().zip(&added64).map(|(x, r)| if residual { x + r } else { *x }).collect();
            let expected: Vec<f64> = sum
                .chunks(n)
                .flat_map(|row| {
                    let scale =
                        (row.iter().map(|v| v * v).sum::<f64>() / n as f64 + 1e-5).sqrt().recip();
                    row.iter().zip(&w64).map(move |(v, w)| v * scale * w)
                })
                .collect();
            let constants = [Constant { index: 0, value: ConstantValue::Bool(residual) }];
            for order in ORDERS {
                let options = CompileOptions { order, ..options() };
                let norm = function(source, name, &constants, &options);
                let parameters = Bytes::u32(&[n as u32, n as u32, 1e-5f32.to_bits()]);
                let mut buffers =
                    vec![x.clone(), w.clone(), Bytes::zeros(x.bytes().len()), parameters];
                if residual {
                    buffers.push(added.clone());
                }
                dispatch(
                    &norm,
                    &mut buffers,
                    &[],
                    Grid::Threadgroups([rows as u32, 1, 1]),
                    [128, 1, 1],
                )
                .unwrap();
                let error = error(&read(&buffers[2]), &expected);
                assert!(error < tolerance, "{name} residual {residual} {order:?}: {error}");
            }
        }
    }
}

/// Attention of one token: q [heads, dim], k and v [kv_heads, length, dim].
#[test]
fn flash_decode_with_grouped_heads() {
    let source = include_str!("../kernels/flash_decode.metal");
    let (heads, kv_heads, dim) = (4, 2, 64);
    for (length, softcap) in [(3, 0.0), (33, 5.0), (300, 0.0)] {
        let mut numbers = Numbers(3);
        let q = numbers.halves(heads * dim);
        let [k, v] = [0; 2].map(|_| numbers.halves(kv_heads * length * dim));
        let scale = (dim as f64).sqrt().recip();
        let mut expected = vec![0.0; heads * dim];
        for head in 0..heads {
            let row = |t: usize| (head / (heads / kv_heads) * length + t) * dim;
            let dot = |t: usize| {
                (0..dim)
                    .map(|i| f64::from(q[head * dim + i]) * f64::from(k[row(t) + i]))
                    .sum::<f64>()
                    * scale
            };
            let capped = |s: f64| if softcap > 0.0 { softcap * (s / softcap).tanh() } else { s };
            let weights: Vec<f64> = (0..length).map(|t| capped(dot(t)).exp()).collect();
            for i in 0..dim {
                let mixed: f64 = (0..length).map(|t| weights[t] * f64::from(v[row(t) + i])).sum();
                expected[head * dim + i] = mixed / weights.iter().sum::<f64>();
            }
        }
        let mut parameters = Vec::new();
        parameters.extend([heads as u32, kv_heads as u32, length as u32, 0].map(u32::to_le_bytes));
        parameters.extend(
            [dim, length * dim, 0].iter().flat_map(|n| [(*n as u32).to_le_bytes(), [0; 4]]),
        );
        parameters.extend([(scale as f32).to_le_bytes(), (softcap as f32).to_le_bytes()]);
        let parameters = Bytes::new(&parameters.concat());
        let constants = [Constant { index: 0, value: ConstantValue::Bool(softcap > 0.0) }];
        for order in ORDERS {
            let options = CompileOptions { order, ..options() };
            let attention = function(source, "flash_decode_f16_d64", &constants, &options);
            let mut buffers = [
                Bytes::f16(&q),
                Bytes::f16(&k),
                Bytes::f16(&v),
                Bytes::zeros(heads * dim * 2),
                parameters.clone(),
            ];
            let grid = Grid::Threadgroups([heads as u32, 1, 1]);
            dispatch(&attention, &mut buffers, &[(0, 8 * dim * 4)], grid, [256, 1, 1]).unwrap();
            let error = error(&buffers[3].to_f16(), &expected);
            assert!(error < 1e-3, "length {length} softcap {softcap} {order:?}: {error}");
        }
    }
}
