//! MTLFunctionConstantValues: the numbers that specialise a kernel.

use std::ffi::c_void;
use std::sync::Mutex;

use super::shader::{Constant, ConstantValue};
use crate::runtime::Id;
use crate::runtime::abort::abort;
use crate::runtime::class::{class, methods};
use crate::runtime::encode::Range;

class!(CONSTANTS, "MTLFunctionConstantValues");

/// The value of a constants object.
#[derive(Default)]
struct Values(Mutex<Vec<Constant>>);

/// The constants that were set, by index.
pub(crate) fn read(id: Id) -> Vec<Constant> {
    if id.is_nil() { Vec::new() } else { id.value::<Values>().0.lock().unwrap().clone() }
}

/// One value of `MTLDataType` at `from`, and its size in bytes.
fn value(from: *const c_void, kind: usize) -> (ConstantValue, usize) {
    // SAFETY: the caller of the method passes a value of the type it names.
    unsafe {
        match kind {
            3 => (ConstantValue::F32(from.cast::<f32>().read_unaligned()), 4),
            16 => (ConstantValue::F16(from.cast::<u16>().read_unaligned()), 2),
            29 => (ConstantValue::I32(from.cast::<i32>().read_unaligned()), 4),
            33 => (ConstantValue::U32(from.cast::<u32>().read_unaligned()), 4),
            37 => (ConstantValue::I16(from.cast::<i16>().read_unaligned()), 2),
            41 => (ConstantValue::U16(from.cast::<u16>().read_unaligned()), 2),
            81 => (ConstantValue::I64(from.cast::<i64>().read_unaligned()), 8),
            85 => (ConstantValue::U64(from.cast::<u64>().read_unaligned()), 8),
            53 => (ConstantValue::Bool(from.cast::<u8>().read() != 0), 1),
            other => abort!("function constants of MTLDataType {other} are not modelled"),
        }
    }
}

fn set(this: Id, index: usize, value: ConstantValue) {
    let index = u32::try_from(index).unwrap_or_else(|_| abort!("function constant index {index}"));
    let mut values = this.value::<Values>().0.lock().unwrap();
    values.retain(|constant| constant.index != index);
    values.push(Constant { index, value });
}

methods! { install for CONSTANTS;
    - "init" (this) -> Id { this.init(Values::default()) }
    - "setConstantValue:type:atIndex:" (this, from: *const c_void, kind: usize, index: usize) {
        set(this, index, value(from, kind).0);
    }
    - "setConstantValues:type:withRange:" (this, from: *const c_void, kind: usize, range: Range) {
        for i in 0..range.length {
            let size = value(from, kind).1;
            // SAFETY: the caller passes `range.length` values.
            let one = value(unsafe { from.byte_add(i * size) }, kind).0;
            set(this, range.location + i, one);
        }
    }
    - "reset" (this) { this.value::<Values>().0.lock().unwrap().clear() }
}
