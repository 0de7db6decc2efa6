//! The ops that have a graph form, one file each.

mod sdpa;

pub use sdpa::SdpaGraphKernel;
