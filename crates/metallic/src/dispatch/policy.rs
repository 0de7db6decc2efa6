//! What was asked for: `auto` or a demanded backend, per op, and by whom.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::{Backend, EngineChoice, RolloutChoice, SegmentsChoice};
use crate::error::Error;
use crate::op::{Op, Sdpa};
use crate::segment::{AttentionBlock, DecoderStep};

/// How the backend of an op is decided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Policy {
    /// By the device's built-in preference and what the kernels support.
    #[default]
    Auto,
    /// This one, or an error.
    Force(Backend),
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Policy::Auto => f.pad("auto"),
            Policy::Force(backend) => backend.fmt(f),
        }
    }
}

impl FromStr for Policy {
    type Err = Error;

    fn from_str(value: &str) -> Result<Self, Error> {
        match value {
            "auto" => Ok(Policy::Auto),
            _ => value.parse().map(Policy::Force).map_err(|_: Error| Error::UnknownValue {
                setting: "a backend policy".to_owned(),
                value: value.to_owned(),
                accepted: "auto, legacy, graph (or its alias mpsgraph)".into(),
            }),
        }
    }
}

/// Where a policy came from. Earlier variants win over later ones.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum PolicySource {
    /// A command-line flag.
    Flag(&'static str),
    /// An environment variable.
    Env(&'static str),
    /// A configuration file.
    File(PathBuf),
    /// Nobody said anything.
    #[default]
    Default,
}

impl fmt::Display for PolicySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PolicySource::Flag(flag) => f.write_str(flag),
            PolicySource::Env(name) => write!(f, "environment variable {name}"),
            PolicySource::File(path) => write!(f, "configuration file {}", path.display()),
            PolicySource::Default => f.write_str("the default"),
        }
    }
}

/// A policy with its source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyChoice {
    /// The policy.
    pub policy: Policy,
    /// Who set it.
    pub source: PolicySource,
}

/// The policies of all ops.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    /// For ops without a policy of their own (`--backend`). A demanded backend binds the ops that
    /// have a kernel of it on the device; the others run what they have and say so.
    pub all: PolicyChoice,
    /// Per op name, as `sdpa`. A demanded backend binds. Attention within a segment is attention:
    /// what is said of `sdpa` holds for `attention_block` and `decoder_step`, unless that has an entry of its own.
    pub ops: HashMap<&'static str, PolicyChoice>,
    /// Fail when another backend than this one is selected, per op name; as in `ops`, that of
    /// `sdpa` holds for `attention_block`.
    pub required: HashMap<&'static str, Backend>,
    /// Whether models run segments as one op.
    pub segments: SegmentsChoice,
    /// Requests for which `auto` may use graph, per op name; as in `ops`, that of `sdpa` holds for
    /// `attention_block`. An op without an entry is not rolled out by shares.
    pub rollout: HashMap<&'static str, RolloutChoice>,
    /// Which engine graphs run on; it binds ops that have one of that name. `None` for the device's
    /// choice.
    pub engine: Option<EngineChoice>,
}

impl Policies {
    /// The choice for `op`, and whether it was made for this op alone.
    pub fn choice(&self, op: &str) -> (&PolicyChoice, bool) {
        match entry(&self.ops, op) {
            Some(choice) => (choice, true),
            None => (&self.all, false),
        }
    }

    /// Requests for which `auto` may use graph for `op`.
    pub fn rollout(&self, op: &str) -> Option<&RolloutChoice> {
        entry(&self.rollout, op)
    }

    /// The backend that `op` must run on.
    pub fn required(&self, op: &str) -> Option<Backend> {
        entry(&self.required, op).copied()
    }
}

fn entry<'a, T>(of: &'a HashMap<&'static str, T>, op: &str) -> Option<&'a T> {
    of.get(op).or_else(|| holds_attention(op).then(|| of.get(Sdpa::ID)).flatten())
}

/// Whether `op` is a segment with attention in it: that is attention, so what is said of `sdpa` holds.
pub(super) fn holds_attention(op: &str) -> bool {
    op == AttentionBlock::ID || op == DecoderStep::ID
}
