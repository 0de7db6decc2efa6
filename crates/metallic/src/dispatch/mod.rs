//! Who runs an op: backends, what they support, what was asked for, what was chosen and why.

mod choice;
mod engine;
mod kernel;
mod policy;
mod registry;
mod rollout;
mod segments;
mod support;

pub use choice::{Candidates, Preference, Selection, Why};
pub use engine::{EngineChoice, EnginePreference};
pub use kernel::{ExecCx, KernelInvocable};
pub use policy::{Policies, Policy, PolicyChoice, PolicySource};
pub use registry::{KernelBackendRegistry, KernelEntry};
pub use rollout::{Draw, RolloutChoice, Share};
pub use segments::{Segments, SegmentsChoice};
pub use support::{Reason, Support};

use std::fmt;
use std::str::FromStr;

use crate::error::Error;

/// The two interchangeable ways to run an op.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Backend {
    /// Hand-written kernels, one after another.
    Legacy,
    /// A compiled, cached, replayed executable.
    Graph,
}

impl Backend {
    /// Both.
    pub const ALL: [Backend; 2] = [Backend::Legacy, Backend::Graph];

    /// The name in flags, events and tables.
    pub const fn name(self) -> &'static str {
        match self {
            Backend::Legacy => "legacy",
            Backend::Graph => "graph",
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Backend {
    type Err = Error;

    fn from_str(value: &str) -> Result<Self, Error> {
        match value {
            "legacy" => Ok(Backend::Legacy),
            "graph" | "mpsgraph" => Ok(Backend::Graph),
            _ => Err(Error::UnknownValue {
                setting: "a backend".to_owned(),
                value: value.to_owned(),
                accepted: "legacy, graph (or its alias mpsgraph)".into(),
            }),
        }
    }
}
