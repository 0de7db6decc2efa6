//! Linear projection: `out = x Wᵀ + bias`.

use std::fmt;

use super::{Op, OpArgs, OpSpec, check};
use crate::error::Result;
use crate::tensor::{DType, Tensor};

/// The op.
#[derive(Debug)]
pub struct Linear;

/// One call of [`Linear`].
#[derive(Clone, Debug)]
pub struct LinearArgs {
    /// f32 `[rows, in_features]`, dense.
    pub x: Tensor,
    /// `[out_features, in_features]`, dense, any float or quantised type.
    pub weight: Tensor,
    /// f32 `[out_features]`.
    pub bias: Option<Tensor>,
    /// How activations meet weights that are not f32.
    pub precision: Precision,
    /// f32 `[rows, out_features]`, dense, written in place.
    pub out: Tensor,
}

/// How activations meet weights that are not f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// Activations may be rounded: to 8 bits per block where the weight is quantised, to the weight's
    /// own type where matrix units take no other beside it. Within a block that goes for attention
    /// too: queries, weights and results may be rounded to the two-byte type of the KV cache.
    #[default]
    Quantized,
    /// Activations stay f32.
    Exact,
}

/// What a kernel of [`Linear`] depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LinearSpec {
    /// Element type of the weight.
    pub weight: DType,
    /// Width of the input.
    pub in_features: usize,
    /// Width of the output.
    pub out_features: usize,
    /// Whether there is a bias.
    pub bias: bool,
    /// Activation precision.
    pub precision: Precision,
    /// Rows rounded up to a power of two; 0 for any.
    pub rows_bucket: usize,
}

impl OpSpec for LinearSpec {
    fn without_lengths(&self) -> Self {
        Self { rows_bucket: 0, ..self.clone() }
    }
}

impl fmt::Display for LinearSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}x{}", self.weight, self.out_features, self.in_features)?;
        if self.bias {
            f.write_str(" bias")?;
        }
        if self.precision == Precision::Exact {
            f.write_str(" exact")?;
        }
        Ok(())
    }
}

impl Op for Linear {
    const ID: &'static str = "linear";
    type Spec = LinearSpec;
    type Args = LinearArgs;

    fn check(args: &LinearArgs) -> Result<LinearSpec> {
        let LinearArgs { x, weight, bias, precision, out } = args;
        let op = Self::ID;
        check::dense_f32(op, "x", x, "rows, in_features")?;
        check::dense_f32(op, "out", out, "rows, out_features")?;
        check::rank(op, "weight", weight, "out_features, in_features")?;
        check::dense(op, "weight", weight)?;
        if matches!(weight.dtype(), DType::I32 | DType::I64 | DType::Bool) {
            let expected = "a float or quantised type";
            check::dtype(op, "weight", weight, &[], expected)?;
        }
        let [out_features, in_features] = [weight.shape()[0], weight.shape()[1]];
        check::axis(op, "x axis 1", x.shape()[1], in_features, "the weight's in_features")?;
        check::axis(op, "out axis 1", out.shape()[1], out_features, "the weight's out_features")?;
        check::axis(op, "out axis 0", out.shape()[0], x.shape()[0], "x's rows")?;
        if let Some(bias) = bias {
            check::dense_f32(op, "bias", bias, "out_features")?;
            check::axis(op, "bias axis 0", bias.shape()[0], out_features, "out_features")?;
            check::apart(op, ("out", out), ("bias", bias))?;
        }
        check::apart(op, ("out", out), ("x", x))?;
        check::apart(op, ("out", out), ("weight", weight))?;
        Ok(LinearSpec {
            weight: weight.dtype(),
            in_features,
            out_features,
            bias: bias.is_some(),
            precision: *precision,
            rows_bucket: x.shape()[0].next_power_of_two(),
        })
    }
}

impl OpArgs for LinearArgs {
    fn each_tensor<'a>(&'a self, visit: &mut dyn FnMut(&'static str, &'a Tensor)) {
        visit("x", &self.x);
        visit("weight", &self.weight);
        visit("out", &self.out);
        if let Some(bias) = &self.bias {
            visit("bias", bias);
        }
    }
}
