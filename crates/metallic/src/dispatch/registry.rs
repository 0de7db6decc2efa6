//! The list of kernels of a device, and the choice among them.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use super::policy::{Policies, Policy, PolicyChoice, Segments, SegmentsChoice};
use super::{Backend, KernelInvocable, Reason, Support};
use crate::device::DeviceId;
use crate::error::{Error, Result};
use crate::op::Op;

/// A registered kernel.
pub struct KernelEntry<O: Op> {
    /// Which way it goes.
    pub backend: Backend,
    /// Its name among the kernels of that backend, as `composed` or `SdpaMpsGraphOp`.
    pub variant: &'static str,
    /// The kernel.
    pub kernel: Arc<dyn KernelInvocable<O>>,
}

impl<O: Op> fmt::Debug for KernelEntry<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.backend, self.variant)
    }
}

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

struct KernelSet<O: Op> {
    entries: Vec<KernelEntry<O>>,
    prefer: Option<fn(&O::Spec) -> Preference>,
}

/// Mediates the choice of a backend for every op of one device.
#[derive(Debug)]
pub struct KernelBackendRegistry {
    device: DeviceId,
    sets: HashMap<TypeId, Box<dyn Any + Send + Sync>>,
    listing: Vec<(&'static str, Backend, &'static str)>,
    policies: Policies,
    /// Counts changes of `policies`.
    policies_id: u64,
    /// Why `auto` runs segments as one op, and up to how many rows of activations.
    segments: Option<(&'static str, usize)>,
}

impl KernelBackendRegistry {
    /// An empty registry.
    pub fn new(device: DeviceId, policies: Policies) -> Self {
        Self {
            device,
            sets: HashMap::new(),
            listing: Vec::new(),
            policies,
            policies_id: 0,
            segments: None,
        }
    }

    /// Adds a kernel. Among kernels of one backend, the first that supports a call runs.
    pub fn register<O: Op>(
        &mut self,
        backend: Backend,
        variant: &'static str,
        kernel: impl KernelInvocable<O> + 'static,
    ) {
        self.listing.push((O::ID, backend, variant));
        let entry = KernelEntry { backend, variant, kernel: Arc::new(kernel) };
        self.set_mut::<O>().entries.push(entry);
    }

    /// Sets the device's built-in preference for `auto`. Without one, kernels are tried in the
    /// order of registration.
    pub fn prefer<O: Op>(&mut self, prefer: fn(&O::Spec) -> Preference) {
        self.set_mut::<O>().prefer = Some(prefer);
    }

    /// Says that `auto` runs segments as one op on this device, and why.
    pub fn prefer_segments(&mut self, reason: &'static str) {
        self.segments = Some((reason, usize::MAX));
    }

    /// As [`KernelBackendRegistry::prefer_segments`], up to `rows` rows of activations.
    pub fn prefer_segments_up_to(&mut self, rows: usize, reason: &'static str) {
        self.segments = Some((reason, rows));
    }

    /// Whether models run segments of `rows` rows as one op.
    pub fn segments_for(&self, rows: usize) -> bool {
        let most = match self.policies.segments.segments {
            Segments::Auto => self.segments.map_or(0, |(_, most)| most),
            Segments::On => usize::MAX,
            Segments::Off => 0,
        };
        rows <= most
    }

    /// Whether models run segments as one op, and why.
    pub fn segments(&self) -> (bool, String) {
        let SegmentsChoice { segments, source } = &self.policies.segments;
        match (segments, self.segments) {
            (Segments::Auto, Some((reason, _))) => (true, format!("auto: {reason}")),
            (Segments::Auto, None) => {
                (false, format!("auto: {} runs blocks op by op", self.device))
            }
            (_, _) => (*segments == Segments::On, format!("{segments} by {source}")),
        }
    }

    /// What was asked for.
    pub fn policies(&self) -> &Policies {
        &self.policies
    }

    /// Changes what is asked for.
    pub fn set_policies(&mut self, policies: Policies) {
        self.policies = policies;
        self.policies_id += 1;
    }

    /// A number that changes with the policies.
    pub fn policies_id(&self) -> u64 {
        self.policies_id
    }

    /// The device whose kernels these are.
    pub fn device(&self) -> DeviceId {
        self.device
    }

    /// Every registered kernel as (op, backend, variant), in the order of registration.
    pub fn listing(&self) -> &[(&'static str, Backend, &'static str)] {
        &self.listing
    }

    /// The kernels of one op.
    pub fn entries<O: Op>(&self) -> &[KernelEntry<O>] {
        self.set::<O>().map_or(&[], |set| &set.entries)
    }

    /// The kernels that may run a call of `spec`, best first. A demanded backend leaves only its
    /// own kernels.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when a demanded backend cannot run the call, [`Error::NoBackend`]
    /// when none can, [`Error::RequiredBackend`] when the best one is not the required one.
    pub fn candidates<O: Op>(&self, spec: &O::Spec) -> Result<Vec<Candidate<'_, O>>> {
        let entries = self.entries::<O>();
        let (choice, own) = self.policies.choice(O::ID);
        let candidates = match choice.policy {
            Policy::Force(backend) => {
                let present = entries.iter().any(|entry| entry.backend == backend);
                if present || own {
                    self.forced(entries, spec, backend, choice)?
                } else {
                    let note = format!("{backend} by {}, but not registered", choice.source);
                    self.supported(entries, spec, Some(&note), None)?
                }
            }
            Policy::Auto => {
                let preference = self.set::<O>().and_then(|set| set.prefer).map(|f| f(spec));
                self.supported(entries, spec, None, preference)?
            }
        };
        if let (Some(required), Some(best)) = (self.policies.required(O::ID), candidates.first())
            && best.entry.backend != required
        {
            let (selected, reason) = (best.entry.backend, best.reason.clone());
            return Err(Error::RequiredBackend { op: O::ID, required, selected, reason });
        }
        Ok(candidates)
    }

    fn forced<'a, O: Op>(
        &self,
        entries: &'a [KernelEntry<O>],
        spec: &O::Spec,
        backend: Backend,
        choice: &PolicyChoice,
    ) -> Result<Vec<Candidate<'a, O>>> {
        let mut why_not = Reason::NotRegistered;
        let mut candidates = Vec::new();
        for entry in entries.iter().filter(|entry| entry.backend == backend) {
            match entry.kernel.supports(spec) {
                Support::Yes => {
                    let reason = format!("forced by {}", choice.source);
                    candidates.push(Candidate { entry, reason });
                }
                Support::No(reason) => why_not = reason,
            }
        }
        if candidates.is_empty() {
            let source_of_choice = choice.source.to_string();
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

    fn set<O: Op>(&self) -> Option<&KernelSet<O>> {
        self.sets.get(&TypeId::of::<O>()).and_then(|set| set.downcast_ref())
    }

    fn set_mut<O: Op>(&mut self) -> &mut KernelSet<O> {
        let set = self
            .sets
            .entry(TypeId::of::<O>())
            .or_insert_with(|| Box::new(KernelSet::<O> { entries: Vec::new(), prefer: None }));
        set.downcast_mut().expect("the set of an op is stored under the op's own type")
    }
}
