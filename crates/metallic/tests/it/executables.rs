//! The cache of compiled graphs: one compilation however many ask, bounds, pins, freezing.

use std::any::Any;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use metallic::Error;
use metallic::cache::{GraphExecutableCache, GraphKey, Limits};
use metallic::graph::Executable;
use metallic::op::{Op, Sdpa};
use metallic_instrumentation::Recorder;
use metallic_testkit::null_device::{NULL, NullOptions, null_context};

use crate::support::{SMALL, Shapes};

struct Sized(usize);

impl Executable for Sized {
    fn bytes(&self) -> usize {
        self.0
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A key that differs from others in `head_dim`.
fn key(head_dim: usize) -> GraphKey {
    let ctx = null_context(NullOptions::default());
    let call = Shapes { head_dim, ..SMALL }.call(&ctx);
    GraphKey::new::<Sdpa>(NULL, Arc::from("build"), Sdpa::check(&call).unwrap())
}

fn cache(entries: usize, bytes: usize) -> GraphExecutableCache {
    GraphExecutableCache::new(Limits { entries, bytes })
}

fn get(
    cache: &GraphExecutableCache,
    key: &GraphKey,
    bytes: usize,
) -> metallic::Result<Arc<dyn Executable>> {
    let compile = || Ok(Arc::new(Sized(bytes)) as Arc<dyn Executable>);
    cache.get_or_compile(key.clone(), &Recorder::disabled(), compile)
}

/// The printed keys, most recently used first, by their widths.
fn widths(cache: &GraphExecutableCache) -> Vec<usize> {
    let width = |key: &str| {
        let (_, rest) = key.split_once(" dim=").unwrap();
        rest.split_once('/').unwrap().0.parse().unwrap()
    };
    cache.list().iter().map(|entry| width(&entry.key)).collect()
}

#[test]
fn eight_threads_that_ask_for_one_key_compile_once() {
    let cache = cache(8, 1000);
    let key = key(8);
    let (compiles, barrier) = (AtomicUsize::new(0), Barrier::new(8));
    let results: Vec<_> = thread::scope(|scope| {
        let ask = || {
            barrier.wait();
            let compile = || {
                compiles.fetch_add(1, Ordering::SeqCst);
                thread::sleep(Duration::from_millis(30));
                Ok(Arc::new(Sized(10)) as Arc<dyn Executable>)
            };
            cache.get_or_compile(key.clone(), &Recorder::disabled(), compile).unwrap()
        };
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(compiles.load(Ordering::SeqCst), 1);
    assert!(results.iter().all(|result| Arc::ptr_eq(result, &results[0])));
    let stats = cache.stats();
    assert_eq!((stats.hits, stats.misses, stats.entries), (7, 1, 1));
}

#[test]
fn different_keys_compile_at_the_same_time() {
    let cache = cache(8, 1000);
    let keys = [key(8), key(16)];
    // Each compilation waits for the other: one after another would never end.
    let barrier = Barrier::new(2);
    thread::scope(|scope| {
        for key in &keys {
            let (cache, barrier) = (&cache, &barrier);
            scope.spawn(move || {
                let compile = || {
                    barrier.wait();
                    Ok(Arc::new(Sized(10)) as Arc<dyn Executable>)
                };
                cache.get_or_compile(key.clone(), &Recorder::disabled(), compile).unwrap();
            });
        }
    });
    assert_eq!(cache.stats().misses, 2);
}

#[test]
fn a_compilation_that_panics_lets_the_waiting_try_for_themselves() {
    let cache = cache(8, 1000);
    let key = key(8);
    let started = Barrier::new(2);
    thread::scope(|scope| {
        let panics = scope.spawn(|| {
            let compile = || {
                started.wait();
                thread::sleep(Duration::from_millis(30));
                panic!("a compiler bug");
            };
            cache.get_or_compile(key.clone(), &Recorder::disabled(), compile).map(|_| ())
        });
        started.wait();
        // The other thread compiles now; this one waits for it and then takes over.
        assert_eq!(get(&cache, &key, 10).unwrap().bytes(), 10);
        assert!(panics.join().is_err());
    });
    assert_eq!(widths(&cache), [8]);
}

#[test]
fn the_least_recently_used_goes_first_by_entries_and_by_bytes() {
    let by_entries = cache(2, 1000);
    let by_bytes = cache(100, 25);
    for cache in [by_entries, by_bytes] {
        get(&cache, &key(8), 10).unwrap();
        get(&cache, &key(16), 10).unwrap();
        get(&cache, &key(8), 10).unwrap();
        get(&cache, &key(24), 10).unwrap();
        assert_eq!(widths(&cache), [24, 8]);
        let stats = cache.stats();
        assert_eq!((stats.evictions, stats.bytes, stats.entries), (1, 20, 2));
    }
}

#[test]
fn what_is_in_use_or_pinned_stays() {
    let cache = cache(2, 1000);
    let held = get(&cache, &key(8), 10).unwrap();
    get(&cache, &key(16), 10).unwrap();
    assert!(cache.pin(&key(16), true));
    assert!(!cache.pin(&key(24), true), "not there");
    get(&cache, &key(24), 10).unwrap();
    assert_eq!(widths(&cache), [24, 16, 8], "over the limit rather than under somebody's feet");
    assert_eq!(cache.stats().pinned, 1);
    assert_eq!(cache.clear(), 1);
    assert_eq!(widths(&cache), [16, 8]);
    drop(held);
    get(&cache, &key(32), 10).unwrap();
    assert_eq!(widths(&cache), [32, 16], "no longer held");
    assert!(cache.pin(&key(16), false));
    assert_eq!(cache.clear(), 2);
    assert_eq!(cache.stats().bytes, 0);
}

#[test]
fn one_too_large_for_the_cache_still_runs() {
    let cache = cache(4, 5);
    get(&cache, &key(8), 10).unwrap();
    assert_eq!(widths(&cache), [8]);
    get(&cache, &key(16), 3).unwrap();
    assert_eq!(widths(&cache), [16], "it goes as soon as anything else comes");
}

#[test]
fn a_frozen_cache_serves_what_it_has_and_refuses_the_rest() {
    let cache = cache(4, 1000);
    get(&cache, &key(8), 10).unwrap();
    cache.freeze(true);
    assert!(cache.stats().frozen);
    assert!(get(&cache, &key(8), 10).is_ok());
    let error = match get(&cache, &key(16), 10) {
        Err(error @ Error::CacheFrozen { .. }) => error.to_string(),
        other => panic!("{:?}", other.map(|_| ())),
    };
    assert!(error.contains("dim=16/8") && error.contains("warm it before freezing"), "{error}");
    cache.freeze(false);
    assert!(get(&cache, &key(16), 10).is_ok());
}

#[test]
fn a_failure_is_remembered_until_the_cache_is_cleared() {
    let cache = cache(4, 1000);
    let fail = || {
        let reason = "no compiler".to_owned();
        Err(Error::Device { device: NULL, what: "compile", reason })
    };
    let recorder = Recorder::disabled();
    let first = cache.get_or_compile(key(8), &recorder, fail).err().unwrap().to_string();
    let again = get(&cache, &key(8), 10).err().unwrap().to_string();
    assert_eq!(first, again, "the working compiler was not even asked");
    assert!(first.starts_with("compiling sdpa prefill") && first.contains("no compiler"));
    cache.clear();
    assert!(get(&cache, &key(8), 10).is_ok());
}

#[test]
fn too_little_memory_is_not_remembered() {
    let cache = cache(4, 1000);
    let starve = || Err(Error::OutOfMemory { device: NULL, bytes: 1 << 40 });
    let failed = cache.get_or_compile(key(8), &Recorder::disabled(), starve).err().unwrap();
    assert!(matches!(failed, Error::Compile { .. }), "auto may go on with another kernel");
    assert!(get(&cache, &key(8), 10).is_ok());
}

#[test]
fn entries_know_their_ages_and_uses() {
    let cache = cache(4, 1000);
    get(&cache, &key(8), 10).unwrap();
    thread::sleep(Duration::from_millis(20));
    get(&cache, &key(16), 20).unwrap();
    get(&cache, &key(16), 20).unwrap();
    let stats = cache.stats();
    assert!(stats.oldest_age >= Duration::from_millis(20));
    assert!(stats.newest_age < stats.oldest_age);
    assert!(stats.longest_idle >= Duration::from_millis(20), "the first was not used since");
    assert_eq!((stats.reuse_count, stats.bytes), (1, 30));
    assert!((stats.hit_rate() - 100.0 / 3.0).abs() < 1e-9);
    let [recent, old] = cache.list().try_into().unwrap();
    assert_eq!((recent.bytes, recent.reuse_count, recent.pinned), (20, 1, false));
    assert_eq!((old.bytes, old.reuse_count), (10, 0));
    assert!(old.age >= old.idle && old.idle > recent.idle);
}
