//! What would run, and why, without running it.

use super::Context;
use crate::dispatch::{Backend, Candidates, Selection};
use crate::op::Op;

/// The choice for the calls of one op and spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The op.
    pub op: &'static str,
    /// The kernel that would run, by backend and variant; `None` for a segment that no graph takes,
    /// whose ops are explained each for itself.
    pub kernel: Option<(Backend, &'static str)>,
    /// Why.
    pub reason: String,
    /// What the choice depends on.
    pub spec: String,
    /// Kernels that could take its place, in the order in which they would.
    pub others: Vec<(Backend, &'static str)>,
    /// Calls with that spec.
    pub calls: u64,
}

impl Explanation {
    /// One call that `selection` would run.
    pub(super) fn of(selection: Selection, spec: &impl ToString) -> Self {
        let Selection { op, backend, variant, reason } = selection;
        let (kernel, others) = (Some((backend, variant)), Vec::new());
        let (reason, spec) = (reason.to_string(), spec.to_string());
        Self { op, kernel, reason, spec, others, calls: 1 }
    }

    /// One call of a segment whose ops would run one by one.
    pub(super) fn op_by_op(op: &'static str, reason: String, spec: &impl ToString) -> Self {
        let (kernel, others) = (None, Vec::new());
        Self { op, kernel, reason, spec: spec.to_string(), others, calls: 1 }
    }

    /// Whether both say the same of one spec.
    fn says_as(&self, other: &Self) -> bool {
        (self.op, self.kernel) == (other.op, other.kernel)
            && (&self.reason, &self.spec) == (&other.reason, &other.spec)
    }
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
        candidates: &Candidates<'_, O>,
    ) -> Option<Selection> {
        let selection = || candidates.selection(candidates.best());
        let explanation = || {
            let others = candidates.entries().iter().skip(1);
            let others = others.map(|other| (other.backend, other.variant)).collect();
            Explanation { others, ..Explanation::of(selection(), spec) }
        };
        self.add_explanation(explanation).then(selection)
    }

    /// Adds a call, where choices are explained; whether that is so.
    pub(super) fn add_explanation(&self, explanation: impl FnOnce() -> Explanation) -> bool {
        let mut explaining = self.explaining();
        let Some(explanations) = explaining.as_mut() else { return false };
        let new = explanation();
        match explanations.iter_mut().find(|known| known.says_as(&new)) {
            Some(known) => known.calls += 1,
            None => explanations.push(new),
        }
        true
    }
}
