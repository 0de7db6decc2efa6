//! Bounded caches of what is dear to make: compiled graphs and masks.

mod executables;
mod lru;
mod masks;
mod resource_cache;
mod stats;

pub use executables::{GraphExecutableCache, GraphKey};
pub use lru::Limits;
pub use masks::{BandRequest, MaskArena};
pub use resource_cache::ResourceCache;
pub use stats::{CacheStats, EntryInfo};
