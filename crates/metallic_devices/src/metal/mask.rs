//! Band masks in the GPU's own memory, written by a kernel: what `MaskArena` keeps here.

use half::{bf16, f16};
use metallic::Result;
use metallic::device::BandFill;
use metallic::tensor::DType;

use super::buffer::MetalBuffer;
use super::encoder::{Arg, Dispatch, Grid};
use super::failure;
use super::layout::shader_struct;
use super::library::{Source, kernel_source};
use super::pipeline::Kernel;
use super::stream::Metal;

const SOURCE: Source = kernel_source!("sdpa_mask");
const OP: &str = "mask";

/// Threads of a threadgroup: along rows, so that neighbours write neighbours.
const THREADS: [usize; 3] = [32, 8, 1];

shader_struct! {
    [SOURCE]
    /// `MaskParams` in sdpa_mask.metal.
    pub(super) struct MaskParams {
        rows: u32,
        width: u32,
        low: i32,
        high: i32,
        hidden: u32,
    }
}

/// Writes `fill` into `buffer`.
///
/// # Errors
/// [`metallic::Error::Device`] for more rows or columns than a kernel counts to, a type that is no
/// float, or a failure of the device.
pub(super) fn fill(metal: &Metal, buffer: &MetalBuffer, fill: &BandFill) -> Result<()> {
    let BandFill { band, rows, width, dtype } = fill;
    let count = |length: &usize| {
        // Differences of positions are signed.
        let count = i32::try_from(*length).map(i32::cast_unsigned);
        count.map_err(|_| failure(OP, format!("{length} is more than a kernel counts to")))
    };
    let (function, hidden) = match dtype {
        DType::F32 => ("sdpa_mask_4", f32::NEG_INFINITY.to_bits()),
        DType::F16 => ("sdpa_mask_2", f16::NEG_INFINITY.to_bits().into()),
        DType::Bf16 => ("sdpa_mask_2", bf16::NEG_INFINITY.to_bits().into()),
        other => return Err(failure(OP, format!("a mask of {other}"))),
    };
    // No difference of positions is larger, so what lies beyond hides nothing and is cut off.
    let bound = |place: i128| place.clamp(i32::MIN.into(), i32::MAX.into()) as i32;
    let diagonal = i128::from(band.offset.unwrap_or(0));
    let params = MaskParams {
        rows: count(rows)?,
        width: count(width)?,
        low: band.left.map_or(i32::MIN, |left| bound(diagonal - left as i128)),
        high: band.right.map_or(i32::MAX, |right| bound(diagonal + right as i128)),
        hidden,
    };
    metal.encode(OP, |encoder| {
        encoder.dispatch(&Dispatch {
            kernel: Kernel { source: SOURCE, function, constants: &[] },
            args: &[Arg::Scratch(buffer, 0)],
            params: bytemuck::bytes_of(&params),
            threadgroup: &[],
            grid: Grid::Threads([*width, *rows, 1]),
            threads: THREADS,
        })
    })
}
