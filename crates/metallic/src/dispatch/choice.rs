//! The choice among the kernels of an op: which may run a call, in which order, and why.

use super::engine::is_engine;
use super::policy::{Policy, PolicyChoice, holds_attention};
use super::registry::{KernelBackendRegistry, KernelEntry};
use super::{Backend, EngineChoice, Reason, Support};
use crate::error::{Error, Result};
use crate::op::Op;

/// What `auto` would like to run, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preference {
    /// The preferred backend.
    pub backend: Backend,
    /// Why, as `decode with kv_len <= 256`.
    pub reason: &'static str,
}

/// A kernel that may run a call, with the reason for its place in the order.
#[derive(Debug)]
pub struct Candidate<'a, O: Op> {
    /// The kernel.
    pub entry: &'a KernelEntry<O>,
    /// Why it is here.
    pub reason: String,
}

impl<O: Op> Candidate<'_, O> {
    /// This kernel as the one that runs.
    pub(crate) fn selection(&self) -> Selection {
        let KernelEntry { backend, variant, .. } = *self.entry;
        Selection { op: O::ID, backend, variant, reason: self.reason.clone() }
    }
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
    pub reason: String,
}

impl KernelBackendRegistry {
    /// The kernels that may run a call of `spec`, best first. A demanded backend leaves only its
    /// own kernels.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when a demanded backend or engine cannot run the call,
    /// [`Error::NoBackend`] when none can, [`Error::RequiredBackend`] when the best one is not the
    /// required one.
    pub fn candidates<O: Op>(&self, spec: &O::Spec) -> Result<Vec<Candidate<'_, O>>> {
        let candidates = self.choices::<O>(spec)?;
        if let (Some(required), Some(best)) = (self.policies.required(O::ID), candidates.first())
            && best.entry.backend != required
        {
            let (selected, reason) = (best.entry.backend, best.reason.clone());
            return Err(Error::RequiredBackend { op: O::ID, required, selected, reason });
        }
        Ok(candidates)
    }

    /// As [`KernelBackendRegistry::candidates`], whatever is required.
    pub(crate) fn choices<O: Op>(&self, spec: &O::Spec) -> Result<Vec<Candidate<'_, O>>> {
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
                    let note = format!("{backend} by {}, but not registered", choice.source);
                    self.supported(entries, spec, Some(&note), None)?
                }
            }
            (Policy::Auto, Some(_)) => self.forced(entries, spec, Backend::Graph, choice)?,
            (Policy::Auto, None) => {
                let preferred = self.set::<O>().and_then(|set| set.prefer).map(|f| f(spec));
                match self.kept_back(O::ID) {
                    Some(note) => {
                        let legacy = Preference { backend: Backend::Legacy, reason: "rollout" };
                        self.supported(entries, spec, Some(&note), Some(legacy))?
                    }
                    None => self.supported(entries, spec, None, preferred)?,
                }
            }
        };
        if engine.is_none() {
            self.order_engines(&mut candidates, spec);
        }
        Ok(candidates)
    }

    /// Why the present request keeps legacy for `op`, where a rollout says so.
    fn kept_back(&self, op: &str) -> Option<String> {
        let choice = self.policies.rollout(op)?;
        let draw = self.draw();
        (!choice.share.admits(draw)).then(|| {
            format!(
                "rollout: graph for {} of requests by {}, this one falls at {draw}",
                choice.share, choice.source
            )
        })
    }

    fn forced<'a, O: Op>(
        &self,
        entries: &'a [KernelEntry<O>],
        spec: &O::Spec,
        backend: Backend,
        choice: &PolicyChoice,
    ) -> Result<Vec<Candidate<'a, O>>> {
        let engine = self.demanded_engine(entries).filter(|_| backend == Backend::Graph);
        let source = match engine {
            Some(EngineChoice { name, source }) => format!("{source} ({name})"),
            None => choice.source.to_string(),
        };
        let mut why_not = Reason::NotRegistered;
        let mut candidates = Vec::new();
        let admitted = |entry: &&KernelEntry<O>| {
            entry.backend == backend && engine.is_none_or(|engine| is_engine(entry, &engine.name))
        };
        for entry in entries.iter().filter(admitted) {
            match entry.kernel.supports(spec) {
                Support::Yes => {
                    candidates.push(Candidate { entry, reason: format!("forced by {source}") });
                }
                Support::No(reason) => why_not = reason,
            }
        }
        if candidates.is_empty() {
            let source_of_choice = source;
            return Err(Error::Unsupported {
                op: O::ID,
                backend,
                source_of_choice,
                reason: why_not,
            });
        }
        Ok(candidates)
    }

    fn supported<'a, O: Op>(
        &self,
        entries: &'a [KernelEntry<O>],
        spec: &O::Spec,
        note: Option<&str>,
        preference: Option<Preference>,
    ) -> Result<Vec<Candidate<'a, O>>> {
        let mut refused = Vec::new();
        let mut candidates = Vec::new();
        for entry in entries {
            match entry.kernel.supports(spec) {
                Support::Yes => candidates.push(entry),
                Support::No(reason) => refused.push(format!("{entry:?}: {reason}")),
            }
        }
        if candidates.is_empty() {
            let none = Reason::NotRegistered.to_string();
            let reasons = if refused.is_empty() { none } else { refused.join("; ") };
            return Err(Error::NoBackend { op: O::ID, device: self.device, reasons });
        }
        if let Some(preference) = preference {
            candidates.sort_by_key(|entry| entry.backend != preference.backend);
        }
        let why = |entry: &KernelEntry<O>| {
            let mut why = match (note, preference) {
                (Some(note), _) => note.to_owned(),
                (None, Some(Preference { backend, reason })) if backend == entry.backend => {
                    format!("auto: {reason}")
                }
                (None, Some(Preference { backend, reason })) => {
                    format!("auto: {reason} asks for {backend}, which cannot run")
                }
                (None, None) => "auto: first registered kernel that can run".to_owned(),
            };
            if !refused.is_empty() {
                why = format!("{why}; {}", refused.join("; "));
            }
            why
        };
        Ok(candidates.into_iter().map(|entry| Candidate { entry, reason: why(entry) }).collect())
    }
}
