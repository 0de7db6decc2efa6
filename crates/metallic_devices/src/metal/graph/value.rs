//! A tensor inside a graph that is being built, with the shape and type we know it has.
//!
//! MPSGraph ends the process when an op is given shapes or types that do not fit, so every op is
//! checked here first, against these and not against what MPSGraph says.

use metallic::tensor::DType;
use metallic::{Error, Result};
use objc2::rc::Retained;
use objc2_foundation::{NSArray, NSNumber};
use objc2_metal_performance_shaders::{MPSDataType, MPSShape};
use objc2_metal_performance_shaders_graph::MPSGraphTensor;

/// A length that is known only when the graph runs.
pub(crate) const ANY: isize = -1;

/// The highest rank MPSGraph takes.
const MAX_RANK: usize = 16;
/// The most elements of an array (MPSNDArray.h).
const MAX_ELEMENTS: usize = i32::MAX as usize;
/// The most bytes of an array (pytorch#143859).
const MAX_BYTES: usize = u32::MAX as usize;

/// One tensor of a graph.
#[derive(Clone, Debug)]
pub(crate) struct Value {
    pub(super) tensor: Retained<MPSGraphTensor>,
    /// Axis lengths, outermost first; [`ANY`] for one that is not known.
    pub(crate) dims: Vec<isize>,
    /// Element type.
    pub(crate) dtype: MPSDataType,
}

impl Value {
    /// The length of `axis`.
    pub(crate) fn dim(&self, axis: usize) -> isize {
        self.dims[axis]
    }
}

/// The refusal to build an op.
pub(crate) fn bad(op: &str, reason: impl Into<String>) -> Error {
    Error::Compile { key: format!("MPSGraph {op}"), reason: reason.into() }
}

/// An MPSShape of `dims`.
pub(crate) fn shape(dims: &[isize]) -> Retained<MPSShape> {
    let numbers: Vec<Retained<NSNumber>> =
        dims.iter().map(|dim| NSNumber::new_isize(*dim)).collect();
    NSArray::from_retained_slice(&numbers)
}

/// The type MPSGraph has for `dtype`. Permissions are bytes: what a bool other than 0 and 1
/// means to MPSGraph is not documented.
pub(crate) fn data_type(dtype: DType) -> Option<MPSDataType> {
    Some(match dtype {
        DType::F32 => MPSDataType::Float32,
        DType::F16 => MPSDataType::Float16,
        DType::Bf16 => MPSDataType::BFloat16,
        DType::I32 => MPSDataType::Int32,
        DType::Bool => MPSDataType::UInt8,
        _ => return None,
    })
}

/// Bytes of an element.
pub(crate) fn element_bytes(dtype: MPSDataType) -> usize {
    (dtype.0 & 0xffff) as usize / 8
}

/// Whether MPSGraph takes an array of `dims`, as far as they are known.
///
/// # Errors
/// [`Error::Compile`] with the number that is too large, or an axis of length 0.
pub(crate) fn check_dims(op: &str, dims: &[isize], dtype: MPSDataType) -> Result<()> {
    if dims.len() > MAX_RANK {
        return Err(bad(op, format!("rank {}, at most {MAX_RANK}", dims.len())));
    }
    if let Some(dim) = dims.iter().find(|dim| **dim < 1 && **dim != ANY) {
        return Err(bad(op, format!("an axis of length {dim} in {dims:?}")));
    }
    let elements = dims
        .iter()
        .filter(|dim| **dim != ANY)
        .try_fold(1usize, |product, dim| product.checked_mul(dim.unsigned_abs()))
        .unwrap_or(usize::MAX);
    if elements > MAX_ELEMENTS {
        return Err(bad(op, format!("{elements} elements in {dims:?}, at most {MAX_ELEMENTS}")));
    }
    let bytes = elements.saturating_mul(element_bytes(dtype));
    if bytes > MAX_BYTES {
        return Err(bad(op, format!("{bytes} bytes in {dims:?}, at most {MAX_BYTES}")));
    }
    Ok(())
}

/// The shape two operands are broadcast to, as NumPy does it.
///
/// # Errors
/// [`Error::Compile`] when they do not fit.
pub(crate) fn broadcast(op: &str, a: &[isize], b: &[isize]) -> Result<Vec<isize>> {
    let rank = a.len().max(b.len());
    let dim = |dims: &[isize], axis: usize| {
        (axis + dims.len()).checked_sub(rank).map_or(1, |axis| dims[axis])
    };
    (0..rank)
        .map(|axis| match (dim(a, axis), dim(b, axis)) {
            (a, b) if a == b => Ok(a),
            (1, other) | (other, 1) => Ok(other),
            // An unknown length beside a known one must be that, or 1.
            (ANY, other) | (other, ANY) => Ok(other),
            _ => Err(bad(op, format!("shapes {a:?} and {b:?} do not fit"))),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_broadcast_or_refused() {
        assert_eq!(broadcast("add", &[2, 1, 4], &[3, 1]).unwrap(), [2, 3, 4]);
        assert_eq!(broadcast("add", &[ANY, 1], &[1, ANY]).unwrap(), [ANY, ANY]);
        assert_eq!(broadcast("add", &[], &[5]).unwrap(), [5]);
        let error = broadcast("add", &[2, 3], &[2, 4]).unwrap_err();
        assert!(matches!(error, Error::Compile { .. }), "{error}");
    }

    #[test]
    fn arrays_metal_would_abort_on_are_refused() {
        let check = |dims: &[isize]| check_dims("input", dims, MPSDataType::Float32);
        check(&[1, 14, ANY, 64]).unwrap();
        assert!(check(&[1, 0, 64]).is_err());
        assert!(check(&[1 << 16, 1 << 15]).is_err());
        assert!(check(&[1 << 30]).is_err(), "4 GiB and more");
        assert!(check(&[1; 17]).is_err());
    }
}
