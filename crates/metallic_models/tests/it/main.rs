//! The one integration-test binary of this crate.

mod chat_template;
mod damage;
mod draws;
mod generation;
mod gguf;
mod models;
mod sampling;
mod segments;
mod support;
mod tokenizer;
