//! Quantisation ops.

use super::ir::Op;
use super::tensor::{GRAPH, answer, dtype_of, leaf, push};
use crate::mps::dtype::DType;
use crate::runtime::abort::abort;
use crate::runtime::class::methods;
use crate::runtime::{Id, Ref};

/// A constant number as a tensor of the graph.
fn number(this: Id, value: f64, dtype: DType) -> Ref {
    leaf(this, Op::Fill(value), dtype, Some(vec![1]))
}

fn float_result(dtype: u32) -> DType {
    let dtype = DType::from_code(dtype);
    if !dtype.is_float() {
        abort!("dequantize to {}", dtype.name());
    }
    dtype
}

fn integer_input(tensor: Id) {
    let dtype = dtype_of(tensor);
    if dtype.is_float() {
        abort!("dequantize of {}", dtype.name());
    }
}

methods! { install_methods for GRAPH;
    - "quantizeTensor:scale:zeroPoint:dataType:name:" (this, x: Id, scale: f64, zero: f64, dtype: u32, _name: Id) -> Id {
        let (scale, zero) = (number(this, scale, DType::F32), number(this, zero, DType::F32));
        push(this, Op::Quantize { axis: None }, &[x, scale.id(), zero.id()], Some(DType::from_code(dtype))).autorelease()
    }
    - "dequantizeTensor:scale:zeroPoint:dataType:name:" (this, x: Id, scale: f64, zero: f64, dtype: u32, _name: Id) -> Id {
        integer_input(x);
        let (scale, zero) = (number(this, scale, DType::F32), number(this, zero, DType::F32));
        push(this, Op::Dequantize { axis: None }, &[x, scale.id(), zero.id()], Some(float_result(dtype))).autorelease()
    }
    - "quantizeTensor:scaleTensor:zeroPointTensor:dataType:axis:name:" (
        this, x: Id, scale: Id, zero: Id, dtype: u32, axis: isize, _name: Id,
    ) -> Id {
        push(this, Op::Quantize { axis: Some(axis as i64) }, &[x, scale, zero], Some(DType::from_code(dtype))).autorelease()
    }
    - "dequantizeTensor:scaleTensor:zeroPointTensor:dataType:axis:name:" (
        this, x: Id, scale: Id, zero: Id, dtype: u32, axis: isize, _name: Id,
    ) -> Id {
        integer_input(x);
        push(this, Op::Dequantize { axis: Some(axis as i64) }, &[x, scale, zero], Some(float_result(dtype))).autorelease()
    }
    - "dequantizeTensor:scaleTensor:zeroPoint:dataType:axis:name:" (
        this, x: Id, scale: Id, zero: f64, dtype: u32, axis: isize, _name: Id,
    ) -> Id {
        integer_input(x);
        let zero = number(this, zero, DType::F32);
        push(this, Op::Dequantize { axis: Some(axis as i64) }, &[x, scale, zero.id()], Some(float_result(dtype))).autorelease()
    }
    - "dequantizeTensor:scaleTensor:zeroPointTensor:dataType:name:" (
        this, x: Id, scale: Id, zero: Id, dtype: u32, _name: Id,
    ) -> Id {
        integer_input(x);
        push(this, Op::DequantizeGroups, &[x, scale, zero], Some(float_result(dtype))).autorelease()
    }
    - "dequantizeTensor:scaleTensor:dataType:name:" (this, x: Id, scale: Id, dtype: u32, _name: Id) -> Id {
        integer_input(x);
        push(this, Op::DequantizeGroups, &[x, scale], Some(float_result(dtype))).autorelease()
    }
    - "dequantizeTensor:LUTTensor:name:" (this, x: Id, table: Id, _name: Id) -> Id {
        integer_input(x);
        answer(this, Op::Lookup, &[x, table])
    }
}

pub(super) fn install() {
    install_methods();
}
