//! MPSMatrix kernels.

use objc2::AnyThread;
use objc2::rc::{Retained, autoreleasepool};
use objc2_metal::{MTLCommandBuffer, MTLCommandQueue};
use objc2_metal_performance_shaders::{
    MPSDataType, MPSMatrix, MPSMatrixDescriptor, MPSMatrixMultiplication, MPSMatrixSoftMax,
};

use crate::aborts::aborts;
use crate::metal::{Buffer, buffer, device, read};

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn matrix(buffer: &Buffer, rows: usize, columns: usize) -> Retained<MPSMatrix> {
    unsafe {
        let descriptor = MPSMatrixDescriptor::matrixDescriptorWithRows_columns_rowBytes_dataType(
            rows,
            columns,
            columns * 4,
            MPSDataType::Float32,
        );
        MPSMatrix::initWithBuffer_descriptor(MPSMatrix::alloc(), buffer, &descriptor)
    }
}

#[test]
fn products_and_softmax() {
    let (device, queue) = device();
    let a = buffer(&device, &bytes(&[1.0, 2.0, 3.0, 4.0]));
    let b = buffer(&device, &bytes(&[0.0, 1.0, 1.0, 0.0]));
    let c = buffer(&device, &bytes(&[0.0; 4]));
    autoreleasepool(|_| unsafe {
        let commands = queue.commandBuffer().unwrap();
        let product = MPSMatrixMultiplication::initWithDevice_transposeLeft_transposeRight_resultRows_resultColumns_interiorColumns_alpha_beta(
            MPSMatrixMultiplication::alloc(), &device, true, false, 2, 2, 2, 2.0, 0.0,
        );
        let [left, right, result] = [&a, &b, &c].map(|buffer| matrix(buffer, 2, 2));
        product.encodeToCommandBuffer_leftMatrix_rightMatrix_resultMatrix(
            &commands, &left, &right, &result,
        );
        let softmax = MPSMatrixSoftMax::initWithDevice(MPSMatrixSoftMax::alloc(), &device);
        softmax.encodeToCommandBuffer_inputMatrix_resultMatrix(&commands, &result, &left);
        commands.commit();
        commands.waitUntilCompleted();
    });
    // Aᵀ·B·2 exchanges the columns of Aᵀ.
    assert_eq!(read(&c), bytes(&[6.0, 2.0, 8.0, 4.0]));
    let weights: Vec<f32> =
        read(&a).chunks(4).map(|x| f32::from_le_bytes(x.try_into().unwrap())).collect();
    let want = 1.0 / (1.0 + (-4.0f32).exp());
    assert!((weights[0] - want).abs() < 1e-6 && (weights[2] - want).abs() < 1e-6, "{weights:?}");
}

#[test]
fn a_matrix_must_fit_its_buffer() {
    aborts("may not hold 64 bytes", || {
        let (device, _) = device();
        matrix(&buffer(&device, &[0; 32]), 4, 4);
    });
}
