//! The numbers that describe a model, checked. Not: its weights, nor what is computed.
//!
//! Read from GGUF metadata or from a Hugging Face `config.json`; both give the same type.

mod gguf;
mod hf;

use std::fmt;

use crate::error::{Error, Result};
use crate::tensors::TensorTable;
use crate::transformer::rope::{RopeConfig, RopeScaling};

/// The model families that can be computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Architecture {
    /// Llama 1 to 3, and what shares its shape: Mistral, SmolLM2, TinyLlama.
    Llama,
    /// Qwen 2 and 2.5: Llama with biases on q, k and v.
    Qwen2,
    /// Qwen 3 (dense): Llama with a norm of each query and key head.
    Qwen3,
}

impl Architecture {
    /// GGUF's name: `llama`, `qwen2`, `qwen3`.
    pub fn name(self) -> &'static str {
        match self {
            Architecture::Llama => "llama",
            Architecture::Qwen2 => "qwen2",
            Architecture::Qwen3 => "qwen3",
        }
    }

    /// From GGUF's `general.architecture` or Hugging Face's `model_type`.
    fn from_name(name: &str) -> Result<Self> {
        match name {
            "llama" | "mistral" => Ok(Architecture::Llama),
            "qwen2" => Ok(Architecture::Qwen2),
            "qwen3" => Ok(Architecture::Qwen3),
            _ => Err(Error::UnknownArchitecture {
                name: name.to_owned(),
                known: "llama, mistral, qwen2, qwen3",
            }),
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The shape of a decoder-only transformer. All lengths are counts of elements and none is 0.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// The model family.
    pub architecture: Architecture,
    /// Number of blocks.
    pub n_layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Width of a head; not always `hidden / n_heads`.
    pub head_dim: usize,
    /// Inner width of the MLP.
    pub ffn: usize,
    /// Rows of the embedding: every token id is below.
    pub vocab: usize,
    /// The longest context the model was made for, in tokens.
    pub context_length: usize,
    /// Added to the mean square in RMSNorm.
    pub rms_eps: f32,
    /// Rotary position embedding.
    pub rope: RopeConfig,
    /// The output layer is the embedding, transposed.
    pub tied_output: bool,
    /// Biases on q, k and v (`blk.N.attn_{q,k,v}.bias`).
    pub qkv_bias: bool,
    /// RMSNorm of each query and key head (`blk.N.attn_{q,k}_norm.weight`).
    pub qk_norm: bool,
    /// A query sees only this many of the latest positions, its own included.
    pub sliding_window: Option<usize>,
}

/// Bounds far above any model, to refuse damaged files before anything is allocated.
const MAX_LAYERS: usize = 1 << 12;
const MAX_WIDTH: usize = 1 << 22;
const MAX_VOCAB: usize = 1 << 24;
const MAX_CONTEXT: usize = 1 << 30;

impl ModelConfig {
    /// Refuses impossible values. `key` says how the format spells a field, for the messages.
    fn check(&self, key: &dyn Fn(&str) -> String) -> Result<()> {
        let bounds = [
            ("layers", self.n_layers, MAX_LAYERS),
            ("hidden", self.hidden, MAX_WIDTH),
            ("heads", self.n_heads, MAX_WIDTH),
            ("kv_heads", self.n_kv_heads, MAX_WIDTH),
            ("head_dim", self.head_dim, MAX_WIDTH),
            ("ffn", self.ffn, MAX_WIDTH),
            ("vocab", self.vocab, MAX_VOCAB),
            ("context", self.context_length, MAX_CONTEXT),
            ("sliding_window", self.sliding_window.unwrap_or(1), MAX_CONTEXT),
        ];
        for (name, value, max) in bounds {
            expect((1..=max).contains(&value), key(name), value, || format!("1 to {max}"))?;
        }
        let heads = self.n_heads;
        expect(heads.is_multiple_of(self.n_kv_heads), key("kv_heads"), self.n_kv_heads, || {
            format!("a divisor of the {heads} heads")
        })?;
        let width = heads.saturating_mul(self.head_dim);
        expect(width <= MAX_WIDTH, key("head_dim"), self.head_dim, || {
            format!("at most {MAX_WIDTH} elements in all {heads} heads together")
        })?;
        let eps = self.rms_eps;
        expect(eps > 0.0 && eps < 1.0, key("eps"), eps, || "between 0 and 1".to_owned())?;
        let RopeConfig { theta, dims, .. } = self.rope;
        expect(theta.is_finite() && theta > 1.0, key("rope_theta"), theta, || {
            "a number above 1".to_owned()
        })?;
        let head_dim = self.head_dim;
        let dims_ok = dims > 0 && dims <= head_dim && dims.is_multiple_of(2);
        expect(dims_ok, key("rope_dims"), dims, || {
            format!("an even number, at most the head width {head_dim}")
        })?;
        self.check_scaling(key)
    }

    /// A file of more blocks than its configuration says holds another model than it describes.
    fn check_blocks(&self, tensors: &TensorTable, key: &dyn Fn(&str) -> String) -> Result<()> {
        let layers = self.n_layers;
        let further = format!("blk.{layers}.attn_norm.weight");
        expect(tensors.find(&further).is_none(), key("layers"), layers, || {
            format!("all blocks of the file, which has `{further}` too")
        })
    }

    fn check_scaling(&self, key: &dyn Fn(&str) -> String) -> Result<()> {
        let positive = |name: &str, value: f64| {
            expect(value.is_finite() && value > 0.0, key(name), value, || {
                "a positive number".to_owned()
            })
        };
        match &self.rope.scaling {
            RopeScaling::None => Ok(()),
            RopeScaling::Linear { factor } => positive("rope_factor", *factor),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                positive("rope_factor", *factor)?;
                positive("rope_low", *low_freq_factor)?;
                positive("rope_original", (*original_context).into())?;
                expect(
                    high_freq_factor.is_finite() && high_freq_factor > low_freq_factor,
                    key("rope_high"),
                    high_freq_factor,
                    || format!("above the low-frequency factor {low_freq_factor}"),
                )
            }
            RopeScaling::Yarn { factor, original_context, attn_factor, beta_fast, beta_slow } => {
                positive("rope_factor", *factor)?;
                positive("rope_original", (*original_context).into())?;
                positive("rope_attn", *attn_factor)?;
                positive("rope_beta_fast", *beta_fast)?;
                positive("rope_beta_slow", *beta_slow)
            }
            RopeScaling::FreqFactors(factors) => {
                let pairs = self.rope.dims / 2;
                expect(factors.len() == pairs, key("rope_freqs"), factors.len(), || {
                    format!("{pairs} values, one for each rotated pair")
                })?;
                factors.iter().try_for_each(|&factor| positive("rope_freqs", factor.into()))
            }
        }
    }
}

fn expect(
    holds: bool,
    key: String,
    got: impl fmt::Display,
    expected: impl FnOnce() -> String,
) -> Result<()> {
    if holds {
        return Ok(());
    }
    Err(Error::BadValue { key, got: got.to_string(), expected: expected() })
}

/// What the tensors say themselves: no format's metadata is as reliable.
struct TensorFacts {
    has_output: bool,
    qkv_bias: bool,
    qk_norm: bool,
    /// Rows of the embedding.
    vocab: usize,
}

impl TensorFacts {
    fn read(tensors: &TensorTable, architecture: Architecture) -> Result<Self> {
        let has = |name: &str| tensors.find(name).is_some();
        // What these families may carry and the transformer does not compute: silence here
        // would be wrong output.
        for (name, feature) in [
            ("blk.0.attn_output.bias", "a bias on the attention output"),
            ("blk.0.ffn_down.bias", "biases in the MLP"),
            ("blk.0.ffn_gate_inp.weight", "a mixture of experts"),
            ("rope_factors_long.weight", "LongRoPE scaling"),
        ] {
            if has(name) {
                return Err(Error::Unsupported { feature, key: name.to_owned() });
            }
        }
        let qk_norm = has("blk.0.attn_q_norm.weight");
        if architecture == Architecture::Qwen3 && !qk_norm {
            return Err(Error::MissingTensor { name: "blk.0.attn_q_norm.weight".to_owned() });
        }
        let embedding = tensors.get("token_embd.weight")?;
        Ok(Self {
            has_output: has("output.weight"),
            qkv_bias: has("blk.0.attn_q.bias"),
            qk_norm,
            vocab: embedding.shape.first().copied().unwrap_or(0),
        })
    }
}
