//! The GGUF parser against good, damaged and random files.

use metallic::tensor::{DType, HostBytes};
use metallic_models::gguf::{Array, GgufFile, GgufWriter, Value};
use metallic_models::{Error, TensorProblem};
use proptest::prelude::*;

fn small() -> GgufWriter {
    GgufWriter::new("qwen2")
        .with("general.name", "Small")
        .with("qwen2.block_count", 2u32)
        .with("an.f32", 0.5f32)
        .with("a.bool", true)
        .with("strings", vec!["a".to_owned(), "ß".to_owned()])
        .with("scores", vec![1.0f32, -2.0])
        .tensor_f32("norm", &[3], &[1.0, 2.0, 3.0])
        .tensor("weight", DType::Q8_0, &[2, 64], vec![7; 2 * 2 * 34])
}

fn parse(bytes: Vec<u8>) -> metallic_models::Result<GgufFile> {
    GgufFile::parse(HostBytes::new(bytes))
}

/// A header by hand: magic, version, counts, then `rest`.
fn header(tensors: u64, entries: u64, rest: &[u8]) -> Vec<u8> {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend(tensors.to_le_bytes());
    bytes.extend(entries.to_le_bytes());
    bytes.extend(rest);
    bytes
}

fn string(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

/// A tensor description by hand; `dims` innermost first.
fn description(name: &str, dims: &[u64], type_id: u32, offset: u64) -> Vec<u8> {
    let mut bytes = string(name);
    bytes.extend((dims.len() as u32).to_le_bytes());
    dims.iter().for_each(|dim| bytes.extend(dim.to_le_bytes()));
    bytes.extend(type_id.to_le_bytes());
    bytes.extend(offset.to_le_bytes());
    bytes
}

/// Parses a file of one tensor with 64 bytes of data and returns what is wrong with it.
fn tensor_problem(dims: &[u64], type_id: u32, offset: u64) -> TensorProblem {
    let mut bytes = header(1, 0, &description("t", dims, type_id, offset));
    bytes.resize(bytes.len().next_multiple_of(32) + 64, 0);
    match parse(bytes).unwrap_err() {
        Error::BadTensor { tensor, problem } => {
            assert_eq!(tensor, "t");
            problem
        }
        other => panic!("{other}"),
    }
}

#[test]
fn what_the_writer_writes_is_read_back() {
    let file = parse(small().finish()).unwrap();
    assert_eq!((file.version(), file.alignment()), (3, 32));
    assert_eq!(file.architecture().unwrap(), "qwen2");
    let metadata = file.metadata();
    assert_eq!(metadata.u32("qwen2.block_count").unwrap(), 2);
    assert_eq!(metadata.f32("an.f32").unwrap(), 0.5);
    assert!(metadata.bool("a.bool").unwrap());
    assert_eq!(metadata.strings("strings").unwrap(), ["a", "ß"]);
    assert_eq!(metadata.f32s("scores").unwrap(), [1.0, -2.0]);
    assert_eq!(metadata.iter().next().unwrap().0, "general.architecture");
    let [norm, weight] = file.tensors() else { panic!() };
    assert_eq!((norm.name.as_str(), norm.dtype, &*norm.shape), ("norm", DType::F32, &[3][..]));
    assert_eq!(norm.bytes[4..8], 2f32.to_le_bytes());
    assert_eq!((&*weight.shape, weight.bytes.len()), (&[2, 64][..], 136));
    assert_eq!(file.tensor("weight").unwrap().dtype, DType::Q8_0);
    assert!(matches!(file.tensor("no"), Err(Error::MissingTensor { .. })));
}

#[test]
fn every_value_type_survives() {
    let values = [
        Value::U8(1),
        Value::I8(-1),
        Value::U16(2),
        Value::I16(-2),
        Value::U64(1 << 40),
        Value::I64(-(1 << 40)),
        Value::F64(0.25),
        Value::Array(Array::U8(vec![1, 2])),
        Value::Array(Array::I8(vec![-1])),
        Value::Array(Array::U16(vec![3])),
        Value::Array(Array::I16(vec![-3])),
        Value::Array(Array::U32(vec![4])),
        Value::Array(Array::I32(vec![-4])),
        Value::Array(Array::Bool(vec![true, false])),
        Value::Array(Array::U64(vec![5])),
        Value::Array(Array::I64(vec![-5])),
        Value::Array(Array::F64(vec![0.5])),
        Value::Array(Array::String(vec![])),
    ];
    let mut writer = GgufWriter::new("x");
    for (index, value) in values.iter().enumerate() {
        writer = writer.with(&format!("k{index}"), value.clone());
    }
    let file = parse(writer.finish()).unwrap();
    for (index, value) in values.iter().enumerate() {
        assert_eq!(file.metadata().get(&format!("k{index}")), Some(value));
    }
}

#[test]
fn typed_lookups_name_key_and_types() {
    let file = parse(small().with("negative", -1i32).finish()).unwrap();
    let message = |error: Error| error.to_string();
    assert_eq!(
        message(file.metadata().u32("general.name").unwrap_err()),
        "`general.name` should be a u32 and is of type string"
    );
    assert_eq!(
        message(file.metadata().u32("negative").unwrap_err()),
        "`negative` should be a u32 and is a negative i32"
    );
    assert_eq!(
        message(file.metadata().str("qwen2.block_count").unwrap_err()),
        "`qwen2.block_count` should be a string and is the u32 2"
    );
    assert!(matches!(file.metadata().str("none"), Err(Error::MissingKey { .. })));
    assert_eq!(file.metadata().find_bool("none").unwrap(), None);
}

#[test]
fn other_files_are_refused_with_a_hint() {
    let error = |bytes: &[u8]| parse(bytes.to_vec()).unwrap_err();
    assert!(error(b"version https://git-lfs").to_string().contains("git lfs pull"));
    assert!(error(b"<!DOCTYPE html>").to_string().contains("web page"));
    assert!(matches!(error(b"\0\0\0\0\0\0\0\0"), Error::NotGguf { .. }));
    assert!(matches!(error(b""), Error::Truncated { section: "header", .. }));
    assert!(matches!(error(b"GG"), Error::Truncated { section: "header", .. }));
    assert!(matches!(error(b"FUGG\0\0\0\x03"), Error::GgufBigEndian));
    assert!(matches!(error(b"GGUF\0\0\0\x03"), Error::GgufBigEndian));
    assert!(matches!(error(b"GGUF\x01\0\0\0"), Error::GgufVersion { version: 1 }));
    assert!(matches!(error(b"GGUF\x04\0\0\0"), Error::GgufVersion { version: 4 }));
}

#[test]
fn absurd_counts_and_lengths_are_refused_without_allocating() {
    for (tensors, entries, section) in [(1 << 60, 0, "tensor list"), (0, 1 << 60, "metadata")] {
        let error = parse(header(tensors, entries, &[0; 100])).unwrap_err();
        assert!(matches!(error, Error::Truncated { section: s, .. } if s == section), "{error}");
    }
    let long_key = header(0, 1, &[&(1u64 << 60).to_le_bytes()[..], &[0; 64]].concat());
    assert!(matches!(parse(long_key), Err(Error::Truncated { section: "metadata", .. })));
    for item_type in [0u32, 6, 7, 8, 12] {
        let mut rest = string("k");
        rest.extend(9u32.to_le_bytes());
        rest.extend(item_type.to_le_bytes());
        rest.extend(u64::MAX.to_le_bytes());
        let error = parse(header(0, 1, &rest)).unwrap_err();
        assert!(matches!(error, Error::Truncated { needed, .. } if needed > 1 << 60), "{error}");
    }
}

#[test]
fn bad_metadata_is_refused() {
    let value = |type_id: u32, rest: &[u8]| {
        let mut bytes = string("k");
        bytes.extend(type_id.to_le_bytes());
        bytes.extend(rest);
        bytes.resize(bytes.len() + 32, 0);
        parse(header(0, 1, &bytes)).unwrap_err()
    };
    assert!(matches!(value(13, &[]), Error::UnknownValueType { type_id: 13, .. }));
    assert!(matches!(value(9, &[99, 0, 0, 0]), Error::UnknownValueType { type_id: 99, .. }));
    assert!(matches!(value(9, &[9, 0, 0, 0]), Error::NestedArray { .. }));
    assert!(matches!(value(7, &[2]), Error::BadValue { .. }));
    assert!(matches!(value(8, &[1, 0, 0, 0, 0, 0, 0, 0, 0xff]), Error::NotUtf8 { .. }));
    let twice = small().with("a.bool", false).finish();
    assert!(matches!(parse(twice), Err(Error::Duplicate { what: "metadata key", .. })));
    for alignment in [0u32, 4, 33, 48] {
        let error = parse(small().with("general.alignment", alignment).finish()).unwrap_err();
        assert!(error.to_string().contains("power of two"), "{error}");
    }
    let split = small().with("split.count", 3u32).finish();
    assert!(matches!(parse(split), Err(Error::SplitGguf { parts: 3 })));
}

#[test]
fn bad_tensors_are_refused() {
    assert_eq!(tensor_problem(&[], 0, 0), TensorProblem::Rank { rank: 0 });
    assert_eq!(tensor_problem(&[1; 5], 0, 0), TensorProblem::Rank { rank: 5 });
    assert_eq!(tensor_problem(&[4, 0], 0, 0), TensorProblem::EmptyAxis { shape: vec![4, 0] });
    let shape = vec![1 << 32, 1 << 32];
    assert_eq!(tensor_problem(&shape, 0, 0), TensorProblem::TooLarge { shape: shape.clone() });
    assert_eq!(tensor_problem(&[33], 8, 0), TensorProblem::Blocks { row: 33, dtype: DType::Q8_0 });
    assert_eq!(tensor_problem(&[4], 0, 8), TensorProblem::Misaligned { offset: 8, alignment: 32 });
    let problem = tensor_problem(&[256], 16, 0);
    assert_eq!(
        problem,
        TensorProblem::UnsupportedType { type_id: Some(16), name: "iq2_xxs".into() }
    );
    let problem = tensor_problem(&[256], 4, 0);
    assert_eq!(
        problem,
        TensorProblem::UnsupportedType { type_id: Some(4), name: "unknown".into() }
    );

    let past_end = |dims: &[u64], offset| {
        let mut bytes = header(1, 0, &description("t", dims, 0, offset));
        bytes.resize(bytes.len().next_multiple_of(32) + 64, 0);
        parse(bytes).unwrap_err()
    };
    for error in [past_end(&[17], 0), past_end(&[4], 64), past_end(&[4], u64::MAX - 31)] {
        assert!(matches!(error, Error::Truncated { section: "tensor data", .. }), "{error}");
    }
    let twice = small().tensor_f32("norm", &[1], &[0.0]).finish();
    assert!(matches!(parse(twice), Err(Error::Duplicate { what: "tensor", .. })));
}

#[test]
fn tensors_follow_one_another_as_ggml_has_them() {
    // Two tensors of 8 bytes at these places, in a file with room for more.
    let problem = |first: u64, second: u64| {
        let tensors = [description("a", &[2], 0, first), description("b", &[2], 0, second)];
        let mut bytes = header(2, 0, &tensors.concat());
        bytes.resize(bytes.len().next_multiple_of(32) + 256, 0);
        parse(bytes).map(drop)
    };
    assert!(problem(0, 32).is_ok());
    for (first, second, tensor, expected) in
        [(0, 0, "b", 32), (0, 64, "b", 32), (32, 0, "a", 0), (32, 64, "a", 0)]
    {
        let error = problem(first, second).unwrap_err();
        let Error::BadTensor { tensor: named, problem } = &error else { panic!("{error}") };
        assert_eq!(named, tensor);
        let offset = if tensor == "a" { first } else { second };
        let expected = Some(expected);
        assert_eq!(*problem, TensorProblem::Misplaced { offset, expected }, "{error}");
    }
}

#[test]
fn a_file_cut_anywhere_says_so() {
    let whole = small().finish();
    let data_end = whole.len() - 24; // 136 bytes of the last tensor are padded to 160
    for length in 0..data_end {
        let error = parse(whole[..length].to_vec()).unwrap_err();
        let message = error.to_string();
        assert!(matches!(error, Error::Truncated { .. }), "at {length}: {message}");
        assert!(message.contains("download is probably incomplete"), "{message}");
    }
    assert!(parse(whole[..data_end].to_vec()).is_ok());
}

#[test]
fn larger_alignment_is_honoured() {
    let descriptions = [description("s", &[2], 0, 0), description("t", &[2], 0, 64)].concat();
    let mut rest = string("general.alignment");
    rest.extend(4u32.to_le_bytes());
    rest.extend(64u32.to_le_bytes());
    rest.extend(descriptions);
    let mut bytes = header(2, 1, &rest);
    bytes.resize(bytes.len().next_multiple_of(64) + 64, 1);
    bytes.extend([2; 8]);
    let file = parse(bytes).unwrap();
    assert_eq!(*file.tensor("t").unwrap().bytes, [2; 8]);
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse(bytes.clone());
        let _ = parse(header(1, 1, &bytes));
        let _ = parse(header(1, 0, &bytes));
    }

    #[test]
    fn damaged_files_never_panic(
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
        keep_all in any::<bool>(),
    ) {
        let mut bytes = small().finish();
        for (index, value) in flips {
            let index = index.index(bytes.len());
            bytes[index] = value;
        }
        if !keep_all {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(file) = parse(bytes) {
            for tensor in file.tensors() {
                prop_assert!(tensor.elements() > 0);
                prop_assert!(!tensor.bytes.is_empty());
            }
        }
    }
}
