//! Joins the sums of cut key ranges by their log-sum-exp. The last part to finish does it.

use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::cpu::exp::exp;
use crate::cpu::linear::scratch::Buffer;

thread_local! {
    /// Sums of all parts of one call, shared by its tasks.
    static SHARED: RefCell<Buffer> = RefCell::default();
}

/// Sums, maxima and weights of each part of each item.
pub(super) struct Partials {
    base: *mut f32,
    rows: usize,
    v_dim: usize,
    splits: usize,
    /// Parts of each item that are not finished.
    left: Vec<AtomicUsize>,
}

// SAFETY: parts write disjoint ranges; the last to finish reads all of an item's, after the others
// have counted down with release order.
unsafe impl Sync for Partials {}

impl Partials {
    /// Lends room for `items · splits` parts of up to `rows` rows.
    pub(super) fn with(
        items: usize,
        splits: usize,
        rows: usize,
        v_dim: usize,
        f: impl FnOnce(&Self),
    ) {
        SHARED.with_borrow_mut(|buffer| {
            let base = buffer.take::<f32>(items * splits * rows * (v_dim + 2)).as_mut_ptr();
            let left = (0..items).map(|_| AtomicUsize::new(splits)).collect();
            f(&Self { base, rows, v_dim, splits, left });
        });
    }

    /// Parts of each item.
    pub(super) fn splits(&self) -> usize {
        self.splits
    }

    /// Floats of a part: a maximum, a weight and sums for each row.
    fn part_len(&self) -> usize {
        self.rows * (self.v_dim + 2)
    }

    /// The part's rows, each a maximum, a weight, and `v_dim` sums.
    ///
    /// # Safety
    /// Only the task of this part may call this, before [`Partials::finish`].
    #[expect(clippy::mut_from_ref, reason = "each part is one task's")]
    pub(super) unsafe fn part(&self, item: usize, split: usize) -> &mut [f32] {
        let len = self.part_len();
        // SAFETY: inside the room that `with` took; exclusive by this function's contract.
        unsafe {
            let start = self.base.add((item * self.splits + split) * len);
            std::slice::from_raw_parts_mut(start, len)
        }
    }

    /// Counts a part as finished. To the last of an item it lends the item's parts.
    pub(super) fn finish(&self, item: usize) -> Option<&[f32]> {
        if self.left[item].fetch_sub(1, Ordering::AcqRel) > 1 {
            return None;
        }
        let len = self.splits * self.part_len();
        // SAFETY: all parts of this item are written, and nobody writes them again.
        Some(unsafe { std::slice::from_raw_parts(self.base.add(item * len), len) })
    }

    /// Merges one row of an item's `parts` into `sums` and returns its weight.
    pub(super) fn merge(&self, parts: &[f32], row: usize, sums: &mut [f32]) -> f32 {
        let at = |part: usize| &parts[part * self.part_len() + row * (self.v_dim + 2)..];
        // The finite floor keeps −inf − −inf away.
        let max = (0..self.splits).map(|part| at(part)[0]).fold(f32::MIN, f32::max);
        sums.fill(0.0);
        let mut total = 0.0;
        for part in 0..self.splits {
            let part = at(part);
            let scale = exp(part[0] - max);
            total += part[1] * scale;
            for (sum, x) in sums.iter_mut().zip(&part[2..]) {
                *sum += x * scale;
            }
        }
        total
    }
}
