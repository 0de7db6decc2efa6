//! MPSGraph: building with the refusals of Apple's compiler, executables, and a reference interpreter.

mod compile;
mod descriptors;
mod device;
mod eval;
mod eval_linear;
mod eval_math;
mod eval_quantized;
mod eval_shape;
mod executable;
mod execution_descriptor;
mod infer;
mod ir;
mod ops_arithmetic;
mod ops_linear;
mod ops_memory;
mod ops_quantized;
mod ops_shape;
mod package;
mod run;
mod shaped_type;
mod tensor;
mod tensor_data;
mod value;

/// Fills the method tables of this family.
pub(crate) fn install() {
    shaped_type::install();
    device::install();
    tensor::install();
    tensor_data::install();
    descriptors::install();
    execution_descriptor::install();
    ops_memory::install();
    ops_arithmetic::install();
    ops_linear::install();
    ops_shape::install();
    ops_quantized::install();
    compile::install();
    executable::install();
}
