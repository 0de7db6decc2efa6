//! Whether models run the halves of a block, or whole steps, as one op: what was asked for, and what a
//! device prefers.

use std::fmt;
use std::str::FromStr;

use super::policy::PolicySource;
use super::registry::KernelBackendRegistry;
use crate::error::Error;
use crate::op::Op;
use crate::segment::DecoderStep;

/// Whether models run the halves of a block, or a whole step, as one op.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Segments {
    /// Where the device prefers it.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
    /// As [`Segments::Auto`], and whole steps of a decoder as one op.
    Step,
}

impl Segments {
    const ALL: [(&'static str, Segments); 4] = [
        ("auto", Segments::Auto),
        ("on", Segments::On),
        ("off", Segments::Off),
        ("step", Segments::Step),
    ];
}

impl fmt::Display for Segments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.iter().find(|(_, segments)| segments == self);
        f.pad(name.map_or("", |(name, _)| name))
    }
}

impl FromStr for Segments {
    type Err = Error;

    fn from_str(value: &str) -> Result<Self, Error> {
        let found = Self::ALL.iter().find(|(name, _)| *name == value);
        found.map(|(_, segments)| *segments).ok_or_else(|| Error::UnknownValue {
            setting: "segments".to_owned(),
            value: value.to_owned(),
            accepted: "auto, on, off, step".into(),
        })
    }
}

/// A choice of segments with its source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SegmentsChoice {
    /// The choice.
    pub segments: Segments,
    /// Who made it.
    pub source: PolicySource,
}

impl KernelBackendRegistry {
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
}
