//! Copies on the GPU where a tensor cannot be bound as it lies: into or out of an array of an
//! executable's own shape. Each is a metric; none goes through the CPU.

use metallic::Result;
use metallic::tensor::{Layout, MAX_RANK, Tensor};

use super::super::buffer::MetalBuffer;
use super::super::encoder::{Arg, Dispatch, Encoder, Grid};
use super::super::failure;
use super::super::fault::FaultKind;
use super::super::layout::shader_struct;
use super::super::library::{Source, kernel_source};
use super::super::pipeline::Kernel;

const SOURCE: Source = kernel_source!("graph_copy");
const APPEND: Source = kernel_source!("graph_append");

/// Threads of a threadgroup: along rows, so that neighbours read neighbours.
const THREADS: [usize; 3] = [32, 8, 1];

shader_struct! {
    [SOURCE]
    /// `CopyParams` in graph_copy.metal.
    #[derive(Default, PartialEq, Eq)]
    pub(super) struct CopyParams {
        extent: [u32; MAX_RANK],
        valid: [u32; MAX_RANK],
        from: [u32; MAX_RANK],
        to: [u32; MAX_RANK],
    }
}

shader_struct! {
    [APPEND]
    /// `AppendParams` in graph_append.metal.
    #[derive(Default, PartialEq, Eq)]
    pub(super) struct AppendParams {
        extent: [u32; MAX_RANK],
        from: [u32; MAX_RANK],
        to: [u32; MAX_RANK],
        capacity: u32,
    }
}

/// Fills the dense array of `dims` in `scratch` with `tensor`, which may be shorter; what it
/// lacks becomes zero.
///
/// # Errors
/// [`metallic::Error::Device`] for lengths or strides beyond 32 bits.
pub(super) fn pad(
    encoder: &mut Encoder<'_>,
    tensor: &Tensor,
    scratch: &MetalBuffer,
    dims: &[usize],
) -> Result<()> {
    let dense = dense_strides(dims);
    let params = CopyParams {
        extent: numbers(dims, 1)?,
        valid: numbers(&tensor.shape(), 1)?,
        from: numbers(tensor.layout().strides(), 0)?,
        to: numbers(&dense, 0)?,
    };
    let bytes = tensor.dtype().block_bytes();
    copy(encoder, bytes, [Arg::In(tensor), Arg::Scratch(scratch, 0)], &params)
}

/// Fills `tensor` from the dense array of `dims` in `scratch`, which may be longer.
///
/// # Errors
/// As [`pad`].
pub(super) fn cut(
    encoder: &mut Encoder<'_>,
    scratch: &MetalBuffer,
    dims: &[usize],
    tensor: &Tensor,
) -> Result<()> {
    let extent = numbers(&tensor.shape(), 1)?;
    let params = CopyParams {
        extent,
        valid: extent,
        from: numbers(&dense_strides(dims), 0)?,
        to: numbers(tensor.layout().strides(), 0)?,
    };
    let bytes = tensor.dtype().block_bytes();
    copy(encoder, bytes, [Arg::Scratch(scratch, 0), Arg::Out(tensor)], &params)
}

/// Fills `tensor` with zeros.
///
/// # Errors
/// As [`pad`].
pub(super) fn zero(encoder: &mut Encoder<'_>, tensor: &Tensor) -> Result<()> {
    let strides = numbers(tensor.layout().strides(), 0)?;
    let params = CopyParams {
        extent: numbers(&tensor.shape(), 1)?,
        valid: [0; MAX_RANK],
        from: strides,
        to: strides,
    };
    let bytes = tensor.dtype().block_bytes();
    copy(encoder, bytes, [Arg::Out(tensor), Arg::Out(tensor)], &params)
}

/// Rows that are written into a cache.
pub(super) struct Rows<'a> {
    /// Dense, of `dims`.
    pub(super) scratch: &'a MetalBuffer,
    /// `[batch, heads, rows, width]`, where the rows may be more than are written.
    pub(super) dims: &'a [usize],
    /// How many are written.
    pub(super) count: usize,
    /// i32 `[batch]`: the first position of each sequence.
    pub(super) starts: &'a Tensor,
    /// `[batch, heads, capacity, width]`.
    pub(super) cache: &'a Tensor,
}

/// Writes `rows` into their cache. Positions outside of it are reported when the work is done.
///
/// # Errors
/// As [`pad`].
pub(super) fn append(encoder: &mut Encoder<'_>, rows: &Rows<'_>) -> Result<()> {
    let Rows { scratch, dims, count, starts, cache } = rows;
    let mut extent = numbers(dims, 1)?;
    extent[2] = numbers(&[*count], 1)?[MAX_RANK - 1];
    let params = AppendParams {
        extent,
        from: numbers(&dense_strides(dims), 0)?,
        to: numbers(cache.layout().strides(), 0)?,
        capacity: numbers(&[cache.shape()[2]], 1)?[MAX_RANK - 1],
    };
    let function = match cache.dtype().block_bytes() {
        2 => "graph_append_2",
        4 => "graph_append_4",
        bytes => return Err(failure("append", format!("elements of {bytes} bytes"))),
    };
    let [batch, heads, count, width] = extent.map(|length| length as usize);
    encoder.dispatch(&Dispatch {
        kernel: Kernel { source: APPEND, function, constants: &[] },
        args: &[
            Arg::Scratch(scratch, 0),
            Arg::In(starts),
            Arg::Out(cache),
            Arg::Fault(FaultKind::Position),
        ],
        params: bytemuck::bytes_of(&params),
        threadgroup: &[],
        grid: Grid::Threads([width, count, batch * heads]),
        threads: THREADS,
    })
}

fn copy(
    encoder: &mut Encoder<'_>,
    element_bytes: usize,
    args: [Arg<'_>; 2],
    params: &CopyParams,
) -> Result<()> {
    let function = match element_bytes {
        1 => "graph_copy_1",
        2 => "graph_copy_2",
        4 => "graph_copy_4",
        bytes => return Err(failure("copy", format!("elements of {bytes} bytes"))),
    };
    let [outer, inner, rows, width] = params.extent.map(|length| length as usize);
    encoder.dispatch(&Dispatch {
        kernel: Kernel { source: SOURCE, function, constants: &[] },
        args: &args,
        params: bytemuck::bytes_of(params),
        threadgroup: &[],
        grid: Grid::Threads([width, rows, outer * inner]),
        threads: THREADS,
    })
}

/// The strides of a dense array.
fn dense_strides(dims: &[usize]) -> Vec<usize> {
    Layout::contiguous(dims.into()).strides().to_vec()
}

/// `values` as the last of four numbers, `before` in the places of absent axes.
fn numbers(values: &[usize], before: u32) -> Result<[u32; MAX_RANK]> {
    let mut padded = [before; MAX_RANK];
    for (slot, value) in padded[MAX_RANK - values.len()..].iter_mut().zip(values) {
        *slot = u32::try_from(*value)
            .map_err(|_| failure("copy", format!("{value} is more than a kernel counts to")))?;
    }
    Ok(padded)
}
