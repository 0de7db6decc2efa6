//! The few checks that several ops share.

use crate::error::{Error, Result};
use crate::tensor::{DType, Tensor};

/// Fails unless `got == expected`; `what` names the axis, `why` the expectation.
pub(crate) fn axis(
    op: &'static str,
    what: &str,
    got: usize,
    expected: usize,
    why: &str,
) -> Result<()> {
    if got == expected {
        return Ok(());
    }
    let expected = format!("{expected} ({why})");
    Err(Error::Shape { op, what: what.to_owned(), expected, got: got.to_string() })
}

/// Fails unless the tensor has `rank` axes.
pub(crate) fn rank(op: &'static str, name: &str, tensor: &Tensor, axes: &str) -> Result<()> {
    // This runs in every call, and a search for ", " costs more than the rest of it.
    let rank = 1 + axes.bytes().filter(|byte| *byte == b',').count();
    if tensor.shape().len() == rank {
        return Ok(());
    }
    Err(Error::Shape {
        op,
        what: format!("{name} shape"),
        expected: format!("{rank} axes [{axes}]"),
        got: tensor.shape().to_string(),
    })
}

/// Fails unless the tensor's element type is in `accepted`.
pub(crate) fn dtype(
    op: &'static str,
    binding: &'static str,
    tensor: &Tensor,
    accepted: &[DType],
    expected: &'static str,
) -> Result<()> {
    if accepted.contains(&tensor.dtype()) {
        return Ok(());
    }
    Err(Error::DType { op, binding, expected, got: tensor.dtype() })
}

/// Fails unless the elements of the last axis are neighbours.
pub(crate) fn rows(op: &'static str, name: &str, tensor: &Tensor) -> Result<()> {
    if tensor.layout().rows_are_contiguous() {
        return Ok(());
    }
    Err(Error::Shape {
        op,
        what: format!("{name} stride of the last axis"),
        expected: "1 (rows must be contiguous)".to_owned(),
        got: format!("{:?}", tensor.layout().strides()),
    })
}

/// Fails unless the tensor is dense f32 with `rank` axes.
pub(crate) fn dense_f32(
    op: &'static str,
    name: &'static str,
    tensor: &Tensor,
    axes: &str,
) -> Result<()> {
    rank(op, name, tensor, axes)?;
    dtype(op, name, tensor, &[DType::F32], "f32")?;
    dense(op, name, tensor)
}

/// Fails when two indices of a tensor that is written share an element, as in a broadcast view:
/// kernels write rows from several threads.
pub(crate) fn no_overlap(op: &'static str, name: &str, tensor: &Tensor) -> Result<()> {
    if tensor.layout().is_injective() {
        return Ok(());
    }
    Err(Error::Shape {
        op,
        what: format!("{name} strides"),
        expected: "each element at a place of its own, as it is written".to_owned(),
        got: format!("{:?}", tensor.layout().strides()),
    })
}

/// Fails unless the tensor is dense.
pub(crate) fn dense(op: &'static str, name: &str, tensor: &Tensor) -> Result<()> {
    if tensor.layout().is_contiguous() {
        return Ok(());
    }
    Err(Error::Shape {
        op,
        what: format!("{name} strides"),
        expected: "a dense row-major layout".to_owned(),
        got: format!("{:?}", tensor.layout().strides()),
    })
}

/// Fails when a tensor that is written lies where one that is read lies: kernels hold both at
/// once, and tasks of other threads would read what was overwritten.
pub(crate) fn apart(
    op: &'static str,
    (written, target): (&str, &Tensor),
    (read, source): (&str, &Tensor),
) -> Result<()> {
    if !target.overlaps(source) {
        return Ok(());
    }
    Err(Error::Shape {
        op,
        what: format!("the memory of {written}"),
        expected: format!("memory apart from {read}, as it is written"),
        got: format!("shared with {read}"),
    })
}

/// As [`apart`], but both may be the very same dense elements, for kernels that work in place.
pub(crate) fn apart_or_same(
    op: &'static str,
    written: (&str, &Tensor),
    read: (&str, &Tensor),
) -> Result<()> {
    let (target, source) = (written.1, read.1);
    let dense = target.layout().is_contiguous() && source.layout().is_contiguous();
    let alike = target.dtype() == source.dtype() && target.shape() == source.shape();
    if dense && alike && target.layout().offset() == source.layout().offset() {
        return Ok(());
    }
    apart(op, written, read)
}
