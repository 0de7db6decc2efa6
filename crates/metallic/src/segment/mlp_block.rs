//! The feed-forward half of a block as one op: the residual sum and its norm, gate and up, SwiGLU,
//! down. `x ← x + pending`, then `out = down(silu(gate(n)) · up(n))` with `n` the norm of `x`.

use std::fmt;

use super::blank::blank;
use super::{MakeTensor, Norm, Projection, check_apart, part};
use crate::context::Context;
use crate::error::Result;
use crate::op::{
    Linear, LinearArgs, LinearSpec, Op, OpArgs, OpSpec, Precision, RmsNorm, RmsNormArgs,
    RmsNormSpec, SwiGlu, SwiGluArgs, SwiGluSpec, check,
};
use crate::tensor::{Shape, Tensor};

/// The op.
#[derive(Debug)]
pub struct MlpBlock;

/// One call of [`MlpBlock`].
#[derive(Clone, Debug)]
pub struct MlpBlockArgs {
    /// The residual stream, f32 `[rows, hidden]`, dense; updated in place when something is
    /// pending.
    pub x: Tensor,
    /// f32 `[rows, hidden]`, dense; added to `x` first.
    pub pending: Option<Tensor>,
    /// The norm before the projections.
    pub norm: Norm,
    /// `[ffn, hidden]`.
    pub gate: Projection,
    /// `[ffn, hidden]`.
    pub up: Projection,
    /// `[hidden, ffn]`.
    pub down: Projection,
    /// How activations meet quantised weights.
    pub precision: Precision,
    /// f32 `[rows, hidden]`, dense, written in place: pending for what comes next.
    pub out: Tensor,
}

/// The calls that make up a [`MlpBlock`], in order.
#[derive(Clone, Debug)]
pub struct MlpCalls {
    /// The residual sum and its norm.
    pub norm: RmsNormArgs,
    /// The gate.
    pub gate: LinearArgs,
    /// What it gates.
    pub up: LinearArgs,
    /// SwiGLU, into the gate's tensor.
    pub swiglu: SwiGluArgs,
    /// Back to the width of the stream.
    pub down: LinearArgs,
}

impl MlpCalls {
    /// Runs the calls in turn, each on the kernel that is best for it.
    ///
    /// # Errors
    /// As [`Context::run`].
    pub fn run(&self, ctx: &Context) -> Result<()> {
        ctx.run::<RmsNorm>(&self.norm)?;
        ctx.run::<Linear>(&self.gate)?;
        ctx.run::<Linear>(&self.up)?;
        ctx.run::<SwiGlu>(&self.swiglu)?;
        ctx.run::<Linear>(&self.down)?;
        Ok(())
    }
}

impl MlpBlockArgs {
    /// The segment's calls, over intermediates made by `make`.
    ///
    /// # Errors
    /// What `make` reports; [`crate::Error::Shape`] for tensors of another rank.
    pub fn calls(&self, make: MakeTensor<'_>) -> Result<MlpCalls> {
        let Self { x, pending, norm, gate, up, down, precision, out } = self;
        let op = MlpBlock::ID;
        check::rank(op, "x", x, "rows, hidden")?;
        let rows = x.shape()[0];
        let normed = make(x.shape())?;
        let gated = make(gate.out_shape(op, "gate_weight", rows)?)?;
        let raised = make(up.out_shape(op, "up_weight", rows)?)?;
        Ok(MlpCalls {
            norm: norm.call(x, pending.as_ref(), &normed),
            gate: gate.call(&normed, *precision, &gated),
            up: up.call(&normed, *precision, &raised),
            swiglu: SwiGluArgs { gate: gated.clone(), up: raised, out: gated.clone() },
            down: down.call(&gated, *precision, out),
        })
    }
}

/// What an executable of [`MlpBlock`] depends on: the specs of its calls.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MlpBlockSpec {
    /// The norm.
    pub norm: RmsNormSpec,
    /// The gate.
    pub gate: LinearSpec,
    /// What it gates.
    pub up: LinearSpec,
    /// SwiGLU.
    pub swiglu: SwiGluSpec,
    /// Back to the width of the stream.
    pub down: LinearSpec,
}

impl MlpBlockSpec {
    /// Rows rounded up to a power of two; 0 for any.
    pub fn rows_bucket(&self) -> usize {
        self.gate.rows_bucket
    }
}

impl OpSpec for MlpBlockSpec {
    fn without_lengths(&self) -> Self {
        Self {
            gate: self.gate.without_lengths(),
            up: self.up.without_lengths(),
            down: self.down.without_lengths(),
            ..self.clone()
        }
    }
}

impl fmt::Display for MlpBlockSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { norm, gate, up, down, .. } = self;
        write!(f, "norm({norm}) gate({gate}) up({up}) down({down})")?;
        if self.rows_bucket() > 0 { write!(f, " rows<={}", self.rows_bucket()) } else { Ok(()) }
    }
}

impl Op for MlpBlock {
    const ID: &'static str = "mlp_block";
    type Spec = MlpBlockSpec;
    type Args = MlpBlockArgs;

    fn check(args: &MlpBlockArgs) -> Result<MlpBlockSpec> {
        let op = Self::ID;
        let device = args.x.device();
        let calls = args.calls(&|shape: Shape| blank(device, shape))?;
        let spec = MlpBlockSpec {
            norm: part(op, "norm", RmsNorm::check(&calls.norm))?,
            gate: part(op, "gate projection", Linear::check(&calls.gate))?,
            up: part(op, "up projection", Linear::check(&calls.up))?,
            swiglu: part(op, "gating", SwiGlu::check(&calls.swiglu))?,
            down: part(op, "down projection", Linear::check(&calls.down))?,
        };
        let [rows, hidden] = [args.x.shape()[0], args.x.shape()[1]];
        check::axis(op, "out axis 0", args.out.shape()[0], rows, "x's rows")?;
        check::axis(op, "out axis 1", args.out.shape()[1], hidden, "x's width")?;
        let written: &[&str] = if args.pending.is_some() { &["x", "out"] } else { &["out"] };
        check_apart(op, args, written)?;
        Ok(spec)
    }
}

impl OpArgs for MlpBlockArgs {
    fn each_tensor<'a>(&'a self, visit: &mut dyn FnMut(&'static str, &'a Tensor)) {
        visit("x", &self.x);
        if let Some(pending) = &self.pending {
            visit("pending", pending);
        }
        visit("norm_weight", &self.norm.weight);
        self.gate.each_tensor(["gate_weight", "gate_bias"], visit);
        self.up.each_tensor(["up_weight", "up_bias"], visit);
        self.down.each_tensor(["down_weight", "down_bias"], visit);
        visit("out", &self.out);
    }
}
