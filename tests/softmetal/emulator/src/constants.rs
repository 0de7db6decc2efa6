//! Function constants: values that specialise a kernel when its function is made.

/// A function constant's value. Halves are given by their bits.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum ConstantValue {
    Bool(bool),
    I16(i16),
    U16(u16),
    I32(i32),
    U32(u32),
    I64(i64),
    U64(u64),
    F16(u16),
    F32(f32),
}

/// A function constant by its `[[function_constant(index)]]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Constant {
    /// The index in the attribute.
    pub index: u32,
    /// The value; its type must be that of the declaration.
    pub value: ConstantValue,
}

impl ConstantValue {
    /// The number that the shim's `constant_type` has for the type.
    pub(crate) fn type_number(self) -> u32 {
        match self {
            Self::Bool(_) => 1,
            Self::I16(_) => 2,
            Self::U16(_) => 3,
            Self::I32(_) => 4,
            Self::U32(_) => 5,
            Self::I64(_) => 6,
            Self::U64(_) => 7,
            Self::F16(_) => 8,
            Self::F32(_) => 9,
        }
    }

    /// The bytes as the kernel's variable holds them, padded with zeros.
    pub(crate) fn bytes(self) -> [u8; 8] {
        let wide = match self {
            Self::Bool(v) => u64::from(v),
            Self::I16(v) => u64::from(v as u16),
            Self::U16(v) | Self::F16(v) => u64::from(v),
            Self::I32(v) => u64::from(v as u32),
            Self::U32(v) => u64::from(v),
            Self::I64(v) => v as u64,
            Self::U64(v) => v,
            Self::F32(v) => u64::from(v.to_bits()),
        };
        wide.to_le_bytes()
    }
}
