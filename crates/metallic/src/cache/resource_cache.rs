//! The caches of one context, as one thing.

use super::executables::GraphExecutableCache;
use super::lru::Limits;
use super::masks::MaskArena;
use super::stats::CacheStats;

/// Compiled graphs and masks.
#[derive(Debug)]
pub struct ResourceCache {
    /// Compiled graphs.
    pub executables: GraphExecutableCache,
    /// Masks.
    pub masks: MaskArena,
}

impl ResourceCache {
    /// Empty caches with the given bounds.
    pub fn new(executables: Limits, masks: Limits) -> Self {
        Self { executables: GraphExecutableCache::new(executables), masks: MaskArena::new(masks) }
    }

    /// Counters and ages of each cache.
    pub fn stats(&self) -> [CacheStats; 2] {
        [self.executables.stats(), self.masks.stats()]
    }

    /// Removes what is neither in use nor pinned; returns how many entries went.
    pub fn clear(&self) -> usize {
        self.executables.clear() + self.masks.clear()
    }
}

impl Default for ResourceCache {
    /// 256 executables of 1 GiB together, 64 masks of 256 MiB together.
    fn default() -> Self {
        Self::new(Limits { entries: 256, bytes: 1 << 30 }, Limits { entries: 64, bytes: 256 << 20 })
    }
}
