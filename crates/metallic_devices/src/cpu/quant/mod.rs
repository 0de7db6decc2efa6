//! Stored element types on the CPU: block layouts, decoding to f32, encoding to Q8_0.
//!
//! Every quantised format is read through one shape, `Block`: unsigned codes with a scale and
//! a minimum or a fixed offset per group of 16 or 32 elements. Decoding to f32, integer dot
//! products and tile packing are written once over that shape.
//! Not: encoding to anything but Q8_0; models arrive quantised.

mod block;
mod dequantize;
mod half_float;
mod iq4;
mod k_quants;
mod legacy_quants;
mod q8_0;

pub use dequantize::{dequantize_row, dequantize_row_at};
pub(crate) use q8_0::max_abs;
pub use q8_0::quantize_row_q8_0;

pub(crate) use block::{Block, with_block};
pub(crate) use half_float::{bf16_bits_to_f32, f16_bits_to_f32};
pub(crate) use iq4::{IQ4_CODES, Iq4Nl, Iq4Xs};
pub(crate) use k_quants::{Q2K, Q3K, Q4K, Q5K, Q6K};
pub(crate) use legacy_quants::{Q4_0, Q4_1, Q5_0, Q5_1, Q8_0};
