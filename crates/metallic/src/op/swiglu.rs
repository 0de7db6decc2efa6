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
        for (name, axes, tensor) in [
            ("gate", ["gate axis 0", "gate axis 1"], &args.gate),
            ("up", ["up axis 0", "up axis 1"], &args.up),
            ("out", ["out axis 0", "out axis 1"], &args.out),
        ] {
            check::dense_f32(op, name, tensor, "rows, width")?;
            for (axis, what) in axes.into_iter().enumerate() {
                check::axis(op, what, tensor.shape()[axis], shape[axis], "gate's")?;
            }
        }
        check::apart_or_same(op, ("out", &args.out), ("gate", &args.gate))?;
        check::apart_or_same(op, ("out", &args.out), ("up", &args.up))?;
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
