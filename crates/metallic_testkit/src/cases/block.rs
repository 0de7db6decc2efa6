//! One transformer block to try, as both of its halves. Not: its numbers (see
//! [`crate::block`]).

use std::fmt;

use metallic::op::{Precision, RopePairing};
use metallic::tensor::DType;

/// Shapes, types and features of one step through a block.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockCase {
    /// Tells it from all others; the seed of its numbers.
    pub name: String,
    /// Positions that each sequence has in the cache already.
    pub starts: Vec<usize>,
    /// New tokens of each sequence.
    pub len: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Query heads.
    pub q_heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Pairs of a head that turn.
    pub pairs: usize,
    /// Width of the feed-forward layer.
    pub ffn: usize,
    /// Whether q, k and v have biases.
    pub bias: bool,
    /// Whether queries and keys are normed.
    pub qk_norm: bool,
    /// Which elements turn together.
    pub pairing: RopePairing,
    /// Keys a query sees; all earlier ones without.
    pub window: Option<usize>,
    /// Whether something is pending for the residual stream.
    pub pending: bool,
    /// Types of the weights of v and down, and of the others.
    pub weights: [DType; 2],
    /// Type of the KV cache.
    pub cache: DType,
    /// Whether activations may be rounded.
    pub precision: Precision,
}

impl BlockCase {
    /// A block of Qwen2's kind in f32: one sequence of `past` tokens and `len` new ones.
    pub fn new(past: usize, len: usize) -> Self {
        Self {
            name: String::new(),
            starts: vec![past],
            len,
            hidden: 128,
            q_heads: 4,
            kv_heads: 2,
            head_dim: 32,
            pairs: 16,
            ffn: 224,
            bias: true,
            qk_norm: false,
            pairing: RopePairing::Half,
            window: None,
            pending: true,
            weights: [DType::F32; 2],
            cache: DType::F32,
            precision: Precision::Exact,
        }
        .named()
    }

    /// The same of Llama's kind: no biases, neighbours turn together.
    #[must_use]
    pub fn llama(self) -> Self {
        Self { bias: false, pairing: RopePairing::Interleaved, ..self }.named()
    }

    /// The same of Qwen3's kind: no biases, queries and keys normed, heads wider than the stream.
    #[must_use]
    pub fn qwen3(self) -> Self {
        Self { bias: false, qk_norm: true, head_dim: 64, pairs: 32, ..self }.named()
    }

    /// The same with these shapes: heads, width of a head, of the stream and of the feed-forward
    /// layer.
    #[must_use]
    pub fn shapes(self, heads: (usize, usize), head_dim: usize, hidden: usize, ffn: usize) -> Self {
        let ((q_heads, kv_heads), pairs) = (heads, head_dim / 2);
        Self { q_heads, kv_heads, head_dim, pairs, hidden, ffn, ..self }.named()
    }

    /// The same with one more sequence of `past` tokens.
    #[must_use]
    pub fn and(mut self, past: usize) -> Self {
        self.starts.push(past);
        self.named()
    }

    /// The same with other types of weights and cache.
    #[must_use]
    pub fn types(self, weights: [DType; 2], cache: DType) -> Self {
        Self { weights, cache, ..self }.named()
    }

    /// The same with activations that may be rounded.
    #[must_use]
    pub fn quantized(self) -> Self {
        Self { precision: Precision::Quantized, ..self }.named()
    }

    /// The same as the first block of a model: nothing is pending.
    #[must_use]
    pub fn first(self) -> Self {
        Self { pending: false, ..self }.named()
    }

    /// The same with a sliding window.
    #[must_use]
    pub fn window(self, keys: usize) -> Self {
        Self { window: Some(keys), ..self }.named()
    }

    /// The same with fewer pairs that turn.
    #[must_use]
    pub fn pairs(self, pairs: usize) -> Self {
        Self { pairs, ..self }.named()
    }

    /// Sequences.
    pub fn batch(&self) -> usize {
        self.starts.len()
    }

    /// Rows of activations.
    pub fn rows(&self) -> usize {
        self.batch() * self.len
    }

    /// Positions that the block looks at.
    pub fn kv_len(&self) -> usize {
        self.starts.iter().max().map_or(0, |start| start + self.len)
    }

    fn named(self) -> Self {
        let name = self.to_string();
        Self { name, ..self }
    }

    /// Element types, as `f16 q8_0/f32 exact`: cache, weights, precision.
    pub fn types_text(&self) -> String {
        let [of_v, others] = self.weights;
        let weights = if of_v == others { others.to_string() } else { format!("{others}/{of_v}") };
        let exact = if self.precision == Precision::Exact { " exact" } else { "" };
        format!("{} {weights}{exact}", self.cache)
    }
}

impl fmt::Display for BlockCase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { starts, len, hidden, q_heads, kv_heads, head_dim, ffn, pairs, .. } = self;
        write!(f, "past{starts:?} new{len} h{q_heads}/{kv_heads} d{head_dim}")?;
        write!(f, " stream{hidden} ffn{ffn} {:?}{pairs}", self.pairing)?;
        for (on, name) in
            [(self.bias, " bias"), (self.qk_norm, " qk_norm"), (!self.pending, " first")]
        {
            f.write_str(if on { name } else { "" })?;
        }
        if let Some(window) = self.window {
            write!(f, " window{window}")?;
        }
        write!(f, " {}", self.types_text())
    }
}

/// What runs in seconds: the shapes and features of Qwen2, Llama and Qwen3, decoding and prompts,
/// one sequence and two of different lengths, every type.
pub fn blocks() -> Vec<BlockCase> {
    use DType::{Bf16, F16, F32, Q4_0, Q4K, Q5_0, Q5K, Q6K, Q8_0};
    let new = BlockCase::new;
    let mut cases = vec![
        new(0, 1).first(),
        new(0, 5).first(),
        new(300, 1).shapes((14, 2), 64, 896, 1216),
        new(7, 33).shapes((14, 2), 64, 896, 1216),
        new(40, 1).llama().shapes((9, 3), 64, 576, 768),
        new(0, 29).llama().shapes((9, 3), 64, 576, 768).first(),
        new(33, 1).qwen3(),
        new(33, 18).qwen3(),
        new(5, 3).and(61).and(0),
        new(5, 1).and(61).llama(),
        new(2, 17).and(9).qwen3(),
        new(50, 1).window(8),
        new(20, 13).and(3).window(6).llama(),
        new(4, 6).pairs(8),
        new(4, 6).llama().pairs(5),
    ];
    for (past, len) in [(70, 1), (3, 19), (0, 130)] {
        for (weights, cache) in [
            ([F16, F16], F16),
            ([Bf16, Bf16], Bf16),
            ([Q8_0, Q8_0], Q8_0),
            ([Q8_0, F16], F16),
            ([F16, Q8_0], F16),
        ] {
            let case = new(past, len).and(past / 2).types(weights, cache);
            cases.extend([case.clone(), case.clone().qwen3().quantized()]);
        }
        cases.push(new(past, len).types([F32, Q8_0], F32).quantized());
        cases.push(new(past, len).and(past / 2).types([Q8_0; 2], F16).quantized());
    }
    // Prompts in the types that models come in, activations rounded: heads of every kind, more
    // positions than a tile.
    for (weights, cache) in
        [([F16; 2], F16), ([Bf16; 2], Bf16), ([Bf16; 2], F16), ([Q8_0; 2], F16), ([Q8_0, F16], F16)]
    {
        let prompt = |past, len| new(past, len).types(weights, cache).quantized();
        cases.push(prompt(0, 150).shapes((4, 2), 64, 256, 384).first());
        cases.push(prompt(140, 70).shapes((2, 1), 128, 256, 384));
        cases.push(prompt(9, 40).and(77).llama().shapes((4, 2), 64, 192, 256));
        cases.push(prompt(0, 33).and(5).qwen3().pairs(24));
    }
    for weights in [[Q6K, Q4K], [Q5K, Q5_0]] {
        let case = new(3, 24).and(30).types(weights, F16).quantized();
        cases.push(case.shapes((4, 2), 64, 512, 768));
    }
    // Wider than what a warp of a GPU takes at once, for one row and for several.
    for case in [new(9, 1), new(9, 1).and(30).and(0), new(5, 3).and(0).llama()] {
        let wide = case.shapes((4, 2), 64, 1280, 2304);
        cases.push(wide.clone().types([F16; 2], F16));
        let alike = [[Q8_0; 2], [Q4_0; 2], [Q5_0; 2], [Q4K; 2], [Q5K; 2], [Q6K; 2]];
        let mixed = [[Q8_0, Q4_0], [Q4_0, Q8_0], [Q6K, Q4K], [Q4K, Q6K], [Q8_0, Q5_0]];
        for weights in alike.into_iter().chain(mixed) {
            cases.push(wide.clone().types(weights, F16).quantized());
        }
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_rows_are_whole_blocks() {
        let cases = blocks();
        for (index, case) in cases.iter().enumerate() {
            assert!(cases[index + 1..].iter().all(|other| other.name != case.name), "{case}");
            for width in [case.hidden, case.ffn, case.head_dim, case.q_heads * case.head_dim] {
                assert!(width.is_multiple_of(32), "{case}: {width}");
            }
            for block in case.weights.map(DType::block_len) {
                for width in [case.hidden, case.ffn, case.q_heads * case.head_dim] {
                    assert!(width.is_multiple_of(block), "{case}: {width} of {block}");
                }
            }
        }
    }
}
