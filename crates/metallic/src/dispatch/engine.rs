//! Engines: several kernels of the graph backend for one op, by name, and the choice among them.
//!
//! An engine is a variant of `graph`: a device registers each under its own name. Not: how one is
//! measured (`metallic tune`), nor what a device knows of its own.

use super::Backend;
use super::policy::PolicySource;
use super::registry::{KernelBackendRegistry, KernelEntry};
use crate::error::{Error, Result};
use crate::op::Op;

/// An engine that was demanded, by whom. It binds ops that have one of that name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineChoice {
    /// Its name, as `fused`.
    pub name: String,
    /// Where the demand came from.
    pub source: PolicySource,
}

/// The engine a device would like to run, and why.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EnginePreference {
    /// Its name.
    pub engine: &'static str,
    /// Why, as `measured: 0.9 of fused's time`.
    pub reason: String,
}

impl KernelBackendRegistry {
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

    /// The demanded engine, where one of `entries` has its name.
    pub(super) fn demanded_engine<O: Op>(
        &self,
        entries: &[KernelEntry<O>],
    ) -> Option<&EngineChoice> {
        let engine = self.policies.engine.as_ref()?;
        let is_it = |entry: &KernelEntry<O>| is_engine(entry, &engine.name);
        entries.iter().any(is_it).then_some(engine)
    }

    /// The engine that the device would like to run `spec`.
    pub(super) fn preferred_engine<O: Op>(&self, spec: &O::Spec) -> Option<EnginePreference> {
        let prefer = self.set::<O>().and_then(|set| set.prefer_engine.as_ref())?;
        prefer(spec)
    }
}

/// Whether `entry` is the engine of that name.
pub(super) fn is_engine<O: Op>(entry: &KernelEntry<O>, name: &str) -> bool {
    entry.backend == Backend::Graph && entry.variant == name
}
