//! What kind of transformer a model is. Not: its arithmetic.

pub mod config;
pub mod rope;
