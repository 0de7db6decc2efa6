//! Which kernel runs a call, in which shape.
//!
//! The numbers come from one NVIDIA H200, 14 query and 2 key heads of width 64 and 28 and 4 of
//! width 128, f16 (`docs/cuda.md`).

use std::fmt;

/// What the choice depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lengths {
    /// Sequences.
    pub batch: usize,
    /// Query heads.
    pub q_heads: usize,
    /// Key heads.
    pub kv_heads: usize,
    /// Queries of a sequence.
    pub q_len: usize,
    /// Keys of a sequence, live or not.
    pub kv_len: usize,
}

/// What the chip and the call's class allow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Abilities {
    /// Multiprocessors.
    pub multiprocessors: usize,
    /// Whether kernels may use Hopper's clusters, bulk copies and warpgroup products.
    pub hopper: bool,
    /// Whether the Hopper prefill kernel takes the class: widths, mask, softcap.
    pub hopper_prefill: bool,
    /// Dynamic shared memory of a block at most, in bytes.
    pub shared_bytes: usize,
    /// Whether every row starts where the copy engines can read it, there are keys, and the scale
    /// is above 0: all that the fused kernels ask for beyond the class.
    pub plain: bool,
    /// Width of a query and a key.
    pub head_dim: usize,
    /// Width of a value.
    pub v_dim: usize,
    /// Parts a query is multiplied in.
    pub parts: usize,
    /// Whether keys and values have a type that the matrix units do not take.
    pub decoded: bool,
    /// Whether later queries see more keys than earlier ones.
    pub causal: bool,
}

/// A kernel and its shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Engine {
    /// `sdpa_decode.cu`.
    Decode { warps: usize, stages: usize, cluster: usize, splits: usize },
    /// `sdpa_prefill.cu`.
    Prefill { warps: usize, keys: usize },
    /// `sdpa_prefill_sm90.cu`.
    Hopper { groups: usize, keys: usize, heads_per_wave: usize },
    /// `sdpa_any.cu`.
    Any { splits: usize },
    /// `sdpa_exact.cu`.
    Exact,
}

impl Abilities {
    /// Whether a row of keys or values takes more than one swizzled panel.
    fn wide(&self) -> bool {
        self.head_dim.max(self.v_dim) > 64
    }

    /// Bytes of one row of keys and one of values in shared memory.
    fn row_bytes(&self) -> usize {
        pitch(self.head_dim) + pitch(self.v_dim)
    }
}

/// Bytes from a row of `width` elements of two bytes to the next in shared memory: `PITCH` of
/// `sdpa_common.cuh`.
fn pitch(width: usize) -> usize {
    width * 2 + if width.is_multiple_of(64) { 0 } else { 16 }
}

impl Engine {
    /// Dynamic shared memory of a block, in bytes.
    pub(super) fn shared_bytes(&self, abilities: &Abilities) -> usize {
        let Abilities { head_dim, v_dim, .. } = *abilities;
        match *self {
            Engine::Decode { warps, stages, .. } => {
                let ring = warps * stages * PACKED_ROWS * abilities.row_bytes();
                ring.max((warps + 1) * PACKED_ROWS * (v_dim + 4) * 4)
            }
            Engine::Prefill { warps, keys } => {
                let queries = abilities.parts * warps * 16 * pitch(head_dim);
                queries + 2 * keys * abilities.row_bytes()
            }
            Engine::Hopper { groups, keys, .. } => {
                2 * groups * 64 * head_dim * 2 + 2 * HOPPER_STAGES * keys * head_dim * 2
            }
            Engine::Any { .. } => {
                let (queries, keys) = (PACKED_ROWS * (head_dim + 4), ANY_KEYS * (head_dim + 4));
                (queries + keys + ANY_KEYS * v_dim + PACKED_ROWS * (ANY_KEYS + 4)) * 4
            }
            Engine::Exact => 0,
        }
    }

    /// The same kernel in a shape that fits the chip's shared memory.
    fn fitted(mut self, abilities: &Abilities) -> Self {
        while self.shared_bytes(abilities) > abilities.shared_bytes {
            match &mut self {
                Engine::Decode { warps, .. } if *warps > 1 => *warps /= 2,
                Engine::Prefill { keys, .. } if *keys > 16 => *keys /= 2,
                _ => return Engine::Exact,
            }
        }
        self
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Engine::Decode { warps, cluster, splits, .. } => {
                write!(f, "decode {warps} warps, {splits} splits in clusters of {cluster}")
            }
            Engine::Prefill { warps, keys } => write!(f, "prefill {} x {keys}", 16 * warps),
            Engine::Hopper { groups, keys, .. } => write!(f, "hopper {} x {keys}", 64 * groups),
            Engine::Any { splits } => write!(f, "any type, {splits} splits"),
            Engine::Exact => f.write_str("exact"),
        }
    }
}

/// Tiles of keys, and of values, that the Hopper kernel keeps loading.
pub(super) const HOPPER_STAGES: usize = 2;
/// Queries up to which the heads of a group are packed into rows, and the keys split.
const FEW_QUERIES: usize = 8;
/// Rows of a packed tile.
pub(super) const PACKED_ROWS: usize = 16;
/// Keys of a sequence up to which a block's start counts for more than the bytes it reads.
const FEW_KEYS: usize = 1024;
/// Keys up to which all blocks of a head go into one cluster.
const CLUSTER_KEYS: usize = 8192;
/// The largest cluster that every chip of Hopper's kind takes.
const PORTABLE_CLUSTER: usize = 8;
/// Blocks that share the keys of a head at most, but for few narrow heads.
const MAX_SPLITS: usize = 32;
/// Blocks that share the keys of one of few narrow heads, on Hopper.
const MOST_SPLITS: usize = 64;
/// Pieces of causal work in a wave: enough to level out, few enough for the cache.
const WAVE: usize = 512;

/// Blocks along the second axis of a grid at most.
const MAX_BLOCKS: usize = 65_535;
/// Keys of a tile of `sdpa_any.cu`.
const ANY_KEYS: usize = 32;

/// Keys and values, in bytes, that stay in the second-level cache whatever the order.
const CACHED: usize = 16 << 20;

/// The kernel for a call.
pub(super) fn choose(lengths: Lengths, abilities: Abilities) -> Engine {
    let engine = if abilities.decoded && lengths.kv_len > 0 {
        any(lengths, abilities)
    } else if !abilities.plain {
        Engine::Exact
    } else if lengths.q_len <= FEW_QUERIES {
        decode(lengths, abilities)
    } else if abilities.hopper && abilities.hopper_prefill {
        hopper(lengths, abilities)
    } else {
        prefill(abilities)
    };
    engine.fitted(&abilities)
}

/// Splits that give every multiprocessor two blocks, each with at least two tiles.
fn any(lengths: Lengths, abilities: Abilities) -> Engine {
    let heads = lengths.kv_heads * packed_tiles(lengths);
    if heads > MAX_BLOCKS {
        return Engine::Exact;
    }
    let blocks = (lengths.batch * heads).max(1);
    let wanted = (2 * abilities.multiprocessors).div_ceil(blocks);
    let most = (lengths.kv_len / (2 * ANY_KEYS)).clamp(1, MAX_SPLITS);
    Engine::Any { splits: wanted.clamp(1, most) }
}

fn prefill(abilities: Abilities) -> Engine {
    // Wider rows leave fewer registers for scores.
    let keys = if abilities.head_dim.max(abilities.v_dim) <= 128 { 64 } else { 32 };
    Engine::Prefill { warps: 4, keys }
}

/// Tiles of 16 packed rows of one key head.
pub(super) fn packed_tiles(lengths: Lengths) -> usize {
    (lengths.q_heads / lengths.kv_heads * lengths.q_len).div_ceil(PACKED_ROWS)
}

fn decode(lengths: Lengths, abilities: Abilities) -> Engine {
    let Abilities { multiprocessors, hopper, .. } = abilities;
    let wide = abilities.wide();
    let heads = (lengths.batch * lengths.kv_heads * packed_tiles(lengths)).max(1);
    let room = (multiprocessors / heads).max(1);
    let power = 1 << room.ilog2();
    let few = lengths.kv_len <= FEW_KEYS;
    let many_heads = room == 1;
    // Narrow heads want more warps to a block, wide ones more blocks to a multiprocessor.
    let warps = if few && !many_heads || many_heads && wide { 4 } else { 8 };
    let steps = lengths.kv_len.div_ceil(warps * 16).max(1);
    let one_cluster = hopper && !few && lengths.kv_len <= CLUSTER_KEYS && power >= 16;
    // Few narrow heads, and keys enough that every block takes four steps.
    let spread =
        hopper && !few && !one_cluster && !wide && power >= MOST_SPLITS && steps >= 4 * MOST_SPLITS;
    let stages = if wide || few || one_cluster || spread { 2 } else { 3 };
    let (splits, cluster) = if few {
        let splits = power.min(PORTABLE_CLUSTER).min(1 << steps.ilog2());
        (splits, splits)
    } else if one_cluster {
        (16, 16)
    } else if spread {
        (MOST_SPLITS, PORTABLE_CLUSTER)
    } else {
        let splits = power.min(MAX_SPLITS).min(steps);
        let cluster = match splits {
            MAX_SPLITS if wide => 2,
            MAX_SPLITS => 4,
            _ => 1,
        };
        (splits, cluster)
    };
    Engine::Decode { warps, stages, cluster: if hopper { cluster } else { 1 }, splits }
}

fn hopper(lengths: Lengths, abilities: Abilities) -> Engine {
    let Lengths { batch, q_heads, q_len, kv_len, .. } = lengths;
    let heads = batch * q_heads;
    let pieces = heads * q_len.div_ceil(64);
    // Two blocks of 64 queries run at once on a multiprocessor.
    let at_once = pieces <= 2 * abilities.multiprocessors && q_len <= 256;
    let (groups, keys) = match abilities.wide() {
        false if q_len.max(kv_len) <= 128 => return prefill(abilities),
        false if q_len < 2048 => (1, 128),
        false => (2, 192),
        true if at_once || abilities.causal && q_len <= 128 => (1, 64),
        true => (2, 128),
    };
    let blocks = q_len.div_ceil(64 * groups);
    let kv_bytes = batch * lengths.kv_heads * kv_len * (abilities.head_dim + abilities.v_dim) * 2;
    let heads_per_wave = match abilities.causal {
        false => 1,
        true if kv_bytes <= CACHED => heads.max(1),
        true => (WAVE / blocks).clamp(1, heads.max(1)),
    };
    Engine::Hopper { groups, keys, heads_per_wave }
}

#[cfg(test)]
mod tests {
    use super::*;

    const H200: Abilities = Abilities {
        multiprocessors: 132,
        hopper: true,
        hopper_prefill: true,
        shared_bytes: 227 << 10,
        plain: true,
        head_dim: 64,
        v_dim: 64,
        parts: 1,
        decoded: false,
        causal: true,
    };

    fn lengths(
        batch: usize,
        q_heads: usize,
        kv_heads: usize,
        q_len: usize,
        kv_len: usize,
    ) -> Lengths {
        Lengths { batch, q_heads, kv_heads, q_len, kv_len }
    }

    #[test]
    fn decode_fills_the_chip_and_no_more() {
        for (batch, kv_len) in [(1, 512), (1, 32768), (8, 4096), (64, 512), (64, 32768), (1, 1)] {
            for (width, q_heads, kv_heads) in [(64, 14, 2), (128, 28, 4)] {
                let lengths = lengths(batch, q_heads, kv_heads, 1, kv_len);
                for hopper in [true, false] {
                    let chip = Abilities { head_dim: width, v_dim: width, hopper, ..H200 };
                    let engine = choose(lengths, chip);
                    let Engine::Decode { splits, cluster, .. } = engine else { panic!("{engine}") };
                    assert!(splits.is_multiple_of(cluster), "{engine}");
                    assert!(splits == 1 || splits * batch * kv_heads <= 132, "{engine}");
                    assert!(hopper || cluster == 1, "{engine}");
                }
            }
        }
        let short = choose(lengths(1, 14, 2, 1, 512), H200);
        assert_eq!(short, Engine::Decode { warps: 4, stages: 2, cluster: 8, splits: 8 });
        let one = choose(lengths(1, 14, 2, 1, 32768), H200);
        assert_eq!(one, Engine::Decode { warps: 8, stages: 2, cluster: 8, splits: 64 });
        let long =
            choose(lengths(64, 28, 4, 1, 32768), Abilities { head_dim: 128, v_dim: 128, ..H200 });
        assert_eq!(long, Engine::Decode { warps: 4, stages: 2, cluster: 1, splits: 1 });
    }

    #[test]
    fn prefill_follows_the_chip_the_class_and_the_addresses() {
        let lengths = lengths(1, 14, 2, 4096, 4096);
        assert_eq!(
            choose(lengths, H200),
            Engine::Hopper { groups: 2, keys: 192, heads_per_wave: 14 }
        );
        let masked = Abilities { hopper_prefill: false, ..H200 };
        assert_eq!(choose(lengths, masked), Engine::Prefill { warps: 4, keys: 64 });
        let older = Abilities { hopper: false, ..H200 };
        assert_eq!(choose(lengths, older), Engine::Prefill { warps: 4, keys: 64 });
        let wide = Abilities { head_dim: 128, v_dim: 128, causal: false, ..H200 };
        assert_eq!(
            choose(lengths, wide),
            Engine::Hopper { groups: 2, keys: 128, heads_per_wave: 1 }
        );
        let decoded = Abilities { decoded: true, plain: false, ..H200 };
        assert_eq!(choose(lengths, decoded), Engine::Any { splits: 1 });
        let step = Lengths { q_len: 1, ..lengths };
        assert_eq!(choose(step, decoded), Engine::Any { splits: 32 });
        assert_eq!(choose(Lengths { kv_len: 40, ..step }, decoded), Engine::Any { splits: 1 });
        let odd = Abilities { plain: false, ..H200 };
        assert_eq!(choose(lengths, odd), Engine::Exact);
    }

    #[test]
    fn shapes_shrink_to_the_chip() {
        // Ada has 99 KiB.
        let small = Abilities { hopper: false, shared_bytes: 99 << 10, ..H200 };
        for width in [64, 128, 192, 256] {
            let chip = Abilities { head_dim: width, v_dim: width, ..small };
            for q_len in [1, 100] {
                let engine = choose(lengths(8, 8, 8, q_len, 4096), chip);
                assert_ne!(engine, Engine::Exact);
                assert!(engine.shared_bytes(&chip) <= chip.shared_bytes, "{engine} at {width}");
            }
        }
    }
}
