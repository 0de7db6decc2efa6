//! Apple's matrix kernels on parts of buffers: `MPSMatrixMultiplication` and `MPSMatrixSoftMax`.
//!
//! One matrix at a time: batched products have given wrong results for large sizes
//! (pytorch#111634).

use metallic::tensor::Buffer;
use objc2::AnyThread;
use objc2::rc::Retained;
use objc2::runtime::ProtocolObject;
use objc2_metal::MTLCommandBuffer;
use objc2_metal_performance_shaders::{
    MPSDataType, MPSMatrix, MPSMatrixDescriptor, MPSMatrixMultiplication, MPSMatrixSoftMax,
};

use crate::metal::buffer::Bound;

/// A matrix within a buffer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part<'a> {
    /// Where it begins.
    pub(super) at: Bound<'a>,
    /// f32, or else f16.
    pub(super) wide: bool,
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// Elements from one row to the next.
    pub(super) stride: usize,
}

impl Part<'_> {
    fn element(&self) -> usize {
        if self.wide { size_of::<f32>() } else { size_of::<u16>() }
    }

    fn matrix(&self) -> Retained<MPSMatrix> {
        let kind = if self.wide { MPSDataType::Float32 } else { MPSDataType::Float16 };
        let (bytes, base) = (self.element(), self.at.buffer.base());
        let end = ((self.rows - 1) * self.stride + self.columns) * bytes;
        debug_assert!(self.at.offset + end <= base + self.at.buffer.bytes());
        // SAFETY: rows are a multiple of the element apart and lie in the buffer, as the caller
        // computed; the command buffer that the matrix is encoded into keeps the buffer alive.
        unsafe {
            let descriptor =
                MPSMatrixDescriptor::matrixDescriptorWithRows_columns_rowBytes_dataType(
                    self.rows,
                    self.columns,
                    self.stride * bytes,
                    kind,
                );
            MPSMatrix::initWithBuffer_offset_descriptor(
                MPSMatrix::alloc(),
                self.at.buffer.raw(),
                self.at.offset,
                &descriptor,
            )
        }
    }
}

/// `result = factor · left · right`, or with `right` transposed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Product<'a> {
    pub(super) left: Part<'a>,
    pub(super) right: Part<'a>,
    pub(super) transpose_right: bool,
    pub(super) factor: f64,
    pub(super) result: Part<'a>,
}

impl Product<'_> {
    /// Appends the product. No encoder may be open.
    pub(super) fn encode(&self, commands: &ProtocolObject<dyn MTLCommandBuffer>) {
        let Self { left, right, result, .. } = self;
        // SAFETY: the sizes agree with the matrices, all of which have elements.
        unsafe {
            let init = MPSMatrixMultiplication::initWithDevice_transposeLeft_transposeRight_resultRows_resultColumns_interiorColumns_alpha_beta;
            let kernel = init(
                MPSMatrixMultiplication::alloc(),
                &commands.device(),
                false,
                self.transpose_right,
                result.rows,
                result.columns,
                left.columns,
                self.factor,
                0.0,
            );
            kernel.encodeToCommandBuffer_leftMatrix_rightMatrix_resultMatrix(
                commands,
                &left.matrix(),
                &right.matrix(),
                &result.matrix(),
            );
        }
    }
}

/// Appends the softmax of each row of `from`. No encoder may be open.
pub(super) fn encode_softmax(
    commands: &ProtocolObject<dyn MTLCommandBuffer>,
    from: &Part<'_>,
    to: &Part<'_>,
) {
    // SAFETY: both matrices have the same sizes and element type.
    unsafe {
        let kernel =
            MPSMatrixSoftMax::initWithDevice(MPSMatrixSoftMax::alloc(), &commands.device());
        kernel.encodeToCommandBuffer_inputMatrix_resultMatrix(
            commands,
            &from.matrix(),
            &to.matrix(),
        );
    }
}
