//! Writes small GGUF files, for tests and tools. Not: a quantiser, nor for files beyond memory.

use metallic::tensor::DType;

use super::tensor_type::type_id_of_dtype;
use super::value::{Array, Value};

/// Collects metadata and tensors, then lays the file out as version 3, alignment 32.
#[derive(Clone, Debug, Default)]
pub struct GgufWriter {
    entries: Vec<(String, Value)>,
    tensors: Vec<(String, DType, Vec<usize>, Vec<u8>)>,
}

impl GgufWriter {
    /// A writer with `general.architecture` set.
    pub fn new(architecture: &str) -> Self {
        Self::default().with("general.architecture", architecture)
    }

    /// Adds a metadata entry.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.entries.push((key.to_owned(), value.into()));
        self
    }

    /// Adds a tensor: `shape` outermost axis first, `bytes` as `dtype` stores them. Types that
    /// GGUF does not know (bool) get a number that no reader accepts.
    #[must_use]
    pub fn tensor(mut self, name: &str, dtype: DType, shape: &[usize], bytes: Vec<u8>) -> Self {
        self.tensors.push((name.to_owned(), dtype, shape.to_vec(), bytes));
        self
    }

    /// Adds an f32 tensor: `shape` outermost axis first.
    #[must_use]
    pub fn tensor_f32(self, name: &str, shape: &[usize], values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.tensor(name, DType::F32, shape, bytes)
    }

    /// The file.
    pub fn finish(&self) -> Vec<u8> {
        let alignment = super::DEFAULT_ALIGNMENT as usize;
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.entries.len() as u64).to_le_bytes());
        for (key, value) in &self.entries {
            write_string(&mut out, key);
            out.extend(value.type_id().to_le_bytes());
            write_value(&mut out, value);
        }
        let mut offset = 0;
        for (name, dtype, shape, bytes) in &self.tensors {
            write_string(&mut out, name);
            out.extend((shape.len() as u32).to_le_bytes());
            for &dim in shape.iter().rev() {
                out.extend((dim as u64).to_le_bytes());
            }
            out.extend(type_id_of_dtype(*dtype).unwrap_or(u32::MAX).to_le_bytes());
            out.extend((offset as u64).to_le_bytes());
            offset += bytes.len().next_multiple_of(alignment);
        }
        for (_, _, _, bytes) in &self.tensors {
            out.resize(out.len().next_multiple_of(alignment), 0);
            out.extend(bytes);
        }
        out.resize(out.len().next_multiple_of(alignment), 0);
        out
    }
}

fn write_string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn write_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(v) => out.extend(v.to_le_bytes()),
        Value::I8(v) => out.extend(v.to_le_bytes()),
        Value::U16(v) => out.extend(v.to_le_bytes()),
        Value::I16(v) => out.extend(v.to_le_bytes()),
        Value::U32(v) => out.extend(v.to_le_bytes()),
        Value::I32(v) => out.extend(v.to_le_bytes()),
        Value::F32(v) => out.extend(v.to_le_bytes()),
        Value::Bool(v) => out.push((*v).into()),
        Value::String(v) => write_string(out, v),
        Value::Array(v) => write_array(out, v),
        Value::U64(v) => out.extend(v.to_le_bytes()),
        Value::I64(v) => out.extend(v.to_le_bytes()),
        Value::F64(v) => out.extend(v.to_le_bytes()),
    }
}

fn write_array(out: &mut Vec<u8>, array: &Array) {
    fn items<T, const N: usize>(out: &mut Vec<u8>, id: u32, v: &[T], bytes: fn(&T) -> [u8; N]) {
        out.extend(id.to_le_bytes());
        out.extend((v.len() as u64).to_le_bytes());
        out.extend(v.iter().flat_map(bytes));
    }
    match array {
        Array::U8(v) => items(out, 0, v, |v| v.to_le_bytes()),
        Array::I8(v) => items(out, 1, v, |v| v.to_le_bytes()),
        Array::U16(v) => items(out, 2, v, |v| v.to_le_bytes()),
        Array::I16(v) => items(out, 3, v, |v| v.to_le_bytes()),
        Array::U32(v) => items(out, 4, v, |v| v.to_le_bytes()),
        Array::I32(v) => items(out, 5, v, |v| v.to_le_bytes()),
        Array::F32(v) => items(out, 6, v, |v| v.to_le_bytes()),
        Array::Bool(v) => items(out, 7, v, |&v| [v.into()]),
        Array::String(v) => {
            out.extend(8u32.to_le_bytes());
            out.extend((v.len() as u64).to_le_bytes());
            v.iter().for_each(|text| write_string(out, text));
        }
        Array::U64(v) => items(out, 10, v, |v| v.to_le_bytes()),
        Array::I64(v) => items(out, 11, v, |v| v.to_le_bytes()),
        Array::F64(v) => items(out, 12, v, |v| v.to_le_bytes()),
    }
}

macro_rules! into_value {
    ($($from:ty => $wrap:expr;)*) => {
        $(impl From<$from> for Value {
            fn from(value: $from) -> Self {
                $wrap(value)
            }
        })*
    };
}

into_value! {
    u32 => Value::U32;
    i32 => Value::I32;
    f32 => Value::F32;
    bool => Value::Bool;
    u64 => Value::U64;
    String => Value::String;
    &str => |text: &str| Value::String(text.to_owned());
    Vec<String> => |items| Value::Array(Array::String(items));
    Vec<i32> => |items| Value::Array(Array::I32(items));
    Vec<f32> => |items| Value::Array(Array::F32(items));
    Array => Value::Array;
}
