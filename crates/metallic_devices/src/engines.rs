//! What was measured of a device's engines: a file of one machine that `metallic tune` writes and the
//! device reads when it is opened. Not: measuring, nor what a device guesses without a file.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::{fs, io};

use metallic::device::Device;
use metallic::dispatch::EnginePreference;
use metallic::op::SdpaSpec;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::cuda::{Component, library};
use crate::json_file;

/// Version of the file.
const SCHEMA: u32 = 1;
/// Specs whose preference is remembered; beyond this they are forgotten together.
const MAX_ANSWERS: usize = 256;

/// Times of the engines of one machine, by class of calls.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EngineTable {
    schema: u32,
    /// Version of the program that measured.
    program: String,
    /// See [`machine`].
    machine: String,
    /// µs of a call by engine, by class.
    classes: BTreeMap<String, BTreeMap<String, f64>>,
}

/// What times depend on besides the call: the device, and on a GPU the versions of its driver and of
/// cuDNN.
pub fn machine(device: &dyn Device) -> String {
    let mut words = vec![device.description()];
    if device.id().kind == "cuda" {
        words.extend([Component::Driver, Component::Cudnn].map(|component| {
            let found = library(component);
            let version = found.state.as_ref().map_or("absent", |present| &present.version);
            format!("{} {version}", component.name())
        }));
    }
    words.join(", ")
}

/// The class of a call: types, heads, widths, mask, live lengths or not, decode or prefill, sequences,
/// and lengths rounded up to powers of two.
pub fn class(spec: &SdpaSpec) -> String {
    let SdpaSpec { q_dtype, k_dtype, v_dtype, q_heads, kv_heads, head_dim, v_dim, .. } = spec;
    let SdpaSpec { mask, phase, lengths, .. } = spec;
    let keys = lengths.kv_bucket.checked_next_power_of_two().unwrap_or(lengths.kv_bucket);
    let lens = if spec.kv_lens { " kv_lens" } else { "" };
    format!(
        "{phase} {q_dtype}/{k_dtype}/{v_dtype} heads={q_heads}/{kv_heads} dim={head_dim}/{v_dim} \
         mask={mask}{lens} batch={} q<={} kv<={keys}",
        lengths.batch, lengths.q_bucket
    )
}

impl EngineTable {
    /// A table without times.
    pub fn new(machine: &str) -> Self {
        let program = env!("CARGO_PKG_VERSION").to_owned();
        Self { schema: SCHEMA, program, machine: machine.to_owned(), classes: BTreeMap::new() }
    }

    /// Where the table of `machine` lies below the cache directory.
    pub fn path(cache_dir: &Path, machine: &str) -> PathBuf {
        let hash = Sha256::digest(machine.as_bytes());
        let name: String = hash[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        cache_dir.join("engines").join(format!("{name}.json"))
    }

    /// The table of `machine`; an empty one when there is none, or it is damaged or of another
    /// machine or version.
    pub fn load(cache_dir: &Path, machine: &str) -> Self {
        let text = fs::read_to_string(Self::path(cache_dir, machine)).ok();
        let table = text.and_then(|text| serde_json::from_str::<Self>(&text).ok());
        let empty = Self::new(machine);
        let fits = |table: &Self| {
            table.schema == SCHEMA && table.program == empty.program && table.machine == machine
        };
        table.filter(fits).unwrap_or(empty)
    }

    /// Writes the table, at once, and gives its path.
    ///
    /// # Errors
    /// The system's.
    pub fn write(&self, cache_dir: &Path) -> io::Result<PathBuf> {
        let path = Self::path(cache_dir, &self.machine);
        json_file::write(&path, self)?;
        Ok(path)
    }

    /// Takes the times of one class in, in the place of those it had.
    pub fn record(&mut self, class: String, us_by_engine: BTreeMap<String, f64>) {
        self.classes.insert(class, us_by_engine);
    }

    /// The fastest of `engines` for calls of the class of `spec`, and by how much; `None` where fewer
    /// than two were measured.
    pub fn fastest(&self, engines: &[&'static str], spec: &SdpaSpec) -> Option<EnginePreference> {
        let times = self.classes.get(&class(spec))?;
        let mut known: Vec<(&'static str, f64)> =
            engines.iter().filter_map(|engine| Some((*engine, *times.get(*engine)?))).collect();
        known.sort_by(|a, b| a.1.total_cmp(&b.1));
        let [(engine, us), (next, next_us), ..] = known[..] else { return None };
        let reason = format!("measured {us:.1} µs, {next} {next_us:.1} µs");
        Some(EnginePreference { engine, reason })
    }
}

/// What a device knows of `engines`: the table's word, else `guess`. Answers are remembered, since it
/// is asked at every call.
pub(crate) fn preference(
    table: EngineTable,
    engines: &'static [&'static str],
    guess: impl Fn(&SdpaSpec) -> Option<EnginePreference> + Send + Sync,
) -> impl Fn(&SdpaSpec) -> Option<EnginePreference> + Send + Sync {
    let answers: Mutex<HashMap<SdpaSpec, Option<EnginePreference>>> = Mutex::default();
    move |spec| {
        let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answer) = answers.get(spec) {
            return answer.clone();
        }
        let answer = table.fastest(engines, spec).or_else(|| guess(spec));
        if answers.len() >= MAX_ANSWERS {
            answers.clear();
        }
        answers.insert(spec.clone(), answer.clone());
        answer
    }
}

#[cfg(test)]
mod tests {
    use metallic::Context;
    use metallic::op::{Op, Sdpa};
    use metallic_testkit::cases::sdpa::{SdpaCase, SdpaTypes};
    use metallic_testkit::null_device::{NullOptions, null_context};
    use metallic_testkit::problem::{self, PlacedSdpa};

    use super::*;

    const ENGINES: &[&str] = &["fused", "cudnn"];

    fn spec(ctx: &Context, lens: (usize, usize)) -> SdpaSpec {
        let (case, types) =
            (SdpaCase::new(1, (2, 1), lens, 32), SdpaTypes::same(metallic::tensor::DType::F16));
        let placed = PlacedSdpa::new(ctx, &case, types, &problem::sdpa(&case, types)).unwrap();
        Sdpa::check(&placed.args).unwrap()
    }

    #[test]
    fn the_fastest_engine_of_a_class_is_preferred() {
        let ctx = null_context(NullOptions::default());
        let dir = std::env::temp_dir().join(format!("metallic-engines-{}", std::process::id()));
        let mut table = EngineTable::load(&dir, "a GPU");
        assert_eq!(table, EngineTable::new("a GPU"));
        let times = |fused: f64, cudnn: f64| {
            [("fused".to_owned(), fused), ("cudnn".to_owned(), cudnn)].into()
        };
        table.record(class(&spec(&ctx, (1, 300))), times(2.0, 1.5));
        table.record(class(&spec(&ctx, (64, 300))), [("fused".to_owned(), 2.0)].into());
        let path = table.write(&dir).unwrap();
        assert_eq!(EngineTable::load(&dir, "a GPU"), table);
        assert_eq!(EngineTable::load(&dir, "another GPU"), EngineTable::new("another GPU"));
        // 400 keys are of the class of 300; 600 are not, and one engine alone is no choice.
        let fastest = |lens| table.fastest(ENGINES, &spec(&ctx, lens));
        let chosen = fastest((1, 400)).unwrap();
        assert_eq!(chosen.engine, "cudnn");
        assert_eq!(chosen.reason, "measured 1.5 µs, fused 2.0 µs");
        assert_eq!(fastest((1, 600)), None);
        assert_eq!(fastest((64, 300)), None);
        let guess =
            |_: &SdpaSpec| Some(EnginePreference { engine: "fused", reason: "guessed".to_owned() });
        let prefer = preference(table.clone(), ENGINES, guess);
        assert_eq!(prefer(&spec(&ctx, (1, 300))).unwrap().engine, "cudnn");
        assert_eq!(prefer(&spec(&ctx, (1, 600))).unwrap().reason, "guessed");
        fs::write(&path, "{").unwrap();
        assert_eq!(EngineTable::load(&dir, "a GPU"), EngineTable::new("a GPU"));
        fs::remove_dir_all(&dir).unwrap();
    }
}
