//! The real binary, run as a user runs it, on the embedded model.

mod support;

mod bad_flags;
mod bad_models;
mod chat;
mod devices;
mod interrupts;
mod llama_cpp;
mod op_sdpa;
mod op_sdpa_bad;
mod outputs;
mod run;
mod tools;
mod twins;
