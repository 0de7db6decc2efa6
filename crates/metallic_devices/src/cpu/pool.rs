//! A small persistent thread pool for the parallel loops inside one kernel.
//!
//! A token takes a few hundred parallel regions of some microseconds each, so waking up must be
//! cheap: idle workers spin for some tens of microseconds, then yield, then sleep. A region is
//! over when its tasks are done, not when every worker has looked at it, so a worker that the
//! operating system holds back delays nobody.
//! Not: a scheduler. There are no queues, no futures and no nesting (a nested region runs inline).

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long an idle worker spins before it yields and then sleeps.
const SPIN: Duration = Duration::from_micros(60);
/// Tasks that one region can count; more are run in groups.
const MAX_TASKS: usize = 0xffff;
/// How often an idle thread yields its time slice between spinning and sleeping.
const YIELDS: u32 = 16;

/// A fixed set of threads that share the tasks of one parallel region at a time.
pub struct ThreadPool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held by the one caller whose region the workers serve.
    region: Mutex<()>,
}

/// One parallel region, on the stack of its caller.
struct Job<'a> {
    f: &'a (dyn Fn(usize) + Sync),
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

#[derive(Default)]
struct Shared {
    /// Region number (32 bits), its tasks (16 bits), its next unclaimed task (16 bits).
    ///
    /// A task is claimed by a compare-exchange on all three, so a worker that read an older
    /// region's `job` cannot claim from a newer one.
    claim: AtomicU64,
    job: AtomicPtr<Job<'static>>,
    /// Finished tasks of this region.
    done: AtomicUsize,
    caller_sleeps: AtomicBool,
    sleepers: AtomicUsize,
    stop: AtomicBool,
    lock: Mutex<()>,
    work: Condvar,
    finished: Condvar,
}

thread_local! {
    /// True while this thread runs tasks of some region.
    static IN_REGION: Cell<bool> = const { Cell::new(false) };
}

/// Sets [`IN_REGION`] for a scope.
struct RegionMark;

impl RegionMark {
    fn enter() -> Self {
        IN_REGION.set(true);
        RegionMark
    }
}

impl Drop for RegionMark {
    fn drop(&mut self) {
        IN_REGION.set(false);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ThreadPool {
    /// Starts a pool in which `threads` threads work, the caller of [`ThreadPool::run`] being
    /// one of them; 0 counts as 1. A thread that the system refuses to start is left out.
    pub fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared::default());
        let workers = (1..threads)
            .filter_map(|index| {
                let shared = Arc::clone(&shared);
                std::thread::Builder::new()
                    .name(format!("metallic-cpu-{index}"))
                    .spawn(move || shared.work())
                    .ok()
            })
            .collect();
        Self { shared, workers, region: Mutex::new(()) }
    }

    /// Threads that work in a region, the caller included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `f(0)` … `f(tasks − 1)`, each once and in no particular order or thread, and
    /// returns when all are done. The caller takes part.
    ///
    /// Runs inline when called from inside a task, when another thread's region is under way,
    /// and when there is nothing to share.
    ///
    /// # Panics
    /// With a task's own panic: after the other tasks are done, or at once when run inline.
    pub fn run(&self, tasks: usize, f: &(dyn Fn(usize) + Sync)) {
        if tasks <= 1 || self.workers.is_empty() || IN_REGION.get() {
            return (0..tasks).for_each(f);
        }
        if tasks > MAX_TASKS {
            let per_group = tasks.div_ceil(MAX_TASKS);
            return self.run(tasks.div_ceil(per_group), &|group| {
                let start = group * per_group;
                (start..tasks.min(start + per_group)).for_each(f);
            });
        }
        let region = match self.region.try_lock() {
            Ok(guard) => guard,
            Err(std::sync::TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(std::sync::TryLockError::WouldBlock) => return (0..tasks).for_each(f),
        };
        let job = Job { f, panic: Mutex::new(None) };
        self.shared.publish(&job, tasks as u64);
        {
            let _mark = RegionMark::enter();
            self.shared.take_tasks();
        }
        self.shared.wait_until_done(tasks);
        drop(region);
        let panic = lock(&job.panic).take();
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        drop(lock(&self.shared.lock));
        self.shared.work.notify_all();
        for worker in self.workers.drain(..) {
            // A worker catches the panics of its tasks, so there is no other to report.
            let _ = worker.join();
        }
    }
}

impl std::fmt::Debug for ThreadPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ThreadPool({} threads)", self.threads())
    }
}

impl Shared {
    /// Opens a new region. Only the holder of `ThreadPool::region` calls this.
    fn publish(&self, job: &Job<'_>, tasks: u64) {
        self.done.store(0, Ordering::Relaxed);
        self.job.store(std::ptr::from_ref(job).cast_mut().cast(), Ordering::Relaxed);
        let region = (self.claim.load(Ordering::Relaxed) >> 32).wrapping_add(1);
        self.claim.store(region << 32 | tasks << 16, Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            drop(lock(&self.lock));
            self.work.notify_all();
        }
    }

    /// True while the present region has an unclaimed task.
    fn has_work(&self, order: Ordering) -> bool {
        let (tasks, next) = tasks_and_next(self.claim.load(order));
        next < tasks
    }

    /// Claims and runs tasks until none is left.
    fn take_tasks(&self) {
        loop {
            let claim = self.claim.load(Ordering::Acquire);
            let (tasks, index) = tasks_and_next(claim);
            let job = self.job.load(Ordering::Relaxed);
            if index >= tasks {
                return;
            }
            if self
                .claim
                .compare_exchange_weak(claim, claim + 1, Ordering::AcqRel, Ordering::Relaxed)
                .is_err()
            {
                continue;
            }
            // SAFETY: the exchange succeeded, so `claim` did not change since it was loaded and
            // `job` is that region's. Its caller keeps the job alive until this task counts as
            // done, which happens below.
            let job = unsafe { &*job };
            let result = catch_unwind(AssertUnwindSafe(|| (job.f)(index)));
            if let Err(payload) = result {
                lock(&job.panic).get_or_insert(payload);
            }
            self.finish_task(tasks);
        }
    }

    fn finish_task(&self, tasks: usize) {
        // The job may be gone as soon as the last task is counted: touch only `self` after it.
        let last = self.done.fetch_add(1, Ordering::SeqCst) + 1 == tasks;
        if last && self.caller_sleeps.load(Ordering::SeqCst) {
            drop(lock(&self.lock));
            self.finished.notify_all();
        }
    }

    fn wait_until_done(&self, tasks: usize) {
        let is_done = || self.done.load(Ordering::SeqCst) == tasks;
        if spin_until(is_done) {
            return;
        }
        let mut guard = lock(&self.lock);
        self.caller_sleeps.store(true, Ordering::SeqCst);
        while !is_done() {
            guard = self.finished.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.caller_sleeps.store(false, Ordering::SeqCst);
    }

    /// The life of a worker.
    fn work(&self) {
        let _mark = RegionMark::enter();
        loop {
            let stopped = || self.stop.load(Ordering::Relaxed);
            if !spin_until(|| self.has_work(Ordering::Acquire) || stopped()) {
                self.sleep();
            }
            if stopped() {
                return;
            }
            self.take_tasks();
        }
    }

    fn sleep(&self) {
        let mut guard = lock(&self.lock);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        while !self.has_work(Ordering::SeqCst) && !self.stop.load(Ordering::SeqCst) {
            guard = self.work.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The last two fields of [`Shared::claim`].
fn tasks_and_next(claim: u64) -> (usize, usize) {
    (claim as usize >> 16 & 0xffff, claim as usize & 0xffff)
}

/// Spins, then yields, until `ready`; false when it gave up.
fn spin_until(ready: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    loop {
        for _ in 0..64 {
            if ready() {
                return true;
            }
            std::hint::spin_loop();
        }
        if start.elapsed() >= SPIN {
            break;
        }
    }
    for _ in 0..YIELDS {
        if ready() {
            return true;
        }
        std::thread::yield_now();
    }
    ready()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(pool: &ThreadPool, tasks: usize) -> usize {
        let total = AtomicUsize::new(0);
        pool.run(tasks, &|i| {
            total.fetch_add(i + 1, Ordering::Relaxed);
        });
        total.into_inner()
    }

    #[test]
    fn every_task_runs_once() {
        for threads in [0, 1, 2, 3, 8] {
            let pool = ThreadPool::new(threads);
            assert_eq!(pool.threads(), threads.max(1));
            for tasks in [0, 1, 2, 7, 100, 70_000] {
                let counts: Vec<_> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(tasks, &|i| {
                    counts[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn survives_hammering() {
        let pool = ThreadPool::new(4);
        for round in 0..20_000 {
            let tasks = round % 9;
            assert_eq!(sum(&pool, tasks), tasks * (tasks + 1) / 2);
        }
    }

    #[test]
    fn wakes_sleeping_workers() {
        let pool = ThreadPool::new(3);
        for _ in 0..20 {
            std::thread::sleep(Duration::from_millis(1));
            assert_eq!(sum(&pool, 10), 55);
        }
    }

    #[test]
    fn sleeping_caller_is_woken() {
        let pool = ThreadPool::new(2);
        for _ in 0..5 {
            pool.run(2, &|i| std::thread::sleep(Duration::from_millis(1 + 3 * i as u64)));
        }
    }

    #[test]
    fn nested_regions_run_inline() {
        let pool = ThreadPool::new(3);
        let total = AtomicUsize::new(0);
        pool.run(5, &|_| {
            total.fetch_add(sum(&pool, 4), Ordering::Relaxed);
        });
        assert_eq!(total.into_inner(), 50);
    }

    #[test]
    fn callers_from_many_threads() {
        let pool = ThreadPool::new(3);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..2000).for_each(|_| assert_eq!(sum(&pool, 6), 21)));
            }
        });
    }

    #[test]
    fn a_panic_reaches_the_caller() {
        let pool = ThreadPool::new(3);
        for bad in 0..6 {
            let finished = AtomicUsize::new(0);
            let result = catch_unwind(AssertUnwindSafe(|| {
                pool.run(6, &|i| {
                    assert!(i != bad, "task {i} fails");
                    finished.fetch_add(1, Ordering::Relaxed);
                });
            }));
            let message = *result.unwrap_err().downcast::<String>().unwrap();
            assert_eq!(message, format!("task {bad} fails"));
            assert_eq!(finished.into_inner(), 5);
            assert_eq!(sum(&pool, 6), 21);
        }
    }
}
