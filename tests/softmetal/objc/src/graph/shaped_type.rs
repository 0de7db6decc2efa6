//! MPSGraphShapedType: a shape with an element type.

use std::sync::Mutex;

use super::ir::Dims;
use crate::foundation::array;
use crate::mps::dtype::DType;
use crate::runtime::class::{class, methods};
use crate::runtime::{Id, Ref};

class!(TYPE, "MPSGraphType");
class!(SHAPED, "MPSGraphShapedType", TYPE);

/// The value of a type object.
struct Shaped(Mutex<(Dims, DType)>);

/// A new type object.
pub(super) fn make(shape: Dims, dtype: DType) -> Ref {
    Ref::new(&SHAPED, Shaped(Mutex::new((shape, dtype))))
}

/// The shape and element type of a type object.
pub(super) fn read(id: Id) -> (Dims, DType) {
    id.value::<Shaped>().0.lock().unwrap().clone()
}

methods! { install_shaped for SHAPED;
    - "initWithShape:dataType:" (this, shape: Id, dtype: u32) -> Id {
        this.init(Shaped(Mutex::new((array::read_shape(shape), DType::from_code(dtype)))))
    }
    - "shape" (this) -> Id { read(this).0.map_or(Id::NIL, |dims| array::make_shape(&dims).autorelease()) }
    - "setShape:" (this, shape: Id) { this.value::<Shaped>().0.lock().unwrap().0 = array::read_shape(shape) }
    - "dataType" (this) -> u32 { read(this).1.code() }
    - "setDataType:" (this, dtype: u32) { this.value::<Shaped>().0.lock().unwrap().1 = DType::from_code(dtype) }
    - "isEqualTo:" (this, other: Id) -> u8 { u8::from(!other.is_nil() && read(this) == read(other)) }
}
methods! { install_type for TYPE; }

pub(super) fn install() {
    install_type();
    install_shaped();
}
