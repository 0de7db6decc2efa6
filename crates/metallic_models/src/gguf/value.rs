//! Metadata values of a GGUF file: the thirteen types, parsed.

use super::reader::Reader;
use crate::error::{Error, Result};

/// One metadata value.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the variants are the format's own types")]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// An array of values of one type.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the variants are the format's own types")]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    F32(Vec<f32>),
    Bool(Vec<bool>),
    String(Vec<String>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F64(Vec<f64>),
}

impl Value {
    /// The type in words, for messages: `u32`, `string`, `array of f32`.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::U8(_) => "u8",
            Value::I8(_) => "i8",
            Value::U16(_) => "u16",
            Value::I16(_) => "i16",
            Value::U32(_) => "u32",
            Value::I32(_) => "i32",
            Value::F32(_) => "f32",
            Value::Bool(_) => "bool",
            Value::String(_) => "string",
            Value::Array(array) => array.type_name(),
            Value::U64(_) => "u64",
            Value::I64(_) => "i64",
            Value::F64(_) => "f64",
        }
    }

    /// The format's number of this type.
    pub(super) fn type_id(&self) -> u32 {
        match self {
            Value::U8(_) => 0,
            Value::I8(_) => 1,
            Value::U16(_) => 2,
            Value::I16(_) => 3,
            Value::U32(_) => 4,
            Value::I32(_) => 5,
            Value::F32(_) => 6,
            Value::Bool(_) => 7,
            Value::String(_) => 8,
            Value::Array(_) => ARRAY,
            Value::U64(_) => 10,
            Value::I64(_) => 11,
            Value::F64(_) => 12,
        }
    }

    /// The value as an unsigned integer, whichever integer type stores it.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Value::U8(v) => Some(v.into()),
            Value::U16(v) => Some(v.into()),
            Value::U32(v) => Some(v.into()),
            Value::U64(v) => Some(v),
            Value::I8(v) => v.try_into().ok(),
            Value::I16(v) => v.try_into().ok(),
            Value::I32(v) => v.try_into().ok(),
            Value::I64(v) => v.try_into().ok(),
            _ => None,
        }
    }
}

/// The format's number of the array type.
const ARRAY: u32 = 9;

impl Array {
    /// Number of values.
    pub fn len(&self) -> usize {
        match self {
            Array::U8(v) => v.len(),
            Array::I8(v) => v.len(),
            Array::U16(v) => v.len(),
            Array::I16(v) => v.len(),
            Array::U32(v) => v.len(),
            Array::I32(v) => v.len(),
            Array::F32(v) => v.len(),
            Array::Bool(v) => v.len(),
            Array::String(v) => v.len(),
            Array::U64(v) => v.len(),
            Array::I64(v) => v.len(),
            Array::F64(v) => v.len(),
        }
    }

    /// True without any value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The type in words, for messages.
    pub fn type_name(&self) -> &'static str {
        match self {
            Array::U8(_) => "array of u8",
            Array::I8(_) => "array of i8",
            Array::U16(_) => "array of u16",
            Array::I16(_) => "array of i16",
            Array::U32(_) => "array of u32",
            Array::I32(_) => "array of i32",
            Array::F32(_) => "array of f32",
            Array::Bool(_) => "array of bool",
            Array::String(_) => "array of strings",
            Array::U64(_) => "array of u64",
            Array::I64(_) => "array of i64",
            Array::F64(_) => "array of f64",
        }
    }
}

/// Reads the value of `key`: a type number, then the value.
pub(super) fn read_value(reader: &mut Reader<'_>, key: &str) -> Result<Value> {
    let type_id = reader.u32()?;
    Ok(match type_id {
        0 => Value::U8(u8::from_le_bytes(reader.array()?)),
        1 => Value::I8(i8::from_le_bytes(reader.array()?)),
        2 => Value::U16(u16::from_le_bytes(reader.array()?)),
        3 => Value::I16(i16::from_le_bytes(reader.array()?)),
        4 => Value::U32(reader.u32()?),
        5 => Value::I32(i32::from_le_bytes(reader.array()?)),
        6 => Value::F32(f32::from_le_bytes(reader.array()?)),
        7 => Value::Bool(read_bool(reader, key)?),
        8 => Value::String(reader.string()?.to_owned()),
        ARRAY => Value::Array(read_array(reader, key)?),
        10 => Value::U64(reader.u64()?),
        11 => Value::I64(i64::from_le_bytes(reader.array()?)),
        12 => Value::F64(f64::from_le_bytes(reader.array()?)),
        _ => return Err(Error::UnknownValueType { key: key.to_owned(), type_id }),
    })
}

fn read_array(reader: &mut Reader<'_>, key: &str) -> Result<Array> {
    let type_id = reader.u32()?;
    let count = reader.u64()?;
    Ok(match type_id {
        0 => Array::U8(read_items(reader, count, u8::from_le_bytes)?),
        1 => Array::I8(read_items(reader, count, i8::from_le_bytes)?),
        2 => Array::U16(read_items(reader, count, u16::from_le_bytes)?),
        3 => Array::I16(read_items(reader, count, i16::from_le_bytes)?),
        4 => Array::U32(read_items(reader, count, u32::from_le_bytes)?),
        5 => Array::I32(read_items(reader, count, i32::from_le_bytes)?),
        6 => Array::F32(read_items(reader, count, f32::from_le_bytes)?),
        7 => {
            reader.expect_items(count, 1)?;
            Array::Bool((0..count).map(|_| read_bool(reader, key)).collect::<Result<_>>()?)
        }
        8 => {
            // A string is at least its length, 8 bytes.
            reader.expect_items(count, 8)?;
            let strings = (0..count).map(|_| Ok(reader.string()?.to_owned()));
            Array::String(strings.collect::<Result<_>>()?)
        }
        ARRAY => return Err(Error::NestedArray { key: key.to_owned() }),
        10 => Array::U64(read_items(reader, count, u64::from_le_bytes)?),
        11 => Array::I64(read_items(reader, count, i64::from_le_bytes)?),
        12 => Array::F64(read_items(reader, count, f64::from_le_bytes)?),
        _ => return Err(Error::UnknownValueType { key: key.to_owned(), type_id }),
    })
}

fn read_items<T, const N: usize>(
    reader: &mut Reader<'_>,
    count: u64,
    decode: fn([u8; N]) -> T,
) -> Result<Vec<T>> {
    reader.expect_items(count, N as u64)?;
    (0..count).map(|_| Ok(decode(reader.array()?))).collect()
}

fn read_bool(reader: &mut Reader<'_>, key: &str) -> Result<bool> {
    match u8::from_le_bytes(reader.array()?) {
        0 => Ok(false),
        1 => Ok(true),
        byte => Err(Error::BadValue {
            key: key.to_owned(),
            got: byte.to_string(),
            expected: "a bool, stored as 0 or 1".to_owned(),
        }),
    }
}
