//! What must come out: f64 references in plain loops, one file per op.

mod sdpa;

pub use sdpa::{Reference, RowFacts, SdpaProblem, TensorMask, TensorMaskValues, sdpa};
