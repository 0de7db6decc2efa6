//! [`ModelConfig`] from GGUF metadata.

use metallic::tensor::DType;

use super::{Architecture, ModelConfig, TensorFacts, expect};
use crate::error::{Error, Result, TensorProblem};
use crate::gguf::{GgufFile, Metadata};
use crate::tensors::TensorTable;
use crate::transformer::rope::{RopeConfig, RopePairing, RopeScaling, yarn_attn_factor};

impl ModelConfig {
    /// Reads and checks the configuration of a GGUF file.
    ///
    /// # Errors
    /// Names the key that is missing, of a wrong type or impossible, or the unsupported feature.
    pub fn from_gguf(file: &GgufFile) -> Result<Self> {
        let architecture = Architecture::from_name(file.architecture()?)?;
        let keys = Keys { metadata: file.metadata(), prefix: architecture.name() };
        let facts = TensorFacts::read(file.tensor_table(), architecture)?;
        for (name, feature) in [
            ("expert_count", "a mixture of experts"),
            ("rope.dimension_sections", "sectioned RoPE"),
        ] {
            if keys.metadata.get(&keys.key(name)).is_some_and(|value| value.as_u64() != Some(0)) {
                return Err(Error::Unsupported { feature, key: keys.key(name) });
            }
        }

        let hidden = keys.length("embedding_length")?;
        let n_heads = keys.length("attention.head_count")?;
        let head_dim = match keys.find_length("attention.key_length")? {
            Some(head_dim) => head_dim,
            None => {
                let key = keys.key("attention.head_count");
                let divides = n_heads > 0 && hidden.is_multiple_of(n_heads);
                expect(divides, key, n_heads, || format!("a divisor of the width {hidden}"))?;
                hidden / n_heads
            }
        };
        let value_length = keys.find_length("attention.value_length")?.unwrap_or(head_dim);
        expect(value_length == head_dim, keys.key("attention.value_length"), value_length, || {
            format!("the key length {head_dim}")
        })?;
        if let Some(vocab) = keys.find_length("vocab_size")? {
            expect(vocab == facts.vocab, keys.key("vocab_size"), vocab, || {
                format!("the {} rows of token_embd.weight", facts.vocab)
            })?;
        }
        let context_length = keys.length("context_length")?;
        let dims = keys.find_length("rope.dimension_count")?.unwrap_or(head_dim);
        let config = Self {
            architecture,
            n_layers: keys.length("block_count")?,
            hidden,
            n_heads,
            n_kv_heads: keys.find_length("attention.head_count_kv")?.unwrap_or(n_heads),
            head_dim,
            ffn: keys.length("feed_forward_length")?,
            vocab: facts.vocab,
            context_length,
            rms_eps: keys.metadata.f32(&keys.key("attention.layer_norm_rms_epsilon"))?,
            rope: RopeConfig {
                theta: keys.find_f64("rope.freq_base")?.unwrap_or(10_000.0),
                dims,
                // The converter permutes the rows of q and k of `llama` models.
                pairing: match architecture {
                    Architecture::Llama => RopePairing::Interleaved,
                    Architecture::Qwen2 | Architecture::Qwen3 => RopePairing::Half,
                },
                scaling: keys.scaling(file.tensor_table(), context_length)?,
            },
            tied_output: !facts.has_output,
            qkv_bias: facts.qkv_bias,
            qk_norm: facts.qk_norm,
            sliding_window: keys.find_length("attention.sliding_window")?.filter(|&n| n > 0),
        };
        config.check(&|name| keys.key_of(name))?;
        config.check_blocks(file.tensor_table(), &|name| keys.key_of(name))?;
        file.tensor_table().get_shaped("token_embd.weight", &[config.vocab, config.hidden])?;
        Ok(config)
    }
}

/// Keys below the architecture's prefix.
struct Keys<'a> {
    metadata: &'a Metadata,
    prefix: &'static str,
}

impl Keys<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    /// The key behind a field of the configuration.
    fn key_of(&self, field: &str) -> String {
        self.key(match field {
            "layers" => "block_count",
            "hidden" => "embedding_length",
            "heads" => "attention.head_count",
            "kv_heads" => "attention.head_count_kv",
            "head_dim" => "attention.key_length",
            "ffn" => "feed_forward_length",
            "context" => "context_length",
            "sliding_window" => "attention.sliding_window",
            "eps" => "attention.layer_norm_rms_epsilon",
            "rope_theta" => "rope.freq_base",
            "rope_dims" => "rope.dimension_count",
            "rope_factor" => "rope.scaling.factor",
            "rope_original" => "rope.scaling.original_context_length",
            "rope_attn" => "rope.scaling.attn_factor",
            "rope_beta_fast" => "rope.scaling.yarn_beta_fast",
            "rope_beta_slow" => "rope.scaling.yarn_beta_slow",
            "rope_freqs" => return "rope_freqs.weight".to_owned(),
            "vocab" => return "token_embd.weight".to_owned(),
            other => other,
        })
    }

    fn length(&self, name: &str) -> Result<usize> {
        Ok(self.metadata.u32(&self.key(name))? as usize)
    }

    fn find_length(&self, name: &str) -> Result<Option<usize>> {
        Ok(self.metadata.find_u32(&self.key(name))?.map(|length| length as usize))
    }

    fn find_f64(&self, name: &str) -> Result<Option<f64>> {
        Ok(self.metadata.find_f32(&self.key(name))?.map(f64::from))
    }

    fn scaling(&self, tensors: &TensorTable, context_length: usize) -> Result<RopeScaling> {
        let key = self.key("rope.scaling.type");
        let kind = self.metadata.find_str(&key)?;
        // `rope.scale_linear` is what old files have instead.
        let factor = match self.find_f64("rope.scaling.factor")? {
            Some(factor) => Some(factor),
            None => self.find_f64("rope.scale_linear")?,
        };
        let freq_factors = tensors.find("rope_freqs.weight");
        match (kind, factor) {
            (Some("yarn"), Some(factor)) => {
                let original =
                    self.metadata.find_u32(&self.key("rope.scaling.original_context_length"))?;
                let or =
                    |name: &str, default| Ok::<_, Error>(self.find_f64(name)?.unwrap_or(default));
                Ok(RopeScaling::Yarn {
                    factor,
                    original_context: match original {
                        Some(original) => original,
                        None => context_length.try_into().unwrap_or(u32::MAX),
                    },
                    attn_factor: or("rope.scaling.attn_factor", 1.0)? * yarn_attn_factor(factor),
                    beta_fast: or("rope.scaling.yarn_beta_fast", 32.0)?,
                    beta_slow: or("rope.scaling.yarn_beta_slow", 1.0)?,
                })
            }
            (Some("yarn"), None) => Err(Error::MissingKey { key: self.key("rope.scaling.factor") }),
            (None | Some("none" | "linear"), _) if let Some(tensor) = freq_factors => {
                if tensor.dtype != DType::F32 {
                    let problem = TensorProblem::DType { got: tensor.dtype, expected: "f32" };
                    return Err(Error::BadTensor { tensor: tensor.name.clone(), problem });
                }
                let (chunks, _) = tensor.bytes.as_chunks::<4>();
                Ok(RopeScaling::FreqFactors(
                    chunks.iter().map(|&b| f32::from_le_bytes(b)).collect(),
                ))
            }
            // A file without a type scales linearly if it has a factor; 0 and 1 mean none.
            (None | Some("linear"), Some(factor)) if factor != 0.0 && factor != 1.0 => {
                Ok(RopeScaling::Linear { factor })
            }
            (None | Some("none" | "linear"), _) => Ok(RopeScaling::None),
            (Some(_), _) => Err(Error::Unsupported { feature: "another RoPE scaling", key }),
        }
    }
}
