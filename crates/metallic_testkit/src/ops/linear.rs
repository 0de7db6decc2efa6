//! Products with every weight type, from one row to more than a tile, in both precisions.
//!
//! An error is measured in `‖x‖ ‖w‖` of its row and column, which bounds a product and, times the
//! unit roundoff of a type, what rounding both operands to it can do:
//! `|Σ x w (δ + ε)| ≤ 2 u ‖x‖ ‖w‖` (Cauchy and Schwarz).

use metallic::Context;
use metallic::op::{Embedding, EmbeddingArgs, Linear, LinearArgs, Precision};
use metallic::tensor::DType;

use super::weights::{normals, stored};
use super::{Duel, poisoned, run_op, weight_types};
use crate::random::Random;

/// Rows of x: decode, small batches, a prompt.
const ROWS: [usize; 8] = [1, 2, 3, 7, 8, 9, 64, 130];

/// All weight types, shapes with and without whole tiles, with and without a bias.
pub(super) fn linear(duel: &mut Duel<'_>) {
    let shapes = [(300, 512), (1027, 256), (64, 4864)];
    for dtype in weight_types() {
        for &(n, k) in &shapes[..if duel.quick { 1 } else { shapes.len() }] {
            products(duel, dtype, n, k);
        }
        if !dtype.is_quantized() {
            // Rows that start at no multiple of 16 bytes.
            products(duel, dtype, 33, 77);
        }
    }
}

fn products(duel: &mut Duel<'_>, dtype: DType, n: usize, k: usize) {
    for m in ROWS.into_iter().filter(|m| !duel.quick || matches!(m, 1 | 3 | 9)).collect::<Vec<_>>()
    {
        for (precision, bias) in [(Precision::Exact, false), (Precision::Quantized, true)] {
            let (label, with) = match precision {
                Precision::Exact => (" exact", ""),
                Precision::Quantized => ("", " bias"),
            };
            let case = format!("linear {dtype} {m}x{n}x{k}{with}{label}");
            let mut random = Random::named(&case);
            let weight = stored(&mut random, dtype, n * k);
            // Far from 1, as activations are; the same factor for all keeps norms simple.
            let size = 40.0f32;
            let x: Vec<f32> = normals(&mut random, m * k).iter().map(|x| x * size).collect();
            let addend = normals(&mut random, n);
            let unit = roundoff(dtype, precision);
            let reference = duel.reference;
            duel.compare(
                case,
                &|ctx, tried| {
                    let out = poisoned(ctx, [m, n])?;
                    let bias = bias.then(|| ctx.upload_f32([n], &addend)).transpose()?;
                    let args = LinearArgs {
                        x: ctx.upload_f32([m, k], &x)?,
                        weight: ctx.upload(dtype, [n, k], &weight)?,
                        bias,
                        precision: if tried { precision } else { Precision::Exact },
                        out: out.clone(),
                    };
                    let kernel = run_op::<Linear>(ctx, &args)?;
                    Ok((ctx.download_f32(&out)?, kernel))
                },
                &|want| {
                    let w = decoded(reference, dtype, n, k, &weight).unwrap_or_default();
                    let (xs, ws) = (norms(&x, k), norms(&w, k));
                    (0..want.len()).map(|i| 2.0 * unit * xs[i / n] * ws[i % n] + 1e-6).collect()
                },
            );
        }
    }
}

/// The unit roundoff of what a product may round its operands to.
fn roundoff(dtype: DType, precision: Precision) -> f64 {
    let (f32, f16, bf16) = (2f64.powi(-22), 2f64.powi(-11), 2f64.powi(-8));
    match (precision, dtype) {
        // Sums in another order: a few units of f32.
        (Precision::Exact, _) | (_, DType::F32) => f32,
        (_, DType::F16) => f16,
        (_, DType::Bf16) => bf16,
        // Activations of 8 bits per 32 elements: half a step of the largest of 32 normal numbers.
        _ => 2f64.powi(-7),
    }
}

/// The values of stored rows, by the reference's embedding.
fn decoded(
    ctx: &Context,
    dtype: DType,
    n: usize,
    k: usize,
    weight: &[u8],
) -> metallic::Result<Vec<f32>> {
    let ids: Vec<i32> = (0..n as i32).collect();
    let out = poisoned(ctx, [n, k])?;
    let args = EmbeddingArgs {
        ids: ctx.upload_i32([n], &ids)?,
        table: ctx.upload(dtype, [n, k], weight)?,
        out: out.clone(),
    };
    run_op::<Embedding>(ctx, &args)?;
    ctx.download_f32(&out)
}

/// The Euclidean norm of each row.
fn norms(values: &[f32], width: usize) -> Vec<f64> {
    let square = |row: &[f32]| row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
    values.chunks_exact(width).map(|row| square(row).sqrt()).collect()
}
