//! The ops whose elements or pairs do not know each other: rotation, gating, sums.

use metallic::op::{Add, AddArgs, Rope, RopeArgs, RopePairing, SwiGlu, SwiGluArgs};

use super::weights::normals;
use super::{Duel, exactly, near, poisoned, run_op};
use crate::random::Random;

/// Both pairings, whole and partial heads, dense and cut out of something wider.
pub(super) fn rope(duel: &mut Duel<'_>) {
    for pairing in [RopePairing::Half, RopePairing::Interleaved] {
        for (rows, heads, dim, pairs, wider) in
            [(5, 3, 64, 32, 0), (1, 14, 128, 64, 0), (9, 2, 80, 16, 0), (4, 3, 64, 32, 2)]
        {
            let case = format!("rope {pairing:?} {rows}x{heads}x{dim} pairs {pairs} wider {wider}");
            let mut random = Random::named(&case);
            let x = normals(&mut random, rows * (heads + wider) * dim);
            let angles: Vec<f32> =
                (0..rows * pairs).map(|_| (random.uniform() * 6.2) as f32).collect();
            let (cos, sin): (Vec<f32>, Vec<f32>) =
                angles.iter().map(|angle| (angle.cos(), angle.sin())).unzip();
            duel.compare(
                case,
                &|ctx, _| {
                    let x = ctx.upload_f32([rows, heads + wider, dim], &x)?;
                    let args = RopeArgs {
                        x: x.narrow(1, wider / 2, heads)?,
                        cos: ctx.upload_f32([rows, pairs], &cos)?,
                        sin: ctx.upload_f32([rows, pairs], &sin)?,
                        pairing,
                    };
                    let kernel = run_op::<Rope>(ctx, &args)?;
                    Ok((ctx.download_f32(&x)?, kernel))
                },
                // Two products and a sum, fused or not; numbers are below 4.
                &near(0.0, 1e-6),
            );
        }
    }
}

/// Apart and over either operand, with values that saturate.
pub(super) fn swiglu(duel: &mut Duel<'_>) {
    for (rows, width) in [(1, 1), (3, 127), (2, 4864), (65, 300)] {
        for form in ["", " over gate", " over up"] {
            let case = format!("swiglu {rows}x{width}{form}");
            let mut random = Random::named(&case);
            let mut gate = normals(&mut random, rows * width);
            let up = normals(&mut random, rows * width);
            gate[0] = -120.0;
            duel.compare(
                case,
                &|ctx, _| {
                    let gate = ctx.upload_f32([rows, width], &gate)?;
                    let up = ctx.upload_f32([rows, width], &up)?;
                    let out = match form {
                        " over gate" => gate.clone(),
                        " over up" => up.clone(),
                        _ => poisoned(ctx, [rows, width])?,
                    };
                    let args = SwiGluArgs { gate, up, out: out.clone() };
                    let kernel = run_op::<SwiGlu>(ctx, &args)?;
                    Ok((ctx.download_f32(&out)?, kernel))
                },
                // An exponential and a division; far below, the exponential may be 0.
                &near(2e-6, 1e-30),
            );
        }
    }
}

/// Sizes around a vector's, and rows that start at odd places.
pub(super) fn add(duel: &mut Duel<'_>) {
    for (rows, width) in [(1, 1), (1, 7), (3, 5), (2, 1024), (77, 896)] {
        let case = format!("add {rows}x{width}");
        let mut random = Random::named(&case);
        let x = normals(&mut random, (rows + 1) * width);
        let y = normals(&mut random, rows * width);
        duel.compare(
            case,
            &|ctx, _| {
                let x = ctx.upload_f32([rows + 1, width], &x)?;
                let y = ctx.upload_f32([rows, width], &y)?;
                let kernel = run_op::<Add>(ctx, &AddArgs { x: x.narrow(0, 1, rows)?, y })?;
                Ok((ctx.download_f32(&x)?, kernel))
            },
            &exactly,
        );
    }
}
