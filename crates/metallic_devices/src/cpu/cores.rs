//! The cores that kernels run on: their threads, and the instructions they have.

use std::sync::Arc;

use super::pool::ThreadPool;
use super::simd::Level;

/// What every kernel of the CPU holds.
#[derive(Clone)]
pub(crate) struct Cpu {
    pub(crate) pool: Arc<ThreadPool>,
    pub(crate) level: Level,
}

/// Elements below which a thread more costs more than it brings (a few µs of work).
const ELEMENTS_PER_TASK: usize = 16 * 1024;

impl Cpu {
    /// Runs `f(first_row, rows)` over `rows` rows of `width` elements, on as many threads as the
    /// work is worth.
    pub(crate) fn for_rows(&self, rows: usize, width: usize, f: &(dyn Fn(usize, usize) + Sync)) {
        let wanted = (rows * width).div_ceil(ELEMENTS_PER_TASK);
        let tasks = wanted.clamp(1, self.pool.threads() * 4).min(rows.max(1));
        if tasks == 1 {
            return f(0, rows);
        }
        let share = rows.div_ceil(tasks);
        self.pool.run(rows.div_ceil(share), &|task| {
            let first = task * share;
            f(first, share.min(rows - first));
        });
    }
}
