//! Rotary position embedding, in place: each pair of a head is turned by an angle that grows
//! with the position. Formula: Su et al. 2021, "RoFormer".

use std::fmt;

use super::{Op, OpArgs, OpSpec, check};
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// The op.
#[derive(Debug)]
pub struct Rope;

/// One call of [`Rope`].
///
/// Pair `p` of every head in row `r` becomes
/// `(a·cos − b·sin, a·sin + b·cos)` with `cos[r, p]` and `sin[r, p]`.
#[derive(Clone, Debug)]
pub struct RopeArgs {
    /// f32 `[rows, heads, head_dim]`, last axis contiguous, updated in place.
    pub x: Tensor,
    /// f32 `[rows, pairs]`, dense; `pairs <= head_dim / 2`, the rest of a head stays as it is.
    pub cos: Tensor,
    /// f32 `[rows, pairs]`, dense.
    pub sin: Tensor,
    /// Which elements make a pair.
    pub pairing: RopePairing,
}

/// Which elements of a head turn together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RopePairing {
    /// `(2p, 2p + 1)`: GGUF files of the `llama` architecture.
    Interleaved,
    /// `(p, p + pairs)`: Hugging Face files, and GGUF files of `qwen2` and `qwen3`.
    Half,
}

/// What a kernel of [`Rope`] depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RopeSpec {
    /// Heads per row.
    pub heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Turned pairs per head.
    pub pairs: usize,
    /// Which elements make a pair.
    pub pairing: RopePairing,
}

impl OpSpec for RopeSpec {}

impl fmt::Display for RopeSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { heads, head_dim, pairs, pairing } = self;
        write!(f, "heads={heads} dim={head_dim} pairs={pairs} {pairing:?}")
    }
}

impl Op for Rope {
    const ID: &'static str = "rope";
    type Spec = RopeSpec;
    type Args = RopeArgs;

    fn check(args: &RopeArgs) -> Result<RopeSpec> {
        let RopeArgs { x, cos, sin, pairing } = args;
        let op = Self::ID;
        check::rank(op, "x", x, "rows, heads, head_dim")?;
        check::dtype(op, "x", x, &[crate::tensor::DType::F32], "f32")?;
        check::rows(op, "x", x)?;
        check::no_overlap(op, "x", x)?;
        check::dense_f32(op, "cos", cos, "rows, pairs")?;
        check::dense_f32(op, "sin", sin, "rows, pairs")?;
        let [rows, heads, head_dim] = [x.shape()[0], x.shape()[1], x.shape()[2]];
        let pairs = cos.shape()[1];
        check::axis(op, "cos axis 0", cos.shape()[0], rows, "x's rows")?;
        check::axis(op, "sin axis 0", sin.shape()[0], rows, "x's rows")?;
        check::axis(op, "sin axis 1", sin.shape()[1], pairs, "cos's pairs")?;
        if pairs > head_dim / 2 {
            return Err(Error::Shape {
                op,
                what: "cos axis 1 (pairs)".to_owned(),
                expected: format!("at most head_dim / 2 = {}", head_dim / 2),
                got: pairs.to_string(),
            });
        }
        check::apart(op, ("x", x), ("cos", cos))?;
        check::apart(op, ("x", x), ("sin", sin))?;
        Ok(RopeSpec { heads, head_dim, pairs, pairing: *pairing })
    }
}

impl OpArgs for RopeArgs {
    fn each_tensor<'a>(&'a self, visit: &mut dyn FnMut(&'static str, &'a Tensor)) {
        visit("x", &self.x);
        visit("cos", &self.cos);
        visit("sin", &self.sin);
    }
}
