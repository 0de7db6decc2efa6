//! What ran so far: which kernel, for which reason, how often; and what was chosen last for each spec.

use std::collections::HashSet;
use std::fmt::Display;
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

use foldhash::HashMap;
use foldhash::fast::RandomState;

use crate::dispatch::{Backend, Selection};
use crate::op::OpSpec;

/// A kernel among those that ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Kernel {
    pub(super) op: &'static str,
    pub(super) backend: Backend,
    pub(super) variant: &'static str,
}

/// How often a kernel ran for one reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunCount {
    /// The kernel, and why it ran.
    pub selection: Selection,
    /// Calls.
    pub calls: u64,
}

/// Reasons of one kernel that are counted apart; what comes after is counted together.
const MOST_REASONS: usize = 8;
/// What stands for all of these.
const OTHER_REASONS: &str = "for other reasons";

/// Kinds of steps remembered as run before; beyond this they are forgotten together.
const MAX_KINDS: usize = 256;

/// The counts of one context.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Of kernels, reasons, specs: none of them comes from strangers, and each call takes several.
    hashes: RandomState,
    /// The last choice per spec (lengths left out), by hash; `None` for a segment whose ops ran one by
    /// one.
    last: HashMap<u64, Option<Kernel>>,
    runs: Vec<RunCount>,
    /// Where in `runs` a kernel with a reason stands, by hash.
    places: HashMap<u64, usize>,
    /// Kinds of steps that ran, by hash.
    steps: HashSet<u64>,
}

impl Tally {
    /// Whether `chosen` differs from the last choice for `spec` of `op`, which it is from now on.
    pub(super) fn is_new(&mut self, op: &str, spec: &impl OpSpec, chosen: Option<Kernel>) -> bool {
        let hash = self.hashes.hash_one((op, spec.without_lengths()));
        self.last.insert(hash, chosen) != Some(chosen)
    }

    /// Counts a call. The reason is put into words the first time only.
    pub(super) fn count(&mut self, kernel: Kernel, why: &(impl Hash + Display)) -> Selection {
        let hash = self.hashes.hash_one((kernel, why));
        if let Some(run) = self.places.get(&hash).and_then(|place| self.runs.get_mut(*place)) {
            run.calls += 1;
            return run.selection.clone();
        }
        let selection = kernel.for_reason(why.to_string().into());
        if self.of(kernel).count() < MOST_REASONS {
            self.places.insert(hash, self.runs.len());
            self.runs.push(RunCount { selection: selection.clone(), calls: 1 });
            return selection;
        }
        let together = kernel.for_reason(OTHER_REASONS.into());
        match self.runs.iter_mut().find(|run| run.selection == together) {
            Some(run) => run.calls += 1,
            None => self.runs.push(RunCount { selection: together, calls: 1 }),
        }
        selection
    }

    fn of(&self, kernel: Kernel) -> impl Iterator<Item = &RunCount> {
        self.runs.iter().filter(move |run| Kernel::of(&run.selection) == kernel)
    }

    /// What ran for `op`, by kernel; reasons in the order in which they came up.
    pub(super) fn runs(&self, op: &str) -> Vec<RunCount> {
        let ran = |run: &&RunCount| run.selection.op == op && run.calls > 0;
        let mut runs: Vec<_> = self.runs.iter().filter(ran).cloned().collect();
        runs.sort_by_key(|run| Kernel::of(&run.selection));
        runs
    }

    /// Calls so far, as [`Tally::since`] takes them.
    pub(super) fn calls(&self) -> Vec<u64> {
        self.runs.iter().map(|run| run.calls).collect()
    }

    /// Calls since there were `before`: place and number.
    pub(super) fn since(&self, before: &[u64]) -> Vec<(usize, u64)> {
        let earlier = before.iter().copied().chain(std::iter::repeat(0));
        let calls = self.runs.iter().zip(earlier).map(|(run, earlier)| run.calls - earlier);
        calls.enumerate().filter(|(_, calls)| *calls > 0).collect()
    }

    /// Adds calls of [`Tally::since`].
    pub(super) fn add(&mut self, calls: &[(usize, u64)]) {
        for &(place, calls) in calls {
            self.runs[place].calls += calls;
        }
    }

    /// Takes calls of [`Tally::since`] back.
    pub(super) fn take_back(&mut self, calls: &[(usize, u64)]) {
        for &(place, calls) in calls {
            self.runs[place].calls -= calls;
        }
    }

    /// Whether no step of this kind ran before; from now on one did.
    pub(super) fn is_first_step(&mut self, kind: &impl Hash) -> bool {
        if self.steps.len() >= MAX_KINDS {
            self.steps.clear();
        }
        self.steps.insert(self.hashes.hash_one(kind))
    }
}

impl Kernel {
    fn of(selection: &Selection) -> Self {
        let Selection { op, backend, variant, .. } = *selection;
        Self { op, backend, variant }
    }

    fn for_reason(self, reason: Arc<str>) -> Selection {
        let Self { op, backend, variant } = self;
        Selection { op, backend, variant, reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_counted_apart_up_to_a_bound() {
        let mut tally = Tally::default();
        let kernel = |variant| Kernel { op: "sdpa", backend: Backend::Graph, variant };
        for call in 0..40 {
            let given = tally.count(kernel("a"), &format!("reason {}", call % 20));
            assert_eq!(&*given.reason, format!("reason {}", call % 20), "to the caller, always");
        }
        let before = tally.calls();
        tally.count(kernel("b"), &"alone");
        tally.count(kernel("a"), &"reason 3");
        let runs = tally.runs("sdpa");
        let of = |reason: &str| {
            let run = runs.iter().find(|run| &*run.selection.reason == reason);
            run.map(|run| run.calls)
        };
        assert_eq!((of("reason 0"), of("reason 3"), of("reason 8")), (Some(2), Some(3), None));
        assert_eq!((of(OTHER_REASONS), of("alone"), runs.len()), (Some(24), Some(1), 10));
        let since = tally.since(&before);
        assert_eq!(since.iter().map(|(_, calls)| calls).sum::<u64>(), 2);
        tally.take_back(&since);
        assert_eq!(tally.since(&before), []);
        assert_eq!(tally.runs("sdpa").len(), 9, "what was taken back did not run");
    }
}
