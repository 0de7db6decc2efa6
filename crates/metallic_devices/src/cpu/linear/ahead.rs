//! Asking for weights in the order of memory, some way before they are used.
//!
//! R rows that are walked side by side are R streams, each of which crosses pages on its own. Rows of
//! W lie one after another, so they are one piece of memory, and its lines are asked for in their
//! order whatever the order of use. One Zen 5 core over a mapped file: Q4_1 15 GB/s with the place R
//! rows ahead asked for, 29 so; Q5_0 16 and 30; Q8_0 20 and 34; a plain stream reads 40.

use crate::cpu::simd::prefetch;

/// Bytes between what is used and what is asked for: what memory delivers in its latency, and
/// some more for the first touch of a page.
const AHEAD: usize = 8 << 10;

/// The weights of one share that were not asked for yet.
pub(super) struct Ahead {
    at: *const u8,
    end: *const u8,
}

impl Ahead {
    /// Starts on `bytes` bytes at `start`, and asks for the first of them.
    #[inline(always)]
    pub(super) fn new(start: *const u8, bytes: usize) -> Self {
        let mut ahead = Self { at: start, end: start.wrapping_add(bytes) };
        ahead.ask(AHEAD);
        ahead
    }

    /// Asks for the next `bytes`, unless all were asked for.
    #[inline(always)]
    pub(super) fn ask(&mut self, bytes: usize) {
        if self.at < self.end {
            for line in (0..bytes).step_by(64) {
                prefetch(self.at.wrapping_add(line));
            }
            self.at = self.at.wrapping_add(bytes);
        }
    }
}
