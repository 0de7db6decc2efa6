//! Norms, rotations, gates and sums.

use metallic::Context;
use metallic::op::{
    Add, AddArgs, RmsNorm, RmsNormArgs, Rope, RopeArgs, RopePairing, SwiGlu, SwiGluArgs,
};

use crate::support::{alike, normal, tensor};

#[test]
fn norms_agree_at_every_width() {
    for (rows, width) in [(1, 1), (3, 15), (2, 64), (5, 577), (1, 896), (2, 4097)] {
        let norm = |ctx: &Context, in_place: bool| {
            let all = tensor(ctx, "x", [rows + 2, width]);
            let x = all.narrow(0, 1, rows).unwrap();
            let weight = tensor(ctx, "weight", [width]);
            let other = tensor(ctx, "out", [rows, width]);
            let out = if in_place { x.clone() } else { other.clone() };
            let args = RmsNormArgs { x, residual: None, weight, eps: 1e-5, out };
            ctx.run::<RmsNorm>(&args).unwrap();
            [ctx.download_f32(&all).unwrap(), ctx.download_f32(&other).unwrap()].concat()
        };
        // A sum of squares in another order.
        alike(&format!("{rows}x{width}"), 2e-6, |ctx| norm(ctx, false));
        alike(&format!("{rows}x{width} in place"), 2e-6, |ctx| norm(ctx, true));
        alike(&format!("{rows}x{width} residual"), 2e-6, |ctx| {
            let (x, residual) = (tensor(ctx, "x", [rows, width]), tensor(ctx, "r", [rows, width]));
            let (weight, out) = (tensor(ctx, "w", [width]), tensor(ctx, "o", [rows, width]));
            ctx.run::<RmsNorm>(&RmsNormArgs {
                x: x.clone(),
                residual: Some(residual.clone()),
                weight,
                eps: 1e-6,
                out: out.clone(),
            })
            .unwrap();
            [&x, &residual, &out].map(|tensor| ctx.download_f32(tensor).unwrap()).concat()
        });
    }
}

#[test]
fn a_row_of_zeros_and_a_row_with_nan_stay_what_they_are() {
    alike("zeros and NaN", 2e-6, |ctx| {
        let mut values = normal("x", 3 * 96);
        values[..96].fill(0.0);
        values[100] = f32::NAN;
        let x = ctx.upload_f32([3, 96], &values).unwrap();
        let (weight, out) = (tensor(ctx, "w", [96]), tensor(ctx, "o", [3, 96]));
        let args = RmsNormArgs { x, residual: None, weight, eps: 1e-6, out: out.clone() };
        ctx.run::<RmsNorm>(&args).unwrap();
        ctx.download_f32(&out).unwrap()
    });
}

#[test]
fn rotations_agree_in_both_pairings() {
    for pairing in [RopePairing::Half, RopePairing::Interleaved] {
        for (rows, heads, head_dim, pairs) in
            [(1, 1, 2, 1), (3, 2, 64, 32), (2, 5, 10, 3), (4, 3, 128, 64), (2, 2, 8, 0)]
        {
            let what = format!("{pairing:?} {rows}x{heads}x{head_dim}, {pairs} pairs");
            alike(&what, 1e-6, |ctx| {
                // The heads lie between two others, as one product writes q, k and v.
                let all = tensor(ctx, "x", [rows, heads + 2, head_dim]);
                let x = all.narrow(1, 1, heads).unwrap();
                let (cos, sin) = (tensor(ctx, "c", [rows, pairs]), tensor(ctx, "s", [rows, pairs]));
                ctx.run::<Rope>(&RopeArgs { x, cos, sin, pairing }).unwrap();
                ctx.download_f32(&all).unwrap()
            });
        }
    }
}

#[test]
fn the_gate_agrees_wherever_it_is_written() {
    // Where the result lies: apart, over the gate, over the value, over both.
    for place in 0..4 {
        for shape in [[1, 1], [3, 257], [2, 4864]] {
            alike(&format!("{shape:?} {place}"), 1e-6, |ctx| {
                let mut values: Vec<f32> =
                    normal("gate", shape[0] * shape[1]).iter().map(|x| x * 8.0).collect();
                if let Some(some) = values.get_mut(..6) {
                    some.copy_from_slice(&[-200.0, 200.0, 0.0, -88.0, f32::NAN, -0.0]);
                }
                let gate = ctx.upload_f32(shape, &values).unwrap();
                let up = if place == 3 { gate.clone() } else { tensor(ctx, "up", shape) };
                let out = match place {
                    0 => tensor(ctx, "out", shape),
                    2 => up.clone(),
                    _ => gate.clone(),
                };
                let args = SwiGluArgs { gate: gate.clone(), up: up.clone(), out: out.clone() };
                ctx.run::<SwiGlu>(&args).unwrap();
                [&gate, &up, &out].map(|tensor| ctx.download_f32(tensor).unwrap()).concat()
            });
        }
    }
}

#[test]
fn sums_agree_and_touch_nothing_else() {
    for shape in [[1, 1], [3, 100], [2, 4096]] {
        alike(&format!("{shape:?}"), 0.0, |ctx| {
            let all = tensor(ctx, "x", [shape[0] + 2, shape[1]]);
            let x = all.narrow(0, 1, shape[0]).unwrap();
            ctx.run::<Add>(&AddArgs { x, y: tensor(ctx, "y", shape) }).unwrap();
            ctx.download_f32(&all).unwrap()
        });
    }
}

#[test]
fn empty_tensors_are_no_work() {
    alike("no rows", 0.0, |ctx| {
        let (x, y) = (tensor(ctx, "x", [0, 8]), tensor(ctx, "y", [0, 8]));
        ctx.run::<Add>(&AddArgs { x: x.clone(), y }).unwrap();
        ctx.download_f32(&x).unwrap()
    });
}
