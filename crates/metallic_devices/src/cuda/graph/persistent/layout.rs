//! What each block of a decode step keeps in shared memory, and how attention is shared out. As
//! `persistent.cuh` counts.

use metallic::segment::FollowingSteps;
use metallic::tensor::DType;

/// Warps of a block.
pub(super) const WARPS: usize = 12;
/// Elements of a row that a warp multiplies at once.
pub(super) const PIECE: usize = 1024;
/// Rows of the output matrix that a block finishes at once, and how many times at most.
const HEAD_ROWS: usize = 256;
const MAX_HEAD_PARTS: usize = 16;
/// Parts of the keys that attention is shared out in, at most, and positions for each.
const MAX_SPLITS: usize = 8;
const KEYS_OF_A_SPLIT: usize = 256;
/// Fewest pieces on their way for each warp.
const FEWEST_SLOTS: usize = 2;

/// The numbers of a model that the layout depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    /// Blocks of the step.
    pub layers: usize,
    /// Width of the stream.
    pub hidden: usize,
    /// Width of the gated products.
    pub ffn: usize,
    /// Query heads, and key and value heads.
    pub heads: [usize; 2],
    /// Width of a head.
    pub head_dim: usize,
    /// Rows of the output matrix.
    pub vocab: usize,
}

/// Most bytes of a block's rings, for plain and for quantised weights. More of the weights on their way cost
/// more than they bring: what blocks say to each other waits behind them (docs/cuda.md, Versions 5 and 7).
const MOST_AHEAD: [usize; 2] = [170 << 10, 110 << 10];

/// Places in a block's shared memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// The residual stream.
    pub stream_at: usize,
    /// The input of the products.
    pub input_at: usize,
    /// Their sums.
    pub sums_at: usize,
    /// The rings.
    pub ring_at: usize,
    /// Slots of one warp's ring.
    pub slots: usize,
    /// Bytes of a slot.
    pub slot_bytes: usize,
    /// All of it.
    pub shared_bytes: usize,
}

/// Bytes of [`PIECE`] elements.
pub(super) fn piece_bytes(dtype: DType) -> usize {
    PIECE / dtype.block_len() * dtype.block_bytes()
}

/// Bytes of a slot for pieces of `dtype`: those of quantised types start anywhere, and come with the
/// aligned words around them.
fn slot_bytes(dtype: DType) -> usize {
    let slack = if dtype.is_quantized() { 16 } else { 0 };
    piece_bytes(dtype).next_multiple_of(16) + slack
}

/// Parts of the keys of a view of `kv_len` positions.
pub(super) fn splits(kv_len: usize, q_heads: usize, blocks: usize) -> usize {
    let most = MAX_SPLITS.min(blocks / q_heads.max(1)).max(1);
    kv_len.div_ceil(KEYS_OF_A_SPLIT).clamp(1, most)
}

/// Published words of one layer (`Places` of `persistent.cuh`).
pub(super) fn layer_words(sizes: &Sizes, splits: usize) -> usize {
    let Sizes { hidden, ffn, heads: [q_heads, kv_heads], head_dim, .. } = *sizes;
    (q_heads + 2 * kv_heads) * head_dim + q_heads * splits * (head_dim + 4) + 2 * hidden + ffn
}

/// Bytes in which blocks draw a token, in the place of the input: `Drawing` of `persistent_draw.cuh`.
const DRAW_BYTES: usize = 5632;
/// Keys that fit there, and so the most blocks.
const DRAW_KEYS: usize = FollowingSteps::MOST_K + 32 * WARPS;

/// Bytes of what `blocks` blocks publish of the candidates that tokens are drawn from: `LIST_WORDS`
/// words of 64 bits each (`persistent_draw.cuh`).
pub(super) fn lists_bytes(blocks: usize) -> usize {
    blocks * (2 + 2 * FollowingSteps::MOST_K) * size_of::<u64>()
}

/// Bytes of what `blocks` blocks publish of the likeliest tokens: two sets of slots of `PICK_WORDS`
/// words of 64 bits (`persistent_pick.cuh`).
pub(super) fn picks_bytes(blocks: usize) -> usize {
    2 * blocks * 4 * size_of::<u64>()
}

/// Most bytes of the rings for weights of `types`.
fn most_ahead(types: &[DType]) -> usize {
    MOST_AHEAD[usize::from(types.iter().all(|dtype| dtype.is_quantized()))]
}

/// Shared memory of a block beside its layout.
fn own_bytes(head_dim: usize) -> usize {
    WARPS * (head_dim + 4) * size_of::<f32>() + 3072
}

impl Layout {
    /// The layout for weights of `types` where `blocks` blocks have `room` bytes each, `layer_bytes`
    /// of them for each entry of the table of layers; `None` when that is too little.
    pub(super) fn new(
        sizes: &Sizes,
        types: &[DType],
        blocks: usize,
        (room, layer_bytes): (usize, usize),
    ) -> Option<Self> {
        let Sizes { layers, hidden, ffn, heads: [q_heads, kv_heads], head_dim, vocab } = *sizes;
        let q_width = q_heads * head_dim;
        let widest = hidden.max(ffn).max(q_width);
        let plain = types.iter().any(|dtype| !dtype.is_quantized());
        let input = if plain { widest * size_of::<f32>() } else { widest.div_ceil(32) * 48 };
        let input = input.max(DRAW_BYTES);
        let each = |units: usize| units.div_ceil(blocks);
        let pieces = |k: usize| k.div_ceil(PIECE);
        let sums = [
            2 * each((q_width + 2 * kv_heads * head_dim) / 2) * pieces(hidden),
            each(hidden) * pieces(q_width).max(pieces(ffn)),
            2 * each(ffn) * pieces(hidden),
            each(vocab).min(HEAD_ROWS) * pieces(hidden),
        ];
        let sums = sums.into_iter().max()? * size_of::<f32>();
        // The output matrix has an entry of its own.
        let stream_at = (layers + 1) * layer_bytes;
        let input_at = stream_at + (hidden * size_of::<f32>()).next_multiple_of(16);
        let sums_at = input_at + input.next_multiple_of(16);
        let ring_at = (sums_at + sums).next_multiple_of(128);
        let slot_bytes = types.iter().map(|dtype| slot_bytes(*dtype)).max()?;
        // Variables of the block: parts of attention, squares, its shares.
        let own = own_bytes(head_dim);
        // A barrier and a note each, rounded up once.
        let left = room.checked_sub(own + ring_at + 128)?;
        let slots = left.min(most_ahead(types)) / (WARPS * (slot_bytes + 12));
        let rings = (WARPS * slots * 12).next_multiple_of(128) + WARPS * slots * slot_bytes;
        let shared_bytes = ring_at + rings;
        let fits = slots >= FEWEST_SLOTS
            && each(vocab).div_ceil(HEAD_ROWS) <= MAX_HEAD_PARTS
            && blocks <= DRAW_KEYS;
        fits.then_some(Self {
            stream_at,
            input_at,
            sums_at,
            ring_at,
            slots,
            slot_bytes,
            shared_bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the driver says of an H200.
    const ROOM: usize = 232_448;
    const BLOCKS: usize = 132;

    fn small() -> Sizes {
        Sizes { layers: 24, hidden: 896, ffn: 4864, heads: [14, 2], head_dim: 64, vocab: 151_936 }
    }

    #[test]
    fn rings_take_what_is_left() {
        for dtype in [DType::F32, DType::F16, DType::Q8_0, DType::Q4K, DType::Q6K] {
            let layout = Layout::new(&small(), &[dtype], BLOCKS, (ROOM, 288)).unwrap();
            let own = own_bytes(64);
            assert!(layout.shared_bytes + own <= ROOM, "{layout:?}");
            let each = WARPS * (layout.slot_bytes + 12);
            let (full, most) =
                (layout.shared_bytes + own + each + 256 > ROOM, most_ahead(&[dtype]));
            assert!(full || (layout.slots + 1) * each > most, "{layout:?}");
            assert!(layout.slots * each <= most, "{layout:?}");
            for at in [layout.stream_at, layout.input_at, layout.sums_at, layout.slot_bytes] {
                assert!(at.is_multiple_of(16), "{layout:?}");
            }
            assert!(layout.ring_at.is_multiple_of(128));
        }
    }

    #[test]
    fn parts_do_not_overlap() {
        let layout = Layout::new(&small(), &[DType::F16], BLOCKS, (ROOM, 288)).unwrap();
        assert_eq!(layout.stream_at, 25 * 288);
        assert_eq!(layout.input_at, layout.stream_at + 896 * 4);
        assert_eq!(layout.sums_at, layout.input_at + 4864 * 4);
        // 256 rows of logits, or 37 gates with what they gate.
        assert!(layout.ring_at >= layout.sums_at + 256 * 4);
        assert_eq!(layout.slot_bytes, 2048);
        let rounded = Layout::new(&small(), &[DType::Q8_0], BLOCKS, (ROOM, 288)).unwrap();
        assert_eq!(rounded.sums_at, rounded.input_at + 4864 / 32 * 48);
        // 32 blocks of 34 bytes and the words around them.
        assert_eq!(rounded.slot_bytes, 1104);
    }

    #[test]
    fn what_does_not_fit_has_no_layout() {
        let wide = Sizes { ffn: 1 << 20, ..small() };
        assert_eq!(Layout::new(&wide, &[DType::F16], BLOCKS, (ROOM, 288)), None);
        let many = Sizes { vocab: 17 * 256 * BLOCKS, ..small() };
        assert_eq!(Layout::new(&many, &[DType::F16], BLOCKS, (ROOM, 288)), None);
        let deep = Sizes { layers: 1000, ..small() };
        assert_eq!(Layout::new(&deep, &[DType::F16], BLOCKS, (ROOM, 288)), None);
    }

    #[test]
    fn attention_is_split_as_blocks_allow() {
        assert_eq!(splits(256, 14, BLOCKS), 1);
        assert_eq!(splits(1024, 14, BLOCKS), 4);
        assert_eq!(splits(8192, 14, BLOCKS), 8);
        assert_eq!(splits(8192, 28, BLOCKS), 4);
        assert_eq!(splits(8192, 200, BLOCKS), 1);
        assert_eq!(layer_words(&small(), 4), 18 * 64 + 14 * 4 * 68 + 2 * 896 + 4864);
    }
}
