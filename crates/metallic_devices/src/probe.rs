//! Questions to a device that only its hardware answers, as data. Not: the answers (see the
//! device).

use std::fmt;

use serde::{Deserialize, Serialize};

/// A question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Its name, as `masked-rows`.
    pub name: &'static str,
    /// What it asks, and what the program assumes until it is answered.
    pub question: &'static str,
}

/// How an answer compares with what the program assumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As assumed.
    AsAssumed,
    /// Better: something could be switched on.
    Better,
    /// Worse: something must be switched off.
    Worse,
    /// Numbers to look at.
    Measured,
    /// The question does not arise on this system.
    NotAsked,
    /// The process ended, as it may.
    Aborted,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Verdict::AsAssumed => "as assumed",
            Verdict::Better => "better",
            Verdict::Worse => "WORSE",
            Verdict::Measured => "measured",
            Verdict::NotAsked => "not asked",
            Verdict::Aborted => "ABORTED",
        })
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// How it compares.
    pub verdict: Verdict,
    /// What was seen, in words and numbers.
    pub seen: String,
}

impl Finding {
    /// A finding of `verdict`.
    pub fn new(verdict: Verdict, seen: impl Into<String>) -> Self {
        Self { verdict, seen: seen.into() }
    }
}
