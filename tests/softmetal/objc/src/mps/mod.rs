//! Metal Performance Shaders: arrays, matrices, and the command buffer that may change under its user.

pub(crate) mod command_buffer;
pub(crate) mod dtype;
mod matrix;
pub(crate) mod ndarray;
mod ndarray_descriptor;

pub(crate) use ndarray_descriptor::sizes as ndarray_sizes;

/// Fills the method tables of this family.
pub(crate) fn install() {
    command_buffer::install();
    ndarray_descriptor::install();
    ndarray::install();
    matrix::install();
}
