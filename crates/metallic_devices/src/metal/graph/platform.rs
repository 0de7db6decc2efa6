//! The system and GPU a graph is compiled for, as far as MPSGraph's behaviour depends on them.

use std::fmt;

use crate::certificate::Machine;
use crate::metal::description::Identity;

/// What executables, quirks and certificates are tied to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Platform {
    /// The system's version, as 15, 1. Unknown words read as 0, 0: an old system.
    pub(crate) version: (u32, u32),
    /// The system's build, as `24B83`; `unknown` where it does not say.
    pub(crate) build: String,
    /// The GPU's name, as `Apple M2 Pro`.
    pub(crate) chip: String,
    /// The newest family of Apple's GPUs that it belongs to: 7 is M1, 8 is M2.
    pub(crate) apple_family: Option<u32>,
}

impl Platform {
    /// Reads the words of `identity`.
    pub(crate) fn of(identity: &Identity) -> Self {
        let (version, build) = parse(&identity.os);
        let Identity { name, apple_family, .. } = identity;
        Self { version, build, chip: name.clone(), apple_family: *apple_family }
    }

    /// The words of certificates and reports.
    pub(crate) fn machine(&self) -> Machine {
        let (major, minor) = self.version;
        let (build, chip) = (self.build.clone(), self.chip.clone());
        Machine { os: format!("macOS {major}.{minor}"), build, chip }
    }

    /// Whether the system is at least `major`.
    pub(crate) fn at_least(&self, major: u32) -> bool {
        self.version.0 >= major
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version: (major, minor), build, chip, .. } = self;
        write!(f, "macOS {major}.{minor} ({build}), {chip}")
    }
}

/// Version and build of `Version 15.1 (Build 24B83)`.
fn parse(os: &str) -> ((u32, u32), String) {
    let mut words = os.split([' ', '(', ')']).filter(|word| !word.is_empty());
    let mut version = (0, 0);
    let mut build = "unknown".to_owned();
    while let Some(word) = words.next() {
        let Some(value) = words.clone().next() else { break };
        match word {
            "Version" => {
                let mut numbers = value.split('.').map(|number| number.parse().unwrap_or(0));
                version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
            }
            "Build" => value.clone_into(&mut build),
            _ => continue,
        }
        words.next();
    }
    (version, build)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_and_builds_are_found_in_apples_words() {
        assert_eq!(parse("Version 15.1 (Build 24B83)"), ((15, 1), "24B83".to_owned()));
        assert_eq!(parse("Version 26.0 (Build 25A354)"), ((26, 0), "25A354".to_owned()));
        assert_eq!(parse("Version 14 (Build 23A344)"), ((14, 0), "23A344".to_owned()));
        assert_eq!(parse("something else"), ((0, 0), "unknown".to_owned()));
    }
}
