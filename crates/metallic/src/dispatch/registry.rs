//! The list of kernels of a device, and what is asked of them. The choice among them: `choice`, `engine`,
//! `segments`.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use super::{Backend, Draw, EnginePreference, KernelInvocable, Policies, Preference};
use crate::device::DeviceId;
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

/// What is registered for one op.
pub(super) struct KernelSet<O: Op> {
    entries: Vec<KernelEntry<O>>,
    pub(super) prefer: Option<fn(&O::Spec) -> Preference>,
    pub(super) prefer_engine: Option<PreferEngine<O>>,
}

/// What a device knows of its engines.
type PreferEngine<O> = Box<dyn Fn(&<O as Op>::Spec) -> Option<EnginePreference> + Send + Sync>;

/// Mediates the choice of a backend for every op of one device.
#[derive(Debug)]
pub struct KernelBackendRegistry {
    pub(super) device: DeviceId,
    sets: HashMap<TypeId, Box<dyn Any + Send + Sync>>,
    pub(super) listing: Vec<(&'static str, Backend, &'static str)>,
    pub(super) policies: Policies,
    /// Counts changes of `policies`.
    policies_id: u64,
    /// Why `auto` runs segments as one op, if it does.
    pub(super) segments: Option<&'static str>,
    pub(super) whole_steps: bool,
    /// Where the present request falls in a rollout.
    draw: Draw,
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
            draw: Draw::LAST,
        }
    }

    /// Says which request the following calls belong to, for rollouts by share.
    pub fn set_draw(&mut self, draw: Draw) {
        self.draw = draw;
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
        let draw = self.draw();
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

    /// Where the present request falls in a rollout.
    pub(super) fn draw(&self) -> Draw {
        self.draw
    }

    /// The kernels of one op.
    pub fn entries<O: Op>(&self) -> &[KernelEntry<O>] {
        self.set::<O>().map_or(&[], |set| &set.entries)
    }

    pub(super) fn set<O: Op>(&self) -> Option<&KernelSet<O>> {
        self.sets.get(&TypeId::of::<O>()).and_then(|set| set.downcast_ref())
    }

    fn set_mut<O: Op>(&mut self) -> &mut KernelSet<O> {
        let set = self.sets.entry(TypeId::of::<O>()).or_insert_with(|| {
            Box::new(KernelSet::<O> { entries: Vec::new(), prefer: None, prefer_engine: None })
        });
        set.downcast_mut().expect("the set of an op is stored under the op's own type")
    }
}
