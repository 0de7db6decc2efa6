//! What the crate promises across its modules, shown on a device of no hardware.

mod context;
mod decode;
mod events;
mod executables;
mod explain;
mod graphs;
mod keys;
mod layouts;
mod masks;
mod registry;
mod sdpa_check;
mod segments;
mod support;
mod tidy;
mod top_k_check;
