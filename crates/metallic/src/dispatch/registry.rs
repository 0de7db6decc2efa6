//! The list of kernels of a device, and the choice among them.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use super::policy::{Policies, Policy, PolicyChoice, Segments, SegmentsChoice};
use super::{Backend, Draw, EngineChoice, EnginePreference, KernelInvocable, Reason, Support};
use crate::device::DeviceId;
use crate::error::{Error, Result};
use crate::op::Op;
use crate::segment::{AttentionBlock, DecoderStep};

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
    prefer_engine: Option<PreferEngine<O>>,
}

/// What a device knows of its engines.
type PreferEngine<O> = Box<dyn Fn(&<O as Op>::Spec) -> Option<EnginePreference> + Send + Sync>;

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
    segments: Option<&'static str>,
    whole_steps: bool,
    /// Where the present request falls in a rollout.
    draw: AtomicU16,
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
            whole_steps: false,
            draw: AtomicU16::new(Draw::LAST.bits()),
        }
    }

    /// Says which request the following calls belong to, for rollouts by share.
    pub fn set_draw(&self, draw: Draw) {
        self.draw.store(draw.bits(), Ordering::Relaxed);
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

    /// Sets what the device knows of its engines: which kernel of the graph backend goes first for a
    /// spec. Without an answer they are tried in the order of registration.
    pub fn prefer_engine<O: Op>(
        &mut self,
        prefer: impl Fn(&O::Spec) -> Option<EnginePreference> + Send + Sync + 'static,
    ) {
        self.set_mut::<O>().prefer_engine = Some(Box::new(prefer));
    }

    /// The engines of all ops, in the order of registration.
    pub fn engines(&self) -> Vec<&'static str> {
        let mut engines = Vec::new();
        for &(_, backend, variant) in &self.listing {
            if backend == Backend::Graph && !engines.contains(&variant) {
                engines.push(variant);
            }
        }
        engines
    }

    /// Whether the demanded engine, if any, is one of the device's.
    ///
    /// # Errors
    /// [`Error::UnknownValue`] with the names there are.
    pub fn check_engine(&self) -> Result<()> {
        let Some(EngineChoice { name, source }) = &self.policies.engine else { return Ok(()) };
        let engines = self.engines();
        if engines.contains(&name.as_str()) {
            return Ok(());
        }
        let accepted = format!("auto, {} (on {})", engines.join(", "), self.device).into();
        Err(Error::UnknownValue { setting: source.to_string(), value: name.clone(), accepted })
    }

    /// Says that `auto` runs segments as one op on this device, and why.
    pub fn prefer_segments(&mut self, reason: &'static str) {
        self.segments = Some(reason);
    }

    /// Says that `auto` runs whole steps of one token as one op where a kernel takes them.
    pub fn prefer_whole_steps(&mut self) {
        self.whole_steps = true;
    }

    /// Whether models run segments as one op.
    pub fn runs_segments(&self) -> bool {
        match self.policies.segments.segments {
            Segments::Auto | Segments::Step => self.segments.is_some(),
            Segments::On => true,
            Segments::Off => false,
        }
    }

    /// Whether models run a whole step of `rows` rows as one op where a kernel takes it: one row, where
    /// that is demanded, or preferred by a device that is left to choose.
    pub fn whole_steps_for(&self, rows: usize) -> bool {
        let asked = match self.policies.segments.segments {
            Segments::Step => true,
            Segments::Auto => self.whole_steps,
            Segments::On | Segments::Off => false,
        };
        asked && rows == 1
    }

    /// Whether a demand leaves models no choice but to run segments of `op` as one.
    pub(crate) fn segments_bind(&self, op: &str) -> bool {
        match self.policies.segments.segments {
            Segments::Auto => false,
            Segments::Step => op == DecoderStep::ID,
            Segments::On | Segments::Off => true,
        }
    }

    /// Whether models run segments as one op, and why.
    pub fn segments(&self) -> (bool, String) {
        let SegmentsChoice { segments, source } = &self.policies.segments;
        match (segments, self.segments) {
            (Segments::Auto, Some(reason)) => (true, format!("auto: {reason}")),
            (Segments::Auto, None) => {
                (false, format!("auto: {} runs blocks op by op", self.device))
            }
            (_, _) => (*segments != Segments::Off, format!("{segments} by {source}")),
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

    /// A number that changes with the policies, and with the side of a rollout that the present
    /// request falls on.
    pub fn policies_id(&self) -> u64 {
        // Shares are nested, so how many admit the request says which do.
        let draw = Draw::from_bits(self.draw.load(Ordering::Relaxed));
        let rollouts = self.policies.rollout.values();
        let admitted = rollouts.filter(|choice| choice.share.admits(draw)).count() as u64;
        (self.policies_id << 8) | admitted
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
        if let (AttentionBlock::ID | DecoderStep::ID, None, Some(demanded)) =
            (O::ID, engine, &self.policies.engine)
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
        let draw = Draw::from_bits(self.draw.load(Ordering::Relaxed));
        (!choice.share.admits(draw)).then(|| {
            format!(
                "rollout: graph for {} of requests by {}, this one falls at {draw}",
                choice.share, choice.source
            )
        })
    }

    /// The demanded engine, where one of `entries` has its name.
    fn demanded_engine<O: Op>(&self, entries: &[KernelEntry<O>]) -> Option<&EngineChoice> {
        let engine = self.policies.engine.as_ref()?;
        let is_it = |entry: &KernelEntry<O>| is_engine(entry, &engine.name);
        entries.iter().any(is_it).then_some(engine)
    }

    /// Puts the engine that the device prefers before the other engines.
    fn order_engines<O: Op>(&self, candidates: &mut [Candidate<'_, O>], spec: &O::Spec) {
        let is_graph = |candidate: &Candidate<'_, O>| candidate.entry.backend == Backend::Graph;
        let Some(first) = candidates.iter().position(is_graph) else { return };
        let prefer = self.set::<O>().and_then(|set| set.prefer_engine.as_ref());
        let Some(preference) = prefer.and_then(|prefer| prefer(spec)) else { return };
        let named = |candidate: &Candidate<'_, O>| is_engine(candidate.entry, preference.engine);
        if let Some(at) = candidates.iter().position(named) {
            candidates[first..=at].rotate_right(1);
            let EnginePreference { engine, reason } = preference;
            let candidate = &mut candidates[first];
            candidate.reason = format!("{}; engine {engine}: {reason}", candidate.reason);
        }
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

    fn set<O: Op>(&self) -> Option<&KernelSet<O>> {
        self.sets.get(&TypeId::of::<O>()).and_then(|set| set.downcast_ref())
    }

    fn set_mut<O: Op>(&mut self) -> &mut KernelSet<O> {
        let set = self.sets.entry(TypeId::of::<O>()).or_insert_with(|| {
            Box::new(KernelSet::<O> { entries: Vec::new(), prefer: None, prefer_engine: None })
        });
        set.downcast_mut().expect("the set of an op is stored under the op's own type")
    }
}

/// Whether `entry` is the engine of that name.
fn is_engine<O: Op>(entry: &KernelEntry<O>, name: &str) -> bool {
    entry.backend == Backend::Graph && entry.variant == name
}
