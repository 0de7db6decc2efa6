//! The choice among the kernels of an op: which may run a call, in which order, and why.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use super::engine::is_engine;
use super::policy::{Policy, PolicyChoice, PolicySource, holds_attention};
use super::registry::{KernelBackendRegistry, KernelEntry};
use super::{Backend, Draw, EngineChoice, EnginePreference, Reason, RolloutChoice, Support};
use crate::error::{Error, Result};
use crate::op::Op;

/// What `auto` would like to run, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Preference {
    /// The preferred backend.
    pub backend: Backend,
    /// Why, as `decode with kv_len <= 256`.
    pub reason: &'static str,
}

/// What ran or will run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// The op.
    pub op: &'static str,
    /// The backend.
    pub backend: Backend,
    /// The kernel's name among that backend's.
    pub variant: &'static str,
    /// Why.
    pub reason: Arc<str>,
}

/// The kernels that may run a call, best first; there is at least one. Why they stand so is put into
/// words only where somebody reads them.
#[derive(Debug)]
pub struct Candidates<'a, O: Op> {
    entries: Vec<&'a KernelEntry<O>>,
    rule: Rule<'a>,
    /// Kernels that do not take the call, where they were asked.
    refused: Vec<(&'a KernelEntry<O>, Reason)>,
    /// The engine that the device prefers, if it is among them.
    engine: Option<EnginePreference>,
}

/// What orders candidates.
#[derive(Clone, Copy, Debug, Hash)]
enum Rule<'a> {
    /// A demand, of an engine's name too.
    Forced(&'a PolicySource, Option<&'a str>),
    /// A demand for all ops of a backend that this one does not have.
    Absent(Backend, &'a PolicySource),
    /// The share of requests that may run on graph, without the present one.
    KeptBack(&'a RolloutChoice, Draw),
    Preferred(Preference),
    Registration,
}

impl<'a, O: Op> Candidates<'a, O> {
    /// All of them.
    pub fn entries(&self) -> &[&'a KernelEntry<O>] {
        &self.entries
    }

    /// The first.
    pub fn best(&self) -> &'a KernelEntry<O> {
        self.entries[0]
    }

    /// Why `entry` has its place.
    pub fn why<'s>(&'s self, entry: &'a KernelEntry<O>) -> Why<'s, O> {
        Why { candidates: self, entry, failures: "" }
    }

    /// `entry` as the kernel that runs.
    pub(crate) fn selection(&self, entry: &'a KernelEntry<O>) -> Selection {
        let KernelEntry { backend, variant, .. } = *entry;
        Selection { op: O::ID, backend, variant, reason: self.why(entry).to_string().into() }
    }

    /// Puts the engine that the device prefers before the other engines.
    fn order_engines(&mut self, preference: Option<EnginePreference>) {
        let Some(preference) = preference else { return };
        let graph = |entry: &&KernelEntry<O>| entry.backend == Backend::Graph;
        let Some(first) = self.entries.iter().position(graph) else { return };
        let named = |entry: &&KernelEntry<O>| is_engine(entry, preference.engine);
        if let Some(at) = self.entries.iter().position(named) {
            self.entries[first..=at].rotate_right(1);
            self.engine = Some(preference);
        }
    }
}

/// Why a kernel has its place among the candidates: as words, and to be compared without them.
#[derive(Debug)]
pub struct Why<'a, O: Op> {
    candidates: &'a Candidates<'a, O>,
    entry: &'a KernelEntry<O>,
    failures: &'a str,
}

impl<'a, O: Op> Why<'a, O> {
    /// The same, after better kernels gave way.
    pub(crate) fn after(self, failures: &'a str) -> Self {
        Self { failures, ..self }
    }

    fn engine(&self) -> Option<&EnginePreference> {
        self.candidates.engine.as_ref().filter(|engine| is_engine(self.entry, engine.engine))
    }
}

impl<O: Op> Hash for Why<'_, O> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Candidates { rule, refused, .. } = self.candidates;
        (rule, self.entry.backend, self.failures, self.engine()).hash(state);
        for (entry, reason) in refused {
            (entry.backend, entry.variant, reason).hash(state);
        }
    }
}

impl<O: Op> fmt::Display for Why<'_, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.candidates.rule {
            Rule::Forced(source, None) => write!(f, "forced by {source}")?,
            Rule::Forced(source, Some(engine)) => write!(f, "forced by {source} ({engine})")?,
            Rule::Absent(backend, source) => {
                write!(f, "{backend} by {source}, but not registered")?;
            }
            Rule::KeptBack(RolloutChoice { share, source }, draw) => write!(
                f,
                "rollout: graph for {share} of requests by {source}, this one falls at {draw}"
            )?,
            Rule::Preferred(Preference { backend, reason }) if backend == self.entry.backend => {
                write!(f, "auto: {reason}")?;
            }
            Rule::Preferred(Preference { backend, reason }) => {
                write!(f, "auto: {reason} asks for {backend}, which cannot run")?;
            }
            Rule::Registration => f.write_str("auto: first registered kernel that can run")?,
        }
        for (entry, reason) in &self.candidates.refused {
            write!(f, "; {entry:?}: {reason}")?;
        }
        if let Some(EnginePreference { engine, reason }) = self.engine() {
            write!(f, "; engine {engine}: {reason}")?;
        }
        f.write_str(self.failures)
    }
}

impl KernelBackendRegistry {
    /// The kernels that may run a call of `spec`, best first. A demanded backend leaves only its
    /// own kernels.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when a demanded backend or engine cannot run the call,
    /// [`Error::NoBackend`] when none can, [`Error::RequiredBackend`] when the best one is not the
    /// required one.
    pub fn candidates<O: Op>(&self, spec: &O::Spec) -> Result<Candidates<'_, O>> {
        let candidates = self.choices::<O>(spec)?;
        let best = candidates.best();
        match self.policies.required(O::ID) {
            Some(required) if best.backend != required => {
                let (selected, reason) = (best.backend, candidates.why(best).to_string());
                Err(Error::RequiredBackend { op: O::ID, required, selected, reason })
            }
            _ => Ok(candidates),
        }
    }

    /// As [`KernelBackendRegistry::candidates`], whatever is required.
    pub(crate) fn choices<O: Op>(&self, spec: &O::Spec) -> Result<Candidates<'_, O>> {
        let entries = self.entries::<O>();
        let (choice, own) = self.policies.choice(O::ID);
        let engine = self.demanded_engine(entries);
        // Attention within a segment is attention: an engine that is demanded binds it.
        if let (true, None, Some(demanded)) =
            (holds_attention(O::ID), engine, &self.policies.engine)
            && choice.policy != Policy::Force(Backend::Legacy)
        {
            return Err(Error::Unsupported {
                op: O::ID,
                backend: Backend::Graph,
                source_of_choice: format!("{} ({})", demanded.source, demanded.name),
                reason: Reason::NotRegistered,
            });
        }
        let mut candidates = match (choice.policy, engine) {
            (Policy::Force(backend), _) => {
                let present = entries.iter().any(|entry| entry.backend == backend);
                if present || own {
                    self.forced(entries, spec, backend, choice)?
                } else {
                    self.supported(entries, spec, Rule::Absent(backend, &choice.source))?
                }
            }
            (Policy::Auto, Some(_)) => self.forced(entries, spec, Backend::Graph, choice)?,
            (Policy::Auto, None) => {
                let preferred = self.set::<O>().and_then(|set| set.prefer).map(|f| f(spec));
                let rule = preferred.map_or(Rule::Registration, Rule::Preferred);
                self.supported(entries, spec, self.kept_back(O::ID).unwrap_or(rule))?
            }
        };
        if engine.is_none() {
            candidates.order_engines(self.preferred_engine::<O>(spec));
        }
        Ok(candidates)
    }

    /// The rule for the present request, where a rollout keeps it on legacy.
    fn kept_back(&self, op: &str) -> Option<Rule<'_>> {
        let (choice, draw) = (self.policies.rollout(op)?, self.draw());
        (!choice.share.admits(draw)).then_some(Rule::KeptBack(choice, draw))
    }

    fn forced<'a, O: Op>(
        &'a self,
        entries: &'a [KernelEntry<O>],
        spec: &O::Spec,
        backend: Backend,
        choice: &'a PolicyChoice,
    ) -> Result<Candidates<'a, O>> {
        let engine = self.demanded_engine(entries).filter(|_| backend == Backend::Graph);
        let mut why_not = Reason::NotRegistered;
        let mut found = Vec::new();
        let admitted = |entry: &&KernelEntry<O>| {
            entry.backend == backend && engine.is_none_or(|engine| is_engine(entry, &engine.name))
        };
        for entry in entries.iter().filter(admitted) {
            match entry.kernel.supports(spec) {
                Support::Yes => found.push(entry),
                Support::No(reason) => why_not = reason,
            }
        }
        if found.is_empty() {
            let source_of_choice = match engine {
                Some(EngineChoice { name, source }) => format!("{source} ({name})"),
                None => choice.source.to_string(),
            };
            return Err(Error::Unsupported {
                op: O::ID,
                backend,
                source_of_choice,
                reason: why_not,
            });
        }
        let rule = match engine {
            Some(EngineChoice { name, source }) => Rule::Forced(source, Some(name)),
            None => Rule::Forced(&choice.source, None),
        };
        Ok(Candidates { entries: found, rule, refused: Vec::new(), engine: None })
    }

    fn supported<'a, O: Op>(
        &self,
        entries: &'a [KernelEntry<O>],
        spec: &O::Spec,
        rule: Rule<'a>,
    ) -> Result<Candidates<'a, O>> {
        let mut refused = Vec::new();
        let mut found = Vec::new();
        for entry in entries {
            match entry.kernel.supports(spec) {
                Support::Yes => found.push(entry),
                Support::No(reason) => refused.push((entry, reason)),
            }
        }
        if found.is_empty() {
            let none = Reason::NotRegistered.to_string();
            let reasons: Vec<_> =
                refused.iter().map(|(entry, reason)| format!("{entry:?}: {reason}")).collect();
            let reasons = if refused.is_empty() { none } else { reasons.join("; ") };
            return Err(Error::NoBackend { op: O::ID, device: self.device, reasons });
        }
        let first = match rule {
            Rule::Preferred(Preference { backend, .. }) => Some(backend),
            Rule::KeptBack(..) => Some(Backend::Legacy),
            Rule::Forced(..) | Rule::Absent(..) | Rule::Registration => None,
        };
        if let Some(first) = first {
            found.sort_by_key(|entry| entry.backend != first);
        }
        Ok(Candidates { entries: found, rule, refused, engine: None })
    }
}
