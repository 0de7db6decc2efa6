//! A map bounded by entries and bytes that gives up what was unused longest.
//!
//! Entries in use (shared outside the map) and pinned ones stay, even when that keeps the map over
//! its limits: a cache never takes away what somebody holds, and never aborts.

use std::fmt::Display;
use std::hash::Hash;
use std::time::Instant;

use foldhash::{HashMap, HashMapExt};
use metallic_instrumentation::{MetricEvent, Recorder};

use super::stats::{CacheStats, EntryInfo};

/// Accesses between two summary events.
const SUMMARY_EVERY: u64 = 100;

/// How much a cache may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most entries.
    pub entries: usize,
    /// Most bytes.
    pub bytes: usize,
}

/// A value that knows whether somebody outside the map holds it.
pub(super) trait Shared: Clone {
    fn in_use(&self) -> bool;
}

struct Entry<V> {
    value: V,
    bytes: usize,
    created: Instant,
    used: Instant,
    /// Orders entries touched within one tick of the clock.
    sequence: u64,
    reuse_count: u64,
    pinned: bool,
}

pub(super) struct Lru<K, V> {
    name: &'static str,
    limits: Limits,
    entries: HashMap<K, Entry<V>>,
    bytes: usize,
    sequence: u64,
    hits: u64,
    misses: u64,
    evictions: u64,
    /// Accesses at the last summary event.
    summarised: u64,
}

impl<K: Eq + Hash + Clone + Display, V: Shared> Lru<K, V> {
    pub(super) fn new(name: &'static str, limits: Limits) -> Self {
        let entries = HashMap::new();
        Self {
            name,
            limits,
            entries,
            bytes: 0,
            sequence: 0,
            hits: 0,
            misses: 0,
            evictions: 0,
            summarised: 0,
        }
    }

    /// Looks `key` up and counts the access.
    pub(super) fn get(&mut self, key: &K, recorder: &Recorder) -> Option<V> {
        self.sequence += 1;
        let found = self.entries.get_mut(key).map(|entry| {
            entry.used = Instant::now();
            entry.sequence = self.sequence;
            entry.reuse_count += 1;
            (entry.value.clone(), entry.bytes)
        });
        match &found {
            Some((_, bytes)) => {
                self.hits += 1;
                self.access_event(key, true, *bytes, recorder);
            }
            // The event of a miss is recorded by `insert`, which knows the size, or `missed`.
            None => self.misses += 1,
        }
        found.map(|(value, _)| value)
    }

    /// Records a miss that made nothing.
    pub(super) fn missed(&mut self, key: &K, recorder: &Recorder) {
        self.access_event(key, false, 0, recorder);
    }

    /// Adds what a miss made, then gives up entries until the limits hold again.
    pub(super) fn insert(&mut self, key: K, value: V, bytes: usize, recorder: &Recorder) {
        self.access_event(&key, false, bytes, recorder);
        let now = Instant::now();
        self.sequence += 1;
        let sequence = self.sequence;
        let entry = Entry {
            value,
            bytes,
            created: now,
            used: now,
            sequence,
            reuse_count: 0,
            pinned: false,
        };
        self.bytes += bytes;
        if let Some(old) = self.entries.insert(key.clone(), entry) {
            self.bytes -= old.bytes;
        }
        while self.entries.len() > self.limits.entries || self.bytes > self.limits.bytes {
            let Some(oldest) = self.evictable(&key) else { break };
            self.evict(&oldest, recorder);
        }
    }

    fn evictable(&self, newest: &K) -> Option<K> {
        self.entries
            .iter()
            .filter(|(key, entry)| !entry.pinned && !entry.value.in_use() && *key != newest)
            .min_by_key(|(_, entry)| entry.sequence)
            .map(|(key, _)| key.clone())
    }

    fn evict(&mut self, key: &K, recorder: &Recorder) {
        let Some(entry) = self.entries.remove(key) else { return };
        self.bytes -= entry.bytes;
        self.evictions += 1;
        recorder.record(|| MetricEvent::ResourceCacheEviction {
            cache: self.name.to_owned(),
            cache_key: format!("{}: {key}", self.name),
            bytes: entry.bytes as u64,
            age_us: entry.created.elapsed().as_micros() as u64,
            reuse_count: entry.reuse_count,
        });
    }

    fn access_event(&mut self, key: &K, hit: bool, bytes: usize, recorder: &Recorder) {
        if !recorder.is_enabled() {
            return;
        }
        let cache_key = format!("{}: {key}", self.name);
        recorder.record(|| MetricEvent::ResourceCacheAccess {
            cache_key,
            hit,
            bytes: bytes as u64,
        });
        // Other threads may have counted accesses between a miss and its event, so the hundredth
        // need not be the one seen here.
        let accesses = self.hits + self.misses;
        if accesses / SUMMARY_EVERY > self.summarised / SUMMARY_EVERY {
            self.summarised = accesses;
            recorder.record(|| self.stats().summary());
        }
    }

    /// Sets whether `key` is exempt from eviction; false when it is not there.
    pub(super) fn pin(&mut self, key: &K, pinned: bool) -> bool {
        self.entries.get_mut(key).map(|entry| entry.pinned = pinned).is_some()
    }

    /// Removes every entry that is neither in use nor pinned; returns how many.
    pub(super) fn clear(&mut self) -> usize {
        let before = self.entries.len();
        self.entries.retain(|_, entry| entry.pinned || entry.value.in_use());
        self.bytes = self.entries.values().map(|entry| entry.bytes).sum();
        before - self.entries.len()
    }

    /// The entries, most recently used first.
    pub(super) fn list(&self) -> Vec<EntryInfo> {
        let mut entries: Vec<_> = self.entries.iter().collect();
        entries.sort_by_key(|(_, entry)| std::cmp::Reverse(entry.sequence));
        let now = Instant::now();
        entries
            .into_iter()
            .map(|(key, entry)| EntryInfo {
                key: key.to_string(),
                bytes: entry.bytes,
                age: now - entry.created,
                idle: now - entry.used,
                reuse_count: entry.reuse_count,
                pinned: entry.pinned,
            })
            .collect()
    }

    pub(super) fn stats(&self) -> CacheStats {
        let entries = || self.entries.values();
        let now = Instant::now();
        CacheStats {
            name: self.name,
            hits: self.hits,
            misses: self.misses,
            evictions: self.evictions,
            entries: self.entries.len(),
            bytes: self.bytes,
            pinned: entries().filter(|entry| entry.pinned).count(),
            frozen: false,
            oldest_age: entries().map(|entry| now - entry.created).max().unwrap_or_default(),
            newest_age: entries().map(|entry| now - entry.created).min().unwrap_or_default(),
            longest_idle: entries().map(|entry| now - entry.used).max().unwrap_or_default(),
            reuse_count: entries().map(|entry| entry.reuse_count).sum(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    impl Shared for Arc<u32> {
        fn in_use(&self) -> bool {
            Arc::strong_count(self) > 1
        }
    }

    fn lru(entries: usize, bytes: usize) -> Lru<&'static str, Arc<u32>> {
        Lru::new("test", Limits { entries, bytes })
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let recorder = Recorder::disabled();
        let mut lru = lru(2, 1000);
        lru.insert("a", Arc::new(1), 10, &recorder);
        lru.insert("b", Arc::new(2), 10, &recorder);
        assert!(lru.get(&"a", &recorder).is_some());
        lru.insert("c", Arc::new(3), 10, &recorder);
        assert!(lru.get(&"b", &recorder).is_none());
        let stats = lru.stats();
        assert_eq!((stats.hits, stats.misses, stats.evictions), (1, 1, 1));
        assert_eq!((stats.entries, stats.bytes, stats.reuse_count), (2, 20, 1));
    }

    #[test]
    fn bytes_bound_too_but_never_what_is_held_or_pinned() {
        let recorder = Recorder::disabled();
        let mut lru = lru(10, 25);
        let held = Arc::new(1);
        lru.insert("held", Arc::clone(&held), 10, &recorder);
        lru.insert("pinned", Arc::new(2), 10, &recorder);
        assert!(lru.pin(&"pinned", true) && !lru.pin(&"absent", true));
        lru.insert("new", Arc::new(3), 10, &recorder);
        assert_eq!(lru.stats().bytes, 30, "nothing could be given up");
        drop(held);
        lru.insert("newer", Arc::new(4), 5, &recorder);
        let keys: Vec<_> = lru.list().into_iter().map(|entry| entry.key).collect();
        assert_eq!(keys, ["newer", "new", "pinned"]);
        assert_eq!(lru.clear(), 2);
        assert_eq!(lru.stats().bytes, 10);
    }
}
