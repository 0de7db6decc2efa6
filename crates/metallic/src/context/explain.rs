//! What would run, and why, without running it.

use super::Context;
use crate::dispatch::{Backend, Candidate, Selection};
use crate::op::Op;

/// The choice for the calls of one op and spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// What would run, and why.
    pub selection: Selection,
    /// What the choice depends on.
    pub spec: String,
    /// Kernels that could take its place, in the order in which they would.
    pub others: Vec<(Backend, &'static str)>,
    /// Calls with that spec.
    pub calls: u64,
}

impl Context {
    /// Does `work` without running any of its ops: each is checked and its kernel chosen, and what it
    /// would have written is unspecified. Gives what `work` gave, and the choices in the order of their
    /// first call. Calls of other threads on this context are caught meanwhile, too.
    ///
    /// A choice is the registry's: a graph that does not compile gives way only when it is run.
    pub fn explain<T>(&self, work: impl FnOnce() -> T) -> (T, Vec<Explanation>) {
        *self.explaining() = Some(Vec::new());
        let result = work();
        let explanations = self.explaining().take().unwrap_or_default();
        (result, explanations)
    }

    /// The best of `candidates`, where choices are explained and not run.
    pub(super) fn explained<O: Op>(
        &self,
        spec: &O::Spec,
        candidates: &[Candidate<'_, O>],
    ) -> Option<Selection> {
        let (best, others) = candidates.split_first()?;
        let selection = || Selection {
            op: O::ID,
            backend: best.entry.backend,
            variant: best.entry.variant,
            reason: best.reason.clone(),
        };
        let others = others.iter().map(|other| (other.entry.backend, other.entry.variant));
        self.add_explanation(spec, selection, others.collect())
    }

    /// Adds a choice, where choices are explained; gives it back there.
    pub(super) fn add_explanation(
        &self,
        spec: &impl ToString,
        selection: impl FnOnce() -> Selection,
        others: Vec<(Backend, &'static str)>,
    ) -> Option<Selection> {
        let mut explaining = self.explaining();
        let explanations = explaining.as_mut()?;
        let (selection, spec) = (selection(), spec.to_string());
        let same = |known: &&mut Explanation| known.selection == selection && known.spec == spec;
        match explanations.iter_mut().find(same) {
            Some(known) => known.calls += 1,
            None => {
                let selection = selection.clone();
                explanations.push(Explanation { selection, spec, others, calls: 1 });
            }
        }
        Some(selection)
    }
}
