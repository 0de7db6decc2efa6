//! Proof that a device's graphs agree with the oracle on this system and GPU: a file that
//! `metallic parity --certify` writes and that `auto` asks for.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::json_file;

/// Version of the file.
const SCHEMA: u32 = 1;

/// What a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// The system, as `macOS 15.1`.
    pub os: String,
    /// Its build, as `24B83`.
    pub build: String,
    /// The GPU's name, as `Apple M2 Pro`.
    pub chip: String,
}

impl Machine {
    /// Build and chip as a file's name, as `24B83-apple-m2-pro`.
    pub fn file_stem(&self) -> String {
        let plain = |text: &str| -> String {
            let letter =
                |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
            text.chars().map(letter).collect()
        };
        let words: Vec<String> = plain(&self.chip)
            .split('-')
            .filter(|word| !word.is_empty())
            .map(str::to_owned)
            .collect();
        let build: String = self.build.chars().filter(char::is_ascii_alphanumeric).collect();
        format!("{build}-{}", words.join("-"))
    }
}

/// One run of the parity matrix.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CertifiedRun {
    /// What was tried, as `graph` or `graph, hidden keys finite`.
    pub target: String,
    /// Cases that ran.
    pub cases: usize,
    /// Those that failed.
    pub failed: usize,
    /// Cases no kernel takes.
    pub not_run: usize,
    /// Largest error in units of the allowed one.
    pub worst_ratio: f64,
}

/// The file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Certificate {
    schema: u32,
    /// Version of the program whose graphs were tried.
    pub program: String,
    /// The system.
    pub os: String,
    /// Its build.
    pub build: String,
    /// The GPU.
    pub chip: String,
    /// When, in seconds since 1970.
    pub time: u64,
    /// What was tried.
    pub runs: Vec<CertifiedRun>,
}

impl Certificate {
    /// A certificate of `runs` on `machine` by this version of the program.
    pub fn new(machine: &Machine, time: u64, runs: Vec<CertifiedRun>) -> Self {
        let Machine { os, build, chip } = machine.clone();
        let program = env!("CARGO_PKG_VERSION").to_owned();
        Self { schema: SCHEMA, program, os, build, chip, time, runs }
    }

    /// Writes the file into `dir`, at once, and gives its path.
    ///
    /// # Errors
    /// The system's.
    pub fn write(&self, dir: &Path, machine: &Machine) -> io::Result<PathBuf> {
        let path = Self::path(dir, machine);
        json_file::write(&path, self)?;
        Ok(path)
    }

    /// Where the file of `machine` lies in `dir`.
    pub fn path(dir: &Path, machine: &Machine) -> PathBuf {
        dir.join(format!("{}.json", machine.file_stem()))
    }

    /// Whether `dir` holds a certificate that is good on `machine` with this program.
    pub fn holds(dir: &Path, machine: &Machine) -> bool {
        let file = fs::read_to_string(Self::path(dir, machine)).ok();
        let certificate = file.and_then(|text| serde_json::from_str::<Self>(&text).ok());
        certificate.is_some_and(|certificate| certificate.is_good(machine))
    }

    fn is_good(&self, machine: &Machine) -> bool {
        let Self { schema, program, build, chip, runs, .. } = self;
        *schema == SCHEMA
            && program == env!("CARGO_PKG_VERSION")
            && *build == machine.build
            && *chip == machine.chip
            && !runs.is_empty()
            && runs.iter().all(|run| run.failed == 0 && run.cases > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_good_run_on_this_very_machine_counts() {
        let dir = std::env::temp_dir().join(format!("metallic-certificate-{}", std::process::id()));
        let machine = Machine {
            os: "macOS 15.1".to_owned(),
            build: "24B83".to_owned(),
            chip: "Apple M2 Pro".to_owned(),
        };
        assert_eq!(machine.file_stem(), "24B83-apple-m2-pro");
        assert!(!Certificate::holds(&dir, &machine));
        let run = |failed| CertifiedRun {
            target: "graph".to_owned(),
            cases: 10,
            failed,
            not_run: 0,
            worst_ratio: 0.5,
        };
        Certificate::new(&machine, 1, vec![run(0)]).write(&dir, &machine).unwrap();
        assert!(Certificate::holds(&dir, &machine));
        let updated = Machine { build: "24C1".to_owned(), ..machine.clone() };
        assert!(!Certificate::holds(&dir, &updated));
        fs::copy(Certificate::path(&dir, &machine), Certificate::path(&dir, &updated)).unwrap();
        assert!(!Certificate::holds(&dir, &updated), "another build's certificate");
        Certificate::new(&machine, 1, vec![run(0), run(1)]).write(&dir, &machine).unwrap();
        assert!(!Certificate::holds(&dir, &machine), "a run that failed");
        fs::write(Certificate::path(&dir, &machine), "{").unwrap();
        assert!(!Certificate::holds(&dir, &machine));
        fs::remove_dir_all(&dir).unwrap();
    }
}
