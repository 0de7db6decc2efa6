//! The Metal device under the stand-ins: memory, the command stream, and every kernel against the
//! CPU device.

// Linked in place of Apple's frameworks.
use softmetal_objc as _;

mod embedding;
mod kv_append;
mod layouts;
mod linear;
mod memory;
mod rows;
mod sdpa;
mod segments;
mod stream;
mod support;
mod tiny_model;
mod top_k;
