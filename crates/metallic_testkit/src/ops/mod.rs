//! Every op but attention, run on two contexts with the same random bytes and compared: the way to
//! check a device against the CPU. Attention has an oracle of its own (`parity`).
//!
//! Outputs are poisoned before each run, so an element that nobody writes shows as NaN.

mod elementwise;
mod linear;
mod rows;
mod top_k;
mod weights;

use metallic::op::Op;
use metallic::tensor::{DType, Shape, Tensor};
use metallic::{Context, Error, Result};
use serde::Serialize;

/// One call on both contexts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OpRow {
    /// Op, types and shape, as `linear q4_k 3x512x300 bias`.
    pub case: String,
    /// The kernel that ran on the tried device, as `legacy:gemv`.
    pub kernel: String,
    /// Largest error in units of what is allowed there; above 1 is a failure.
    pub worst_ratio: f64,
    /// Why it failed; `None` when it passed.
    pub failure: Option<String>,
}

/// The two contexts and what came out so far.
struct Duel<'a> {
    reference: &'a Context,
    target: &'a Context,
    /// Whether to leave out most row counts and shapes of products.
    quick: bool,
    rows: Vec<OpRow>,
    each: &'a mut dyn FnMut(&OpRow),
}

/// Runs every case on `target` and compares with `reference`, in which products are exact. `each`
/// hears of every row. `quick` leaves out most row counts and shapes of products.
pub fn run(
    reference: &Context,
    target: &Context,
    quick: bool,
    each: &mut dyn FnMut(&OpRow),
) -> Vec<OpRow> {
    let mut duel = Duel { reference, target, quick, rows: Vec::new(), each };
    rows::embedding(&mut duel);
    rows::rms_norm(&mut duel);
    rows::kv_append(&mut duel);
    elementwise::rope(&mut duel);
    elementwise::swiglu(&mut duel);
    elementwise::add(&mut duel);
    linear::linear(&mut duel);
    top_k::top_k(&mut duel);
    duel.rows
}

/// The cases of `TopK` alone, whose reference is the oracle.
pub fn run_top_k(target: &Context, each: &mut dyn FnMut(&OpRow)) -> Vec<OpRow> {
    let mut duel = Duel { reference: target, target, quick: false, rows: Vec::new(), each };
    top_k::top_k(&mut duel);
    duel.rows
}

/// What one context gave: values in the order of the case, and the kernel.
type Outcome = (Vec<f32>, String);

impl Duel<'_> {
    /// Runs `call` on both contexts. `bounds` gives the allowed error of each value from the
    /// reference's values.
    fn compare(
        &mut self,
        case: String,
        call: &dyn Fn(&Context, bool) -> Result<Outcome>,
        bounds: &dyn Fn(&[f32]) -> Vec<f64>,
    ) {
        let row = match (call(self.reference, false), call(self.target, true)) {
            (Ok((want, _)), Ok((got, kernel))) => judge(case, kernel, &got, &want, &bounds(&want)),
            (want, got) => {
                let error = want.err().or(got.err()).map(|error: Error| error.to_string());
                OpRow {
                    case,
                    kernel: "none".to_owned(),
                    worst_ratio: f64::INFINITY,
                    failure: error,
                }
            }
        };
        (self.each)(&row);
        self.rows.push(row);
    }
}

fn judge(case: String, kernel: String, got: &[f32], want: &[f32], bounds: &[f64]) -> OpRow {
    let (mut worst_ratio, mut failure) = (0.0, None);
    for (index, ((&got, &want), &bound)) in got.iter().zip(want).zip(bounds).enumerate() {
        let error = (f64::from(got) - f64::from(want)).abs();
        let same = got == want || (got.is_nan() && want.is_nan());
        // A NaN on one side only is an error without bound.
        let ratio = match (same, error.is_nan()) {
            (true, _) => 0.0,
            (false, true) => f64::INFINITY,
            (false, false) => error / bound,
        };
        if ratio > worst_ratio {
            worst_ratio = ratio;
            if ratio > 1.0 {
                failure = Some(format!("element {index} is {got}, expected {want} ± {bound:.1e}"));
            }
        }
    }
    if got.len() != want.len() {
        failure = Some(format!("{} values, expected {}", got.len(), want.len()));
    }
    OpRow { case, kernel, worst_ratio, failure }
}

/// Runs the op and names the kernel.
fn run_op<O: Op>(ctx: &Context, args: &O::Args) -> Result<String> {
    let selection = ctx.run::<O>(args)?;
    Ok(format!("{}:{}", selection.backend, selection.variant))
}

/// A dense f32 tensor of NaN: an output nobody has written.
fn poisoned(ctx: &Context, shape: impl Into<Shape>) -> Result<Tensor> {
    let shape = shape.into();
    ctx.upload_f32(shape, &vec![f32::NAN; shape.elements()])
}

/// Bounds that allow `relative` of each value and `absolute` beside it.
fn near(relative: f64, absolute: f64) -> impl Fn(&[f32]) -> Vec<f64> {
    move |want| want.iter().map(|want| relative * f64::from(want.abs()) + absolute).collect()
}

/// Bounds that allow nothing.
fn exactly(want: &[f32]) -> Vec<f64> {
    vec![f64::MIN_POSITIVE; want.len()]
}

/// Bytes as numbers, to compare storage bit by bit.
fn bytes_as_values(bytes: &[u8]) -> Vec<f32> {
    bytes.iter().map(|byte| f32::from(*byte)).collect()
}

/// The types of embeddings and weights.
fn weight_types() -> impl Iterator<Item = DType> {
    DType::ALL.into_iter().filter(|dtype| dtype.is_float() || dtype.is_quantized())
}
