//! Steps of a decoder that follow each other in one call: each takes the token that was chosen after the
//! one before it, at the next position, so that nothing is read back in between.

use super::{Rotation, chained};
use crate::error::Result;
use crate::op::check;
use crate::tensor::{DType, Tensor};

/// How many steps a call makes, how tokens are chosen, and what the steps give; of one sequence. The
/// caller guarantees that the positions of all steps lie in the views of the caches.
///
/// A token is the likeliest one (of equal logits, that of the lower id), or it is drawn from the k
/// likeliest with a random number u. With these in descending order (of equals, the lower id first) as
/// l₀, l₁ … in f32, weights w(x) = eˣ in f32, and sums in f64 from the first on in this order:
///
/// 1. Top-p, where p < 1: those up to the first whose sum of w(lᵢ − l₀) is at least p times that of all.
/// 2. Min-p: those with lᵢ ≥ l₀ + ln(min-p), a sum in f32.
/// 3. Temperature t: xᵢ = (lᵢ − l₀) / t.
/// 4. The first whose sum of w(xᵢ) is greater than u times that of all, else the last.
///
/// `metallic_models` draws in the same way on the host, with the same bits of w; a device that
/// chooses takes them from there.
#[derive(Clone, Debug)]
pub struct FollowingSteps {
    /// i32 `[1]`: steps of the call, at most `most`; 0 for one step after which nothing is chosen.
    pub count: Tensor,
    /// f32 `[most, pairs]`, dense: the cosines of each step. The first row is that of the layers.
    pub cos: Tensor,
    /// f32 `[most, pairs]`, dense: the sines, likewise.
    pub sin: Tensor,
    /// i32 `[DRAW_WORDS + 2 * most]`, dense: k, at most [`FollowingSteps::MOST_K`], or 0 for the
    /// likeliest token; t, p and ln(min-p) as the bits of f32; u of each step as the bits of an f64,
    /// the lower half first.
    pub draw: Tensor,
    /// i32 `[1 + 3 * most]`, dense: steps made; the token chosen after each; its logit, as the bits of
    /// an f32; how many logits are NaN or infinite. The last token is left in the ids of the embedding
    /// too, where a call after this one finds it.
    pub chosen: Tensor,
}

impl FollowingSteps {
    /// The most candidates that a token is drawn from.
    pub const MOST_K: usize = 64;
    /// Words of `draw` before the random numbers.
    pub const DRAW_WORDS: usize = 4;

    /// Gives `most`, for layers that turn by `first`.
    ///
    /// # Errors
    /// Shapes and types other than above, or rotations that do not begin with `first`.
    pub(super) fn check(&self, op: &'static str, first: &Rotation) -> Result<usize> {
        let Self { count, cos, sin, draw, chosen } = self;
        for (name, tensor) in [("count", count), ("draw", draw), ("chosen", chosen)] {
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
        let words = Self::DRAW_WORDS + 2 * most;
        check::axis(op, "draw words", draw.shape()[0], words, "DRAW_WORDS + 2 * most")?;
        check::axis(op, "chosen words", chosen.shape()[0], 1 + 3 * most, "1 + 3 * most")?;
        Ok(most)
    }

    pub(super) fn each_tensor<'a>(&'a self, visit: &mut dyn FnMut(&'static str, &'a Tensor)) {
        let Self { count, cos, sin, draw, chosen } = self;
        for (name, tensor) in [
            ("count", count),
            ("next cos", cos),
            ("next sin", sin),
            ("draw", draw),
            ("chosen", chosen),
        ] {
            visit(name, tensor);
        }
    }
}
