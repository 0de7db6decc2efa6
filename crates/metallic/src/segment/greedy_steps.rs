//! Steps of a decoder that follow each other in one call: each takes the likeliest token after the one
//! before it, at the next position, so that nothing is read back in between.

use super::{Rotation, chained};
use crate::error::Result;
use crate::op::check;
use crate::tensor::{DType, Tensor};

/// How many steps a call makes, and what they give; of one sequence. The caller guarantees that the
/// positions of all steps lie in the views of the caches.
#[derive(Clone, Debug)]
pub struct GreedySteps {
    /// i32 `[1]`: steps of the call, at most `most`; 0 for one step after which nothing is picked.
    pub count: Tensor,
    /// f32 `[most, pairs]`, dense: the cosines of each step. The first row is that of the layers.
    pub cos: Tensor,
    /// f32 `[most, pairs]`, dense: the sines, likewise.
    pub sin: Tensor,
    /// i32 `[1 + 3 * most]`, dense: steps made; the likeliest token after each, of equals the lower id;
    /// its logit, as the bits of an f32; how many logits are NaN or infinite.
    pub picked: Tensor,
}

impl GreedySteps {
    /// Gives `most`, for layers that turn by `first`.
    ///
    /// # Errors
    /// Shapes and types other than above, or rotations that do not begin with `first`.
    pub(super) fn check(&self, op: &'static str, first: &Rotation) -> Result<usize> {
        let Self { count, cos, sin, picked } = self;
        for (name, tensor) in [("count", count), ("picked", picked)] {
            check::rank(op, name, tensor, "words")?;
            check::dtype(op, name, tensor, &[DType::I32], "i32")?;
            check::dense(op, name, tensor)?;
        }
        check::axis(op, "count", count.shape()[0], 1, "one number")?;
        for (name, tensor, first) in [("cos", cos, &first.cos), ("sin", sin, &first.sin)] {
            check::dense_f32(op, name, tensor, "most, pairs")?;
            chained(op, name, first, &tensor.narrow(0, 0, 1)?)?;
        }
        let most = cos.shape()[0];
        check::axis(op, "sin steps", sin.shape()[0], most, "as cosines")?;
        check::axis(op, "picked words", picked.shape()[0], 1 + 3 * most, "1 + 3 * most")?;
        Ok(most)
    }

    pub(super) fn each_tensor<'a>(&'a self, visit: &mut dyn FnMut(&'static str, &'a Tensor)) {
        let Self { count, cos, sin, picked } = self;
        for (name, tensor) in
            [("count", count), ("next cos", cos), ("next sin", sin), ("picked", picked)]
        {
            visit(name, tensor);
        }
    }
}
