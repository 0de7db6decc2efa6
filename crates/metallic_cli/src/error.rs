//! What a command can fail with, and which exit code that is: 2 for a wrong command line, 130 after
//! Ctrl-C, 1 for the rest.

use std::io;
use std::path::{Path, PathBuf};

use crate::interrupt::SIGINT_EXIT_CODE;
use crate::memory::readable;

/// The crate's result.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    // --- the command line ------------------------------------------------------------------
    #[error("{first} contradicts {second}; leave one of them out")]
    Contradiction { first: String, second: String },
    #[error("{flag} is {got}, expected {expected}")]
    BadFlag { flag: &'static str, got: String, expected: String },
    #[error("there is no prompt; give one with -p TEXT, -p - (standard input) or -f FILE")]
    NoPrompt,
    #[error("{flag} has no meaning here: {advice}")]
    ForeignFlag { flag: &'static str, advice: &'static str },
    #[error("`metallic {command}` has no flag {flag}; see `metallic {command} --help`")]
    NoSuchFlag { flag: &'static str, command: String },
    #[error("{flag} would overwrite {}, which is read ({}); name another file", .path.display(), .input.display())]
    Overwrites { flag: &'static str, path: PathBuf, input: PathBuf },
    #[error("there is nothing to measure; ask for a prompt (-p), a generation (-n) or both (-pg)")]
    NothingToMeasure,
    #[error(
        "unknown device `{name}`; this build knows {known}, and `metallic devices` lists what is here"
    )]
    UnknownDevice { name: String, known: String },
    #[error("device `{name}` is not in this build: it is for {system}")]
    DeviceElsewhere { name: String, system: &'static str },
    #[error("certificates are for metal alone, and this ran on {device}; leave --certify out")]
    NoCertificate { device: String },
    #[error("there is no home directory for certificates; set METALLIC_CACHE_DIR")]
    NoCacheDir,
    #[error("cannot run a probe in a process of its own: {source}")]
    Child { source: io::Error },
    #[error("{setting} is {level}, which this machine does not have; it has: {has}")]
    NoCpuLevel { setting: String, level: &'static str, has: String },
    #[error("limits can be measured on cpu and cuda, not on {device}; leave --limits out")]
    NoLimits { device: String },
    #[error("`{name}` is no hub name; expected org/repo, org/repo:file or org/repo:quantisation")]
    NotAHubName { name: String },

    // --- memory ----------------------------------------------------------------------------
    #[error(
        "the weights take {} and {device} has {} free; take a smaller or more quantised model, or \
         end what else holds memory there",
        readable(*.needed),
        readable(*.free)
    )]
    WeightsDoNotFit { device: String, needed: u64, free: u64 },
    #[error(
        "a context of {positions} tokens takes {} beside the weights and {device} has {} free; \
         {fits} tokens fit (-c {fits}), smaller keys and values take less (--cache-type-k q8_0 \
         --cache-type-v q8_0), and so do shorter steps (--ubatch-size)",
        readable(*.needed),
        readable(*.free)
    )]
    ContextDoesNotFit { device: String, positions: usize, needed: u64, free: u64, fits: u64 },

    // --- files -----------------------------------------------------------------------------
    #[error("cannot read {}: {source}", .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{what} is not UTF-8 text (byte {offset})")]
    NotUtf8 { what: String, offset: usize },
    #[error("cannot write {}: {source}", .path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("no file or folder `{name}`; a hub model is named org/repo or org/repo:file")]
    NoSuchModel { name: String },
    #[error(
        "`{name}` is not in the cache; run `metallic pull {name}`, or put its file into {}",
        .folder.display()
    )]
    NotPulled { name: String, folder: PathBuf },
    #[error("`{repo}` has no file for `{wanted}`; it has: {files}")]
    NoSuchFile { repo: String, wanted: String, files: String },
    #[error("`{repo}` has several models; name one as {repo}:FILE, of: {files}")]
    SeveralFiles { repo: String, files: String },
    #[cfg_attr(not(feature = "hub"), expect(dead_code, reason = "only `pull` makes it"))]
    #[error(
        "cannot download {file} of `{repo}`: {reason}; without a network put it at {} yourself, or \
         pass a path with -m",
        .place.display()
    )]
    Download { repo: String, file: String, reason: String, place: PathBuf },
    #[cfg_attr(not(feature = "hub"), expect(dead_code, reason = "only `pull` makes it"))]
    #[error("{} does not have the hash {expected} that the hub names; it was removed, pull again", .path.display())]
    WrongHash { path: PathBuf, expected: String },
    #[cfg_attr(feature = "hub", expect(dead_code, reason = "for builds without the feature"))]
    #[error(
        "this build has no network code (feature `hub`); put the model's file into {}, or pass a \
         path with -m", .folder.display()
    )]
    NoHub { folder: PathBuf },
    #[error("there is no home directory for the model cache; set HF_HOME")]
    NoHome,

    // --- tensors in files ------------------------------------------------------------------
    #[error("{}: not a safetensors file: {reason}", .path.display())]
    Safetensors { path: PathBuf, reason: String },
    #[error("{} has no tensor `{name}`; it has: {present}", .path.display())]
    NoTensor { path: PathBuf, name: &'static str, present: String },
    #[error(
        "{} has tensors that this op does not know: {names}; it reads {known} (and passes over a \
         result `out`), so rename or remove the others: what they mean would be missing", .path.display()
    )]
    UnknownTensors { path: PathBuf, names: String, known: String },
    #[error("tensor `{name}` is {got}, expected {expected}")]
    BadTensor { name: &'static str, got: String, expected: &'static str },
    #[error("kv_lens of sequence {sequence} is {got}, expected 0 to kv_len = {kv_len}")]
    BadLength { sequence: usize, got: i64, kv_len: usize },

    // --- running ---------------------------------------------------------------------------
    #[error("the text has {tokens} token(s); at least 2 are needed to predict one")]
    TextTooShort { tokens: usize },
    #[error(
        "depth {depth} and {tokens} tokens do not fit the context of {context}; lower them or \
         raise -c"
    )]
    BenchTooLong { depth: usize, tokens: usize, context: usize },
    #[error("{failed} of {cases} parity cases failed")]
    Parity { failed: usize, cases: usize },
    #[error("{what} need {needed} of memory, and this machine has {memory}; take smaller ones")]
    TooLarge { what: &'static str, needed: String, memory: String },
    /// Ctrl-C ended a measurement.
    #[error("interrupted; what was not finished has no result")]
    Interrupted,
    /// Ctrl-C ended a text, of which everything is printed.
    #[error("interrupted")]
    BrokenOff,
    #[error("the line editor failed: {reason}")]
    Editor { reason: String },
    #[error("metrics: {source}")]
    Metrics { source: io::Error },
    #[error(transparent)]
    Core(#[from] metallic::Error),
    #[error(transparent)]
    Models(#[from] metallic_models::Error),
    /// Writing to standard output failed.
    #[error("cannot write to standard output: {0}")]
    Output(#[from] io::Error),
}

impl From<serde_json::Error> for Error {
    /// JSON is only ever written here, to standard output.
    fn from(error: serde_json::Error) -> Self {
        Error::Output(error.into())
    }
}

impl Error {
    pub(crate) fn read(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Error::Read { path, source }
    }

    pub(crate) fn write(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Error::Write { path, source }
    }

    /// The code that the program ends with.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Error::Interrupted | Error::BrokenOff => SIGINT_EXIT_CODE,
            usage if usage.is_usage() => 2,
            _ => 1,
        }
    }

    /// Whether the command line, or what stands in its place (environment, configuration file), is
    /// wrong.
    pub(crate) fn is_usage(&self) -> bool {
        use metallic_models::Error as Models;
        matches!(
            self,
            Error::Contradiction { .. }
                | Error::BadFlag { .. }
                | Error::NoPrompt
                | Error::ForeignFlag { .. }
                | Error::NoSuchFlag { .. }
                | Error::Overwrites { .. }
                | Error::NothingToMeasure
                | Error::UnknownDevice { .. }
                | Error::DeviceElsewhere { .. }
                | Error::NoCertificate { .. }
                | Error::NoLimits { .. }
                | Error::NotAHubName { .. }
                | Error::Core(
                    metallic::Error::UnknownValue { .. } | metallic::Error::Config { .. }
                )
                | Error::Models(Models::BadSampling { .. })
        )
    }
}
