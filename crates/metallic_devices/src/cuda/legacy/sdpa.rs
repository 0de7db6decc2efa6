//! `Sdpa` as three kernels over scores in memory: products, softmax, the sum over values, all f32.
//!
//! Keys and values are read where they lie, once for all heads that share them. The scores of a piece
//! (some sequences, or some positions of one) stay below a bound, so long prompts take several.
//! Not: fused; `graph` is.

use std::sync::Arc;

use bytemuck::{Pod, Zeroable};
use metallic::Result;
use metallic::dispatch::{ExecCx, KernelInvocable, Support};
use metallic::op::{Band, MaskTensor, Sdpa, SdpaArgs, SdpaSpec};

use crate::cuda::buffer::device_ptr;
use crate::cuda::gpu::{Gpu, Kernel};
use crate::cuda::module::LaunchShape;
use crate::cuda::view::View;

/// Bytes of scores at once.
const SCORES: usize = 512 << 20;
/// Keys, and columns of the output, of a block.
const TILE: usize = 64;
/// Threads of a block.
const THREADS: u32 = 256;
/// Most blocks along the grid's third axis.
const MAX_BLOCKS: usize = 65_535;
/// Further than any key or position lies from any other.
const FAR: i128 = 1 << 40;

pub(crate) struct LegacySdpa(pub(crate) Arc<Gpu>);

/// `struct Sdpa` of `sdpa_composed.cu`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Params {
    q: View,
    k: View,
    v: View,
    out: View,
    mask: View,
    lens: u64,
    scores: u64,
    inverse: u64,
    first_shift: i64,
    end_shift: i64,
    aligned_end: u32,
    first_batch: i32,
    first_position: i32,
    positions: i32,
    group: i32,
    scale: f32,
    softcap: f32,
    unused: u32,
}

/// Where the band begins and ends, from a query's position; see `struct Sdpa`.
fn shifts(band: &Band) -> (i64, i64) {
    let offset = i128::from(band.offset.unwrap_or(0));
    let near = |shift: i128| shift.clamp(-FAR, FAR) as i64;
    let first = band.left.map_or(-FAR, |left| offset - left as i128);
    let end = band.right.map_or(FAR, |right| offset + right as i128 + 1);
    (near(first), near(end))
}

impl KernelInvocable<Sdpa> for LegacySdpa {
    fn supports(&self, _: &SdpaSpec) -> Support {
        Support::Yes
    }

    fn run(&self, _: &ExecCx<'_>, spec: &SdpaSpec, args: &SdpaArgs) -> Result<()> {
        let (q, k) = (args.q.shape(), args.k.shape());
        let [batch, q_heads, q_len, kv_len] = [q[0], q[1], q[2], k[2]];
        if batch == 0 || q_len == 0 {
            return Ok(());
        }
        let mask = match &args.mask.tensor {
            Some(MaskTensor::Additive(mask) | MaskTensor::Bool(mask)) => {
                View::new(&mask.broadcast([batch, q_heads, q_len, kv_len])?)
            }
            None => View::NONE,
        };
        let (first_shift, end_shift) = shifts(&args.mask.band);
        // A piece is whole sequences, or positions of one.
        let row = q_heads * kv_len.max(1) * size_of::<f32>();
        let positions = (SCORES / row).clamp(1, q_len);
        let batches = (SCORES / (row * q_len)).clamp(1, batch).min(MAX_BLOCKS / spec.kv_heads);
        let batches = if positions < q_len { 1 } else { batches.max(1) };
        let scores = self.0.workspace(batches * positions * row)?;
        let inverse = self.0.workspace(batches * positions * q_heads * size_of::<f32>())?;
        let mut params = Params {
            q: View::new(&args.q),
            k: View::new(&args.k),
            v: View::new(&args.v),
            out: View::new(&args.out),
            mask,
            lens: args.kv_lens.as_ref().map_or(0, device_ptr),
            scores: scores.start(),
            inverse: inverse.start(),
            first_shift,
            end_shift,
            aligned_end: u32::from(args.mask.band.offset.is_none()),
            first_batch: 0,
            first_position: 0,
            positions: 0,
            group: spec.group() as i32,
            scale: spec.scale(),
            softcap: spec.softcap().unwrap_or(0.0),
            unused: 0,
        };
        for first_batch in (0..batch).step_by(batches) {
            for first_position in (0..q_len).step_by(positions) {
                params.first_batch = first_batch as i32;
                params.first_position = first_position as i32;
                params.positions = positions.min(q_len - first_position) as i32;
                self.piece(spec, &params, batches.min(batch - first_batch))?;
            }
        }
        Ok(())
    }
}

impl LegacySdpa {
    fn piece(&self, spec: &SdpaSpec, params: &Params, batches: usize) -> Result<()> {
        let rows = spec.group() * params.positions as usize;
        let kv_len = params.k.shape[2] as usize;
        let few = rows <= 16;
        let row_tiles = rows.div_ceil(if few { 16 } else { 64 });
        let pairs = batches * spec.kv_heads;
        let launch = |name: &'static str, grid: [usize; 3]| {
            let grid = grid.map(|blocks| blocks as u32);
            let shape = LaunchShape { grid, ..LaunchShape::linear(1, THREADS) };
            // SAFETY: the views are of live tensors, and the scratch has room for every row of the
            // piece; the kernels bound live lengths by the keys there are.
            unsafe { self.0.launch(Kernel::plain("sdpa_composed", name), shape, params) }
        };
        let products = if few { "sdpa_products_16" } else { "sdpa_products_64" };
        launch(products, [kv_len.div_ceil(TILE), row_tiles, pairs])?;
        launch("sdpa_softmax", [rows, pairs, 1])?;
        let values = if few { "sdpa_values_16" } else { "sdpa_values_64" };
        launch(values, [spec.v_dim.div_ceil(TILE), row_tiles, pairs])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bands_become_shifts() {
        let causal = Band { right: Some(0), ..Band::OPEN };
        assert_eq!(shifts(&causal), (-(FAR as i64), 1));
        let window = Band { left: Some(3), right: Some(0), offset: Some(7) };
        assert_eq!(shifts(&window), (4, 8));
        let extreme =
            Band { left: Some(usize::MAX), right: Some(usize::MAX), offset: Some(i64::MAX) };
        assert_eq!(shifts(&extreme), (-(FAR as i64), FAR as i64));
    }
}
