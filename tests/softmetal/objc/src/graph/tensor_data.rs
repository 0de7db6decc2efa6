//! MPSGraphTensorData: memory that is fed to a graph or takes its results.

use super::device::{DEVICE, GraphDevice};
use crate::foundation::{array, data};
use crate::metal::buffer::Buffer;
use crate::mps::dtype::DType;
use crate::mps::ndarray::{self, Window};
use crate::mps::ndarray_sizes;
use crate::runtime::abort::abort;
use crate::runtime::class::{class, methods};
use crate::runtime::{Id, Ref};

class!(DATA, "MPSGraphTensorData");

/// The value of an object.
struct Held(Window);

/// A new object over memory.
pub(super) fn make(window: Window) -> Ref {
    Ref::new(&DATA, Held(window))
}

/// The memory of an object.
pub(super) fn window(id: Id) -> Window {
    id.value::<Held>().0.clone()
}

fn extents(shape: Id) -> Vec<usize> {
    ndarray_sizes(
        &array::read_shape(shape)
            .unwrap_or_else(|| abort!("the shape of tensor data must not be nil")),
    )
}

fn copied(bytes: Id, shape: Id, dtype: u32) -> Window {
    let dtype = DType::from_code(dtype);
    let shape = extents(shape);
    let bytes = data::read(&bytes).to_vec();
    if bytes.len() != dtype.bytes(shape.iter().product()) {
        abort!(
            "initWithDevice:data:shape:dataType:: {} bytes for {shape:?} of {}",
            bytes.len(),
            dtype.name()
        );
    }
    let window = Window::allocate(dtype, shape);
    let target = window.buffer.value::<Buffer>().range(0, bytes.len(), "tensor data");
    // SAFETY: the range was checked, and the memory is new.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len()) };
    window
}

methods! { install for DATA;
    - "initWithMTLBuffer:shape:dataType:" (this, buffer: Id, shape: Id, dtype: u32) -> Id {
        let buffer = buffer.required("the buffer");
        this.init(Held(Window::packed(buffer, DType::from_code(dtype), extents(shape))))
    }
    - "initWithMTLBuffer:shape:dataType:rowBytes:" (this, buffer: Id, shape: Id, dtype: u32, row: usize) -> Id {
        let buffer = buffer.required("the buffer");
        this.init(Held(Window::with_row_bytes(buffer, DType::from_code(dtype), extents(shape), row)))
    }
    - "initWithMPSNDArray:" (this, array: Id) -> Id { this.init(Held(ndarray::window(array))) }
    - "initWithDevice:data:shape:dataType:" (this, _device: Id, bytes: Id, shape: Id, dtype: u32) -> Id {
        this.init(Held(copied(bytes, shape, dtype)))
    }
    - "shape" (this) -> Id {
        let dims: Vec<i64> = window(this).shape.iter().map(|n| *n as i64).collect();
        array::make_shape(&dims).autorelease()
    }
    - "dataType" (this) -> u32 { window(this).dtype.code() }
    - "device" (_this) -> Id { Ref::new(&DEVICE, GraphDevice).autorelease() }
    - "mpsndarray" (this) -> Id { ndarray::make(window(this)).autorelease() }
}
