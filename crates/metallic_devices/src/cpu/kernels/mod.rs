//! Elementwise and row kernels, one per file: plain loops that vectorise at each level.
//!
//! All run on one thread; callers split rows.

pub mod add;
pub mod convert;
pub mod embedding;
pub mod rms_norm;
pub mod rope;
pub mod softmax;
pub mod swiglu;
pub mod top_k;
