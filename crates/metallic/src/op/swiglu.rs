//! Gated linear unit with SiLU: `out = gate / (1 + exp(−gate)) · up`.
//! Formula: Shazeer 2020, "GLU Variants Improve Transformer".

use std::fmt;

use super::{Op, OpArgs, OpSpec, check};
use crate::error::Result;
use crate::tensor::Tensor;

/// The op.
#[derive(Debug)]
pub struct SwiGlu;

/// One call of [`SwiGlu`]. All tensors f32 `[rows, width]`, dense.
#[derive(Clone, Debug)]
pub struct SwiGluArgs {
    /// Goes through SiLU.
    pub gate: Tensor,
    /// Multiplied with the gate.
    pub up: Tensor,
    /// Written in place; may be `gate` or `up`.
    pub out: Tensor,
}

/// What a kernel of [`SwiGlu`] depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SwiGluSpec {
    /// Width of a row.
    pub width: usize,
}

impl OpSpec for SwiGluSpec {}

impl fmt::Display for SwiGluSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "width={}", self.width)
    }
}

impl Op for SwiGlu {
    const ID: &'static str = "swiglu";
    type Spec = SwiGluSpec;
    type Args = SwiGluArgs;

    fn check(args: &SwiGluArgs) -> Result<SwiGluSpec> {
        let op = Self::ID;
        let shape = args.gate.shape();
        for (name, tensor) in [("gate", &args.gate), ("up", &args.up), ("out", &args.out)] {
            check::dense_f32(op, name, tensor, "rows, width")?;
            for axis in 0..2 {
                let what = format!("{name} axis {axis}");
                check::axis(op, &what, tensor.shape()[axis], shape[axis], "gate's")?;
            }
        }
        Ok(SwiGluSpec { width: shape[1] })
    }
}

impl OpArgs for SwiGluArgs {
    fn each_tensor<'a>(&'a self, visit: &mut dyn FnMut(&'static str, &'a Tensor)) {
        visit("gate", &self.gate);
        visit("up", &self.up);
        visit("out", &self.out);
    }
}
