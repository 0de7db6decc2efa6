//! Fused attention: one pass over keys and values with an online softmax, no score matrix.
//!
//! Work is cut by sequence, key head and block of query positions. The query heads that share a
//! key head are folded into rows (position-major), so a tile of keys and values is decoded once
//! for all of them. Blocks of keys that a band hides from all rows are never touched. When there
//! are fewer such items than threads can share, the keys are cut too and the parts merged.
//!
//! Times beside the composed kernels: docs/cpu-performance.md, measured by `metallic bench sdpa`.
//!
//! Files: `block` is one item; for few rows it calls `few`, whose scores are `few_scores` and whose
//! form for the usual shapes on AVX-512 is `few_lanes`; for more rows `tile` packs, `product` multiplies,
//! `softmax` normalises. `merge` joins cut keys.
//! Not: mask matrices for bands, and not f16 arithmetic: all sums are f32.

mod block;
mod few;
#[cfg(target_arch = "x86_64")]
mod few_lanes;
mod few_scores;
mod merge;
mod product;
mod softmax;
mod tile;

use block::Item;
use merge::Partials;

use crate::cpu::attention::Attention;
use crate::cpu::pool::ThreadPool;
use crate::cpu::simd::Level;

/// What of an op a plan depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    /// Query heads per key head.
    pub group: usize,
    /// Width of a key.
    pub head_dim: usize,
    /// Width of a value.
    pub v_dim: usize,
}

/// Tile sizes for one op on one machine, for any lengths.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    level: Level,
    threads: usize,
    /// Query positions of an item.
    positions: usize,
    /// Keys of a tile.
    tile_keys: usize,
    /// Keys of a tile when items have few rows: then memory is the limit, and loading is to
    /// alternate with computing in small portions.
    few_rows_tile_keys: usize,
}

/// Rows of an item: enough that decoding a tile of keys costs little against using it.
const ROWS: usize = 336;
/// Query positions of an item at most: panels of every width divide it.
const POSITIONS: usize = 48;
/// Floats of a tile of keys, so that it stays in the first-level cache.
const TILE: usize = 64 * 64;
/// Rows up to which an item waits for memory rather than for arithmetic.
const FEW_ROWS: usize = 32;
/// Their tiles: small against the distance at which keys are asked for ahead.
const FEW_ROWS_TILE_KEYS: usize = 32;
/// Keys between the one being decoded and the one being asked for.
const PREFETCH_KEYS: usize = 64;
/// Keys below which cutting a sequence further costs more than it brings.
const SPLIT_KEYS: usize = 256;
/// Items per thread, so that a thread held up by others delays the rest little.
const ITEMS_PER_THREAD: usize = 4;

impl Plan {
    /// Chooses tile sizes.
    pub(super) fn new(level: Level, threads: usize, geometry: Geometry) -> Self {
        let Geometry { group, head_dim, v_dim } = geometry;
        let positions = (ROWS / group / POSITIONS * POSITIONS).max(POSITIONS);
        let tile_keys = (TILE / head_dim.max(v_dim)).clamp(32, 128) / 8 * 8;
        let few_rows_tile_keys = FEW_ROWS_TILE_KEYS.min(tile_keys);
        Self { level, threads, positions, tile_keys, few_rows_tile_keys }
    }

    /// Runs one call.
    pub(super) fn run(&self, pool: &ThreadPool, call: &Attention) {
        let q_len = call.q_len();
        let heads = call.batch() * call.kv_heads();
        if heads == 0 || q_len == 0 {
            return;
        }
        // Short prompts are cut finer, in multiples of 8 positions.
        let wanted = (self.threads * ITEMS_PER_THREAD).div_ceil(heads);
        let finest = q_len.div_ceil(wanted).next_multiple_of(8).max(16);
        let positions = self.positions.min(finest).min(q_len);
        let blocks = q_len.div_ceil(positions);
        let items = heads * blocks;
        let splits =
            (self.threads * ITEMS_PER_THREAD / items).min(call.kv_len() / SPLIT_KEYS).max(1);
        let item = |index: usize| {
            let (head, block) = (index / blocks, index % blocks);
            // Under a causal mask the last positions take longest: they go first.
            let first = (blocks - 1 - block) * positions;
            Item {
                batch: head / call.kv_heads(),
                kv_head: head % call.kv_heads(),
                first,
                positions: positions.min(q_len - first),
            }
        };
        if splits == 1 {
            pool.run(items, &|index| block::run(self, call, item(index), None));
            return;
        }
        let rows = positions * call.group();
        Partials::with(items, splits, rows, call.v_dim(), |partials| {
            pool.run(items * splits, &|task| {
                let (index, split) = (task / splits, task % splits);
                block::run(self, call, item(index), Some((partials, index, split)));
            });
        });
    }
}
