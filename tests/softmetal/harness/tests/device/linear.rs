//! `Linear` over every weight type, for few rows and many, at odd sizes.

use metallic::Context;
use metallic::op::{Linear, LinearArgs, Precision};
use metallic::tensor::{DType, Tensor};
use metallic_devices::cpu::quant::dequantize_row;

use crate::support::{cpu, metal, normal, stored, tensor};

/// Rounding of the sums: the bound that the CPU's own tests put on it, in units of `Σ |x · w|`.
const BOUND: f64 = 3e-6;

/// One product, on any device.
struct Case {
    dtype: DType,
    rows: usize,
    in_features: usize,
    out_features: usize,
    bias: bool,
}

impl Case {
    fn x(&self) -> Vec<f32> {
        normal("x", self.rows * self.in_features)
    }

    fn weight(&self) -> Vec<u8> {
        stored("weight", self.dtype, self.out_features * self.in_features)
    }

    /// Each element of the result in f64, and the sum of the magnitudes of its products.
    fn reference(&self) -> Vec<(f64, f64)> {
        let (x, weight, bias) = (self.x(), self.weight(), normal("bias", self.out_features));
        let row_bytes = self.dtype.row_bytes(self.in_features).unwrap();
        let mut decoded = vec![0.0; self.out_features * self.in_features];
        for (row, out) in
            weight.chunks_exact(row_bytes).zip(decoded.chunks_exact_mut(self.in_features))
        {
            dequantize_row(self.dtype, row, out);
        }
        let mut all = Vec::new();
        for x in x.chunks_exact(self.in_features) {
            for (column, w) in decoded.chunks_exact(self.in_features).enumerate() {
                let bias = if self.bias { f64::from(bias[column]) } else { 0.0 };
                let products = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w));
                let start = (bias, bias.abs());
                all.push(products.fold(start, |(sum, size), p| (sum + p, size + p.abs())));
            }
        }
        all
    }

    /// The result on `ctx`, after a look at what lies around it.
    fn run(&self, ctx: &Context, precision: Precision) -> Vec<f32> {
        let &Case { dtype, rows, in_features, out_features, bias } = self;
        // x and out lie between other rows, at an odd offset where the width is odd.
        let around = normal("around", (rows + 2) * out_features);
        let mut x = vec![f32::NAN; (rows + 2) * in_features];
        x[in_features..][..rows * in_features].copy_from_slice(&self.x());
        let x = ctx.upload_f32([rows + 2, in_features], &x).unwrap();
        let weight = ctx.upload(dtype, [out_features, in_features], &self.weight()).unwrap();
        let all = ctx.upload_f32([rows + 2, out_features], &around).unwrap();
        let bias = bias.then(|| tensor(ctx, "bias", [out_features]));
        let out = all.narrow(0, 1, rows).unwrap();
        let x = x.narrow(0, 1, rows).unwrap();
        ctx.run::<Linear>(&LinearArgs { x, weight, bias, precision, out }).unwrap();
        let all = ctx.download_f32(&all).unwrap();
        let (before, rest) = all.split_at(out_features);
        let (out, after) = rest.split_at(rows * out_features);
        assert_eq!(before, &around[..out_features], "{dtype}: the row before");
        assert_eq!(after, &around[(rows + 1) * out_features..], "{dtype}: the row after");
        out.to_vec()
    }

    fn check(&self, contexts: [&Context; 2], precision: Precision) {
        let Case { dtype, rows, in_features, out_features, .. } = self;
        let reference = self.reference();
        for ctx in contexts {
            let got = self.run(ctx, precision);
            for (index, (got, (want, size))) in got.iter().zip(&reference).enumerate() {
                let error = (f64::from(*got) - want).abs();
                assert!(
                    error <= BOUND * size,
                    "{} {dtype} {rows}x{in_features}x{out_features} at {index}: {got}, not {want}",
                    ctx.device().id()
                );
            }
        }
    }
}

/// Rows on both sides of every kernel's border, columns that leave some over.
const SIZES: [(usize, usize); 9] =
    [(1, 37), (2, 5), (3, 33), (4, 9), (5, 17), (8, 66), (9, 31), (33, 7), (70, 67)];

#[test]
fn every_weight_type_agrees_at_every_count_of_rows() {
    let (cpu, metal) = (cpu(), metal());
    for dtype in DType::ALL.into_iter().filter(|dtype| dtype.is_float() || dtype.is_quantized()) {
        for (index, (rows, out_features)) in SIZES.into_iter().enumerate() {
            let in_features = dtype.block_len().max(32) * (1 + index % 3);
            let bias = index % 2 == 0;
            let case = Case { dtype, rows, in_features, out_features, bias };
            case.check([&cpu, &metal], Precision::Exact);
        }
    }
}

#[test]
fn plain_weights_agree_at_odd_widths() {
    let (cpu, metal) = (cpu(), metal());
    for dtype in [DType::F32, DType::F16, DType::Bf16] {
        for (rows, in_features) in
            [(1, 1), (1, 7), (2, 513), (8, 31), (9, 2), (12, 33), (64, 65), (65, 129)]
        {
            let case = Case { dtype, rows, in_features, out_features: 35, bias: false };
            case.check([&cpu, &metal], Precision::Exact);
        }
    }
}

/// Where activations may be rounded, they are not: the result is as near as the exact one.
#[test]
fn quantised_precision_is_no_worse() {
    let metal = metal();
    for dtype in [DType::Q4_0, DType::Q4K, DType::Q6K] {
        for rows in [1, 17] {
            let case = Case { dtype, rows, in_features: 512, out_features: 40, bias: true };
            case.check([&metal, &metal], Precision::Quantized);
        }
    }
}

#[test]
fn activations_beyond_the_range_of_halves_stay_finite() {
    let metal = metal();
    for rows in [1, 12] {
        let x = metal.upload_f32([rows, 64], &vec![1e6; rows * 64]).unwrap();
        let weight = stored("weight", DType::Q8_0, 8 * 64);
        let weight = metal.upload(DType::Q8_0, [8, 64], &weight).unwrap();
        let out = metal.empty(DType::F32, [rows, 8]).unwrap();
        let (bias, precision) = (None, Precision::Quantized);
        metal.run::<Linear>(&LinearArgs { x, weight, bias, precision, out: out.clone() }).unwrap();
        let out = metal.download_f32(&out).unwrap();
        assert!(out.iter().all(|value| value.is_finite() && *value != 0.0), "{out:?}");
    }
}

#[test]
fn nothing_in_gives_the_bias() {
    let metal = metal();
    let empty = |shape: [usize; 2]| -> Tensor { metal.empty(DType::F32, shape).unwrap() };
    for rows in [0, 1, 9] {
        let (x, weight, out) = (empty([rows, 0]), empty([3, 0]), empty([rows, 3]));
        let bias = Some(metal.upload_f32([3], &[1.0, 2.0, 3.0]).unwrap());
        let precision = Precision::Exact;
        metal.run::<Linear>(&LinearArgs { x, weight, bias, precision, out: out.clone() }).unwrap();
        assert_eq!(metal.download_f32(&out).unwrap(), [1.0, 2.0, 3.0].repeat(rows));
    }
}
