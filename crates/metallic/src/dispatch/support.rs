//! Whether a kernel takes a call, as data. It becomes an error only when the kernel was demanded.

use std::fmt;

use crate::tensor::DType;

/// A kernel's answer to a spec.
#[derive(Clone, Debug, PartialEq)]
pub enum Support {
    /// It can run.
    Yes,
    /// It cannot, and why.
    No(Reason),
}

impl Support {
    /// [`Support::Yes`] when `condition` holds, else [`Support::No`] with the reason.
    pub fn when(condition: bool, reason: impl FnOnce() -> Reason) -> Self {
        if condition { Support::Yes } else { Support::No(reason()) }
    }
}

/// Why a backend did not run, with the numbers in it.
#[derive(Clone, Debug, PartialEq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// An element type it does not take.
    DType {
        /// The tensor.
        binding: &'static str,
        /// Its type.
        got: DType,
        /// What the kernel takes.
        supported: &'static str,
    },
    /// A number outside its range.
    Range {
        /// What is counted.
        what: &'static str,
        /// The value.
        got: usize,
        /// The largest value supported.
        max: usize,
    },
    /// A feature it lacks.
    Missing {
        /// The feature.
        feature: &'static str,
    },
    /// A library that is not here, or refuses.
    Library {
        /// The library.
        name: &'static str,
        /// What is missing, or its own words.
        reason: String,
    },
    /// No kernel of this backend is registered on the device.
    NotRegistered,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::DType { binding, got, supported } => {
                write!(f, "{binding} is {got}, supported are {supported}")
            }
            Reason::Range { what, got, max } => write!(f, "{what} is {got}, at most {max}"),
            Reason::Missing { feature } => write!(f, "no support for {feature}"),
            Reason::Library { name, reason } => write!(f, "{name}: {reason}"),
            Reason::NotRegistered => f.write_str("no such kernel is registered on this device"),
        }
    }
}
