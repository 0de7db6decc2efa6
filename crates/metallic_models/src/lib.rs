//! From prompt to text: model files, tokenizers and chat templates.
//!
//! This crate names no device and no backend, and maps no file itself: the bytes of a model
//! arrive as [`metallic::tensor::HostBytes`] from whoever owns the mapping. Begin with
//! [`source::ModelFiles`].
#![forbid(unsafe_code)]

pub mod source;

pub mod gguf;
pub mod hf_folder;
pub mod hf_names;
pub mod safetensors;

pub mod chat_template;
pub mod tokenizer;

pub mod generate;
pub mod kv_cache;
mod steps_ahead;
mod stop;
pub mod transformer;

pub mod sampler;

pub mod tiny;

mod error;
mod random_model;
mod tensors;

pub use error::{BoxedError, Error, Result, TensorProblem};
pub use tensors::{TensorInfo, TensorTable};
