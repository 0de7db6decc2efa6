//! The metadata of a GGUF file: keys in file order, and typed lookups.

use std::collections::HashMap;

use super::value::{Array, Value};
use crate::error::{Error, Result};

/// Key-value metadata. Each lookup names the key, the expected and the found type when it fails.
#[derive(Clone, Debug, Default)]
pub struct Metadata {
    entries: Vec<(String, Value)>,
    by_key: HashMap<String, usize>,
}

impl Metadata {
    pub(super) fn insert(&mut self, key: String, value: Value) -> Result<()> {
        if self.by_key.insert(key.clone(), self.entries.len()).is_some() {
            return Err(Error::Duplicate { what: "metadata key", name: key });
        }
        self.entries.push((key, value));
        Ok(())
    }

    /// Keys and values in file order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// The value of a key, of whatever type.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entries.get(*self.by_key.get(key)?).map(|(_, value)| value)
    }

    /// A string, or `None` when the key is absent.
    ///
    /// # Errors
    /// [`Error::WrongType`].
    pub fn find_str(&self, key: &str) -> Result<Option<&str>> {
        self.find(key, "a string", |value| match value {
            Value::String(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// An unsigned 32-bit integer, stored as any integer type that fits; `None` when absent.
    ///
    /// # Errors
    /// [`Error::WrongType`].
    pub fn find_u32(&self, key: &str) -> Result<Option<u32>> {
        self.find(key, "a u32", |value| value.as_u64()?.try_into().ok())
    }

    /// A 32-bit float (a stored f64 is rounded); `None` when absent.
    ///
    /// # Errors
    /// [`Error::WrongType`].
    pub fn find_f32(&self, key: &str) -> Result<Option<f32>> {
        self.find(key, "an f32", |value| match *value {
            Value::F32(number) => Some(number),
            Value::F64(number) => Some(number as f32),
            _ => None,
        })
    }

    /// A bool; `None` when absent.
    ///
    /// # Errors
    /// [`Error::WrongType`].
    pub fn find_bool(&self, key: &str) -> Result<Option<bool>> {
        self.find(key, "a bool", |value| match *value {
            Value::Bool(flag) => Some(flag),
            _ => None,
        })
    }

    /// An array of strings; `None` when absent.
    ///
    /// # Errors
    /// [`Error::WrongType`].
    pub fn find_strings(&self, key: &str) -> Result<Option<&[String]>> {
        self.find(key, "an array of strings", |value| match value {
            Value::Array(Array::String(strings)) => Some(strings.as_slice()),
            _ => None,
        })
    }

    /// An array of f32; `None` when absent.
    ///
    /// # Errors
    /// [`Error::WrongType`].
    pub fn find_f32s(&self, key: &str) -> Result<Option<&[f32]>> {
        self.find(key, "an array of f32", |value| match value {
            Value::Array(Array::F32(numbers)) => Some(numbers.as_slice()),
            _ => None,
        })
    }

    /// An array of i32 (u32 values that fit are converted); `None` when absent.
    ///
    /// # Errors
    /// [`Error::WrongType`].
    pub fn find_i32s(&self, key: &str) -> Result<Option<Vec<i32>>> {
        self.find(key, "an array of i32", |value| match value {
            Value::Array(Array::I32(numbers)) => Some(numbers.clone()),
            Value::Array(Array::U32(numbers)) => {
                numbers.iter().map(|&number| number.try_into().ok()).collect()
            }
            _ => None,
        })
    }

    /// A string that must be there.
    ///
    /// # Errors
    /// [`Error::MissingKey`], [`Error::WrongType`].
    pub fn str(&self, key: &str) -> Result<&str> {
        self.find_str(key)?.ok_or_else(|| missing(key))
    }

    /// An unsigned integer that must be there.
    ///
    /// # Errors
    /// [`Error::MissingKey`], [`Error::WrongType`].
    pub fn u32(&self, key: &str) -> Result<u32> {
        self.find_u32(key)?.ok_or_else(|| missing(key))
    }

    /// A float that must be there.
    ///
    /// # Errors
    /// [`Error::MissingKey`], [`Error::WrongType`].
    pub fn f32(&self, key: &str) -> Result<f32> {
        self.find_f32(key)?.ok_or_else(|| missing(key))
    }

    /// A bool that must be there.
    ///
    /// # Errors
    /// [`Error::MissingKey`], [`Error::WrongType`].
    pub fn bool(&self, key: &str) -> Result<bool> {
        self.find_bool(key)?.ok_or_else(|| missing(key))
    }

    /// An array of strings that must be there.
    ///
    /// # Errors
    /// [`Error::MissingKey`], [`Error::WrongType`].
    pub fn strings(&self, key: &str) -> Result<&[String]> {
        self.find_strings(key)?.ok_or_else(|| missing(key))
    }

    /// An array of f32 that must be there.
    ///
    /// # Errors
    /// [`Error::MissingKey`], [`Error::WrongType`].
    pub fn f32s(&self, key: &str) -> Result<&[f32]> {
        self.find_f32s(key)?.ok_or_else(|| missing(key))
    }

    fn find<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match convert(value) {
            Some(converted) => Ok(Some(converted)),
            None => Err(Error::WrongType { key: key.to_owned(), expected, got: describe(value) }),
        }
    }
}

/// The type of a value, with the number where one is short enough to help.
fn describe(value: &Value) -> String {
    match value.as_u64() {
        Some(number) => format!("the {} {number}", value.type_name()),
        None => match value {
            Value::I8(_) | Value::I16(_) | Value::I32(_) | Value::I64(_) => {
                format!("a negative {}", value.type_name())
            }
            _ => format!("of type {}", value.type_name()),
        },
    }
}

fn missing(key: &str) -> Error {
    Error::MissingKey { key: key.to_owned() }
}
