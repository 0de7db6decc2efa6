//! Values with the standard error that f32 arithmetic and rounding leave in them, through the ops
//! a transformer is made of.
//!
//! A segment rounds many times, and an error per op says little of what its result may be off by.
//! So each value carries a standard error σ, propagated to first order, with independent errors
//! added in quadrature (Higham and Mary 2019, "A new approach to probabilistic rounding error
//! analysis"; an error of a uniform rounding by ±e has σ = e / √3). Plain f64 loops.

/// Unit roundoff of f32.
pub const U32: f64 = 1.0 / (1u64 << 24) as f64;

/// Elements that share a scale where activations are rounded to 8 bits.
const ROUNDED_BLOCK: usize = 32;

/// A value and its standard error.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Estimate {
    /// In f64, from inputs as stored.
    pub value: f64,
    /// Standard error of what a device computes.
    pub sigma: f64,
}

impl Estimate {
    /// A value that a device is given as it is.
    pub fn exact(value: f64) -> Self {
        Self { value, sigma: 0.0 }
    }

    fn new(value: f64, variance: f64) -> Self {
        Self { value, sigma: variance.sqrt() }
    }

    /// The same after a rounding by at most `error`.
    #[must_use]
    pub fn rounded(self, error: f64) -> Self {
        Self::new(self.value, square(self.sigma) + square(error) / 3.0)
    }
}

fn square(x: f64) -> f64 {
    x * x
}

/// Inputs as they are.
pub fn exact(values: &[f64]) -> Vec<Estimate> {
    values.iter().copied().map(Estimate::exact).collect()
}

/// `a + b`, rounded to f32.
pub fn add(a: &[Estimate], b: &[Estimate]) -> Vec<Estimate> {
    let sum = |(a, b): (&Estimate, &Estimate)| {
        let value = a.value + b.value;
        Estimate::new(value, square(a.sigma) + square(b.sigma)).rounded(U32 * value.abs())
    };
    a.iter().zip(b).map(sum).collect()
}

/// `x / sqrt(mean(x²) + eps) · weight` of each row of `weight.len()` elements.
pub fn rms_norm(x: &[Estimate], weight: &[f64], eps: f64) -> Vec<Estimate> {
    let row = |x: &[Estimate]| -> Vec<Estimate> {
        let squares: f64 = x.iter().map(|x| square(x.value)).sum();
        let scale = 1.0 / (squares / x.len() as f64 + eps).sqrt();
        // The scale is off by what the squares are off by, and by its own arithmetic.
        let errors: f64 = x.iter().map(|x| square(x.value * x.sigma)).sum();
        let of_scale = errors / square(squares + eps * x.len() as f64) + square(4.0 * U32);
        x.iter()
            .zip(weight)
            .map(|(x, weight)| {
                let value = x.value * scale * weight;
                Estimate::new(value, square(scale * weight * x.sigma) + square(value) * of_scale)
            })
            .collect()
    };
    x.chunks_exact(weight.len()).flat_map(row).collect()
}

/// A weight matrix `[rows, cols]` with an optional bias `[rows]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    /// Width of the input.
    pub cols: usize,
    /// Row-major.
    pub values: Vec<f64>,
    /// Added to each output.
    pub bias: Option<Vec<f64>>,
    /// How activations may be rounded before the product.
    pub input: InputRounding,
}

/// What a product may do to its activations first (`metallic::op::Precision`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum InputRounding {
    /// Nothing.
    None,
    /// To 8 bits, by a step of 1/127 of the largest of each 32.
    EightBits,
    /// To a floating-point type of this unit roundoff.
    Float(f64),
}

/// `x Wᵀ + bias` of each row of x.
pub fn linear(x: &[Estimate], matrix: &Matrix) -> Vec<Estimate> {
    let row = |x: &[Estimate]| -> Vec<Estimate> {
        let mut x = x.to_vec();
        match matrix.input {
            InputRounding::None => {}
            InputRounding::EightBits => {
                for block in x.chunks_mut(ROUNDED_BLOCK) {
                    let largest = block.iter().fold(0.0, |most: f64, x| most.max(x.value.abs()));
                    block.iter_mut().for_each(|x| *x = x.rounded(largest / 254.0));
                }
            }
            InputRounding::Float(unit) => {
                x.iter_mut().for_each(|x| *x = x.rounded(unit * x.value.abs()));
            }
        }
        let size: f64 = x.iter().map(|x| square(x.value)).sum();
        let column = |(index, w): (usize, &[f64])| {
            let bias = matrix.bias.as_ref().map_or(0.0, |bias| bias[index]);
            let products = x.iter().zip(w);
            let (mut value, mut variance, mut of_w) = (bias, 0.0, 0.0);
            for (x, w) in products {
                value += x.value * w;
                variance += square(w * x.sigma);
                of_w += square(*w);
            }
            // A sum of products in random order errs like u · ‖w‖ · ‖x‖.
            let sum = square(U32) * (of_w * size + square(value) + square(bias));
            Estimate::new(value, variance + sum)
        };
        matrix.values.chunks_exact(matrix.cols).enumerate().map(column).collect()
    };
    x.chunks_exact(matrix.cols).flat_map(row).collect()
}

/// `(a·cos − b·sin, a·sin + b·cos)`.
pub fn turned([a, b]: [Estimate; 2], cos: f64, sin: f64) -> [Estimate; 2] {
    let round = square(2.0 * U32) * (square(a.value) + square(b.value));
    let one = |p: f64, q: f64| {
        let variance = square(p * a.sigma) + square(q * b.sigma);
        Estimate::new(p * a.value + q * b.value, variance + round)
    };
    [one(cos, -sin), one(sin, cos)]
}

/// `gate / (1 + exp(−gate)) · up`.
pub fn swiglu(gate: &[Estimate], up: &[Estimate]) -> Vec<Estimate> {
    let one = |(gate, up): (&Estimate, &Estimate)| {
        let sigmoid = 1.0 / (1.0 + (-gate.value).exp());
        let silu = gate.value * sigmoid;
        let slope = sigmoid * (1.0 + gate.value * (1.0 - sigmoid));
        let value = silu * up.value;
        let variance = square(slope * up.value * gate.sigma) + square(silu * up.sigma);
        Estimate::new(value, variance + square(8.0 * U32 * value))
    };
    gate.iter().zip(up).map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    /// Errors of f32 arithmetic, in units of σ.
    fn ratios(got: &[f32], want: &[Estimate]) -> Vec<f64> {
        let pairs = got.iter().zip(want);
        pairs.map(|(got, want)| (f64::from(*got) - want.value).abs() / want.sigma).collect()
    }

    #[test]
    fn standard_errors_are_of_the_size_of_real_ones() {
        let mut random = Random::new(7);
        let mut numbers =
            |count: usize| -> Vec<f32> { (0..count).map(|_| random.normal() as f32).collect() };
        let (rows, cols) = (64, 300);
        let (x, w) = (numbers(8 * cols), numbers(rows * cols));
        let wide = |x: &[f32]| -> Vec<f64> { x.iter().map(|x| f64::from(*x)).collect() };
        let matrix = Matrix { cols, values: wide(&w), bias: None, input: InputRounding::None };
        let want = linear(&exact(&wide(&x)), &matrix);
        let mut got = Vec::new();
        for x in x.chunks_exact(cols) {
            for w in w.chunks_exact(cols) {
                got.push(x.iter().zip(w).map(|(x, w)| x * w).sum::<f32>());
            }
        }
        let ratios = ratios(&got, &want);
        let mean = ratios.iter().sum::<f64>() / ratios.len() as f64;
        assert!((0.05..1.0).contains(&mean), "{mean}");
        assert!(ratios.iter().all(|ratio| *ratio < 5.0));
        // Rounding to 8 bits, by 2^-8 of the largest of 32, costs three orders of magnitude more.
        let with = |input| linear(&exact(&wide(&x)), &Matrix { input, ..matrix.clone() });
        let rounded = with(InputRounding::EightBits);
        assert!(rounded.iter().zip(&want).all(|(a, b)| a.sigma > 1e3 * b.sigma));
        // Activations that are really rounded to f16 are off by about what is said of that.
        let want = with(InputRounding::Float(2f64.powi(-11)));
        let halves = crate::storage::rounded(metallic::tensor::DType::F16, &wide(&x));
        let got: Vec<f32> =
            linear(&exact(&halves), &matrix).iter().map(|x| x.value as f32).collect();
        let ratios = self::ratios(&got, &want);
        let mean = ratios.iter().sum::<f64>() / ratios.len() as f64;
        assert!((0.3..1.5).contains(&mean) && ratios.iter().all(|ratio| *ratio < 5.0), "{mean}");
    }

    #[test]
    fn values_are_those_of_the_formulas() {
        let x = exact(&[3.0, 4.0]);
        let norm = rms_norm(&x, &[1.0, 2.0], 0.0);
        let scale = 12.5f64.sqrt();
        assert!((norm[1].value - 8.0 / scale).abs() < 1e-12 && norm[1].sigma > 0.0);
        let [a, b] = turned([x[0], x[1]], 0.0, 1.0);
        assert_eq!((a.value, b.value), (-4.0, 3.0));
        let gated = swiglu(&x[..1], &x[1..]);
        assert!((gated[0].value - 12.0 / (1.0 + (-3.0f64).exp())).abs() < 1e-12);
        assert_eq!(add(&x, &x)[0].value, 6.0);
    }
}
