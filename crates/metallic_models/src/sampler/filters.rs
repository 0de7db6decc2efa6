//! The filters of the chain: each narrows the list of candidates. Not: their order.
//!
//! A device that draws does the same with the same roundings (`metallic::segment::FollowingSteps` says what):
//! what changes here changes in `persistent_draw.cuh` too.
//!
//! A list is sorted only as far as a filter looks, so that a vocabulary of 150,000 tokens costs
//! little more than one pass.

use std::cmp::Ordering;

use super::weight::weight;

/// A token that may still be chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// The token.
    pub id: u32,
    /// Its logit.
    pub logit: f32,
}

/// The likelier token first; of equals, the lower id. −0 equals 0, which adding 0 makes of it.
pub(super) fn by_logit(a: &Candidate, b: &Candidate) -> Ordering {
    (b.logit + 0.0).total_cmp(&(a.logit + 0.0)).then(a.id.cmp(&b.id))
}

/// Candidates, the first `sorted` of them in descending order and above all others.
#[derive(Clone, Debug, Default)]
pub(super) struct Candidates {
    list: Vec<Candidate>,
    sorted: usize,
}

/// How many candidates are sorted at first; three times as many follow.
const FIRST_CHUNK: usize = 128;

impl Candidates {
    /// Starts over with the `k` likeliest of `logits`, or with all of them.
    pub(super) fn fill(&mut self, logits: &[f32], top_k: Option<usize>) {
        self.list.clear();
        self.sorted = 0;
        let all = logits.iter().zip(0u32..);
        let Some(k) = top_k.filter(|&k| k <= logits.len()) else {
            self.list.extend(all.map(|(&logit, id)| Candidate { id, logit }));
            return;
        };
        // Collects up to 2k that pass the lowest of the best k so far, then thins them out: most
        // logits fail the comparison and are never moved.
        let room = (2 * k).max(FIRST_CHUNK);
        let mut bar = f32::NEG_INFINITY;
        for (&logit, id) in all {
            if logit > bar || self.list.len() < k {
                self.list.push(Candidate { id, logit });
                if self.list.len() == room {
                    self.keep_best(k);
                    bar = self.list.iter().fold(f32::INFINITY, |bar, c| bar.min(c.logit));
                }
            }
        }
        self.sort_best(k);
    }

    /// Starts over with the `k` likeliest of `candidates`.
    pub(super) fn fill_from(&mut self, candidates: impl Iterator<Item = Candidate>, k: usize) {
        self.list.clear();
        self.list.extend(candidates);
        self.sort_best(k);
    }

    fn sort_best(&mut self, k: usize) {
        self.keep_best(k);
        self.list.sort_unstable_by(by_logit);
        self.sorted = self.list.len();
    }

    fn keep_best(&mut self, k: usize) {
        if k < self.list.len() {
            self.list.select_nth_unstable_by(k, by_logit);
            self.list.truncate(k);
        }
    }

    /// Sorts at least one more chunk.
    fn sort_more(&mut self) {
        let end = (self.sorted * 4).max(FIRST_CHUNK).min(self.list.len());
        let rest = &mut self.list[self.sorted..];
        let count = end - self.sorted;
        if count < rest.len() {
            rest.select_nth_unstable_by(count, by_logit);
        }
        rest[..count].sort_unstable_by(by_logit);
        self.sorted = end;
    }

    /// The likeliest, of a list that is sorted.
    pub(super) fn first(&self) -> Option<Candidate> {
        self.list.first().copied().filter(|_| self.sorted > 0)
    }

    fn max(&self) -> f32 {
        match self.list.first() {
            Some(first) if self.sorted > 0 => first.logit,
            _ => self.list.iter().fold(f32::NEG_INFINITY, |max, c| max.max(c.logit)),
        }
    }

    /// Weights summed over the list, in its order.
    fn weight_sum(&self, max: f32) -> f64 {
        self.list.iter().map(|c| f64::from(weight(c.logit - max))).sum()
    }

    /// Keeps the tokens whose surprise is nearest to the expected one, until they have the
    /// probability `p` together ("Locally Typical Sampling", Meister et al. 2022).
    pub(super) fn typical(&mut self, p: f32) {
        let max = self.max();
        let log_sum = self.weight_sum(max).ln();
        let log_p = |c: &Candidate| f64::from(c.logit - max) - log_sum;
        let term = |log_p: f64| if log_p > f64::NEG_INFINITY { -log_p * log_p.exp() } else { 0.0 };
        let entropy: f64 = self.list.iter().map(|c| term(log_p(c))).sum();
        let mut keyed: Vec<(f64, Candidate)> =
            self.list.iter().map(|c| ((-log_p(c) - entropy).abs(), *c)).collect();
        keyed.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(by_logit(&a.1, &b.1)));
        let mut total = 0.0;
        let kept = keyed.iter().position(|(_, c)| {
            total += log_p(c).exp();
            total > f64::from(p)
        });
        self.list.clear();
        self.list.extend(keyed[..kept.map_or(keyed.len(), |last| last + 1)].iter().map(|k| k.1));
        self.sorted = 0;
    }

    /// Keeps the likeliest tokens that have the probability `p` together, at least one.
    pub(super) fn top_p(&mut self, p: f32) {
        let max = self.max();
        let wanted = f64::from(p) * self.weight_sum(max);
        let mut total = 0.0;
        for index in 0..self.list.len() {
            if index == self.sorted {
                self.sort_more();
            }
            total += f64::from(weight(self.list[index].logit - max));
            if total >= wanted {
                self.list.truncate(index + 1);
                self.sorted = self.list.len();
                return;
            }
        }
    }

    /// Keeps the tokens at least `p` times as likely as the likeliest.
    pub(super) fn min_p(&mut self, p: f32) {
        let bar = self.max() + p.ln();
        if self.sorted == self.list.len() {
            self.list.truncate(self.list.partition_point(|c| c.logit >= bar));
        } else {
            self.list.retain(|c| c.logit >= bar);
            self.sorted = 0;
        }
        self.sorted = self.sorted.min(self.list.len());
    }

    /// Divides the logits: above 1 flattens the distribution, below 1 sharpens it. Afterwards the
    /// largest is 0, so that no temperature makes it infinite.
    pub(super) fn temperature(&mut self, temperature: f32) {
        let max = self.max();
        self.list.iter_mut().for_each(|c| c.logit = (c.logit - max) / temperature);
    }

    /// The token at `uniform` (0 to 1) of the distribution; `None` without candidates.
    pub(super) fn pick(&self, uniform: f64) -> Option<u32> {
        let max = self.max();
        let wanted = uniform * self.weight_sum(max);
        let mut total = 0.0;
        let found = self.list.iter().find(|c| {
            total += f64::from(weight(c.logit - max));
            total > wanted
        });
        found.or(self.list.last()).map(|c| c.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Logits of the probabilities 0.5, 0.25, 0.15, 0.1, in the order 2, 0, 3, 1.
    fn four() -> [f32; 4] {
        [0.25f32.ln(), 0.1f32.ln(), 0.5f32.ln(), 0.15f32.ln()]
    }

    fn filtered(top_k: Option<usize>, filter: impl Fn(&mut Candidates)) -> Vec<u32> {
        let mut candidates = Candidates::default();
        candidates.fill(&four(), top_k);
        filter(&mut candidates);
        let mut ids: Vec<u32> = candidates.list.iter().map(|c| c.id).collect();
        ids.sort_unstable();
        ids
    }

    #[test]
    fn top_k_keeps_the_likeliest() {
        assert_eq!(filtered(Some(1), |_| ()), [2]);
        assert_eq!(filtered(Some(3), |_| ()), [0, 2, 3]);
        assert_eq!(filtered(Some(9), |_| ()), [0, 1, 2, 3]);
        assert_eq!(filtered(None, |_| ()), [0, 1, 2, 3]);
    }

    #[test]
    fn top_p_keeps_the_nucleus() {
        assert_eq!(filtered(None, |c| c.top_p(0.4)), [2]);
        assert_eq!(filtered(None, |c| c.top_p(0.7)), [0, 2]);
        assert_eq!(filtered(None, |c| c.top_p(0.89)), [0, 2, 3]);
        assert_eq!(filtered(None, |c| c.top_p(0.0)), [2]);
        // Among the best two, 0.5 and 0.25 count as 2/3 and 1/3.
        assert_eq!(filtered(Some(2), |c| c.top_p(0.6)), [2]);
    }

    #[test]
    fn min_p_compares_with_the_likeliest() {
        assert_eq!(filtered(None, |c| c.min_p(0.6)), [2]);
        assert_eq!(filtered(None, |c| c.min_p(0.49)), [0, 2]);
        assert_eq!(filtered(Some(4), |c| c.min_p(0.25)), [0, 2, 3]);
        assert_eq!(filtered(None, |c| c.min_p(0.1)), [0, 1, 2, 3]);
    }

    #[test]
    fn typical_keeps_what_is_about_as_surprising_as_expected() {
        // Entropy 1.2080 nats; the surprises are 1.3863, 2.3026, 0.6931 and 1.8971, so the
        // distances are 0.178, 1.095, 0.515 and 0.689.
        assert_eq!(filtered(None, |c| c.typical(0.2)), [0]);
        assert_eq!(filtered(None, |c| c.typical(0.6)), [0, 2]);
        assert_eq!(filtered(None, |c| c.typical(0.8)), [0, 2, 3]);
        // A later filter sorts again.
        assert_eq!(
            filtered(None, |c| {
                c.typical(0.6);
                c.top_p(0.5);
            }),
            [2]
        );
    }

    #[test]
    fn temperature_sharpens_and_the_pick_follows_the_distribution() {
        let mut candidates = Candidates::default();
        candidates.fill(&four(), Some(4));
        let picks = |c: &Candidates| [0.0, 0.49, 0.51, 0.76, 0.91, 1.0].map(|u| c.pick(u).unwrap());
        assert_eq!(picks(&candidates), [2, 2, 0, 3, 1, 1]);
        // At temperature 0.5 the weights are squared: 0.25, 0.0625, 0.0225, 0.01 of 0.345.
        candidates.temperature(0.5);
        assert_eq!([0.72, 0.73, 0.91, 0.98].map(|u| candidates.pick(u).unwrap()), [2, 0, 3, 1]);
        // Next to nothing is as good as greedy: 20 / 1e-38 would be infinite.
        for k in [None, Some(3)] {
            candidates.fill(&four().map(|logit| logit + 20.0), k);
            candidates.temperature(1e-38);
            assert_eq!([0.0, 0.5, 0.99].map(|u| candidates.pick(u).unwrap()), [2, 2, 2]);
        }
        assert_eq!(Candidates::default().pick(0.5), None);
    }

    #[test]
    fn large_vocabularies_give_what_a_full_sort_gives() {
        let mut value = 1u32;
        let logits: Vec<f32> = (0..50_000)
            .map(|_| {
                value = value.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                // Coarse, so that there are ties.
                (value >> 20) as f32 / 256.0
            })
            .collect();
        let mut all: Vec<Candidate> =
            logits.iter().zip(0..).map(|(&logit, id)| Candidate { id, logit }).collect();
        all.sort_by(by_logit);
        let mut candidates = Candidates::default();
        for k in [1, 40, 1000] {
            candidates.fill(&logits, Some(k));
            assert_eq!(candidates.list, all[..k]);
        }
        candidates.fill(&logits, None);
        candidates.top_p(0.5);
        let kept = candidates.list.len();
        assert!(kept > 200 && kept < 50_000);
        assert_eq!(candidates.list, all[..kept]);
    }
}
