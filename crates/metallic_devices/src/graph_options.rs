//! How a device that compiles graphs goes about it. Not: which backend runs (see `Policies`).

use std::fmt;
use std::path::PathBuf;

use metallic::graph::LengthPolicy;

/// How graphs are compiled and run.
#[derive(Clone, Debug)]
pub struct GraphOptions {
    /// What is promised and allowed.
    pub terms: Terms,
    /// Whether lengths are baked into executables. Unknown lengths wait for a Mac that shows
    /// they work.
    pub lengths: LengthPolicy,
    /// Where compiled executables are kept; `None` keeps none.
    pub packages: Option<PathBuf>,
    /// Where certificates lie; without one for this machine, `auto` runs hand-written kernels.
    pub certificates: Option<PathBuf>,
}

impl Default for GraphOptions {
    fn default() -> Self {
        let (terms, lengths) = (Terms::default(), LengthPolicy::Bucketed);
        Self { terms, lengths, packages: None, certificates: None }
    }
}

/// What is known of keys and values that a query may not see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum HiddenKeys {
    /// They may hold anything, NaN too, and must not reach a result.
    #[default]
    Any,
    /// They are finite: a cache that is zero when it is made, and a model's own numbers. Weights
    /// of zero then suffice to hide them.
    Finite,
}

/// Which types the products of attention are taken in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Operands {
    /// Every operand as it is stored; f32 where they differ.
    #[default]
    Exact,
    /// f32 queries are rounded to the type of the keys, so that keys are read as they lie. What
    /// runtimes with an f16 cache do.
    KeyType,
}

impl Terms {
    /// What holds for a model over its own cache, which is zero when it is made; `exact` keeps
    /// queries in f32.
    pub fn of_models(exact: bool) -> Self {
        let operands = if exact { Operands::Exact } else { Operands::KeyType };
        Self { hidden_keys: HiddenKeys::Finite, operands }
    }
}

/// What is promised or allowed beyond what a graph says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Terms {
    /// What hidden keys hold.
    pub hidden_keys: HiddenKeys,
    /// Types of the products.
    pub operands: Operands,
}

impl fmt::Display for Terms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hidden = match self.hidden_keys {
            HiddenKeys::Any => "any",
            HiddenKeys::Finite => "finite",
        };
        let operands = match self.operands {
            Operands::Exact => "exact",
            Operands::KeyType => "key type",
        };
        write!(f, "hidden keys {hidden}, operands {operands}")
    }
}
