//! The CPU: number-crunching functions over slices. Not: ops, dispatch or validation.

pub mod exp;
pub mod gemm_f32;
pub mod kernels;
pub mod linear;
pub mod pool;
pub mod quant;
pub mod simd;
mod vector;
