//! Tokenizers: the golden ids, both sources of the same tokenizer, special tokens, streaming.

use std::sync::LazyLock;

use metallic::tensor::HostBytes;
use metallic_models::gguf::{GgufFile, GgufWriter};
use metallic_models::tokenizer::{HfSettings, TokenKind, Tokenizer};
use metallic_models::{Error, tiny};
use proptest::prelude::*;

const GOLDEN: &str = include_str!("../../tiny/golden.json");
const SAMPLE: &str = include_str!("../../tiny/sample.txt");
const TOKENIZER_JSON: &[u8] = include_bytes!("../../tiny/hf/tokenizer.json");

/// Text that pre-tokenizers and normalisers disagree about.
const VARIED: [&str; 14] = [
    "Hello, world! It's 3.14159 and I'LL say 1234567890 times.",
    "  leading, trailing and   inner   spaces \t\t tabs\n\n\nnewlines\r\n  \n end  ",
    "fn main() {\n    println!(\"{}\", x_1 += 2); // ok\n}\n",
    "Größe, façade, Übermut, naïve, e\u{301}te\u{301}, A\u{30a}ngstrom",
    "日本語のテキストと한국어 그리고 中文字符。",
    "👩‍👩‍👧‍👦 emoji 🇩🇪 and 😀😀 mixed",
    "مرحبا بالعالم שלום עולם नमस्ते दुनिया สวัสดี",
    "١٢٣ ½ ² Ⅷ ④",
    "a\u{a0}b\u{2003}c\u{200b}d\u{feff}e",
    "<|im_start|>user\nhi<|im_end|>\n<|endoftext|>",
    "don't DON'T we've I'd you're 'twas x's",
    "\u{0}\u{1}\u{7f}\u{fffd}",
    "https://example.org/a?b=c&d=%20#frag -- ---- ==== ....",
    "",
];

fn gguf(bytes: Vec<u8>) -> metallic_models::Result<Tokenizer> {
    Tokenizer::from_gguf(GgufFile::parse(HostBytes::new(bytes)).unwrap().metadata())
}

static FROM_GGUF: LazyLock<Tokenizer> = LazyLock::new(|| {
    let file = GgufFile::parse(HostBytes::new(tiny::GGUF)).unwrap();
    Tokenizer::from_gguf(file.metadata()).unwrap()
});

static FROM_JSON: LazyLock<Tokenizer> =
    LazyLock::new(|| Tokenizer::from_json(TOKENIZER_JSON, &HfSettings::default()).unwrap());

#[test]
fn golden_prompts_give_the_golden_ids() {
    let golden: serde_json::Value = serde_json::from_str(GOLDEN).unwrap();
    for run in golden["q8_0"].as_array().unwrap() {
        let prompt = run["prompt"].as_str().unwrap();
        let ids: Vec<u32> = serde_json::from_value(run["ids"].clone()).unwrap();
        for tokenizer in [&*FROM_GGUF, &*FROM_JSON] {
            assert_eq!(tokenizer.encode(prompt, true, true).unwrap(), ids, "{prompt:?}");
            assert_eq!(tokenizer.decode(&ids, false), prompt);
        }
        let greedy: Vec<u32> = serde_json::from_value(run["greedy_ids"].clone()).unwrap();
        assert_eq!(FROM_GGUF.decode(&greedy, false), run["greedy_text"].as_str().unwrap());
    }
}

#[test]
fn the_sample_gives_its_ids_and_comes_back_whole_and_streamed() {
    let ids = FROM_GGUF.encode(SAMPLE, true, true).unwrap();
    assert_eq!(ids.len(), 49_913);
    assert_eq!(ids, FROM_JSON.encode(SAMPLE, true, true).unwrap());
    assert_eq!(FROM_GGUF.decode(&ids, false), SAMPLE);
    let mut stream = FROM_GGUF.stream_decoder(false);
    let mut text: String = ids.iter().filter_map(|&id| stream.push(id)).collect();
    text.extend(stream.finish());
    assert_eq!(text, SAMPLE);
}

#[test]
fn a_gguf_vocabulary_and_its_tokenizer_json_agree() {
    for text in VARIED {
        for parse_special in [false, true] {
            let ids = FROM_GGUF.encode(text, false, parse_special).unwrap();
            assert_eq!(ids, FROM_JSON.encode(text, false, parse_special).unwrap(), "{text:?}");
        }
    }
    for id in 0..4096 {
        assert_eq!(FROM_GGUF.token_bytes(id), FROM_JSON.token_bytes(id), "{id}");
        assert_eq!(FROM_GGUF.is_special(id), FROM_JSON.is_special(id), "{id}");
    }
    // NFC: a decomposed accent is the composed one.
    let ids = |text| FROM_GGUF.encode(text, false, false).unwrap();
    assert_eq!(ids("e\u{301}"), ids("é"));
}

#[test]
fn special_tokens_of_the_tiny_model() {
    let tokenizer = &*FROM_GGUF;
    assert_eq!(tokenizer.vocab_size(), 4096);
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(4093), Some(4095)));
    assert_eq!(tokenizer.eog(), [4093, 4095]);
    assert!(tokenizer.is_eog(4095) && !tokenizer.is_eog(4094));
    assert!(tokenizer.is_special(4094) && !tokenizer.is_special(0) && !tokenizer.is_special(9999));
    assert_eq!(tokenizer.token_id("<|im_start|>"), Some(4094));
    assert_eq!(tokenizer.token_bytes(4094), Some(&b"<|im_start|>"[..]));
    assert_eq!(tokenizer.token_bytes(4096), None);
    assert_eq!(tokenizer.decode(&[540, 4095, 70_000], true), tokenizer.decode(&[540], true));
}

#[test]
fn control_tokens_in_plain_text_stay_text() {
    let text = "a<|im_end|>\n<|im_start|>system";
    let ids = FROM_GGUF.encode(text, true, false).unwrap();
    assert!(ids.iter().all(|&id| !FROM_GGUF.is_special(id)), "{ids:?}");
    assert_eq!(FROM_GGUF.decode(&ids, true), text);
    let parsed = FROM_GGUF.encode(text, true, true).unwrap();
    assert_eq!(parsed.iter().filter(|&&id| FROM_GGUF.is_special(id)).count(), 2);
}

#[test]
fn shielded_messages_cannot_end_their_turn() {
    let tokenizer = &*FROM_GGUF;
    assert_eq!(tokenizer.shield("plain <|im"), "plain <|im");
    let message = tokenizer.shield("Hi<|im_end|>\u{fdd1} <|im_start|>ü");
    let chat = format!("<|im_start|>user\n{message}<|im_end|>\n");
    let ids = tokenizer.encode_chat(&chat).unwrap();
    let specials: Vec<u32> = ids.iter().copied().filter(|&id| tokenizer.is_special(id)).collect();
    assert_eq!(specials, [4094, 4095]);
    let text = "<|im_start|>user\nHi<|im_end|> <|im_start|>ü<|im_end|>\n";
    assert_eq!(tokenizer.decode(&ids, false), text);
    let plain = "<|im_start|>user\nHi there<|im_end|>\n";
    assert_eq!(tokenizer.encode_chat(plain).unwrap(), tokenizer.encode(plain, true, true).unwrap());
}

/// A byte-level vocabulary: 256 byte tokens as GPT-2 writes them, then `tokens`.
fn byte_level(pre: &str, tokens: &[&str], merges: &[&str], controls: &[&str]) -> GgufWriter {
    let mut texts: Vec<String> = Vec::new();
    let mut next = 0x100;
    for byte in 0..=255u8 {
        let printable = matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
        let code = if printable { u32::from(byte) } else { next };
        next += u32::from(!printable);
        texts.push(char::from_u32(code).unwrap().to_string());
    }
    texts.extend(tokens.iter().map(|text| (*text).to_owned()));
    let mut types = vec![1; texts.len()];
    texts.extend(controls.iter().map(|text| (*text).to_owned()));
    types.resize(texts.len(), 3);
    GgufWriter::new("llama")
        .with("tokenizer.ggml.model", "gpt2")
        .with("tokenizer.ggml.pre", pre)
        .with("tokenizer.ggml.tokens", texts)
        .with("tokenizer.ggml.token_type", types)
        .with(
            "tokenizer.ggml.merges",
            merges.iter().map(|merge| (*merge).to_owned()).collect::<Vec<_>>(),
        )
}

#[test]
fn pre_tokenizers_cut_digits_as_their_models_do() {
    let pieces = |pre: &str| {
        let merges = ["Ġ 1", "Ġ1 2", "Ġ12 3", "Ġ123 4", "1 2", "12 3", "123 4"];
        let tokens = ["12", "123", "1234", "Ġ1", "Ġ12", "Ġ123", "Ġ1234"];
        let tokenizer = gguf(byte_level(pre, &tokens, &merges, &[]).finish()).unwrap();
        let ids = tokenizer.encode("x 1234", false, false).unwrap();
        let pieces = ids.iter().map(|&id| tokenizer.decode(&[id], false));
        pieces.collect::<Vec<_>>()
    };
    assert_eq!(pieces("default"), ["x", " 1234"]);
    assert_eq!(pieces("llama-bpe"), ["x", " ", "123", "4"]);
    assert_eq!(pieces("smollm"), ["x", " ", "1", "2", "3", "4"]);
    assert_eq!(pieces("qwen2"), ["x", " ", "1", "2", "3", "4"]);
    let unknown = gguf(byte_level("tekken", &[], &[], &[]).finish()).unwrap_err();
    assert!(unknown.to_string().contains("qwen2, smollm"), "{unknown}");
}

#[test]
fn a_control_token_that_looks_like_a_word_is_spelled() {
    // Llama 3 takes whole words from the vocabulary, and this control token is a word.
    let writer = byte_level("llama-bpe", &[], &[], &["stop"])
        .with("tokenizer.ggml.bos_token_id", 256u32)
        .with("tokenizer.ggml.eot_token_id", 256u32);
    let tokenizer = gguf(writer.finish()).unwrap();
    let bytes: Vec<u32> = "stop".bytes().map(u32::from).collect();
    assert_eq!(tokenizer.encode("stop", false, false).unwrap(), bytes);
    assert_eq!(tokenizer.encode("stop", false, true).unwrap(), [256]);
    // llama-bpe adds BOS unless the file says otherwise.
    assert_eq!(tokenizer.encode("", true, true).unwrap(), [256]);
    assert_eq!(tokenizer.eog(), [256]);
}

/// A SentencePiece vocabulary: unk, BOS, EOS, 256 bytes, then pieces with falling scores.
fn sentencepiece(pieces: &[&str]) -> GgufWriter {
    let mut texts: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).to_vec();
    let mut types = vec![2, 3, 3];
    texts.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
    types.resize(texts.len(), 6);
    texts.extend(pieces.iter().map(|piece| (*piece).to_owned()));
    types.resize(texts.len(), 1);
    let scores = (0..texts.len()).map(|id| -(id as f32)).collect::<Vec<_>>();
    GgufWriter::new("llama")
        .with("tokenizer.ggml.model", "llama")
        .with("tokenizer.ggml.tokens", texts)
        .with("tokenizer.ggml.token_type", types)
        .with("tokenizer.ggml.scores", scores)
}

const PIECES: [&str; 15] =
    ["▁h", "he", "▁he", "ll", "▁hell", "▁hello", "</", "s>", "▁", "h", "e", "l", "o", "<", "s"];

#[test]
fn sentencepiece_merges_by_score_and_falls_back_to_bytes() {
    let tokenizer = gguf(sentencepiece(&PIECES).finish()).unwrap();
    let id = |piece: &str| tokenizer.token_id(piece).unwrap();
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(1), Some(2)));
    assert_eq!(tokenizer.encode("hel", true, false).unwrap(), [1, id("▁he"), id("l")]);
    let ids = tokenizer.encode("hé", false, false).unwrap();
    assert_eq!(ids, [id("▁h"), id("<0xC3>"), id("<0xA9>")]);
    assert_eq!(tokenizer.decode(&ids, true), "hé");
    let mut stream = tokenizer.stream_decoder(true);
    assert_eq!(stream.push(1), None);
    assert_eq!(stream.push(id("▁he")).as_deref(), Some(" he"));
    assert_eq!(stream.push(id("<0xC3>")), None);
    assert_eq!(stream.push(id("<0xA9>")).as_deref(), Some("é"));
    // Neither merging nor byte names lead to special tokens.
    for text in ["</s>", "<0x41>", "<s>", "<unk>"] {
        let ids = tokenizer.encode(text, false, false).unwrap();
        assert!(ids.iter().all(|&id| !tokenizer.is_special(id)), "{text}: {ids:?}");
        assert_eq!(tokenizer.decode(&ids, true), text);
    }
    assert_eq!(tokenizer.encode("</s>", false, true).unwrap(), [2]);
    assert_eq!(tokenizer.encode("<unk>", false, true).unwrap(), [0]);
    let message = tokenizer.shield("<unk>");
    let ids = tokenizer.encode_chat(&message).unwrap();
    assert_eq!((ids[0], ids[1..].iter().all(|&id| !tokenizer.is_special(id))), (1, true));
    assert_eq!(tokenizer.vocabulary().kind(0), TokenKind::Unknown);

    let bare = sentencepiece(&PIECES)
        .with("tokenizer.ggml.add_space_prefix", false)
        .with("tokenizer.ggml.add_bos_token", false);
    let tokenizer = gguf(bare.finish()).unwrap();
    let ids = tokenizer.encode("h h", true, false).unwrap();
    assert_eq!(tokenizer.decode(&ids, true), "h h");
    assert_eq!(ids, [id("h"), id("▁h")]);
}

#[test]
fn contradictions_are_errors() {
    let error = |writer: GgufWriter| gguf(writer.finish()).unwrap_err().to_string();
    let base = || GgufWriter::new("llama").with("tokenizer.ggml.tokens", vec!["a".to_owned()]);
    assert!(error(GgufWriter::new("llama")).contains("tokenizer.ggml.tokens"));
    assert!(error(base()).contains("tokenizer.ggml.model"));
    assert!(error(base().with("tokenizer.ggml.model", "bert")).contains("known: gpt2, llama"));
    assert!(error(base().with("tokenizer.ggml.model", "llama")).contains("scores"));
    let scores = base()
        .with("tokenizer.ggml.model", "llama")
        .with("tokenizer.ggml.scores", vec![0.0f32, 1.0]);
    assert!(error(scores).contains("2 entries long"));
    let merges = |merge: &str| {
        base()
            .with("tokenizer.ggml.model", "gpt2")
            .with("tokenizer.ggml.merges", vec![merge.to_owned()])
    };
    assert!(error(merges("a")).contains("not two tokens"));
    assert!(error(merges("a b")).contains("does not exist"));
    assert!(error(merges("a a")).contains("does not exist"), "the union is no token");
    let bos = byte_level("qwen2", &[], &[], &[]).with("tokenizer.ggml.bos_token_id", 256u32);
    assert!(error(bos).contains("bos_token_id"));
    let long = GgufWriter::new("llama")
        .with("tokenizer.ggml.model", "llama")
        .with("tokenizer.ggml.tokens", vec!["x".repeat(5000)]);
    assert!(error(long).contains("longer than"));
}

#[test]
fn bad_tokenizer_json_is_refused() {
    let error =
        |json: &str| Tokenizer::from_json(json.as_bytes(), &HfSettings::default()).unwrap_err();
    assert!(matches!(error("{"), Error::Json { .. }));
    assert!(error(r#"{"model":{"type":"Unigram","vocab":[]}}"#).to_string().contains("BPE"));
    let with = |vocab: &str, merges: &str, decoder: &str, added: &str| {
        error(&format!(
            r#"{{"version":"1.0","added_tokens":[{added}],"decoder":{decoder},
               "model":{{"type":"BPE","vocab":{vocab},"merges":{merges}}}}}"#
        ))
        .to_string()
    };
    let bytes = r#"{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":false}"#;
    assert!(with(r#"{"a":0}"#, r#"["a a"]"#, bytes, "").contains("does not exist"));
    assert!(with(r#"{"a":0}"#, r#"[["a","b"]]"#, bytes, "").contains("does not exist"));
    assert!(with(r#"{"a":4294967295}"#, "[]", bytes, "").contains("impossible id"));
    assert!(with(r#"{"a":0}"#, "[]", "null", "").contains("decoder.type"));
    let added = r#"{"id":7,"content":"<x>","single_word":false,"lstrip":false,"rstrip":false,
                    "normalized":false,"special":true}"#;
    assert!(with(r#"{"a":0}"#, "[]", bytes, added).contains("does not follow"));
}

#[test]
fn steps_that_the_library_panics_on_are_refused() {
    let build = |step: &str| {
        let json = format!(
            r#"{{"version":"1.0","added_tokens":[],"decoder":{{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":false}},{step},
               "model":{{"type":"BPE","vocab":{{"a":0,"b":1}},"merges":[]}}}}"#
        );
        Tokenizer::from_json(json.as_bytes(), &HfSettings::default())
    };
    let normalizer = |step: &str| {
        let nested = format!(r#"{{"type":"Sequence","normalizers":[{{"type":"NFC"}},{step}]}}"#);
        [format!(r#""normalizer":{step}"#), format!(r#""normalizer":{nested}"#)].map(|s| build(&s))
    };
    let replace = |pattern: &str| {
        normalizer(&format!(r#"{{"type":"Replace","pattern":{pattern},"content":"b"}}"#))
    };
    let patterns =
        [r#"{"String":""}"#, r#"{"Regex":"x*"}"#, r#"{"Regex":"$"}"#, r#"{"Regex":"("}"#];
    for refused in patterns.map(replace).into_iter().flatten() {
        assert!(matches!(refused, Err(Error::BadVocabulary { .. } | Error::Tokenizer { .. })));
    }
    for taken in [r#"{"String":"a"}"#, r#"{"Regex":"a{2,}|c+"}"#].map(replace).into_iter().flatten()
    {
        assert!(taken.unwrap().encode("aac", false, false).is_ok());
    }
    for refused in normalizer(r#"{"type":"Prepend","prepend":""}"#) {
        assert!(refused.unwrap_err().to_string().contains("prepends a text of no length"));
    }
    let doubling = vec![r#"{"type":"Replace","pattern":{"String":"a"},"content":"aa"}"#; 60];
    for grows in
        normalizer(&format!(r#"{{"type":"Sequence","normalizers":[{}]}}"#, doubling.join(",")))
    {
        let refused = grows.unwrap().encode("a", false, false);
        assert!(matches!(refused, Err(Error::TextGrows { bytes: 1, .. })), "{refused:?}");
    }
    let table = r#"{"type":"Precompiled","precompiled_charsmap":"AAAA"}"#;
    for refused in normalizer(table) {
        assert!(refused.unwrap_err().to_string().contains("`Precompiled`"));
    }
    let chunks = build(r#""pre_tokenizer":{"type":"FixedLength","length":0}"#).unwrap_err();
    assert!(chunks.to_string().contains("`FixedLength`"), "{chunks}");
}

#[test]
fn settings_name_special_tokens() {
    let object = |text: &str| {
        serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(text).unwrap()
    };
    let tokenizer_config = object(r#"{"eos_token":{"content":"<|im_end|>"},"bos_token":null}"#);
    let generation_config = object(r#"{"eos_token_id":[4095,4093],"pad_token_id":4093}"#);
    let config = object(r#"{"bos_token_id":4093}"#);
    let settings = HfSettings {
        tokenizer_config: Some(&tokenizer_config),
        generation_config: Some(&generation_config),
        config: Some(&config),
    };
    let tokenizer = Tokenizer::from_json(TOKENIZER_JSON, &settings).unwrap();
    assert_eq!(tokenizer.special(), FROM_GGUF.special());
    // As in a GGUF: a text must be able to end.
    let beyond = object(r#"{"eos_token_id":[4095,99999]}"#);
    let beyond = HfSettings { config: Some(&beyond), ..settings };
    let error = Tokenizer::from_json(TOKENIZER_JSON, &beyond).unwrap_err().to_string();
    assert!(error.contains("`eos_token_id` is 99999, expected below the 4096"), "{error}");

    let mut json: serde_json::Value = serde_json::from_slice(TOKENIZER_JSON).unwrap();
    json["post_processor"] = serde_json::json!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}},
                   {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {
            "<|endoftext|>": {"id": "<|endoftext|>", "ids": [4093], "tokens": ["<|endoftext|>"]}
        }
    });
    let json = serde_json::to_vec(&json).unwrap();
    let tokenizer = Tokenizer::from_json(&json, &settings).unwrap();
    assert_eq!(tokenizer.encode("Once", true, true).unwrap(), [4093, 540]);
    assert_eq!(tokenizer.encode("Once", false, true).unwrap(), [540]);
    assert_eq!(tokenizer.encode_chat("<|endoftext|>Once").unwrap(), [4093, 540]);
    assert_eq!(tokenizer.encode_chat("Once").unwrap(), [4093, 540]);
}

proptest! {
    #[test]
    fn any_text_encodes_alike_from_both_sources(text in "\\PC{0,40}|[ \\n\\ta-z0-9<|_>]{0,60}") {
        for parse_special in [false, true] {
            let ids = FROM_GGUF.encode(&text, false, parse_special).unwrap();
            prop_assert_eq!(&ids, &FROM_JSON.encode(&text, false, parse_special).unwrap());
            let again = FROM_GGUF.encode(&FROM_GGUF.decode(&ids, false), false, parse_special);
            prop_assert_eq!(again.unwrap(), ids);
        }
    }

    #[test]
    fn streaming_any_ids_gives_the_decoded_text(
        ids in proptest::collection::vec(0u32..4200, 0..60),
        skip in any::<bool>(),
    ) {
        let mut stream = FROM_GGUF.stream_decoder(skip);
        let mut text: String = ids.iter().filter_map(|&id| stream.push(id)).collect();
        text.extend(stream.finish());
        prop_assert_eq!(text, FROM_GGUF.decode(&ids, skip));
    }
}
