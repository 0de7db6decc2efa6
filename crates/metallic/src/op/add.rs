//! Sum in place: `x ← x + y`.

use std::fmt;

use super::{Op, OpArgs, OpSpec, check};
use crate::error::Result;
use crate::tensor::Tensor;

/// The op.
#[derive(Debug)]
pub struct Add;

/// One call of [`Add`]. Both tensors f32 `[rows, width]`, dense.
#[derive(Clone, Debug)]
pub struct AddArgs {
    /// Updated in place.
    pub x: Tensor,
    /// Added.
    pub y: Tensor,
}

/// What a kernel of [`Add`] depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AddSpec {
    /// Width of a row.
    pub width: usize,
}

impl OpSpec for AddSpec {}

impl fmt::Display for AddSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "width={}", self.width)
    }
}

impl Op for Add {
    const ID: &'static str = "add";
    type Spec = AddSpec;
    type Args = AddArgs;

    fn check(args: &AddArgs) -> Result<AddSpec> {
        let op = Self::ID;
        check::dense_f32(op, "x", &args.x, "rows, width")?;
        check::dense_f32(op, "y", &args.y, "rows, width")?;
        check::axis(op, "y axis 0", args.y.shape()[0], args.x.shape()[0], "x's rows")?;
        check::axis(op, "y axis 1", args.y.shape()[1], args.x.shape()[1], "x's width")?;
        check::apart(op, ("x", &args.x), ("y", &args.y))?;
        Ok(AddSpec { width: args.x.shape()[1] })
    }
}

impl OpArgs for AddArgs {
    fn each_tensor<'a>(&'a self, visit: &mut dyn FnMut(&'static str, &'a Tensor)) {
        visit("x", &self.x);
        visit("y", &self.y);
    }
}
