//! Models from every source: the embedded file, GGUF files and Hugging Face folders on disk.

use std::fs;
use std::path::Path;

use metallic::tensor::{DType, HostBytes};
use metallic_models::chat_template::{ChatMessage, ChatOptions};
use metallic_models::gguf::GgufWriter;
use metallic_models::source::ModelFiles;
use metallic_models::transformer::config::{Architecture, ModelConfig};
use metallic_models::transformer::rope::{RopePairing, RopeScaling};
use metallic_models::{Error, tiny};
use serde_json::{Value, json};

const HF: [(&str, &[u8]); 4] = [
    ("config.json", include_bytes!("../../tiny/hf/config.json")),
    ("generation_config.json", include_bytes!("../../tiny/hf/generation_config.json")),
    ("tokenizer.json", include_bytes!("../../tiny/hf/tokenizer.json")),
    ("tokenizer_config.json", include_bytes!("../../tiny/hf/tokenizer_config.json")),
];

fn open(path: &Path) -> metallic_models::Result<ModelFiles> {
    ModelFiles::open(path, &|path| Ok(HostBytes::new(fs::read(path)?)))
}

/// A safetensors file of zeros.
fn safetensors(tensors: &[(&str, &str, &[usize])]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut end = 0;
    for (name, dtype, shape) in tensors {
        let start = end;
        end += shape.iter().product::<usize>() * if dtype.ends_with("32") { 4 } else { 2 };
        let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]});
        header.insert((*name).to_owned(), entry);
    }
    let header = serde_json::to_vec(&header).unwrap();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    file.resize(file.len() + end, 0);
    file
}

const EMBEDDING: (&str, &str, &[usize]) = ("model.embed_tokens.weight", "F16", &[4096, 192]);
const QUERY: (&str, &str, &[usize]) = ("model.layers.0.self_attn.q_proj.bias", "F32", &[192]);

/// The tiny model's folder with other weights, and `edit` applied to its `config.json`.
fn folder(weights: &[(&str, Vec<u8>)], edit: impl FnOnce(&mut Value)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in HF {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    let mut config: Value = serde_json::from_slice(HF[0].1).unwrap();
    edit(&mut config);
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    for (name, bytes) in weights {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    folder
}

fn single(edit: impl FnOnce(&mut Value)) -> metallic_models::Result<ModelFiles> {
    let weights = [("model.safetensors", safetensors(&[EMBEDDING, QUERY]))];
    open(folder(&weights, edit).path())
}

fn hf_config(edit: impl FnOnce(&mut Value)) -> ModelConfig {
    single(edit).unwrap().config().clone()
}

fn hf_error(edit: impl FnOnce(&mut Value)) -> String {
    single(edit).unwrap_err().to_string()
}

/// A GGUF file of two heads of 8, with a `[4, 16]` embedding.
fn gguf(architecture: &str) -> GgufWriter {
    let key = |name: &str| format!("{architecture}.{name}");
    GgufWriter::new(architecture)
        .with(&key("block_count"), 1u32)
        .with(&key("context_length"), 64u32)
        .with(&key("embedding_length"), 16u32)
        .with(&key("feed_forward_length"), 32u32)
        .with(&key("attention.head_count"), 2u32)
        .with(&key("attention.layer_norm_rms_epsilon"), 1e-5f32)
        .tensor_f32("token_embd.weight", &[4, 16], &[0.0; 64])
}

fn gguf_config(writer: &GgufWriter) -> metallic_models::Result<ModelConfig> {
    let model = ModelFiles::from_gguf_bytes(HostBytes::new(writer.finish()), "x")?;
    Ok(model.config().clone())
}

#[test]
fn the_embedded_model_describes_itself() {
    let model = tiny::model().unwrap();
    let config = model.config();
    assert_eq!(config.architecture, Architecture::Qwen2);
    assert_eq!((config.n_layers, config.hidden, config.ffn, config.vocab), (6, 192, 512, 4096));
    assert_eq!((config.n_heads, config.n_kv_heads, config.head_dim), (3, 1, 64));
    assert!(config.tied_output && config.qkv_bias && !config.qk_norm);
    assert_eq!(config.rope.pairing, RopePairing::Half);
    assert_eq!((model.name(), model.format()), ("Metallic Tiny", "gguf"));
    assert_eq!(model.quantization(), "Q8_0");
    assert_eq!(model.file_bytes(), tiny::GGUF.len() as u64);
    assert_eq!(model.parameters(), 3_150_144);
    model.tensor_shaped("blk.5.ffn_down.weight", &[192, 512]).unwrap();
    let error = model.tensor_shaped("blk.5.ffn_down.weight", &[512, 192]).unwrap_err();
    assert!(error.to_string().contains("[192, 512]"), "{error}");
}

#[test]
fn a_folder_gives_the_same_model_as_its_gguf() {
    let weights = [("model.safetensors", safetensors(&[EMBEDDING, QUERY]))];
    let folder = folder(&weights, |_| ());
    let model = open(folder.path()).unwrap();
    assert_eq!(model.config(), tiny::model().unwrap().config());
    assert_eq!((model.format(), model.quantization()), ("safetensors", "F16".to_owned()));
    assert_eq!(model.tensor("token_embd.weight").unwrap().dtype, DType::F16);
    assert_eq!(model.tensor("blk.0.attn_q.bias").unwrap().bytes.len(), 4 * 192);
    let tokenizer = model.tokenizer().unwrap();
    assert_eq!(tokenizer.special().eog, [4093, 4095]);
    assert_eq!(tokenizer.eos(), Some(4095));
    let template = model.chat_template(&tokenizer).unwrap();
    let text = template.render(&[ChatMessage::new("user", "a")], ChatOptions::default()).unwrap();
    assert!(text.starts_with("<|im_start|>user\na"));

    fs::write(folder.path().join("chat_template.jinja"), "own").unwrap();
    let model = open(folder.path()).unwrap();
    assert_eq!(model.chat_template(&tokenizer).unwrap().source(), "own");
}

#[test]
fn shards_are_found_through_their_index() {
    let index = |shard: &str| {
        let map = json!({"weight_map": {EMBEDDING.0: "a.safetensors", QUERY.0: shard}});
        ("model.safetensors.index.json", map.to_string().into_bytes())
    };
    let first = || ("a.safetensors", safetensors(&[EMBEDDING]));
    let second = || ("b.safetensors", safetensors(&[QUERY]));
    let whole = folder(&[index("b.safetensors"), first(), second()], |_| ());
    assert_eq!(open(whole.path()).unwrap().tensors().as_slice().len(), 2);
    let error = |weights: &[(&str, Vec<u8>)]| open(folder(weights, |_| ()).path()).unwrap_err();
    let missing = error(&[index("b.safetensors"), first()]);
    assert!(matches!(missing, Error::MissingShard { ref shard, .. } if shard == "b.safetensors"));
    let absent = error(&[index("a.safetensors"), first()]);
    assert!(matches!(absent, Error::MissingTensor { ref name } if name == "blk.0.attn_q.bias"));
    let twice = error(&[index("b.safetensors"), first(), ("b.safetensors", first().1)]);
    assert!(twice.to_string().contains("occurs twice"), "{twice}");
    for outside in ["../b.safetensors", "/b.safetensors", ".."] {
        assert!(matches!(error(&[index(outside), first()]), Error::BadValue { .. }));
    }
}

#[test]
fn damaged_safetensors_are_refused() {
    let error = |bytes: Vec<u8>| {
        let folder = folder(&[("model.safetensors", bytes)], |_| ());
        open(folder.path()).unwrap_err().to_string()
    };
    let good = safetensors(&[EMBEDDING]);
    for length in [0, 7, 8, 50, good.len() - 1] {
        let message = error(good[..length].to_vec());
        assert!(message.contains("download is probably incomplete"), "{length}: {message}");
        assert!(message.contains("model.safetensors"), "{message}");
    }
    let other = error(safetensors(&[("x", "I32", &[2])]));
    assert!(other.contains("tensor `x`: its type is i32, which is not"), "{other}");
    assert!(error(safetensors(&[("x", "F32", &[])])).contains("0 axes"));
    let huge = br#"{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,18446744073709551615]}}"#;
    let mut file = (huge.len() as u64).to_le_bytes().to_vec();
    file.extend(huge);
    assert!(error(file).contains("ends at byte"));
    assert!(error(vec![0xff; 64]).contains("safetensors header"));
}

#[test]
fn a_path_without_a_model_says_what_was_looked_for() {
    let folder = tempfile::tempdir().unwrap();
    let error = open(folder.path()).unwrap_err();
    assert!(matches!(error, Error::NoModel { .. }));
    assert!(error.to_string().contains("a .gguf file, or config.json"), "{error}");
    assert!(matches!(open(&folder.path().join("no.gguf")), Err(Error::Io { .. })));

    fs::write(folder.path().join("one.gguf"), gguf("llama").finish()).unwrap();
    assert_eq!(open(folder.path()).unwrap().name(), "one");
    fs::write(folder.path().join("two.gguf"), b"GGUF").unwrap();
    let error = open(folder.path()).unwrap_err();
    assert!(error.to_string().contains("2 GGUF files (one.gguf, two.gguf)"), "{error}");
    let error = open(&folder.path().join("two.gguf")).unwrap_err();
    assert!(error.to_string().contains("two.gguf`: the file ends"), "{error}");

    fs::write(folder.path().join("config.json"), "{}").unwrap();
    assert!(open(folder.path()).unwrap_err().to_string().contains("tokenizer.json"));
    fs::write(folder.path().join("config.json"), "[]").unwrap();
    let error = open(folder.path()).unwrap_err().to_string();
    assert!(error.contains(&folder.path().join("config.json").display().to_string()), "{error}");
    // One file of the folder instead of the folder.
    for name in ["config.json", "model.safetensors"] {
        fs::write(folder.path().join(name), "{}").unwrap();
        let error = open(&folder.path().join(name)).unwrap_err().to_string();
        let advice = format!("give the folder: {}", folder.path().display());
        assert!(error.ends_with(&advice), "{error}");
    }
}

#[test]
fn weights_of_another_scheme_are_named() {
    let with = |key: &'static str, value: Value| hf_error(|config| config[key] = value);
    let awq = with("quantization_config", json!({"quant_method": "awq", "bits": 4}));
    assert!(awq.contains("AWQ, 4 bits (`quantization_config`"), "{awq}");
    assert!(awq.contains("or a GGUF of it"), "{awq}");
    let mlx = with("quantization", json!({"group_size": 64, "bits": 4}));
    assert!(mlx.contains("MLX, 4 bits (`quantization`"), "{mlx}");
    assert!(with("quantization_config", json!({"quant_method": "fp8"})).contains("FP8 ("));
    assert!(single(|config| config["quantization_config"] = Value::Null).is_ok());
}

#[test]
fn an_output_layer_that_is_wanted_must_be_there() {
    let error = hf_error(|config| config["tie_word_embeddings"] = json!(false));
    assert!(error.contains("tie_word_embeddings") && error.contains("lm_head.weight"), "{error}");
    assert!(hf_config(|config| config["tie_word_embeddings"] = Value::Null).tied_output);
}

#[test]
fn tensors_that_nothing_reads_are_known() {
    assert_eq!(tiny::model().unwrap().unused_tensors(), [""; 0]);
    let odd: (&str, &str, &[usize]) = ("model.layers.0.mystery.weight", "F16", &[2]);
    let old: (&str, &str, &[usize]) =
        ("model.layers.0.self_attn.rotary_emb.inv_freq", "F32", &[32]);
    let weights = [("model.safetensors", safetensors(&[EMBEDDING, QUERY, odd, old]))];
    let model = open(folder(&weights, |_| ()).path()).unwrap();
    assert_eq!(model.unused_tensors(), ["model.layers.0.mystery.weight"]);
}

#[test]
fn hugging_face_rope_settings_are_read() {
    let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192});
    let config = hf_config(|config| config["rope_scaling"] = llama3);
    let expected = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_context: 8192,
    };
    assert_eq!(config.rope.scaling, expected);
    let yarn = json!({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256});
    let config = hf_config(|config| config["rope_scaling"] = yarn);
    assert!((config.rope.attention_factor() - 1.138_629_4).abs() < 1e-6);
    let parameters = json!({"rope_type": "linear", "factor": 2.0, "rope_theta": 5000.0});
    let config = hf_config(|config| config["rope_parameters"] = parameters);
    assert_eq!(config.rope.scaling, RopeScaling::Linear { factor: 2.0 });
    assert_eq!(config.rope.theta, 5000.0);
    let config = hf_config(|config| config["partial_rotary_factor"] = json!(0.5));
    assert_eq!(config.rope.dims, 32);
    let dynamic = json!({"rope_type": "dynamic", "factor": 2.0});
    let error = hf_error(|config| config["rope_scaling"] = dynamic);
    assert!(error.contains("default, linear, llama3, yarn"), "{error}");
}

#[test]
fn hugging_face_windows_and_names_are_read() {
    let config = hf_config(|config| {
        config["model_type"] = json!("mistral");
        config["sliding_window"] = json!(128);
        config["max_window_layers"] = Value::Null;
    });
    assert_eq!(config.architecture, Architecture::Llama);
    assert_eq!((config.sliding_window, config.rope.pairing), (Some(128), RopePairing::Half));
    let config = hf_config(|config| config["sliding_window"] = json!(128));
    assert_eq!(config.sliding_window, None, "Qwen's switch is off");
    let mixed = hf_error(|config| {
        config["sliding_window"] = json!(128);
        config["use_sliding_window"] = json!(true);
        config["max_window_layers"] = json!(3);
    });
    assert!(mixed.contains("some layers only"), "{mixed}");
}

#[test]
fn windows_that_a_folder_leaves_out_are_those_of_hugging_face() {
    let window = |model_type: &str, keys: Value| {
        let config = hf_config(|config| {
            let config = config.as_object_mut().unwrap();
            config.insert("model_type".to_owned(), json!(model_type));
            for key in ["sliding_window", "use_sliding_window", "max_window_layers"] {
                config.remove(key);
            }
            config.extend(keys.as_object().unwrap().clone());
        });
        config.sliding_window
    };
    assert_eq!(window("llama", json!({"sliding_window": 128})), None, "Llama has no window");
    assert_eq!(window("mistral", json!({})), Some(4096));
    assert_eq!(window("mistral", json!({"sliding_window": null})), None);
    assert_eq!(
        window("mistral", json!({"sliding_window": 128, "max_window_layers": 6})),
        Some(128)
    );
    let on = |more: Value| {
        let mut keys = json!({"use_sliding_window": true, "sliding_window": 128});
        keys.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        keys
    };
    // The first 28 layers see everything, and this model has 6.
    assert_eq!(window("qwen2", on(json!({}))), None);
    assert_eq!(window("qwen2", on(json!({"max_window_layers": 0}))), Some(128));
    assert_eq!(
        window("qwen2", json!({"use_sliding_window": true, "max_window_layers": 0})),
        Some(4096)
    );
    assert_eq!(window("qwen2", on(json!({"layer_types": ["sliding_attention"]}))), Some(128));
}

#[test]
fn impossible_configurations_name_their_key() {
    let with = |key: &str, value: Value| hf_error(|config| config[key] = value);
    assert!(with("num_key_value_heads", json!(2)).contains("divisor of the 3 heads"));
    assert!(with("num_key_value_heads", json!(0)).contains("`num_key_value_heads`"));
    assert!(with("num_hidden_layers", json!(0)).contains("`num_hidden_layers` is 0"));
    assert!(with("num_hidden_layers", json!(1e12 as u64)).contains("expected 1 to"));
    assert!(with("head_dim", json!(63)).contains("`head_dim` is 63, expected an even number"));
    assert!(with("head_dim", json!(1_u64 << 22)).contains("all 3 heads"));
    assert!(with("hidden_size", json!("x")).contains("should be a whole number"));
    assert!(with("hidden_size", Value::Null).contains("lacks `hidden_size`"));
    assert!(with("hidden_size", json!(100)).contains("token_embd.weight"));
    assert!(with("vocab_size", json!(5)).contains("4096 rows"));
    assert!(with("rms_norm_eps", json!(0)).contains("`rms_norm_eps`"));
    assert!(with("rope_theta", json!(-1)).contains("`rope_theta`"));
    assert!(with("hidden_act", json!("gelu")).contains("silu"));
    assert!(with("model_type", json!("gpt_neox")).contains("known: llama, mistral, qwen2, qwen3"));
    assert!(with("model_type", json!("qwen3")).contains("attn_q_norm"));
}

#[test]
fn gguf_configurations_are_read_and_checked() {
    let config = gguf_config(&gguf("llama")).unwrap();
    assert_eq!((config.head_dim, config.n_kv_heads, config.rope.dims), (8, 2, 8));
    assert_eq!((config.rope.pairing, config.rope.theta), (RopePairing::Interleaved, 10_000.0));
    assert_eq!((config.vocab, config.tied_output, config.qkv_bias), (4, true, false));
    let untied = gguf("llama").tensor_f32("output.weight", &[4, 16], &[0.0; 64]);
    assert!(!gguf_config(&untied).unwrap().tied_output);

    let factors = gguf("llama").tensor_f32("rope_freqs.weight", &[4], &[1.0, 1.0, 2.0, 8.0]);
    let rope = gguf_config(&factors).unwrap().rope;
    assert_eq!(rope.scaling, RopeScaling::FreqFactors(vec![1.0, 1.0, 2.0, 8.0]));
    let expected = [1.0, 0.1, 0.005, 0.000_125];
    for (got, expected) in rope.inv_freq().into_iter().zip(expected) {
        assert!((got - expected).abs() < 1e-9, "{got} instead of {expected}");
    }

    let yarn = gguf("qwen2")
        .with("qwen2.rope.scaling.type", "yarn")
        .with("qwen2.rope.scaling.factor", 4.0f32)
        .with("qwen2.rope.scaling.original_context_length", 16u32);
    let rope = gguf_config(&yarn).unwrap().rope;
    assert_eq!(rope.pairing, RopePairing::Half);
    assert!((rope.attention_factor() - 1.138_629_4).abs() < 1e-6);
    let linear = gguf("llama").with("llama.rope.scaling.factor", 2.0f32);
    assert_eq!(gguf_config(&linear).unwrap().rope.scaling, RopeScaling::Linear { factor: 2.0 });

    let error = |writer: GgufWriter| gguf_config(&writer).unwrap_err().to_string();
    assert!(error(GgufWriter::new("falcon")).contains("architecture `falcon`"));
    assert!(error(GgufWriter::new("llama")).contains("token_embd.weight"));
    assert!(error(gguf("llama").with("llama.expert_count", 8u32)).contains("mixture of experts"));
    assert!(error(gguf("llama").with("llama.attention.head_count_kv", 3u32)).contains("divisor"));
    assert!(error(gguf("llama").with("llama.attention.value_length", 9u32)).contains("key length"));
    assert!(error(gguf("llama").with("llama.vocab_size", 5u32)).contains("4 rows"));
    assert!(error(gguf("llama").with("llama.rope.dimension_count", 10u32)).contains("even"));
    let further = gguf("llama").tensor_f32("blk.1.attn_norm.weight", &[16], &[1.0; 16]);
    assert!(error(further).contains("`llama.block_count` is 1, expected all blocks of the file"));
    let longrope = gguf("llama").with("llama.rope.scaling.type", "longrope");
    assert!(error(longrope).contains("another RoPE scaling"));
    let short = gguf("llama").tensor_f32("rope_freqs.weight", &[3], &[1.0; 3]);
    assert!(error(short).contains("`rope_freqs.weight` is 3"));
    let bias = gguf("llama").tensor_f32("blk.0.attn_output.bias", &[16], &[0.0; 16]);
    assert!(error(bias).contains("bias on the attention output"));
}
