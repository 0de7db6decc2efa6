//! What tests, `metallic parity` and the benches measure against: one f64 reference, one list of
//! cases, one table of tolerances, one comparer, and a device of no hardware.
//!
//! The way of a case: [`cases`] names it, [`problem`] makes its numbers, [`oracle`] computes what
//! must come out, [`place`] lays the numbers into device tensors, [`parity`] runs it on contexts
//! and judges with [`tolerance`]. Halves of a block have their numbers and places in [`mod@block`].
#![forbid(unsafe_code)]

pub mod block;
pub mod cases;
pub mod null_device;
pub mod oracle;
pub mod parity;
pub mod place;
pub mod problem;
pub mod random;
pub mod storage;
pub mod tolerance;
