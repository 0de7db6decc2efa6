//! What to try: one case list per op, for parity, benches and tests alike.

pub mod block;
pub mod sdpa;
