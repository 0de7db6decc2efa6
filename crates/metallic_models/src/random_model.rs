//! A model of random weights from a `config.json` alone: for speed and for comparing devices, where
//! what it says does not matter. The same seed gives the same bytes on every machine.
//!
//! Matrices have a standard deviation of `1 / sqrt(columns)`, so that activations neither grow nor
//! fade; norms are 1 and biases small. Not a model for text: its tokenizer is the embedded model's.

use std::thread;

use half::{bf16, f16};
use metallic::tensor::{DType, HostBytes};
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::tensors::{TensorInfo, TensorTable};
use crate::transformer::config::{Architecture, ModelConfig};

/// Elements that one generator makes, a whole number of blocks of any type.
const PIECE: usize = 1 << 16;
/// The standard deviation of biases.
const BIAS: f64 = 0.1;

/// The configuration and the tensors of `config`. Matrices are stored as `dtype`, or as
/// `torch_dtype` says; where rows are no whole blocks of it, as Q8_0, else as f16.
///
/// # Errors
/// As [`ModelConfig::from_hf`]; [`Error::BadValue`] for a type that holds no weights.
pub(crate) fn generate(
    config: &Map<String, Value>,
    seed: u64,
    dtype: Option<DType>,
) -> Result<(ModelConfig, TensorTable)> {
    let (config, outline) = outline(config, dtype)?;
    let bytes = outline.bytes();
    if !is_reservable(bytes) {
        return Err(Error::TooLarge { bytes });
    }
    let mut table = TensorTable::new();
    for tensor in outline.iter().cloned() {
        let bytes = HostBytes::new(weights(seed, &tensor));
        table.push(TensorInfo { bytes, ..tensor })?;
    }
    Ok((config, table))
}

/// As [`generate`], without the weights: tensors have names, types and shapes, and no bytes.
///
/// # Errors
/// As [`generate`].
pub(crate) fn outline(
    config: &Map<String, Value>,
    dtype: Option<DType>,
) -> Result<(ModelConfig, TensorTable)> {
    let dtype = match dtype {
        Some(dtype) => dtype,
        None => stored_type(config),
    };
    if !(dtype.is_float() || dtype.is_quantized()) {
        return Err(Error::BadValue {
            key: "type of the weights".to_owned(),
            got: dtype.to_string(),
            expected: "a float or quantised type".to_owned(),
        });
    }
    let config = ModelConfig::from_hf(config, &family(config)?)?;
    let mut table = TensorTable::new();
    for (name, shape) in tensors(&config) {
        let dtype = match shape[..] {
            [_, cols] => {
                let fits = |dtype: &DType| dtype.row_bytes(cols).is_some();
                let wanted = [dtype, DType::Q8_0, DType::F16];
                wanted.into_iter().find(fits).unwrap_or(DType::F16)
            }
            _ => DType::F32,
        };
        table.push(TensorInfo { name, dtype, shape, bytes: HostBytes::new(Vec::new()) })?;
    }
    Ok((config, table))
}

/// Whether the system gives this many bytes at once: asked before they are filled, since an allocation
/// that fails ends the process.
fn is_reservable(bytes: u64) -> bool {
    let mut probe = Vec::<u8>::new();
    let reserved = usize::try_from(bytes).is_ok_and(|bytes| probe.try_reserve_exact(bytes).is_ok());
    // Otherwise the compiler may leave the allocation out.
    std::hint::black_box(&probe);
    reserved
}

/// `torch_dtype` or its newer name; f16 without either.
fn stored_type(config: &Map<String, Value>) -> DType {
    let named = ["torch_dtype", "dtype"].into_iter().find_map(|key| config.get(key)?.as_str());
    match named {
        Some("float32") => DType::F32,
        Some("bfloat16") => DType::Bf16,
        _ => DType::F16,
    }
}

/// The tensors that a configuration is read with, without their bytes: which families have biases,
/// norms of heads and an output layer of their own.
fn family(config: &Map<String, Value>) -> Result<TensorTable> {
    let number = |key: &str| {
        let value = config.get(key).and_then(Value::as_u64);
        usize::try_from(value.unwrap_or(0)).unwrap_or(usize::MAX)
    };
    let family = config.get("model_type").and_then(Value::as_str).unwrap_or_default();
    let tied = config.get("tie_word_embeddings").and_then(Value::as_bool).unwrap_or(false);
    let mut names = vec!["token_embd.weight"];
    names.extend((!tied).then_some("output.weight"));
    names.extend((family == Architecture::Qwen2.name()).then_some("blk.0.attn_q.bias"));
    names.extend((family == Architecture::Qwen3.name()).then_some("blk.0.attn_q_norm.weight"));
    let mut table = TensorTable::new();
    for name in names {
        table.push(TensorInfo {
            name: name.to_owned(),
            dtype: DType::F16,
            shape: vec![number("vocab_size"), number("hidden_size")],
            bytes: HostBytes::new(Vec::new()),
        })?;
    }
    Ok(table)
}

/// Every tensor of a model, as (name, shape).
pub(crate) fn tensors(config: &ModelConfig) -> Vec<(String, Vec<usize>)> {
    let ModelConfig { hidden, ffn, vocab, head_dim, n_heads, n_kv_heads, .. } = *config;
    let (q, kv) = (n_heads * head_dim, n_kv_heads * head_dim);
    let mut all = vec![("token_embd.weight".to_owned(), vec![vocab, hidden])];
    if !config.tied_output {
        all.push(("output.weight".to_owned(), vec![vocab, hidden]));
    }
    all.push(("output_norm.weight".to_owned(), vec![hidden]));
    for layer in 0..config.n_layers {
        let mut add = |name: &str, shape: &[usize]| {
            all.push((format!("blk.{layer}.{name}"), shape.to_vec()));
        };
        add("attn_norm.weight", &[hidden]);
        for (name, rows) in [("attn_q", q), ("attn_k", kv), ("attn_v", kv)] {
            add(&format!("{name}.weight"), &[rows, hidden]);
            if config.qkv_bias {
                add(&format!("{name}.bias"), &[rows]);
            }
        }
        if config.qk_norm {
            add("attn_q_norm.weight", &[head_dim]);
            add("attn_k_norm.weight", &[head_dim]);
        }
        add("attn_output.weight", &[hidden, q]);
        add("ffn_norm.weight", &[hidden]);
        add("ffn_gate.weight", &[ffn, hidden]);
        add("ffn_up.weight", &[ffn, hidden]);
        add("ffn_down.weight", &[hidden, ffn]);
    }
    all
}

/// The bytes of `tensor`: a matrix, a norm or a bias.
fn weights(seed: u64, tensor: &TensorInfo) -> Vec<u8> {
    let (name, elements) = (&tensor.name, tensor.shape.iter().product());
    match tensor.shape[..] {
        [_, cols] => numbers(hash(seed, name), tensor.dtype, elements, 1.0 / (cols as f64).sqrt()),
        _ if name.ends_with("norm.weight") => 1f32.to_le_bytes().repeat(elements),
        _ => numbers(hash(seed, name), tensor.dtype, elements, BIAS),
    }
}

/// `elements` of `dtype` with this standard deviation, made by all threads.
fn numbers(named: u64, dtype: DType, elements: usize, deviation: f64) -> Vec<u8> {
    let bytes_of = |elements: usize| elements / dtype.block_len() * dtype.block_bytes();
    let mut bytes = vec![0; bytes_of(elements)];
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let pieces = elements.div_ceil(PIECE).max(1);
    let share = pieces.div_ceil(workers);
    thread::scope(|scope| {
        for (worker, part) in bytes.chunks_mut(bytes_of(share * PIECE)).enumerate() {
            scope.spawn(move || {
                for (index, piece) in part.chunks_mut(bytes_of(PIECE)).enumerate() {
                    let number = (worker * share + index) as u64;
                    let mut random = Random(named ^ number.wrapping_mul(STEP));
                    fill(&mut random, dtype, deviation, piece);
                }
            });
        }
    });
    bytes
}

/// FNV-1a of a name, on from a seed.
fn hash(seed: u64, name: &str) -> u64 {
    name.bytes().fold(seed ^ 0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The step of SplitMix64's counter.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators").
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Nearly standard normal: the sum of four uniforms, scaled to variance 1.
    fn normal(&mut self) -> f32 {
        let bits = self.bits();
        let sum: u64 = (0..4).map(|lane| (bits >> (16 * lane)) & 0xffff).sum();
        (sum as f32 / 65535.0 - 2.0) * 1.732_050_8
    }
}

/// Where the f16 factors of a block stand, each with its share of the deviation. A block's codes are
/// random bits; the shares make the values' deviation about 1, and their mean about 0.
fn factors(dtype: DType) -> &'static [(usize, f64)] {
    match dtype {
        DType::Q8_0 | DType::Iq4Nl => &[(0, 1.0 / 74.0)],
        DType::Q4_0 => &[(0, 1.0 / 4.6)],
        DType::Q4_1 => &[(0, 1.0 / 4.6), (2, -7.5 / 4.6)],
        DType::Q5_0 => &[(0, 1.0 / 9.2)],
        DType::Q5_1 => &[(0, 1.0 / 9.2), (2, -15.5 / 9.2)],
        DType::Q2K => &[(80, 0.07), (82, 0.105)],
        DType::Q3K => &[(108, 0.025)],
        DType::Q4K => &[(0, 0.0047), (2, 0.035)],
        DType::Q5K => &[(0, 0.0023), (2, 0.035)],
        DType::Q6K => &[(208, 0.00073)],
        DType::Iq4Xs => &[(0, 0.00073)],
        DType::F32 | DType::F16 | DType::Bf16 | DType::I32 | DType::I64 | DType::Bool => &[],
    }
}

fn fill(random: &mut Random, dtype: DType, deviation: f64, bytes: &mut [u8]) {
    let size = deviation as f32;
    match dtype {
        DType::F32 => bytes
            .chunks_exact_mut(4)
            .for_each(|to| to.copy_from_slice(&(size * random.normal()).to_le_bytes())),
        DType::Bf16 => bytes.chunks_exact_mut(2).for_each(|to| {
            to.copy_from_slice(&bf16::from_f32(size * random.normal()).to_le_bytes());
        }),
        DType::F16 => bytes.chunks_exact_mut(2).for_each(|to| {
            to.copy_from_slice(&f16::from_f32(size * random.normal()).to_le_bytes());
        }),
        _ => {
            bytes.chunks_mut(8).for_each(|to| {
                let bits = random.bits().to_le_bytes();
                to.copy_from_slice(&bits[..to.len()]);
            });
            for block in bytes.chunks_exact_mut(dtype.block_bytes()) {
                for &(at, share) in factors(dtype) {
                    let factor = f16::from_f64(share * deviation);
                    block[at..at + 2].copy_from_slice(&factor.to_le_bytes());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(tied: bool) -> Map<String, Value> {
        let text = format!(
            r#"{{"model_type": "qwen2", "hidden_size": 256, "num_attention_heads": 4,
                "num_key_value_heads": 2, "intermediate_size": 512, "num_hidden_layers": 2,
                "vocab_size": 1000, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6,
                "tie_word_embeddings": {tied}, "torch_dtype": "bfloat16"}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn a_seed_is_a_model() {
        let (config_read, first) = generate(&config(false), 7, None).unwrap();
        assert!(config_read.qkv_bias && !config_read.tied_output);
        let (_, second) = generate(&config(false), 7, None).unwrap();
        let (_, other) = generate(&config(false), 8, None).unwrap();
        for (a, b) in first.iter().zip(second.iter()) {
            assert_eq!((&a.name, &*a.bytes), (&b.name, &*b.bytes));
        }
        let q = |table: &TensorTable| table.get("blk.0.attn_q.weight").unwrap().bytes.to_vec();
        assert_ne!(q(&first), q(&other));
        assert_eq!(first.get("output.weight").unwrap().dtype, DType::Bf16);
        let (_, tied) = generate(&config(true), 7, None).unwrap();
        assert!(tied.find("output.weight").is_none());
    }

    #[test]
    fn weights_beyond_the_memory_are_an_error_and_their_outline_is_none() {
        let mut config = config(true);
        for key in ["hidden_size", "intermediate_size"] {
            config.insert(key.to_owned(), (1u64 << 22).into());
        }
        config.insert("num_hidden_layers".to_owned(), 4096.into());
        let error = generate(&config, 0, None).unwrap_err();
        assert!(matches!(error, Error::TooLarge { bytes } if bytes > 1 << 50), "{error}");
        let (_, outline) = outline(&config, None).unwrap();
        let down = outline.get("blk.4095.ffn_down.weight").unwrap();
        assert_eq!((down.byte_len(), down.bytes.len()), (1 << 45, 0));
    }

    #[test]
    fn numbers_have_the_deviation_they_should() {
        let (_, table) = generate(&config(true), 1, Some(DType::F32)).unwrap();
        let values: Vec<f32> = table
            .get("token_embd.weight")
            .unwrap()
            .bytes
            .chunks_exact(4)
            .map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]]))
            .collect();
        let mean_square = values.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
        let deviation = (mean_square / values.len() as f64).sqrt();
        assert!((deviation * 16.0 - 1.0).abs() < 0.02, "{deviation}");
        for dtype in DType::ALL.into_iter().filter(|dtype| dtype.is_quantized()) {
            let (_, table) = generate(&config(true), 1, Some(dtype)).unwrap();
            assert_eq!(table.get("blk.1.ffn_down.weight").unwrap().dtype, dtype);
        }
        assert!(generate(&config(true), 1, Some(DType::I32)).is_err());
    }
}
