//! Counters and ages of a cache, and the events made of them.

use std::time::Duration;

use metallic_instrumentation::MetricEvent;

/// A cache at a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// The cache's name.
    pub name: &'static str,
    /// Accesses that found their entry.
    pub hits: u64,
    /// Accesses that did not.
    pub misses: u64,
    /// Entries given up for room.
    pub evictions: u64,
    /// Entries now.
    pub entries: usize,
    /// Bytes now.
    pub bytes: usize,
    /// Pinned entries now.
    pub pinned: usize,
    /// Whether misses are refused.
    pub frozen: bool,
    /// Age of the oldest entry.
    pub oldest_age: Duration,
    /// Age of the newest entry.
    pub newest_age: Duration,
    /// Longest time an entry has not been used.
    pub longest_idle: Duration,
    /// Uses of present entries after their first.
    pub reuse_count: u64,
}

impl CacheStats {
    /// Hits per access in percent; 0 without any access.
    pub fn hit_rate(&self) -> f64 {
        let accesses = self.hits + self.misses;
        if accesses == 0 { 0.0 } else { 100.0 * self.hits as f64 / accesses as f64 }
    }

    /// The summary event.
    pub fn summary(&self) -> MetricEvent {
        let us = |duration: Duration| duration.as_micros() as u64;
        MetricEvent::ResourceCacheSummary {
            cache: self.name.to_owned(),
            hits: self.hits,
            misses: self.misses,
            hit_rate: self.hit_rate(),
            size: self.entries as u64,
            bytes: self.bytes as u64,
            evictions: self.evictions,
            oldest_age_us: us(self.oldest_age),
            newest_age_us: us(self.newest_age),
            longest_idle_us: us(self.longest_idle),
            reuse_count: self.reuse_count,
        }
    }
}

/// One entry of a cache at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryInfo {
    /// The printed key.
    pub key: String,
    /// Size.
    pub bytes: usize,
    /// Time since it was made.
    pub age: Duration,
    /// Time since its last use.
    pub idle: Duration,
    /// Uses after the first.
    pub reuse_count: u64,
    /// Whether it is exempt from eviction.
    pub pinned: bool,
}
