//! Engines: several kernels of the graph backend for one op, by name, and the choice among them.
//!
//! An engine is a variant of `graph`: a device registers each under its own name. Not: how one is
//! measured (`metallic tune`), nor what a device knows of its own.

use super::policy::PolicySource;

/// An engine that was demanded, by whom. It binds ops that have one of that name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineChoice {
    /// Its name, as `fused`.
    pub name: String,
    /// Where the demand came from.
    pub source: PolicySource,
}

/// The engine a device would like to run, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnginePreference {
    /// Its name.
    pub engine: &'static str,
    /// Why, as `measured: 0.9 of fused's time`.
    pub reason: String,
}
