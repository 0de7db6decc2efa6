//! The online softmax: one more block of transposed scores enters running maxima and sums.
//!
//! Versions: as the vector types. Not: masks, and not the merge of key ranges (`merge.rs`).

use crate::cpu::vector_math::F32Math;

/// Running state of a panel of queries, `width` numbers each.
#[derive(Clone, Copy)]
pub(super) struct Running {
    /// Largest score so far that is a number; −inf before the first.
    pub max: *mut f32,
    /// Sum of e^(score − max).
    pub sum: *mut f32,
    /// Written: what sums made with the former maximum are to be multiplied with.
    pub alpha: *mut f32,
}

/// Replaces scores `s: [keys, width]` by e^(score − max) and updates `running`.
///
/// A score of −inf has weight exactly 0, also while the maximum still is −inf. A NaN or +inf makes
/// the sum NaN, as it would in a softmax of the whole row.
///
/// # Safety
/// The pointers must cover `keys · width` and `width` floats; `width` is a multiple of the lanes;
/// `V`'s instructions must exist.
#[inline(always)]
pub(super) unsafe fn accumulate<V: F32Math>(
    s: *mut f32,
    width: usize,
    keys: usize,
    running: Running,
) {
    for lane in (0..width).step_by(V::LANES) {
        // SAFETY: the caller's promise.
        unsafe {
            let s = s.add(lane);
            let old = V::load(running.max.add(lane));
            // Two chains, since a maximum takes several cycles.
            let (mut max, mut other) = (old, old);
            let mut key = 0;
            while key + 1 < keys {
                max = max.max_number(V::load(s.add(key * width)));
                other = other.max_number(V::load(s.add((key + 1) * width)));
                key += 2;
            }
            if key < keys {
                max = max.max_number(V::load(s.add(key * width)));
            }
            max = max.max_number(other);
            // −inf − −inf would be NaN; a finite stand-in gives e^−inf = 0.
            let base = V::splat(f32::MIN).max_number(max);
            let alpha = old.sub(base).exp();
            let mut sum = V::load(running.sum.add(lane)).mul(alpha);
            for key in 0..keys {
                let at = s.add(key * width);
                let weight = V::load(at).sub(base).exp();
                weight.store(at);
                sum = sum.add(weight);
            }
            max.store(running.max.add(lane));
            sum.store(running.sum.add(lane));
            alpha.store(running.alpha.add(lane));
        }
    }
}
