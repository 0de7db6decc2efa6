//! Settings from flags, environment and file, in that order of precedence. The only place that
//! reads environment variables (the `METALLIC_ARG_*` twins of flags belong to the flag parser).

use std::fmt;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Deserialize;

use crate::dispatch::{
    EngineChoice, Policies, Policy, PolicyChoice, PolicySource, RolloutChoice, Segments,
    SegmentsChoice, Share,
};
use crate::error::{Error, Result};
use crate::graph::LengthPolicy;
use crate::op::{Op, Sdpa};

/// Forces the SDPA backend: `legacy`, `graph`, `mpsgraph` or `auto`.
pub const FORCE_SDPA_BACKEND: &str = "METALLIC_FORCE_SDPA_BACKEND";
/// Requests for which `auto` may use graph for attention, as a percentage.
pub const SDPA_ROLLOUT: &str = "METALLIC_SDPA_ROLLOUT";
/// The engine that graphs run on, by its name on the device, or `auto`.
pub const GRAPH_ENGINE: &str = "METALLIC_GRAPH_ENGINE";
/// Whether graphs that a device compiles bake lengths in: `classes` or `any`.
pub const GRAPH_LENGTHS: &str = "METALLIC_GRAPH_LENGTHS";
/// The vector instructions that the CPU's kernels may use at most.
pub const CPU_LEVEL: &str = "METALLIC_CPU_LEVEL";
/// Folder of what one run leaves for the next: compiled graphs, certificates.
pub const CACHE_DIR: &str = "METALLIC_CACHE_DIR";
/// Path of the configuration file.
pub const CONFIG_FILE: &str = "METALLIC_CONFIG";

/// Policies given by flags, already parsed.
#[derive(Clone, Debug, Default)]
pub struct FlagPolicies {
    /// `--sdpa-backend`.
    pub sdpa: Option<Policy>,
    /// `--backend`.
    pub all: Option<Policy>,
    /// `--segments`.
    pub segments: Option<Segments>,
    /// `--sdpa-rollout`.
    pub sdpa_rollout: Option<Share>,
    /// `--graph-engine`.
    pub engine: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    backend: BackendSection,
    #[serde(default)]
    cpu: CpuSection,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct CpuSection {
    level: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct BackendSection {
    all: Option<Word>,
    sdpa: Option<Word>,
    segments: Option<Word>,
    sdpa_rollout: Option<Word>,
    graph_engine: Option<Word>,
}

/// A value of the file, quoted or not: `"25"` and `25`, `"on"` and `true`.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "a string, a number, true or false")]
enum Word {
    Text(String),
    Number(f64),
    Switch(bool),
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Number(number) => write!(f, "{number}"),
            Self::Switch(on) => f.write_str(if *on { "on" } else { "off" }),
        }
    }
}

/// A setting of the file at `path`.
fn from_file<T>(value: Option<&Word>, key: &str, path: &Path) -> Result<Option<(T, PolicySource)>>
where
    T: FromStr<Err = Error>,
{
    let Some(value) = value else { return Ok(None) };
    let value = parse(&value.to_string(), || format!("{key} in {}", path.display()))?;
    Ok(Some((value, PolicySource::File(path.to_owned()))))
}

/// A setting of the environment.
fn from_env<T>(env: ReadEnv<'_>, name: &'static str) -> Result<Option<(T, PolicySource)>>
where
    T: FromStr<Err = Error>,
{
    let Some(value) = env(name) else { return Ok(None) };
    Ok(Some((parse(&value, || name.to_owned())?, PolicySource::Env(name))))
}

/// Reads a variable; unset and empty are the same.
pub type ReadEnv<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The process's environment. A setting of Metallic that is no UTF-8 is a value nobody knows, with
/// U+FFFD in it, so that it is refused and not passed over; other variables then count as unset.
pub fn process_env(name: &str) -> Option<String> {
    let value = match std::env::var(name) {
        Err(std::env::VarError::NotUnicode(value)) if name.starts_with("METALLIC_") => {
            value.to_string_lossy().into_owned()
        }
        value => value.ok()?,
    };
    (!value.is_empty()).then_some(value)
}

/// Whether the process's environment has this variable at all, if only as an empty one.
pub fn is_set(name: &str) -> bool {
    std::env::var_os(name).is_some()
}

/// Resolves every op's policy: flag, then environment, then file, then `auto`.
///
/// # Errors
/// [`Error::UnknownValue`] for a value nobody knows, wherever it stands; [`Error::Config`] for a
/// file that was named but cannot be read, or has unknown keys.
pub fn policies(flags: FlagPolicies, env: ReadEnv<'_>) -> Result<Policies> {
    let path = file_path(env);
    let BackendSection { all, sdpa, segments, sdpa_rollout, graph_engine } =
        read_file(path.as_ref())?.backend;
    let path = &path.map(|(path, _)| path).unwrap_or_default();
    // All of it is read, also what a flag overrules, so that a slip shows at once.
    let file_all = from_file(all.as_ref(), "backend.all", path)?;
    let file_sdpa = from_file(sdpa.as_ref(), "backend.sdpa", path)?;
    let file_segments = from_file(segments.as_ref(), "backend.segments", path)?;
    let file_rollout = from_file(sdpa_rollout.as_ref(), "backend.sdpa_rollout", path)?;
    let env_sdpa = from_env(env, FORCE_SDPA_BACKEND)?;
    let env_rollout = from_env(env, SDPA_ROLLOUT)?;

    let flag = |name| PolicySource::Flag(name);
    let choice = |(policy, source)| PolicyChoice { policy, source };
    // A flag for all ops beats the environment's and the file's word on one, and stays a word on
    // all: it binds attention only where the device has such a kernel.
    let sdpa = match flags {
        FlagPolicies { sdpa: Some(policy), .. } => Some((policy, flag("--sdpa-backend"))),
        FlagPolicies { all: Some(_), .. } => None,
        FlagPolicies { sdpa: None, all: None, .. } => env_sdpa.or(file_sdpa),
    };
    let all = flags.all.map(|policy| (policy, flag("--backend"))).or(file_all);
    let segments = flags.segments.map(|choice| (choice, flag("--segments"))).or(file_segments);
    let rollout = flags
        .sdpa_rollout
        .map(|share| (share, flag("--sdpa-rollout")))
        .or(env_rollout)
        .or(file_rollout);
    let file_engine = graph_engine.map(|name| (name.to_string(), PolicySource::File(path.clone())));
    let engine = flags
        .engine
        .map(|name| (name, flag("--graph-engine")))
        .or_else(|| env(GRAPH_ENGINE).map(|name| (name, PolicySource::Env(GRAPH_ENGINE))))
        .or(file_engine)
        .filter(|(name, _)| name != "auto");

    let mut policies = Policies {
        all: all.map(choice).unwrap_or_default(),
        segments: segments
            .map(|(segments, source)| SegmentsChoice { segments, source })
            .unwrap_or_default(),
        engine: engine.map(|(name, source)| EngineChoice { name, source }),
        ..Policies::default()
    };
    if let Some((share, source)) = rollout {
        policies.rollout.insert(Sdpa::ID, RolloutChoice { share, source });
    }
    if let Some(sdpa) = sdpa {
        policies.ops.insert(Sdpa::ID, choice(sdpa));
    }
    Ok(policies)
}

/// Where a run leaves what the next may use; `None` without a home.
pub fn cache_dir(env: ReadEnv<'_>) -> Option<PathBuf> {
    if let Some(dir) = env(CACHE_DIR) {
        return Some(PathBuf::from(dir));
    }
    let base = env("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| env("HOME").map(|home| Path::new(&home).join(".cache")))?;
    Some(base.join("metallic"))
}

/// Whether a device that compiles graphs bakes lengths in, where the environment says so.
///
/// # Errors
/// [`Error::UnknownValue`].
pub fn graph_lengths(env: ReadEnv<'_>) -> Result<Option<LengthPolicy>> {
    match env(GRAPH_LENGTHS).as_deref() {
        None => Ok(None),
        Some("classes") => Ok(Some(LengthPolicy::Bucketed)),
        Some("any") => Ok(Some(LengthPolicy::Dynamic)),
        Some(value) => Err(Error::UnknownValue {
            setting: GRAPH_LENGTHS.to_owned(),
            value: value.to_owned(),
            accepted: "classes, any".into(),
        }),
    }
}

/// The CPU's level by `--cpu-level`, environment or file, and which of them said so; `None` where
/// nobody did, or said `auto`.
///
/// # Errors
/// As [`policies`].
pub fn cpu_level<L: FromStr<Err = Error>>(
    flag: Option<&str>,
    env: ReadEnv<'_>,
) -> Result<Option<(L, String)>> {
    let (value, setting) = if let Some(value) = flag {
        (value.to_owned(), "--cpu-level".to_owned())
    } else if let Some(value) = env(CPU_LEVEL) {
        (value, CPU_LEVEL.to_owned())
    } else {
        let path = file_path(env);
        let Some(value) = read_file(path.as_ref())?.cpu.level else { return Ok(None) };
        let path = path.map(|(path, _)| path).unwrap_or_default();
        (value, format!("cpu.level in {}", path.display()))
    };
    if value == "auto" {
        return Ok(None);
    }
    let level = parse(&value, || setting.clone())?;
    Ok(Some((level, setting)))
}

fn parse<T: FromStr<Err = Error>>(value: &str, setting: impl FnOnce() -> String) -> Result<T> {
    value.parse().map_err(|error| match error {
        Error::UnknownValue { value, accepted, .. } => {
            Error::UnknownValue { setting: setting(), value, accepted }
        }
        other => other,
    })
}

/// The configuration file, and whether it was named (and so must exist).
fn file_path(env: ReadEnv<'_>) -> Option<(PathBuf, bool)> {
    if let Some(path) = env(CONFIG_FILE) {
        return Some((PathBuf::from(path), true));
    }
    let base = env("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| env("HOME").map(|home| Path::new(&home).join(".config")))?;
    Some((base.join("metallic/config.toml"), false))
}

/// Most bytes of a configuration file: what is longer is another file, or has no end.
const MAX_BYTES: u64 = 1 << 20;

fn read_text(path: &Path) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(std::io::Error::other("it is longer than 1 MiB"));
    }
    String::from_utf8(bytes).map_err(|_| std::io::Error::other("it is no UTF-8 text"))
}

/// The file at [`file_path`]; an empty one where there is none.
fn read_file(path: Option<&(PathBuf, bool)>) -> Result<File> {
    let Some((path, named)) = path else { return Ok(File::default()) };
    let config_error = |reason: String| Error::Config { path: path.to_owned(), reason };
    match read_text(path) {
        Ok(text) => toml::from_str(&text).map_err(|error: toml::de::Error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            config_error(format!("line {line}: {}", error.message().trim_end()))
        }),
        // A home of `/dev/null`, as services have, is no folder.
        Err(error)
            if !*named
                && matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
        {
            Ok(File::default())
        }
        Err(error) => Err(config_error(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::Backend;

    #[test]
    fn flags_win_over_environment_over_file() {
        let dir = folder("config");
        let file = dir.join("config.toml");
        std::fs::write(&file, "[backend]\nsdpa = \"legacy\"\n").unwrap();
        let env = |force: Option<&'static str>| {
            let file = file.display().to_string();
            move |name: &str| match name {
                CONFIG_FILE => Some(file.clone()),
                FORCE_SDPA_BACKEND => force.map(str::to_owned),
                _ => None,
            }
        };
        let resolve = |flag: Option<Policy>, force| {
            let flags = FlagPolicies { sdpa: flag, ..FlagPolicies::default() };
            let policies = policies(flags, &env(force)).unwrap();
            let choice = policies.choice("sdpa").0.clone();
            (choice.policy, choice.source)
        };
        let auto = Some(Policy::Auto);
        assert_eq!(
            resolve(auto, Some("graph")),
            (Policy::Auto, PolicySource::Flag("--sdpa-backend"))
        );
        assert_eq!(
            resolve(None, Some("mpsgraph")),
            (Policy::Force(Backend::Graph), PolicySource::Env(FORCE_SDPA_BACKEND))
        );
        assert_eq!(
            resolve(None, None),
            (Policy::Force(Backend::Legacy), PolicySource::File(file.clone()))
        );
        // A flag for all ops beats the environment too, without binding attention alone.
        let all = Some(Policy::Force(Backend::Graph));
        let all = FlagPolicies { all, ..FlagPolicies::default() };
        let resolved = policies(all, &env(Some("legacy"))).unwrap();
        let (choice, own) = resolved.choice("sdpa");
        assert_eq!(choice.source, PolicySource::Flag("--backend"));
        assert!(!own && choice.policy == Policy::Force(Backend::Graph));
        let error = policies(FlagPolicies::default(), &env(Some("metal"))).unwrap_err();
        assert_eq!(
            error.to_string(),
            "unknown value `metal` for METALLIC_FORCE_SDPA_BACKEND; accepted: auto, legacy, \
             graph (or its alias mpsgraph)"
        );
        std::fs::write(&file, "[backend]\nsdps = \"legacy\"\n").unwrap();
        let error = policies(FlagPolicies::default(), &env(None)).unwrap_err().to_string();
        assert!(error.contains("line 2: unknown field `sdps`") && !error.contains('\n'), "{error}");
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn segments_are_chosen_by_flag_over_file() {
        let dir = folder("segments");
        let file = dir.join("config.toml");
        std::fs::write(&file, "[backend]\nsegments = \"on\"\n").unwrap();
        let env = |name: &str| (name == CONFIG_FILE).then(|| file.display().to_string());
        let resolve = |segments| {
            let flags = FlagPolicies { segments, ..FlagPolicies::default() };
            policies(flags, &env).map(|policies| policies.segments)
        };
        let flagged = resolve(Some(Segments::Off)).unwrap();
        assert_eq!(flagged.segments, Segments::Off);
        assert_eq!(flagged.source, PolicySource::Flag("--segments"));
        let filed = resolve(None).unwrap();
        assert_eq!(filed.segments, Segments::On);
        assert_eq!(filed.source, PolicySource::File(file.clone()));
        std::fs::write(&file, "[backend]\nsegments = false\nsdpa_rollout = 12.5\n").unwrap();
        assert_eq!(resolve(None).unwrap().segments, Segments::Off);
        let rollout = policies(FlagPolicies::default(), &env).unwrap();
        assert_eq!(rollout.rollout("sdpa").unwrap().share.to_string(), "12.5 %");
        std::fs::write(&file, "[backend]\nsegments = \"graph\"\n").unwrap();
        let error = resolve(None).unwrap_err().to_string();
        assert!(
            error.contains("backend.segments in ") && error.ends_with("auto, on, off, step"),
            "{error}"
        );
        std::fs::remove_dir_all(&dir).unwrap();
    }

    fn folder(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("metallic-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    #[test]
    fn caches_lie_where_the_environment_says() {
        let env = |names: &'static [(&str, &str)]| {
            move |name: &str| {
                let found = names.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| (*value).to_owned())
            }
        };
        let dir = |names| cache_dir(&env(names));
        assert_eq!(dir(&[("HOME", "/h")]), Some(PathBuf::from("/h/.cache/metallic")));
        let both = &[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")];
        assert_eq!(dir(both), Some(PathBuf::from("/x/metallic")));
        assert_eq!(dir(&[("HOME", "/h"), (CACHE_DIR, "/c")]), Some(PathBuf::from("/c")));
        assert_eq!(dir(&[]), None);
        let lengths = |value: &'static str| {
            graph_lengths(&move |name: &str| (name == GRAPH_LENGTHS).then(|| value.to_owned()))
        };
        assert_eq!(lengths("any").unwrap(), Some(LengthPolicy::Dynamic));
        assert_eq!(graph_lengths(&env(&[])).unwrap(), None);
        assert!(lengths("dynamic").is_err());
    }

    #[test]
    fn a_named_file_must_exist() {
        let read = |variable: &'static str, path: &'static str| {
            let env = |name: &str| (name == variable).then(|| path.to_owned());
            policies(FlagPolicies::default(), &env)
        };
        assert!(matches!(read(CONFIG_FILE, "/nowhere/metallic.toml"), Err(Error::Config { .. })));
        assert!(matches!(read(CONFIG_FILE, "/dev/null/x"), Err(Error::Config { .. })));
        // The file that nobody named need not be there.
        assert!(read("HOME", "/nowhere").is_ok());
        assert!(read("HOME", "/dev/null").is_ok());
        // A file without an end is given up.
        let endless = read(CONFIG_FILE, "/dev/zero").unwrap_err().to_string();
        assert!(endless.contains("longer than 1 MiB"), "{endless}");
    }
}
