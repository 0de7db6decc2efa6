//! MPSMatrix, its descriptor, matrix multiplication and softmax.

use std::sync::Mutex;

use super::dtype::{self, DType, Scalar};
use crate::metal::buffer::Buffer;
use crate::metal::command_buffer::{CommandBuffer, Work};
use crate::metal::device;
use crate::runtime::abort::abort;
use crate::runtime::class::{class, methods};
use crate::runtime::{Id, Ref};

class!(DESCRIPTOR, "MPSMatrixDescriptor");
class!(MATRIX, "MPSMatrix");
class!(KERNEL, "MPSKernel");
class!(MULTIPLICATION, "MPSMatrixMultiplication", KERNEL);
class!(SOFTMAX, "MPSMatrixSoftMax", KERNEL);

/// The value of a descriptor: a batch of matrices.
#[derive(Clone, Copy)]
struct Layout {
    rows: usize,
    columns: usize,
    matrices: usize,
    row_bytes: usize,
    matrix_bytes: usize,
    dtype: DType,
}

/// The value of a matrix object.
#[derive(Clone)]
struct Matrix {
    buffer: Ref,
    offset: usize,
    layout: Layout,
}

/// The value of a multiplication: result = alpha · left · right + beta · result.
#[derive(Clone, Copy)]
struct Multiplication {
    transpose: (bool, bool),
    rows: usize,
    columns: usize,
    interior: usize,
    alpha: f32,
    beta: f32,
}

/// The value of a softmax kernel.
struct Softmax;

fn layout(dims: [usize; 3], row_bytes: usize, matrix_bytes: usize, dtype: u32) -> Mutex<Layout> {
    let dtype = DType::from_code(dtype);
    let [rows, columns, matrices] = dims;
    if row_bytes < dtype.bytes(columns) || !row_bytes.is_multiple_of((dtype.bits() / 8).max(1)) {
        abort!(
            "MPSMatrixDescriptor: rowBytes {row_bytes} for {columns} columns of {}",
            dtype.name()
        );
    }
    Mutex::new(Layout { rows, columns, matrices, row_bytes, matrix_bytes, dtype })
}

fn row_bytes(columns: usize, dtype: u32) -> usize {
    DType::from_code(dtype).bytes(columns).next_multiple_of(16)
}

fn matrix(buffer: Id, offset: usize, descriptor: Id) -> Matrix {
    let layout = *descriptor.value::<Mutex<Layout>>().lock().unwrap();
    let needed = (layout.matrices - 1) * layout.matrix_bytes + layout.rows * layout.row_bytes;
    let have = buffer.value::<Buffer>().len();
    if offset + needed > have {
        abort!(
            "[MPSMatrix initWithBuffer:offset:descriptor:]: buffer of {have} bytes may not hold {needed} bytes at {offset}"
        );
    }
    Matrix { buffer: buffer.required("the buffer"), offset, layout }
}

impl Matrix {
    fn at(&self, batch: usize, row: usize) -> *mut u8 {
        let start = self.offset + batch * self.layout.matrix_bytes + row * self.layout.row_bytes;
        self.buffer.value::<Buffer>().range(
            start,
            self.layout.dtype.bytes(self.layout.columns),
            "a matrix",
        )
    }

    fn get(&self, batch: usize, row: usize, column: usize) -> f32 {
        // SAFETY: `at` checked the row.
        match unsafe { dtype::load(self.layout.dtype, self.at(batch, row), column) } {
            Scalar::Float(x) => x,
            Scalar::Integer(x) => x as f32,
        }
    }

    fn set(&self, batch: usize, row: usize, column: usize, value: f32) {
        // SAFETY: `at` checked the row.
        unsafe {
            dtype::store(self.layout.dtype, self.at(batch, row), column, Scalar::Float(value))
        };
    }
}

fn multiply(kernel: Multiplication, left: &Matrix, right: &Matrix, result: &Matrix) {
    for batch in 0..result.layout.matrices {
        for row in 0..kernel.rows {
            for column in 0..kernel.columns {
                let mut sum = 0.0;
                for k in 0..kernel.interior {
                    let (lr, lc) = if kernel.transpose.0 { (k, row) } else { (row, k) };
                    let (rr, rc) = if kernel.transpose.1 { (column, k) } else { (k, column) };
                    sum += left.get(batch, lr, lc) * right.get(batch, rr, rc);
                }
                let before = if kernel.beta == 0.0 {
                    0.0
                } else {
                    kernel.beta * result.get(batch, row, column)
                };
                result.set(batch, row, column, kernel.alpha * sum + before);
            }
        }
    }
}

fn softmax(input: &Matrix, result: &Matrix) {
    for batch in 0..input.layout.matrices {
        for row in 0..input.layout.rows {
            let values: Vec<f32> =
                (0..input.layout.columns).map(|column| input.get(batch, row, column)).collect();
            let most = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let powers: Vec<f32> = values.iter().map(|x| (x - most).exp()).collect();
            let sum: f32 = powers.iter().sum();
            for (column, power) in powers.iter().enumerate() {
                result.set(batch, row, column, power / sum);
            }
        }
    }
}

/// The command list of a Metal or MPS command buffer object.
fn work(commands: Id) -> std::sync::Arc<Work> {
    match commands.try_value::<CommandBuffer>() {
        Some(commands) => std::sync::Arc::clone(&commands.work),
        None => super::command_buffer::work(commands),
    }
}

fn kernel(dims: [usize; 3], transpose: (u8, u8), alpha: f64, beta: f64) -> Multiplication {
    let [rows, columns, interior] = dims;
    let transpose = (transpose.0 != 0, transpose.1 != 0);
    Multiplication { transpose, rows, columns, interior, alpha: alpha as f32, beta: beta as f32 }
}

methods! { install_descriptor for DESCRIPTOR;
    + "matrixDescriptorWithRows:columns:rowBytes:dataType:" (class, rows: usize, columns: usize, row: usize, dtype: u32) -> Id {
        Ref::new(class, layout([rows, columns, 1], row, rows * row, dtype)).autorelease()
    }
    + "matrixDescriptorWithRows:columns:matrices:rowBytes:matrixBytes:dataType:" (
        class, rows: usize, columns: usize, matrices: usize, row: usize, matrix: usize, dtype: u32,
    ) -> Id {
        Ref::new(class, layout([rows, columns, matrices], row, matrix, dtype)).autorelease()
    }
    + "rowBytesForColumns:dataType:" (_class, columns: usize, dtype: u32) -> usize { row_bytes(columns, dtype) }
    + "rowBytesFromColumns:dataType:" (_class, columns: usize, dtype: u32) -> usize { row_bytes(columns, dtype) }
    - "rows" (this) -> usize { this.value::<Mutex<Layout>>().lock().unwrap().rows }
    - "columns" (this) -> usize { this.value::<Mutex<Layout>>().lock().unwrap().columns }
    - "rowBytes" (this) -> usize { this.value::<Mutex<Layout>>().lock().unwrap().row_bytes }
    - "matrixBytes" (this) -> usize { this.value::<Mutex<Layout>>().lock().unwrap().matrix_bytes }
    - "dataType" (this) -> u32 { this.value::<Mutex<Layout>>().lock().unwrap().dtype.code() }
}

methods! { install_matrix for MATRIX;
    - "initWithBuffer:descriptor:" (this, buffer: Id, descriptor: Id) -> Id { this.init(matrix(buffer, 0, descriptor)) }
    - "initWithBuffer:offset:descriptor:" (this, buffer: Id, offset: usize, descriptor: Id) -> Id {
        this.init(matrix(buffer, offset, descriptor))
    }
    - "rows" (this) -> usize { this.value::<Matrix>().layout.rows }
    - "columns" (this) -> usize { this.value::<Matrix>().layout.columns }
    - "offset" (this) -> usize { this.value::<Matrix>().offset }
    - "dataType" (this) -> u32 { this.value::<Matrix>().layout.dtype.code() }
    - "data" (this) -> Id { this.value::<Matrix>().buffer.clone().autorelease() }
    - "device" (_this) -> Id { device::shared().autorelease() }
}

methods! { install_kernel for KERNEL;
    - "device" (_this) -> Id { device::shared().autorelease() }
    - "label" (_this) -> Id { Id::NIL }
    - "setLabel:" (_this, _text: Id) {}
}

methods! { install_multiplication for MULTIPLICATION;
    - "initWithDevice:transposeLeft:transposeRight:resultRows:resultColumns:interiorColumns:alpha:beta:" (
        this, _device: Id, left: u8, right: u8, rows: usize, columns: usize, interior: usize, alpha: f64, beta: f64,
    ) -> Id {
        this.init(kernel([rows, columns, interior], (left, right), alpha, beta))
    }
    - "initWithDevice:resultRows:resultColumns:interiorColumns:" (
        this, _device: Id, rows: usize, columns: usize, interior: usize,
    ) -> Id {
        this.init(kernel([rows, columns, interior], (0, 0), 1.0, 0.0))
    }
    - "encodeToCommandBuffer:leftMatrix:rightMatrix:resultMatrix:" (this, commands: Id, left: Id, right: Id, result: Id) {
        let kernel = *this.value::<Multiplication>();
        let [left, right, result] = [left, right, result].map(|m| m.value::<Matrix>().clone());
        if result.layout.rows < kernel.rows || result.layout.columns < kernel.columns {
            abort!("MPSMatrixMultiplication: the result matrix is smaller than the result");
        }
        work(commands).add("MPSMatrixMultiplication", Box::new(move || multiply(kernel, &left, &right, &result)));
    }
}

methods! { install_softmax for SOFTMAX;
    - "initWithDevice:" (this, _device: Id) -> Id { this.init(Softmax) }
    - "encodeToCommandBuffer:inputMatrix:resultMatrix:" (_this, commands: Id, input: Id, result: Id) {
        let [input, result] = [input, result].map(|m| m.value::<Matrix>().clone());
        if input.layout.dtype != result.layout.dtype || !matches!(input.layout.dtype, DType::F32 | DType::F16) {
            abort!("MPSMatrixSoftMax: input and result must have the same type, f16 or f32");
        }
        work(commands).add("MPSMatrixSoftMax", Box::new(move || softmax(&input, &result)));
    }
}

pub(crate) fn install() {
    install_descriptor();
    install_matrix();
    install_kernel();
    install_multiplication();
    install_softmax();
}
