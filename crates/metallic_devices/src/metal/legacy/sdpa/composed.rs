//! `composed`: QKᵀ, masked softmax and the sum over values as three kernels, scores in memory.
//!
//! Heads that share a key head are stacked as rows of one product, so keys and values are never
//! repeated. Not: fused, nor thrifty with bandwidth.

use metallic::Result;
use metallic::dispatch::{ExecCx, KernelInvocable, Support};
use metallic::op::{Op, Sdpa, SdpaArgs, SdpaSpec};

use super::call::{Call, Step};
use crate::metal::buffer::MetalBuffer;
use crate::metal::encoder::{Arg, Encoder};
use crate::metal::legacy::{SIMD_WIDTH, count};
use crate::metal::library::{Source, kernel_source};
use crate::metal::stream::Metal;

const SCORES: Source = kernel_source!("sdpa_scores");
const SOFTMAX: Source = kernel_source!("softmax");
const VALUES: Source = kernel_source!("sdpa_values");
/// Rows, keys and columns of v of a tile.
const TILE_ROWS: usize = 32;
const TILE_KEYS: usize = 64;
const TILE_COLUMNS: usize = 64;
/// Simdgroups of the two products.
const SIMDGROUPS: usize = 4;
/// Bytes of scores in memory at once, where one tile of rows of one head is not more: about what
/// the caches of the larger chips hold.
const SCORE_BYTES: usize = 64 << 20;

pub(crate) struct ComposedSdpa(pub(crate) Metal);

impl KernelInvocable<Sdpa> for ComposedSdpa {
    fn supports(&self, _: &SdpaSpec) -> Support {
        Support::Yes
    }

    fn run(&self, _: &ExecCx<'_>, spec: &SdpaSpec, args: &SdpaArgs) -> Result<()> {
        let Some(call) = Call::new(spec, args)? else { return Ok(()) };
        let chunk = Chunk::new(&call, SCORE_BYTES);
        self.0.encode(Sdpa::ID, |encoder| {
            let floats = chunk.heads * chunk.rows;
            let scores = encoder.scratch(floats * chunk.score_stride * size_of::<f32>())?;
            let inverses = encoder.scratch(floats * size_of::<f32>())?;
            for head in (0..call.heads).step_by(chunk.heads) {
                for row in (0..call.rows).step_by(chunk.rows) {
                    encode_chunk(encoder, &call, &chunk, [head, row], [&scores, &inverses])?;
                }
            }
            Ok(())
        })
    }
}

/// How much of a call lies in memory at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    /// Key heads.
    pub(super) heads: usize,
    /// Stacked rows, whole tiles.
    pub(super) rows: usize,
    /// Floats from one row of scores to the next, whole tiles.
    pub(super) score_stride: usize,
}

impl Chunk {
    /// At most `bytes` bytes of scores, or one tile of rows of one head.
    pub(super) fn new(call: &Call<'_>, bytes: usize) -> Self {
        Self::of(call.heads, call.rows, call.kv_len, bytes)
    }

    fn of(heads: usize, rows: usize, kv_len: usize, bytes: usize) -> Self {
        let score_stride = kv_len.max(1).next_multiple_of(TILE_KEYS);
        let tiles = (bytes / (TILE_ROWS * score_stride * size_of::<f32>())).max(1);
        let all_tiles = rows.div_ceil(TILE_ROWS);
        // All heads at once, if that leaves a tile of rows for each: short grids idle.
        let heads = heads.min(tiles);
        let rows = all_tiles.min(tiles / heads) * TILE_ROWS;
        Self { heads, rows, score_stride }
    }
}

/// Encodes the heads and rows of one chunk, from `first_head` and `first_row` on.
fn encode_chunk(
    encoder: &mut Encoder<'_>,
    call: &Call<'_>,
    chunk: &Chunk,
    [first_head, first_row]: [usize; 2],
    [scores, inverses]: [&MetalBuffer; 2],
) -> Result<()> {
    let op = Sdpa::ID;
    let heads = chunk.heads.min(call.heads - first_head);
    let rows = chunk.rows.min(call.rows - first_row);
    let mut params = call.params;
    params.first_head = count(op, first_head)?;
    params.first_row = count(op, first_row)?;
    params.chunk_rows = count(op, chunk.rows)?;
    params.score_stride = count(op, chunk.score_stride)?;
    let (scores, inverses) = (Arg::Scratch(scores, 0), Arg::Scratch(inverses, 0));
    let row_tiles = rows.div_ceil(TILE_ROWS);
    call.dispatch(
        encoder,
        &Step {
            source: SCORES,
            function: "sdpa_scores",
            args: &[call.q(), call.k(), call.kv_lens(), scores],
            params: &params,
            groups: [chunk.score_stride / TILE_KEYS, row_tiles, heads],
            simdgroups: SIMDGROUPS,
        },
    )?;
    call.dispatch(
        encoder,
        &Step {
            source: SOFTMAX,
            function: "sdpa_softmax",
            args: &[scores, inverses, call.mask(), call.kv_lens()],
            params: &params,
            groups: [rows, heads, 1],
            // A few keys for each thread.
            simdgroups: call.kv_len.div_ceil(4 * SIMD_WIDTH).clamp(1, 8),
        },
    )?;
    call.dispatch(
        encoder,
        &Step {
            source: VALUES,
            function: "sdpa_values",
            args: &[scores, inverses, call.v(), call.kv_lens(), call.out()],
            params: &params,
            groups: [call.v_dim.div_ceil(TILE_COLUMNS), row_tiles, heads],
            simdgroups: SIMDGROUPS,
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_fit_the_bytes_or_are_one_tile() {
        for (heads, rows, kv_len) in
            [(2, 7, 1), (16, 3584, 512), (2, 7 * 4096, 4096), (64, 9, 1 << 20)]
        {
            let chunk = Chunk::of(heads, rows, kv_len, SCORE_BYTES);
            let tile = TILE_ROWS * chunk.score_stride * 4;
            let bytes = chunk.heads * chunk.rows * chunk.score_stride * 4;
            assert!(bytes <= SCORE_BYTES.max(tile), "{chunk:?}");
            assert!(chunk.heads >= 1 && chunk.heads <= heads && chunk.rows >= TILE_ROWS);
            assert!(chunk.score_stride >= kv_len && chunk.rows < rows + TILE_ROWS);
        }
        let whole = Chunk::of(2, 7, 65, SCORE_BYTES);
        assert_eq!(whole, Chunk { heads: 2, rows: 32, score_stride: 128 });
    }
}
