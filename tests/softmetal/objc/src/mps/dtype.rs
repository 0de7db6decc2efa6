//! `MPSDataType`, and numbers in memory.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::runtime::abort::abort;

const SIGNED: u32 = 1 << 29;
const FLOAT: u32 = 1 << 28;
const ALTERNATE: u32 = 1 << 31;

/// The element types that are modelled.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) enum DType {
    F32,
    F16,
    BF16,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    I4,
    U4,
    Bool,
}

use DType::{BF16, Bool, F16, F32, I4, I8, I16, I32, I64, U4, U8, U16, U32, U64};

const CODES: [(DType, u32, &str); 14] = [
    (F32, FLOAT | 32, "f32"),
    (F16, FLOAT | 16, "f16"),
    (BF16, ALTERNATE | FLOAT | 16, "bf16"),
    (I8, SIGNED | 8, "si8"),
    (I16, SIGNED | 16, "si16"),
    (I32, SIGNED | 32, "si32"),
    (I64, SIGNED | 64, "si64"),
    (U8, 8, "ui8"),
    (U16, 16, "ui16"),
    (U32, 32, "ui32"),
    (U64, 64, "ui64"),
    (I4, SIGNED | 4, "si4"),
    (U4, 4, "ui4"),
    (Bool, ALTERNATE | 8, "i1"),
];

impl DType {
    /// The type of an `MPSDataType`; those newer than the played macOS end the process.
    pub(crate) fn from_code(code: u32) -> DType {
        let found = CODES.iter().find(|(_, have, _)| *have == code);
        let dtype = found.map_or_else(
            || abort!("MPSDataType {code:#x} is not modelled"),
            |(dtype, _, _)| *dtype,
        );
        let since = match dtype {
            BF16 => (14, 0),
            I4 | U4 => (15, 0),
            _ => (0, 0),
        };
        if crate::control().os_version() < since {
            abort!("MPSDataType {} needs macOS {}.{}", dtype.name(), since.0, since.1);
        }
        dtype
    }

    pub(crate) fn code(self) -> u32 {
        CODES.iter().find(|(dtype, _, _)| *dtype == self).map_or(0, |(_, code, _)| *code)
    }

    /// The name in messages of the graph compiler.
    pub(crate) fn name(self) -> &'static str {
        CODES.iter().find(|(dtype, _, _)| *dtype == self).map_or("", |(_, _, name)| *name)
    }

    pub(crate) fn bits(self) -> usize {
        (self.code() & 0xff) as usize
    }

    /// Bytes of `count` elements that follow each other.
    pub(crate) fn bytes(self, count: usize) -> usize {
        (count * self.bits()).div_ceil(8)
    }

    pub(crate) fn is_float(self) -> bool {
        matches!(self, F32 | F16 | BF16)
    }

    /// The nearest number of this type. Subnormal f32 results are zero, as measured on Apple's GPUs.
    pub(crate) fn round(self, x: f32) -> f32 {
        match self {
            F16 => f16::from_f32(x).to_f32(),
            BF16 => bf16::from_f32(x).to_f32(),
            F32 if x.is_subnormal() => 0.0_f32.copysign(x),
            _ => x,
        }
    }

    /// Rounds every number of `list`, as [`DType::round`] does; f16 with the machine's instructions.
    pub(crate) fn round_all(self, list: &mut [f32]) {
        const PART: usize = 1024;
        if self == F16 {
            let mut halves = [f16::ZERO; PART];
            for part in list.chunks_mut(PART) {
                let halves = &mut halves[..part.len()];
                halves.convert_from_f32_slice(part);
                halves.convert_to_f32_slice(part);
            }
        } else {
            list.iter_mut().for_each(|x| *x = self.round(*x));
        }
    }

    /// An integer as this type holds it.
    pub(crate) fn wrap(self, x: i64) -> i64 {
        match self {
            I8 => i64::from(x as i8),
            I16 => i64::from(x as i16),
            I32 => i64::from(x as i32),
            U8 => i64::from(x as u8),
            U16 => i64::from(x as u16),
            U32 => i64::from(x as u32),
            I4 => (x << 60) >> 60,
            U4 => x & 15,
            Bool => i64::from(x != 0),
            _ => x,
        }
    }
}

/// A number of any type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Scalar {
    Float(f32),
    Integer(i64),
}

/// Reads element `index` of packed memory.
///
/// # Safety
/// The memory holds that element.
pub(crate) unsafe fn load(dtype: DType, start: *const u8, index: usize) -> Scalar {
    // SAFETY: by the contract of this function.
    unsafe {
        match dtype {
            F32 => Scalar::Float(start.cast::<f32>().add(index).read_unaligned()),
            F16 => Scalar::Float(
                f16::from_bits(start.cast::<u16>().add(index).read_unaligned()).to_f32(),
            ),
            BF16 => Scalar::Float(
                bf16::from_bits(start.cast::<u16>().add(index).read_unaligned()).to_f32(),
            ),
            I8 => Scalar::Integer(i64::from(start.cast::<i8>().add(index).read())),
            I16 => Scalar::Integer(i64::from(start.cast::<i16>().add(index).read_unaligned())),
            I32 => Scalar::Integer(i64::from(start.cast::<i32>().add(index).read_unaligned())),
            I64 | U64 => Scalar::Integer(start.cast::<i64>().add(index).read_unaligned()),
            U8 => Scalar::Integer(i64::from(start.add(index).read())),
            U16 => Scalar::Integer(i64::from(start.cast::<u16>().add(index).read_unaligned())),
            U32 => Scalar::Integer(i64::from(start.cast::<u32>().add(index).read_unaligned())),
            Bool => Scalar::Integer(i64::from(start.add(index).read() != 0)),
            // The first of two elements lies in the low half of a byte.
            I4 | U4 => {
                let byte = start.add(index / 2).read();
                Scalar::Integer(dtype.wrap(i64::from(byte >> (index % 2 * 4) & 15)))
            }
        }
    }
}

/// Writes element `index` of packed memory.
///
/// # Safety
/// The memory holds that element, and nobody else uses it.
pub(crate) unsafe fn store(dtype: DType, start: *mut u8, index: usize, value: Scalar) {
    let (float, integer) = match value {
        Scalar::Float(x) => (x, x as i64),
        Scalar::Integer(x) => (x as f32, x),
    };
    // SAFETY: by the contract of this function.
    unsafe {
        match dtype {
            F32 => start.cast::<f32>().add(index).write_unaligned(float),
            F16 => start.cast::<u16>().add(index).write_unaligned(f16::from_f32(float).to_bits()),
            BF16 => start.cast::<u16>().add(index).write_unaligned(bf16::from_f32(float).to_bits()),
            I8 | U8 => start.add(index).write(integer as u8),
            I16 | U16 => start.cast::<u16>().add(index).write_unaligned(integer as u16),
            I32 | U32 => start.cast::<u32>().add(index).write_unaligned(integer as u32),
            I64 | U64 => start.cast::<i64>().add(index).write_unaligned(integer),
            Bool => start.add(index).write(u8::from(integer != 0)),
            I4 | U4 => {
                let shift = index % 2 * 4;
                let byte = start.add(index / 2);
                byte.write(byte.read() & !(15 << shift) | ((integer as u8 & 15) << shift));
            }
        }
    }
}
