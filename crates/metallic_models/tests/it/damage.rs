//! Damaged files on their whole way to ids: errors are fine, panics are not.

use std::sync::LazyLock;

use metallic::tensor::HostBytes;
use metallic_models::chat_template::{ChatMessage, ChatOptions, ChatTemplate};
use metallic_models::gguf::GgufWriter;
use metallic_models::safetensors::read_safetensors;
use metallic_models::source::ModelFiles;
use metallic_models::tokenizer::{HfSettings, Tokenizer};
use proptest::prelude::*;

const TEXT: &str = "a ab <x> </s> é\n";

/// A whole small model with either kind of vocabulary.
fn model(tokenizer: &str) -> Vec<u8> {
    let tokens = ["<unk>", "<s>", "</s>", "a", "b", "ab", "▁", "Ġ", "<0x0A>", "<x>"];
    GgufWriter::new("llama")
        .with("llama.block_count", 1u32)
        .with("llama.context_length", 64u32)
        .with("llama.embedding_length", 4u32)
        .with("llama.feed_forward_length", 4u32)
        .with("llama.attention.head_count", 1u32)
        .with("llama.attention.layer_norm_rms_epsilon", 1e-5f32)
        .with("tokenizer.ggml.model", tokenizer)
        .with("tokenizer.ggml.tokens", tokens.map(str::to_owned).to_vec())
        .with("tokenizer.ggml.token_type", vec![2, 3, 3, 1, 1, 1, 1, 1, 6, 4])
        .with(
            "tokenizer.ggml.scores",
            vec![0.0f32, 0.0, 0.0, -1.0, -2.0, -3.0, -4.0, -5.0, 0.0, 0.0],
        )
        .with("tokenizer.ggml.merges", vec!["a b".to_owned()])
        .with("tokenizer.chat_template", "{% for m in messages %}{{ m.content }}{% endfor %}")
        .tensor_f32("token_embd.weight", &[10, 4], &[0.0; 40])
        .tensor_f32("rope_freqs.weight", &[2], &[1.0, 2.0])
        .finish()
}

static GGUFS: LazyLock<[Vec<u8>; 2]> = LazyLock::new(|| [model("gpt2"), model("llama")]);

const JSON: &str = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[
{"id":4,"content":"<x>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}],
"normalizer":{"type":"NFC"},
"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true},
"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<x>","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],"pair":[],"special_tokens":{"<x>":{"id":"<x>","ids":[4],"tokens":["<x>"]}}},
"decoder":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true},
"model":{"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":null,"end_of_word_suffix":null,"fuse_unk":false,"byte_fallback":false,"ignore_merges":false,
"vocab":{"a":0,"b":1,"ab":2,"Ġ":3},"merges":[["a","b"]]}}"#;

type Flips = Vec<(prop::sample::Index, u8)>;

fn flips() -> impl Strategy<Value = Flips> {
    proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4)
}

fn damage(mut bytes: Vec<u8>, flips: &Flips) -> Vec<u8> {
    for (index, value) in flips {
        let index = index.index(bytes.len());
        bytes[index] = *value;
    }
    bytes
}

#[test]
fn the_undamaged_files_work() {
    for file in GGUFS.iter() {
        let model = ModelFiles::from_gguf_bytes(HostBytes::new(file.clone()), "x").unwrap();
        let tokenizer = model.tokenizer().unwrap();
        assert!(!tokenizer.encode(TEXT, true, true).unwrap().is_empty());
        model.chat_template(&tokenizer).unwrap();
    }
    let tokenizer = Tokenizer::from_json(JSON.as_bytes(), &HfSettings::default()).unwrap();
    assert_eq!(tokenizer.encode("ab<x>", true, true).unwrap(), [4, 2, 4]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn damaged_models_never_panic(flips in flips(), which in 0usize..2) {
        let bytes = damage(GGUFS[which].clone(), &flips);
        if let Ok(model) = ModelFiles::from_gguf_bytes(HostBytes::new(bytes), "x") {
            let _ = (model.parameters(), model.quantization(), model.config().rope.inv_freq());
            if let Ok(tokenizer) = model.tokenizer() {
                let ids = tokenizer.encode(TEXT, true, true).unwrap_or_default();
                let _ = (tokenizer.encode(TEXT, true, false), tokenizer.decode(&ids, true));
                if let Ok(template) = model.chat_template(&tokenizer) {
                    let messages = [ChatMessage::new("user", TEXT)];
                    let _ = template.encode(&tokenizer, &messages, ChatOptions::default());
                }
            }
        }
    }

    #[test]
    fn damaged_tokenizer_json_never_panics(flips in flips(), digit in any::<prop::sample::Index>()) {
        // A digit or letter in place of another keeps the JSON whole more often than a random byte.
        let mut bytes = damage(JSON.as_bytes().to_vec(), &flips);
        let index = digit.index(bytes.len());
        if bytes[index].is_ascii_alphanumeric() {
            bytes[index] = if bytes[index].is_ascii_digit() { b'9' } else { b'b' };
        }
        if let Ok(tokenizer) = Tokenizer::from_json(&bytes, &HfSettings::default()) {
            let ids = tokenizer.encode(TEXT, true, true).unwrap_or_default();
            let _ = (tokenizer.encode(TEXT, true, false), tokenizer.decode(&ids, true));
        }
    }

    #[test]
    fn damaged_safetensors_never_panic(flips in flips(), cut in any::<prop::sample::Index>()) {
        let header = br#"{"a":{"dtype":"F16","shape":[2,2],"data_offsets":[0,8]}}"#;
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header);
        bytes.extend([0; 8]);
        let mut bytes = damage(bytes, &flips);
        let _ = read_safetensors(&HostBytes::new(bytes.clone()));
        bytes.truncate(cut.index(bytes.len()));
        let _ = read_safetensors(&HostBytes::new(bytes));
    }

    #[test]
    fn random_templates_never_panic(source in "(\\{\\{|\\}\\}|\\{%|%\\}|for|if|end|m| |in|messages|\\.|'|\\||[a-z(){}%]){0,20}") {
        if let Ok(template) = ChatTemplate::new(&source, None, None) {
            let _ = template.render(&[ChatMessage::new("user", "x")], ChatOptions::default());
        }
    }
}
