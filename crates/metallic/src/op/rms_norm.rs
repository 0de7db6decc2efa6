//! Root-mean-square normalisation, with the residual sum that precedes it in a transformer:
//! `x ← x + residual` (when given), then `out = x / sqrt(mean(x²) + eps) · weight`, per row.
//! Formula: Zhang and Sennrich 2019, "Root Mean Square Layer Normalization".

use std::fmt;

use super::{Op, OpArgs, OpSpec, check};
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// The op.
#[derive(Debug)]
pub struct RmsNorm;

/// One call of [`RmsNorm`].
#[derive(Clone, Debug)]
pub struct RmsNormArgs {
    /// f32 `[rows, width]`, dense; updated in place when there is a residual.
    pub x: Tensor,
    /// f32 `[rows, width]`, dense; added to `x` first.
    pub residual: Option<Tensor>,
    /// f32 `[width]`.
    pub weight: Tensor,
    /// Added to the mean square.
    pub eps: f32,
    /// f32 `[rows, width]`, dense, written in place; may be `x` itself without a residual.
    pub out: Tensor,
}

/// What a kernel of [`RmsNorm`] depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RmsNormSpec {
    /// Width of a row.
    pub width: usize,
    /// Whether a residual is added.
    pub residual: bool,
    eps: u32,
}

impl RmsNormSpec {
    /// Added to the mean square.
    pub fn eps(&self) -> f32 {
        f32::from_bits(self.eps)
    }
}

impl OpSpec for RmsNormSpec {}

impl fmt::Display for RmsNormSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "width={} eps={}", self.width, self.eps())?;
        if self.residual { f.write_str(" residual") } else { Ok(()) }
    }
}

impl Op for RmsNorm {
    const ID: &'static str = "rms_norm";
    type Spec = RmsNormSpec;
    type Args = RmsNormArgs;

    fn check(args: &RmsNormArgs) -> Result<RmsNormSpec> {
        let RmsNormArgs { x, residual, weight, eps, out } = args;
        let op = Self::ID;
        check::dense_f32(op, "x", x, "rows, width")?;
        check::dense_f32(op, "out", out, "rows, width")?;
        check::dense_f32(op, "weight", weight, "width")?;
        let [rows, width] = [x.shape()[0], x.shape()[1]];
        check::axis(op, "weight axis 0", weight.shape()[0], width, "x's width")?;
        check::axis(op, "out axis 0", out.shape()[0], rows, "x's rows")?;
        check::axis(op, "out axis 1", out.shape()[1], width, "x's width")?;
        if let Some(residual) = residual {
            check::dense_f32(op, "residual", residual, "rows, width")?;
            check::axis(op, "residual axis 0", residual.shape()[0], rows, "x's rows")?;
            check::axis(op, "residual axis 1", residual.shape()[1], width, "x's width")?;
        }
        check::apart(op, ("out", out), ("weight", weight))?;
        match residual {
            None => check::apart_or_same(op, ("out", out), ("x", x))?,
            Some(residual) => {
                check::apart(op, ("out", out), ("x", x))?;
                check::apart(op, ("out", out), ("residual", residual))?;
                check::apart(op, ("x", x), ("residual", residual))?;
                check::apart(op, ("x", x), ("weight", weight))?;
            }
        }
        if !(eps.is_finite() && *eps >= 0.0) {
            let expected = "a finite number, at least 0";
            return Err(Error::Parameter { op, what: "eps", expected, got: f64::from(*eps) });
        }
        Ok(RmsNormSpec { width, residual: residual.is_some(), eps: eps.to_bits() })
    }
}

impl OpArgs for RmsNormArgs {
    fn each_tensor<'a>(&'a self, visit: &mut dyn FnMut(&'static str, &'a Tensor)) {
        visit("x", &self.x);
        visit("weight", &self.weight);
        visit("out", &self.out);
        if let Some(residual) = &self.residual {
            visit("residual", residual);
        }
    }
}
