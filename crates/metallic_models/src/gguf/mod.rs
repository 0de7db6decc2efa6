//! GGUF, the single-file model format of ggml: a parser that trusts no byte, and a writer.
//!
//! Versions 2 and 3, little-endian. Not: what the metadata means (`transformer/config`,
//! `tokenizer`), nor how blocks are decoded (devices do that).

mod file;
mod metadata;
mod reader;
mod tensor_type;
mod value;
mod writer;

pub use file::GgufFile;
pub use metadata::Metadata;
pub use tensor_type::{dtype_of_type_id, type_id_of_dtype};
pub use value::{Array, Value};
pub use writer::GgufWriter;

pub use crate::tensors::TensorInfo;

/// Where data begins when `general.alignment` is absent, in bytes.
pub const DEFAULT_ALIGNMENT: u64 = 32;
