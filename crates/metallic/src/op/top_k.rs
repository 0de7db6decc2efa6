//! The k largest of each row, with their places: `ids[r]` are the columns of the largest values of
//! `x[r]`, largest first, of equals the lower column first. Not: what becomes of them; samplers
//! know that.
//!
//! Values compare as numbers, so 0 and −0 are equal. A NaN comes after every number, −inf too: a
//! row with fewer than k numbers ends with its NaNs, and a row of NaN alone gives its first k
//! columns.

use std::fmt;

use super::{Op, OpArgs, OpSpec, check};
use crate::error::{Error, Result};
use crate::tensor::{DType, Tensor};

/// The op.
#[derive(Debug)]
pub struct TopK;

impl TopK {
    /// The largest k: kernels hold the best of a row in the memory of one group of threads.
    pub const MAX_K: usize = 256;
}

/// One call of [`TopK`].
#[derive(Clone, Debug)]
pub struct TopKArgs {
    /// f32 `[rows, width]`; rows are contiguous, and may lie apart.
    pub x: Tensor,
    /// f32 `[rows, k]`, dense, written in place: the largest, in descending order. −0 is given
    /// as 0.
    pub values: Tensor,
    /// i32 `[rows, k]`, dense, written in place: their columns.
    pub ids: Tensor,
    /// i32 `[rows]`, dense, written in place: how many elements of the row are NaN or infinite.
    pub not_finite: Tensor,
}

/// What a kernel of [`TopK`] depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TopKSpec {
    /// Width of a row.
    pub width: usize,
    /// How many of it are kept, `1 ..= min(width, TopK::MAX_K)`.
    pub k: usize,
}

impl OpSpec for TopKSpec {}

impl fmt::Display for TopKSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "width={} k={}", self.width, self.k)
    }
}

impl Op for TopK {
    const ID: &'static str = "top_k";
    type Spec = TopKSpec;
    type Args = TopKArgs;

    fn check(args: &TopKArgs) -> Result<TopKSpec> {
        let TopKArgs { x, values, ids, not_finite } = args;
        let op = Self::ID;
        check::rank(op, "x", x, "rows, width")?;
        check::dtype(op, "x", x, &[DType::F32], "f32")?;
        check::rows(op, "x", x)?;
        check::dense_f32(op, "values", values, "rows, k")?;
        let integers: [(&'static str, &Tensor, &str); 2] =
            [("ids", ids, "rows, k"), ("not_finite", not_finite, "rows")];
        for (name, tensor, axes) in integers {
            check::rank(op, name, tensor, axes)?;
            check::dtype(op, name, tensor, &[DType::I32], "i32")?;
            check::dense(op, name, tensor)?;
        }
        let ([rows, width], k) = ([x.shape()[0], x.shape()[1]], values.shape()[1]);
        check::axis(op, "values axis 0", values.shape()[0], rows, "x's rows")?;
        check::axis(op, "ids axis 0", ids.shape()[0], rows, "x's rows")?;
        check::axis(op, "ids axis 1", ids.shape()[1], k, "the width of values")?;
        check::axis(op, "not_finite axis 0", not_finite.shape()[0], rows, "x's rows")?;
        let most = Self::MAX_K.min(width);
        if !(1..=most).contains(&k) {
            return Err(Error::Shape {
                op,
                what: "values axis 1 (k)".to_owned(),
                expected: format!("1 to {most} (x's width, and {} at most)", Self::MAX_K),
                got: k.to_string(),
            });
        }
        if i32::try_from(width).is_err() {
            return Err(Error::Shape {
                op,
                what: "x axis 1 (width)".to_owned(),
                expected: format!("{} at most (columns are i32)", i32::MAX),
                got: width.to_string(),
            });
        }
        let written = [("values", values), ("ids", ids), ("not_finite", not_finite)];
        for (index, target) in written.into_iter().enumerate() {
            check::apart(op, target, ("x", x))?;
            for other in &written[..index] {
                check::apart(op, target, *other)?;
            }
        }
        Ok(TopKSpec { width, k })
    }
}

impl OpArgs for TopKArgs {
    fn each_tensor<'a>(&'a self, visit: &mut dyn FnMut(&'static str, &'a Tensor)) {
        visit("x", &self.x);
        visit("values", &self.values);
        visit("ids", &self.ids);
        visit("not_finite", &self.not_finite);
    }
}
