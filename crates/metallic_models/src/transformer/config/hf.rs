//! [`ModelConfig`] from a Hugging Face `config.json`.

use serde_json::{Map, Value};

use super::{Architecture, ModelConfig, TensorFacts, expect};
use crate::error::{Error, Result};
use crate::tensors::TensorTable;
use crate::transformer::rope::{RopeConfig, RopePairing, RopeScaling, yarn_attn_factor};

/// The window of a model that has one and does not say how long (`null` says that it has none).
const DEFAULT_WINDOW: usize = 4096;
/// Qwen's `max_window_layers` where the file has none.
const DEFAULT_FULL_LAYERS: usize = 28;

impl ModelConfig {
    /// Reads and checks `config.json`, given the folder's tensors under canonical names.
    ///
    /// # Errors
    /// Names the key that is missing, of a wrong type or impossible, or the unsupported feature.
    pub fn from_hf(config: &Map<String, Value>, tensors: &TensorTable) -> Result<Self> {
        let keys = Keys { object: config, path: "" };
        let architecture = Architecture::from_name(keys.str("model_type")?)?;
        let facts = TensorFacts::read(tensors, architecture)?;
        if let Some(activation) = keys.find_str("hidden_act")?
            && activation != "silu"
        {
            return Err(Error::BadValue {
                key: "hidden_act".to_owned(),
                got: format!("`{activation}`"),
                expected: "`silu`, the only activation supported".to_owned(),
            });
        }
        let hidden = keys.length("hidden_size")?;
        let n_heads = keys.length("num_attention_heads")?;
        let head_dim = match keys.find_length("head_dim")? {
            Some(head_dim) => head_dim,
            None => {
                let divides = n_heads > 0 && hidden.is_multiple_of(n_heads);
                expect(divides, "num_attention_heads".to_owned(), n_heads, || {
                    format!("a divisor of the width {hidden}")
                })?;
                hidden / n_heads
            }
        };
        let vocab = keys.length("vocab_size")?;
        expect(vocab == facts.vocab, "vocab_size".to_owned(), vocab, || {
            format!("the {} rows of the embedding", facts.vocab)
        })?;
        let n_layers = keys.length("num_hidden_layers")?;
        let context_length = keys.length("max_position_embeddings")?;
        let config = Self {
            architecture,
            n_layers,
            hidden,
            n_heads,
            n_kv_heads: keys.find_length("num_key_value_heads")?.unwrap_or(n_heads),
            head_dim,
            ffn: keys.length("intermediate_size")?,
            vocab,
            context_length,
            rms_eps: keys.find_f64("rms_norm_eps")?.unwrap_or(1e-6) as f32,
            rope: rope(&keys, head_dim, context_length)?,
            tied_output: tied_output(&keys, facts.has_output)?,
            qkv_bias: facts.qkv_bias,
            qk_norm: facts.qk_norm,
            sliding_window: sliding_window(&keys, n_layers)?,
        };
        config.check(&|field| key_of(field).to_owned())?;
        config.check_blocks(tensors, &|field| key_of(field).to_owned())?;
        tensors.get_shaped("token_embd.weight", &[config.vocab, config.hidden])?;
        Ok(config)
    }
}

/// The key behind a field of the configuration.
fn key_of(field: &str) -> &str {
    match field {
        "layers" => "num_hidden_layers",
        "hidden" => "hidden_size",
        "heads" => "num_attention_heads",
        "kv_heads" => "num_key_value_heads",
        "ffn" => "intermediate_size",
        "vocab" => "vocab_size",
        "context" => "max_position_embeddings",
        "eps" => "rms_norm_eps",
        "rope_dims" => "partial_rotary_factor",
        "rope_factor" => "rope_scaling.factor",
        "rope_low" => "rope_scaling.low_freq_factor",
        "rope_high" => "rope_scaling.high_freq_factor",
        "rope_original" => "rope_scaling.original_max_position_embeddings",
        "rope_attn" => "rope_scaling.attention_factor",
        "rope_beta_fast" => "rope_scaling.beta_fast",
        "rope_beta_slow" => "rope_scaling.beta_slow",
        other => other,
    }
}

/// Whether the output layer is the embedding. What the file says counts; where it says nothing, whether
/// it has an output layer.
fn tied_output(keys: &Keys<'_>, has_output: bool) -> Result<bool> {
    let said = keys.find_bool("tie_word_embeddings")?;
    expect(said != Some(false) || has_output, keys.key("tie_word_embeddings"), "false", || {
        "true in a folder without `lm_head.weight`: the output layer is missing".to_owned()
    })?;
    Ok(said.unwrap_or(!has_output))
}

fn rope(keys: &Keys<'_>, head_dim: usize, context_length: usize) -> Result<RopeConfig> {
    // Newer versions of `transformers` write everything into `rope_parameters`.
    let nested = match keys.find_object("rope_parameters")? {
        Some(object) => Some(Keys { object, path: "rope_parameters." }),
        None => {
            keys.find_object("rope_scaling")?.map(|object| Keys { object, path: "rope_scaling." })
        }
    };
    let anywhere = |name: &str| match nested.as_ref().map(|keys| keys.find_f64(name)) {
        Some(Ok(None)) | None => keys.find_f64(name),
        Some(found) => found,
    };
    let share = anywhere("partial_rotary_factor")?.unwrap_or(1.0);
    expect((0.0..=1.0).contains(&share), "partial_rotary_factor".to_owned(), share, || {
        "between 0 and 1".to_owned()
    })?;
    // Named here: what comes of both is neither key's value.
    let whole = head_dim.is_multiple_of(2) || share < 1.0;
    expect(whole, "head_dim".to_owned(), head_dim, || "an even number".to_owned())?;
    Ok(RopeConfig {
        theta: anywhere("rope_theta")?.unwrap_or(10_000.0),
        dims: (head_dim as f64 * share) as usize,
        pairing: RopePairing::Half,
        scaling: match &nested {
            Some(keys) => scaling(keys, context_length)?,
            None => RopeScaling::None,
        },
    })
}

fn scaling(keys: &Keys<'_>, context_length: usize) -> Result<RopeScaling> {
    let kind = match keys.find_str("rope_type")? {
        Some(kind) => kind,
        None => keys.find_str("type")?.unwrap_or("default"),
    };
    let original = || -> Result<u32> {
        let key = "original_max_position_embeddings";
        let original = keys.find_length(key)?.unwrap_or(context_length);
        original.try_into().map_err(|_| keys.wrong(key, "a context length", original.to_string()))
    };
    match kind {
        "default" => Ok(RopeScaling::None),
        "linear" => Ok(RopeScaling::Linear { factor: keys.f64("factor")? }),
        "llama3" => Ok(RopeScaling::Llama3 {
            factor: keys.f64("factor")?,
            low_freq_factor: keys.f64("low_freq_factor")?,
            high_freq_factor: keys.f64("high_freq_factor")?,
            original_context: original()?,
        }),
        "yarn" => {
            if keys.find_bool("truncate")? == Some(false) {
                let feature = "YaRN without whole correction bounds";
                return Err(Error::Unsupported { feature, key: keys.key("truncate") });
            }
            let factor = keys.f64("factor")?;
            let scales = (keys.find_f64("mscale")?, keys.find_f64("mscale_all_dim")?);
            let attn_factor = match (keys.find_f64("attention_factor")?, scales) {
                (Some(given), _) => given,
                // 0.1 m ln(factor) + 1 for both, as DeepSeek has it.
                (None, (Some(m), Some(all))) if m != 0.0 && all != 0.0 && factor > 1.0 => {
                    (0.1 * m * factor.ln() + 1.0) / (0.1 * all * factor.ln() + 1.0)
                }
                (None, _) => yarn_attn_factor(factor),
            };
            Ok(RopeScaling::Yarn {
                factor,
                original_context: original()?,
                attn_factor,
                beta_fast: keys.find_f64("beta_fast")?.unwrap_or(32.0),
                beta_slow: keys.find_f64("beta_slow")?.unwrap_or(1.0),
            })
        }
        other => Err(Error::BadValue {
            key: keys.key("rope_type"),
            got: format!("`{other}`"),
            expected: "one of default, linear, llama3, yarn".to_owned(),
        }),
    }
}

/// The window as Hugging Face's class of this model type understands its keys.
fn sliding_window(keys: &Keys<'_>, n_layers: usize) -> Result<Option<usize>> {
    let window = match keys.find_length("sliding_window")? {
        None if !keys.object.contains_key("sliding_window") => Some(DEFAULT_WINDOW),
        given => given,
    };
    match keys.str("model_type")? {
        // Llama has no window, whatever the file says.
        "llama" => return Ok(None),
        "mistral" => return Ok(window),
        // Qwen's window has a switch that defaults to off.
        _ if keys.find_bool("use_sliding_window")? != Some(true) => return Ok(None),
        _ => {}
    }
    let Some(window) = window else { return Ok(None) };
    let full_layers = match keys.object.get("layer_types").and_then(Value::as_array) {
        Some(types) => types.iter().filter(|kind| *kind == "full_attention").count(),
        // Qwen: the layers below `max_window_layers` see everything.
        None => keys.find_length("max_window_layers")?.unwrap_or(DEFAULT_FULL_LAYERS).min(n_layers),
    };
    match full_layers {
        0 => Ok(Some(window)),
        full if full >= n_layers => Ok(None),
        _ => Err(Error::Unsupported {
            feature: "a sliding window in some layers only",
            key: "sliding_window".to_owned(),
        }),
    }
}

/// A JSON object and where it lies, for messages. `null` counts as absent.
struct Keys<'a> {
    object: &'a Map<String, Value>,
    path: &'static str,
}

impl<'a> Keys<'a> {
    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.path)
    }

    fn find<T>(
        &self,
        name: &str,
        expected: &'static str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        match self.object.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match convert(value) {
                Some(converted) => Ok(Some(converted)),
                None => {
                    let short: String = value.to_string().chars().take(60).collect();
                    Err(self.wrong(name, expected, short))
                }
            },
        }
    }

    fn wrong(&self, name: &str, expected: &'static str, got: String) -> Error {
        Error::WrongType { key: self.key(name), expected, got }
    }

    fn required<T>(&self, name: &str, found: Option<T>) -> Result<T> {
        found.ok_or_else(|| Error::MissingKey { key: self.key(name) })
    }

    fn find_length(&self, name: &str) -> Result<Option<usize>> {
        self.find(name, "a whole number", |value| value.as_u64()?.try_into().ok())
    }

    fn find_f64(&self, name: &str) -> Result<Option<f64>> {
        self.find(name, "a number", Value::as_f64)
    }

    fn find_bool(&self, name: &str) -> Result<Option<bool>> {
        self.find(name, "true or false", Value::as_bool)
    }

    fn find_str(&self, name: &str) -> Result<Option<&'a str>> {
        self.find(name, "a string", Value::as_str)
    }

    fn find_object(&self, name: &str) -> Result<Option<&'a Map<String, Value>>> {
        self.find(name, "an object", Value::as_object)
    }

    fn length(&self, name: &str) -> Result<usize> {
        self.required(name, self.find_length(name)?)
    }

    fn f64(&self, name: &str) -> Result<f64> {
        self.required(name, self.find_f64(name)?)
    }

    fn str(&self, name: &str) -> Result<&'a str> {
        self.required(name, self.find_str(name)?)
    }
}
