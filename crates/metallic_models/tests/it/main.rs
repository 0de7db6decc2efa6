//! The one integration-test binary of this crate.

mod chat_template;
mod gguf;
mod models;
mod tokenizer;
