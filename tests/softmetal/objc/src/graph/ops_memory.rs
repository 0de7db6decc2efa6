//! Placeholders, constants, variables.

use super::ir::{Op, Unary};
use super::tensor::{GRAPH, answer, leaf};
use crate::foundation::{array, data};
use crate::mps::dtype::DType;
use crate::runtime::Id;
use crate::runtime::abort::abort;
use crate::runtime::class::methods;

fn constant(this: Id, bytes: Id, shape: Id, dtype: u32) -> Id {
    let dtype = DType::from_code(dtype);
    let dims = array::read_shape(shape)
        .unwrap_or_else(|| abort!("constantWithData:shape:dataType:: the shape is nil"));
    let bytes = data::read(&bytes).to_vec();
    let count: i64 = dims.iter().product();
    if dims.iter().any(|n| *n < 0) || dtype.bytes(count as usize) != bytes.len() {
        abort!(
            "constantWithData:shape:dataType:: {} bytes for {dims:?} of {}",
            bytes.len(),
            dtype.name()
        );
    }
    leaf(this, Op::Constant(bytes), dtype, Some(dims)).autorelease()
}

fn fill(this: Id, value: f64, shape: Vec<i64>, dtype: u32) -> Id {
    leaf(this, Op::Fill(value), DType::from_code(dtype), Some(shape)).autorelease()
}

methods! { install_methods for GRAPH;
    - "placeholderWithShape:dataType:name:" (this, shape: Id, dtype: u32, _name: Id) -> Id {
        leaf(this, Op::Placeholder, DType::from_code(dtype), array::read_shape(shape)).autorelease()
    }
    - "placeholderWithShape:name:" (this, shape: Id, _name: Id) -> Id {
        leaf(this, Op::Placeholder, DType::F32, array::read_shape(shape)).autorelease()
    }
    - "constantWithData:shape:dataType:" (this, bytes: Id, shape: Id, dtype: u32) -> Id { constant(this, bytes, shape, dtype) }
    - "constantWithScalar:dataType:" (this, value: f64, dtype: u32) -> Id { fill(this, value, vec![1], dtype) }
    - "constantWithScalar:shape:dataType:" (this, value: f64, shape: Id, dtype: u32) -> Id {
        fill(this, value, array::read_shape(shape).unwrap_or_else(|| abort!("the shape is nil")), dtype)
    }
    - "variableWithData:shape:dataType:name:" (this, bytes: Id, shape: Id, dtype: u32, _name: Id) -> Id {
        constant(this, bytes, shape, dtype)
    }
    - "readVariable:name:" (this, variable: Id, _name: Id) -> Id { answer(this, Op::Unary(Unary::Identity), &[variable]) }
}

pub(super) fn install() {
    install_methods();
}
