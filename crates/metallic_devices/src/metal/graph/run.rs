//! One run of an executable: every feed and result bound or copied, then encoded.

use std::ptr::NonNull;
use std::sync::Arc;

use metallic::graph::Axis;
use metallic::tensor::{Buffer, Tensor};
use metallic::{Error, Result};
use metallic_instrumentation::{MetricEvent, Recorder};
use objc2::rc::Retained;
use objc2_metal_performance_shaders::MPSDataType;
use objc2_metal_performance_shaders_graph::MPSGraphTensorData;

use super::super::buffer::{Bound, MetalBuffer, Storage};
use super::super::encoder::Encoder;
use super::super::failure;
use super::super::stream::Metal;
use super::bind::{Copied, Place, bind, room};
use super::call::{Call, Cut};
use super::compile::{Compiled, Input, Output};
use super::copy::{self, Rows};
use super::encode::encode;
use super::executor::Work;
use super::lower::{BlockView, Lengths, Made, Slot, queries_of};
use super::positions::Positions;
use super::value::{ANY, element_bytes};

/// The op in errors and events of the stream.
const OP: &str = "mpsgraph";

/// Runs executables on one stream.
pub(super) struct Runner {
    metal: Metal,
    /// Whether the system has views inside buffers.
    views: bool,
    recorder: Recorder,
    positions: Positions,
}

/// What is bound in one run, kept until it is encoded.
#[derive(Default)]
struct Bindings<'a> {
    inputs: Vec<Retained<MPSGraphTensorData>>,
    results: Vec<Retained<MPSGraphTensorData>>,
    /// Buffers of tensors.
    tensors: Vec<&'a MetalBuffer>,
    /// Buffers of this run.
    own: Vec<Arc<MetalBuffer>>,
}

/// A result that does not lie where it belongs yet.
struct Pending {
    made: Made,
    scratch: Arc<MetalBuffer>,
    dims: Vec<usize>,
    /// Where it goes.
    to: Tensor,
}

impl Runner {
    pub(super) fn new(metal: Metal, views: bool, recorder: Recorder) -> Self {
        Self { metal, views, recorder, positions: Positions::default() }
    }

    /// Appends one call to the stream.
    ///
    /// # Errors
    /// [`Error::Device`] when a feed does not fit or the device fails.
    pub(super) fn run(&self, work: &Work, call: &Call<'_>, out: &Tensor) -> Result<()> {
        if out.shape().contains(&0) {
            return Ok(());
        }
        self.metal.encode(OP, |encoder| match work {
            Work::Nothing => copy::zero(encoder, out),
            Work::Whole(compiled) => self.step(encoder, compiled, call, None, out),
            Work::Parts(compiled, whole, part) => {
                for cut in Cut::all(whole, *part, call.length(Axis::QLen)?) {
                    self.step(encoder, compiled, call, Some(cut), out)?;
                }
                Ok(())
            }
        })
    }

    /// One run of the executable, for all of the call or a part.
    fn step(
        &self,
        encoder: &mut Encoder<'_>,
        compiled: &Compiled,
        call: &Call<'_>,
        cut: Option<Cut>,
        out: &Tensor,
    ) -> Result<()> {
        // Tensors of this step; they live as long as what is bound of them.
        let fed = compiled.inputs.iter();
        let fed: Vec<Option<Tensor>> =
            fed.map(|input| fed_tensor(call, cut, input)).collect::<Result<_>>()?;
        let targets = compiled.outputs.iter();
        let targets: Vec<Tensor> =
            targets.map(|output| target(call, cut, output, out)).collect::<Result<_>>()?;
        let mut bindings = Bindings::default();
        for (input, tensor) in compiled.inputs.iter().zip(&fed) {
            let data = match tensor {
                Some(tensor) if matches!(input.slot, Slot::Blocks(..)) => {
                    self.blocks(&mut bindings, input, tensor)?
                }
                Some(tensor) => self.input(encoder, &mut bindings, input, tensor, call)?,
                None => self.numbers(encoder, &mut bindings, input, call, cut)?,
            };
            bindings.inputs.push(data);
        }
        let mut pending = Vec::new();
        for (output, to) in compiled.outputs.iter().zip(&targets) {
            let data = self.result(encoder, &mut bindings, output, to, &mut pending)?;
            bindings.results.push(data);
        }
        let Bindings { inputs, results, mut tensors, own } = bindings;
        tensors.extend(own.iter().map(|buffer| &**buffer));
        encoder.with_command_buffer(OP, &tensors, |buffer| {
            Ok(encode(&compiled.executable, buffer, &inputs, &results))
        })?;
        for Pending { made, scratch, dims, to } in &pending {
            match made {
                Made::Output | Made::Update(_) => copy::cut(encoder, scratch, dims, to)?,
                Made::Rows { starts, .. } => {
                    let (count, starts) = (call.length(Axis::QLen)?, call.tensor(*starts)?);
                    copy::append(encoder, &Rows { scratch, dims, count, starts, cache: to })?;
                }
            }
        }
        Ok(())
    }

    /// A tensor as it lies, or copied into an array of the input's own shape.
    fn input<'a>(
        &self,
        encoder: &mut Encoder<'_>,
        bindings: &mut Bindings<'a>,
        input: &Input,
        tensor: &'a Tensor,
        call: &Call<'_>,
    ) -> Result<Retained<MPSGraphTensorData>> {
        let dims = resolved(&input.dims, tensor)?;
        let bound = Bound::of(tensor)?;
        let why = match place(&bound, tensor, input.dtype, &dims) {
            Err(copied) => copied,
            Ok(place) => match bind(&place, self.views) {
                Ok(data) => {
                    bindings.tensors.push(bound.buffer);
                    return Ok(data);
                }
                Err(copied) => copied,
            },
        };
        let name = match input.slot {
            Slot::Input(number) => call.input(number)?.1.name,
            _ => "lengths",
        };
        self.note_copy(name, bytes_of(&dims, input.dtype), why);
        let scratch = Arc::new(encoder.scratch(room(&dims, input.dtype))?);
        copy::pad(encoder, tensor, &scratch, &dims)?;
        let data = own_array(&scratch, input.dtype, &dims, self.views)?;
        bindings.own.push(scratch);
        Ok(data)
    }

    /// One part of each block of a quantised weight, as it lies.
    fn blocks<'a>(
        &self,
        bindings: &mut Bindings<'a>,
        input: &Input,
        tensor: &'a Tensor,
    ) -> Result<Retained<MPSGraphTensorData>> {
        let bound = Bound::of(tensor)?;
        let (bytes, dims) = (tensor.dtype().block_bytes(), known(&input.dims)?);
        // The scale comes first in a block, two bytes.
        let (skipped, element) = match input.slot {
            Slot::Blocks(_, BlockView::Scales) => (0, 2),
            _ => (2, 1),
        };
        let block = bytes / element;
        let strides = [dims[1] * block, block, 1];
        let (buffer, offset) = (bound.buffer.raw(), bound.offset + skipped);
        let place = Place { buffer, offset, dtype: input.dtype, dims: &dims, strides: &strides };
        let data = bind(&place, self.views).map_err(|copied| refused(copied.reason()))?;
        bindings.tensors.push(bound.buffer);
        Ok(data)
    }

    /// A result in place, or in an array of its own from which it is copied afterwards.
    fn result<'a>(
        &self,
        encoder: &mut Encoder<'_>,
        bindings: &mut Bindings<'a>,
        output: &Output,
        to: &'a Tensor,
        pending: &mut Vec<Pending>,
    ) -> Result<Retained<MPSGraphTensorData>> {
        let bound = Bound::writable(to)?;
        let dims = match output.made {
            Made::Output => resolved(&output.dims, to)?,
            Made::Update(_) | Made::Rows { .. } => {
                resolved(&output.dims, to).or_else(|_| known(&output.dims))?
            }
        };
        // What is also a feed is never a result at once: MPSGraph does not know that they are
        // the same memory, and may read the one after it wrote the other.
        let why = match output.made {
            Made::Output => match place(&bound, to, output.dtype, &dims) {
                Err(copied) => copied,
                Ok(place) => match bind(&place, self.views) {
                    Ok(data) => {
                        bindings.tensors.push(bound.buffer);
                        return Ok(data);
                    }
                    Err(copied) => copied,
                },
            },
            Made::Update(_) | Made::Rows { .. } => Copied::InPlace,
        };
        self.note_copy("out", bytes_of(&dims, output.dtype), why);
        let scratch = Arc::new(encoder.scratch(room(&dims, output.dtype))?);
        let data = own_array(&scratch, output.dtype, &dims, self.views)?;
        bindings.own.push(Arc::clone(&scratch));
        pending.push(Pending { made: output.made, scratch, dims, to: to.clone() });
        Ok(data)
    }

    /// Numbers of this call, in memory of their own.
    fn numbers(
        &self,
        encoder: &mut Encoder<'_>,
        bindings: &mut Bindings<'_>,
        input: &Input,
        call: &Call<'_>,
        cut: Option<Cut>,
    ) -> Result<Retained<MPSGraphTensorData>> {
        let (buffer, count) = match input.slot {
            Slot::Lengths(place) => {
                let first = cut.map_or(0, |cut| cut.start.row);
                let lengths = call.lengths(place)?.moved_by(first);
                (Arc::new(lengths_buffer(encoder, lengths)?), 4)
            }
            Slot::Rows(place) => {
                let group = queries_group(call, place)?;
                let q_len = call.length(Axis::QLen)?;
                (self.positions.rows(encoder.pool, q_len, group)?, q_len * group)
            }
            Slot::Keys => {
                let kv_len = call.length(Axis::KvLen)?;
                (self.positions.keys(encoder.pool, kv_len)?, kv_len)
            }
            Slot::Input(number) | Slot::Blocks(number, _) => {
                return Err(failure("run", format!("input {number} is unfed")));
            }
        };
        let data = own_array(&buffer, input.dtype, &[count], self.views)?;
        bindings.own.push(buffer);
        Ok(data)
    }

    fn note_copy(&self, binding: &str, bytes: usize, why: Copied) {
        self.recorder.record(|| MetricEvent::GraphOperandCopied {
            binding: binding.to_owned(),
            bytes: bytes as u64,
            reason: why.reason().to_owned(),
        });
    }
}

/// The tensor that `input` is fed with in this part; none for numbers.
fn fed_tensor(call: &Call<'_>, cut: Option<Cut>, input: &Input) -> Result<Option<Tensor>> {
    let (Slot::Input(number) | Slot::Blocks(number, _)) = input.slot else { return Ok(None) };
    let (id, of) = call.input(number)?;
    let tensor = call.whole_tensor(number)?;
    let tensor = match cut {
        Some(cut) => cut.of(&tensor, of.axes)?,
        None => tensor,
    };
    if input.dims.contains(&ANY) && queries_of(call.graph, id.index()).is_some() {
        return folded(&tensor, input.dims[1]).map(Some);
    }
    Ok(Some(tensor))
}

/// Where `output` goes in this part.
fn target(call: &Call<'_>, cut: Option<Cut>, output: &Output, out: &Tensor) -> Result<Tensor> {
    const OUT: [Axis; 4] = [Axis::Batch, Axis::QHeads, Axis::QLen, Axis::VDim];
    let to = match output.made {
        Made::Output => match cut {
            Some(cut) => cut.of(out, &OUT)?,
            None => out.clone(),
        },
        Made::Update(number) | Made::Rows { cache: number, .. } => call.tensor(number)?.clone(),
    };
    // Unknown lengths: heads are folded, as those of the queries are.
    let folds = output.made == Made::Output && output.dims.contains(&ANY);
    if folds { folded(&to, output.dims[1]) } else { Ok(to) }
}

/// `[b, heads, n, d]` as `[b, kv_heads, group · n, d]`, which is the same memory when dense.
fn folded(tensor: &Tensor, kv_heads: isize) -> Result<Tensor> {
    let shape = tensor.shape();
    let kv_heads = kv_heads.unsigned_abs();
    let [batch, heads, rows, width] = [shape[0], shape[1], shape[2], shape[3]];
    tensor.reshape([batch, kv_heads, heads / kv_heads * rows, width])
}

/// The query heads of each key head of the attention node at `place`.
fn queries_group(call: &Call<'_>, place: usize) -> Result<usize> {
    match call.graph.nodes().get(place) {
        Some(metallic::graph::Node::Sdpa(node)) => Ok(node.q_heads / node.kv_heads),
        _ => Err(failure("run", format!("node {place} is no attention"))),
    }
}

/// `dims` with unknown lengths taken from `tensor`.
fn resolved(dims: &[isize], tensor: &Tensor) -> Result<Vec<usize>> {
    let shape = tensor.shape();
    let fits = shape.len() == dims.len()
        && dims
            .iter()
            .zip(shape.iter())
            .all(|(dim, length)| *dim == ANY || *length <= dim.unsigned_abs());
    if !fits {
        return Err(failure("run", format!("a tensor {shape} for an array {dims:?}")));
    }
    let lengths = dims.iter().zip(shape.iter());
    Ok(lengths
        .map(|(dim, length)| if *dim == ANY { *length } else { dim.unsigned_abs() })
        .collect())
}

/// `dims`, all of which are known.
fn known(dims: &[isize]) -> Result<Vec<usize>> {
    let known = |dim: &isize| usize::try_from(*dim);
    let dims: Result<Vec<usize>, _> = dims.iter().map(known).collect();
    dims.map_err(|_| failure("run", "a result of unknown length"))
}

fn bytes_of(dims: &[usize], dtype: MPSDataType) -> usize {
    dims.iter().product::<usize>() * element_bytes(dtype)
}

/// `tensor` as it lies, if it has the whole shape.
fn place<'a>(
    bound: &Bound<'a>,
    tensor: &'a Tensor,
    dtype: MPSDataType,
    dims: &'a [usize],
) -> Result<Place<'a>, Copied> {
    if *tensor.shape() != *dims {
        return Err(Copied::Shorter);
    }
    let (buffer, offset, strides) = (bound.buffer.raw(), bound.offset, tensor.layout().strides());
    Ok(Place { buffer, offset, dtype, dims, strides })
}

/// A dense array in a buffer of this run.
fn own_array(
    buffer: &MetalBuffer,
    dtype: MPSDataType,
    dims: &[usize],
    views: bool,
) -> Result<Retained<MPSGraphTensorData>> {
    let layout = metallic::tensor::Layout::contiguous(dims.into());
    let (raw, offset, strides) = (buffer.raw(), buffer.base(), layout.strides());
    let place = Place { buffer: raw, offset, dtype, dims, strides };
    bind(&place, views).map_err(|copied| refused(copied.reason()))
}

fn refused(reason: &str) -> Error {
    failure("bind", format!("an array of the executor's own was refused: {reason}"))
}

/// `lengths` in memory that the GPU reads and nothing else uses.
fn lengths_buffer(encoder: &Encoder<'_>, lengths: Lengths) -> Result<MetalBuffer> {
    let buffer = encoder.pool.allocate(size_of::<Lengths>(), Storage::Shared)?;
    let start: Option<NonNull<u8>> = buffer.host_start();
    let start = start.ok_or_else(|| failure("run", "shared memory without an address"))?;
    debug_assert!(buffer.bytes() >= size_of::<Lengths>());
    // SAFETY: the buffer is long enough, and shared memory of the pool is not in use.
    unsafe { start.cast::<Lengths>().write_unaligned(lengths) };
    Ok(buffer)
}
