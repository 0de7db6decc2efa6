//! Named tensors of a model file, whichever format it has. Not: weights on a device.

use std::collections::HashMap;

use metallic::tensor::{DType, HostBytes};

use crate::error::{Error, Result, TensorProblem};

/// One tensor of a model file: its description and its bytes.
#[derive(Clone, Debug)]
pub struct TensorInfo {
    /// The name; canonical (GGUF's) in a [`TensorTable`] of a model.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Axis lengths, outermost first (rows, then columns); at least one, none is 0.
    pub shape: Vec<usize>,
    /// Row-major data, exactly as long as `dtype` and `shape` call for. The start may lie at
    /// any address: not every file keeps elements aligned. Empty in an outline, which has no weights.
    pub bytes: HostBytes,
}

impl TensorInfo {
    /// Number of elements.
    pub fn elements(&self) -> u64 {
        self.shape.iter().map(|&n| n as u64).product()
    }

    /// Bytes that `dtype` and `shape` call for, saturating.
    pub fn byte_len(&self) -> u64 {
        let elements = usize::try_from(self.elements()).ok();
        let bytes = elements.and_then(|elements| self.dtype.row_bytes(elements));
        bytes.map_or(u64::MAX, |bytes| bytes as u64)
    }
}

/// Tensors in file order, with a lookup by name.
#[derive(Clone, Debug, Default)]
pub struct TensorTable {
    tensors: Vec<TensorInfo>,
    by_name: HashMap<String, usize>,
}

impl TensorTable {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a tensor.
    ///
    /// # Errors
    /// [`Error::Duplicate`] when the name is taken.
    pub fn push(&mut self, tensor: TensorInfo) -> Result<()> {
        if self.by_name.insert(tensor.name.clone(), self.tensors.len()).is_some() {
            return Err(Error::Duplicate { what: "tensor", name: tensor.name });
        }
        self.tensors.push(tensor);
        Ok(())
    }

    /// The tensors in file order.
    pub fn iter(&self) -> std::slice::Iter<'_, TensorInfo> {
        self.tensors.iter()
    }

    /// All tensors in file order.
    pub fn as_slice(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor of this name, if there is one.
    pub fn find(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(*self.by_name.get(name)?)
    }

    /// The tensor of this name.
    ///
    /// # Errors
    /// [`Error::MissingTensor`].
    pub fn get(&self, name: &str) -> Result<&TensorInfo> {
        self.find(name).ok_or_else(|| Error::MissingTensor { name: name.to_owned() })
    }

    /// The tensor of this name, which must have this shape (outermost axis first).
    ///
    /// # Errors
    /// [`Error::MissingTensor`], or [`Error::BadTensor`] with both shapes.
    pub fn get_shaped(&self, name: &str, shape: &[usize]) -> Result<&TensorInfo> {
        let tensor = self.get(name)?;
        if tensor.shape != shape {
            return Err(Error::BadTensor {
                tensor: name.to_owned(),
                problem: TensorProblem::Shape {
                    got: tensor.shape.clone(),
                    expected: shape.to_vec(),
                },
            });
        }
        Ok(tensor)
    }

    /// Number of elements of all tensors.
    pub fn elements(&self) -> u64 {
        self.tensors.iter().fold(0, |sum, tensor| sum.saturating_add(tensor.elements()))
    }

    /// Bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        self.tensors.iter().fold(0, |sum, tensor| sum.saturating_add(tensor.byte_len()))
    }

    /// The element type that holds most elements; `None` for an empty table.
    pub fn commonest_dtype(&self) -> Option<DType> {
        let mut counts: HashMap<DType, u64> = HashMap::new();
        for tensor in &self.tensors {
            let count = counts.entry(tensor.dtype).or_default();
            *count = count.saturating_add(tensor.elements());
        }
        counts.into_iter().max_by_key(|&(dtype, count)| (count, dtype)).map(|(dtype, _)| dtype)
    }
}
