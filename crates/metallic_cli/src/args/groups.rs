//! Flags that several commands share.

use std::path::PathBuf;

use clap::{ArgMatches, Args, ValueHint};
use metallic::dispatch::{Backend, Policy, Segments, Share};
use metallic::tensor::DType;
use metallic_devices::Profile;

use super::twins::is_from_twin;
use super::{LogitBias, values};

#[derive(Clone, Debug, Args)]
pub(crate) struct ModelArgs {
    /// File, folder or hub name (org/repo[:file or quantisation]); without it the embedded model
    #[arg(short, long, value_name = "MODEL", value_hint = ValueHint::AnyPath)]
    pub(crate) model: Option<PathBuf>,
    /// Random weights in the shape of this config.json, for speed and comparisons
    #[arg(long, value_name = "CONFIG", value_hint = ValueHint::FilePath, conflicts_with = "model")]
    pub(crate) random_weights: Option<PathBuf>,
    /// Seed of --random-weights: the same weights on every machine
    #[arg(long, value_name = "N", default_value = "0", requires = "random_weights")]
    pub(crate) weights_seed: u64,
    /// Type of --random-weights, as f16 or q4_k [default: the configuration's]
    #[arg(long, value_name = "TYPE", requires = "random_weights")]
    pub(crate) weights_type: Option<DType>,
}

#[derive(Debug, Args)]
pub(crate) struct PromptArgs {
    /// The prompt; `-` reads standard input
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true, conflicts_with = "file")]
    pub(crate) prompt: Option<String>,
    /// Read the prompt from a file; `run` drops one final newline
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct GenerateArgs {
    /// Tokens to generate; -1 until the text ends or the context is full, 0 for none
    #[arg(
        short = 'n',
        long = "n-predict",
        visible_aliases = ["max-tokens", "predict"],
        value_name = "N",
        default_value = "-1",
        value_parser = values::count_or_all
    )]
    pub(crate) n_predict: i64,
    /// Go on after end-of-text tokens
    #[arg(long)]
    pub(crate) ignore_eos: bool,
    /// Stop before this text; may be given several times
    #[arg(short = 'r', long = "reverse-prompt", visible_alias = "stop", value_name = "TEXT")]
    #[arg(allow_hyphen_values = true, value_parser = values::some_text)]
    pub(crate) stop: Vec<String>,
    /// Steps that a device may make before their tokens are read, where it can choose them: the likeliest,
    /// or drawn by temperature, top-k up to 64, top-p and min-p (at most 16) [default: as many as take 8 ms]
    #[arg(long, value_name = "N", value_parser = values::steps_at_once)]
    pub(crate) steps_at_once: Option<usize>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct SamplingArgs {
    /// Seed; -1 for a random one
    #[arg(short, long, value_name = "N", default_value = "-1")]
    #[arg(value_parser = values::count_or_all)]
    pub(crate) seed: i64,
    /// Temperature; 0 always takes the likeliest token
    #[arg(long, visible_alias = "temperature", value_name = "F", default_value = "0.8")]
    #[arg(value_parser = values::not_negative)]
    pub(crate) temp: f32,
    /// Keep this many of the likeliest tokens; 0 or -1 keeps all
    #[arg(long, value_name = "N", default_value = "40", value_parser = values::count_or_all)]
    pub(crate) top_k: i64,
    /// Keep the likeliest tokens of this probability together
    #[arg(long, value_name = "F", default_value = "0.95")]
    pub(crate) top_p: f32,
    /// Keep tokens at least this many times as likely as the likeliest
    #[arg(long, value_name = "F", default_value = "0.05")]
    pub(crate) min_p: f32,
    /// Keep tokens about as surprising as expected, of this probability together
    #[arg(long, visible_alias = "typical-p", value_name = "F", default_value = "1")]
    #[arg(value_parser = values::above_zero)]
    pub(crate) typical: f32,
    /// Tokens that the penalties look back at; -1 for all
    #[arg(long, value_name = "N", default_value = "64")]
    #[arg(value_parser = values::count_or_all)]
    pub(crate) repeat_last_n: i64,
    /// Divides the logits of recent tokens
    #[arg(long, value_name = "F", default_value = "1")]
    pub(crate) repeat_penalty: f32,
    /// Subtracted from the logits of recent tokens
    #[arg(long, value_name = "F", default_value = "0")]
    pub(crate) presence_penalty: f32,
    /// Subtracted from the logits of recent tokens, for each time they came
    #[arg(long, value_name = "F", default_value = "0")]
    pub(crate) frequency_penalty: f32,
    /// Added to the logit of one token, as 15+1.5 or 15-inf; may be given several times
    #[arg(long, value_name = "ID(+|-)BIAS", value_parser = values::logit_bias)]
    pub(crate) logit_bias: Vec<LogitBias>,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Context")]
pub(crate) struct ContextArgs {
    /// Tokens of the context; 0 for the model's own [default: what is needed, at least 4096, at most the model's]
    #[arg(short, long, value_name = "N", value_parser = values::context)]
    pub(crate) ctx_size: Option<usize>,
    /// Tokens processed together, an upper bound of --ubatch-size
    #[arg(short, long, value_name = "N", default_value = "2048", value_parser = values::positive)]
    pub(crate) batch_size: usize,
    /// Tokens of a prompt processed in one step (-ub) [default: 512, on cuda 2048]
    #[arg(long, value_name = "N", value_parser = values::positive)]
    pub(crate) ubatch_size: Option<usize>,
    /// Type of cached keys: f16, bf16, f32 or q8_0 (-ctk) [default: f16, with --exact f32]
    #[arg(long, value_name = "TYPE", value_parser = values::cache_type)]
    pub(crate) cache_type_k: Option<DType>,
    /// Type of cached values: f16, bf16, f32 or q8_0 (-ctv) [default: f16, with --exact f32]
    #[arg(long, value_name = "TYPE", value_parser = values::cache_type)]
    pub(crate) cache_type_v: Option<DType>,
    /// Keep activations in f32 where they may be quantised otherwise, and the KV cache in f32
    /// unless another type is asked for
    #[arg(long)]
    pub(crate) exact: bool,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Device and backend")]
pub(crate) struct BackendArgs {
    /// Device to run on; see `metallic devices`
    #[arg(long, value_name = "DEVICE", default_value = metallic_devices::KINDS[0])]
    pub(crate) device: String,
    /// How a device works: throughput, or latency (one op at a time, each timed; a table of the times
    /// follows at the end)
    #[arg(long, value_name = "PROFILE", value_parser = values::profile)]
    pub(crate) profile: Option<Profile>,
    /// Threads [default: all cores this process may use]
    #[arg(short, long, value_name = "N", value_parser = values::threads)]
    pub(crate) threads: Option<usize>,
    /// Vector instructions that the cpu may use: auto, or scalar, avx2 and such; see `metallic devices`
    #[arg(long, value_name = "LEVEL")]
    pub(crate) cpu_level: Option<String>,
    /// How attention runs: auto, legacy or graph
    #[arg(long, value_name = "BACKEND", value_parser = values::policy)]
    pub(crate) sdpa_backend: Option<Policy>,
    /// How every op runs that has the choice: auto, legacy or graph
    #[arg(long, value_name = "BACKEND", value_parser = values::policy)]
    pub(crate) backend: Option<Policy>,
    /// Whether the halves of a block run as one operation each: auto, on or off; step runs a whole
    /// step of one token as one operation, and the rest as auto. Attention within one runs as
    /// --sdpa-backend says
    #[arg(long, value_name = "CHOICE", value_parser = values::segments)]
    pub(crate) segments: Option<Segments>,
    /// Let `auto` run attention as graph for this share of requests, as 25 or 2.5%; the others
    /// keep legacy
    #[arg(long, value_name = "PERCENT", value_parser = values::share)]
    pub(crate) sdpa_rollout: Option<Share>,
    /// The request's name in a rollout: the same name falls on the same side [default: another
    /// one each time]
    #[arg(long, value_name = "KEY")]
    pub(crate) rollout_key: Option<String>,
    /// Which engine of the device graphs run on, as fused or cudnn; see `metallic devices`
    #[arg(long, value_name = "NAME")]
    pub(crate) graph_engine: Option<String>,
    /// Fail when attention runs another way: legacy or graph
    #[arg(long, value_name = "BACKEND", value_parser = values::backend)]
    pub(crate) require_backend: Option<Backend>,
    /// Write events as JSON lines; `-` prints them to standard error
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) metrics: Option<PathBuf>,
    /// Say what was chosen and why
    #[arg(short, long)]
    pub(crate) verbose: bool,
    /// The files that the command reads, which no output may be.
    #[arg(skip)]
    pub(crate) inputs: Vec<PathBuf>,
    /// `--sdpa-backend` came from its environment twin.
    #[arg(skip)]
    pub(crate) sdpa_backend_from_env: bool,
    /// `--backend` came from its environment twin.
    #[arg(skip)]
    pub(crate) backend_from_env: bool,
    /// `--segments` came from its environment twin.
    #[arg(skip)]
    pub(crate) segments_from_env: bool,
    /// `--sdpa-rollout` came from its environment twin.
    #[arg(skip)]
    pub(crate) rollout_from_env: bool,
    /// `--graph-engine` came from its environment twin.
    #[arg(skip)]
    pub(crate) graph_engine_from_env: bool,
}

impl BackendArgs {
    /// Which settings came from environment twins.
    pub(super) fn note_sources(&mut self, matches: &ArgMatches) {
        self.sdpa_backend_from_env = is_from_twin(matches, "sdpa_backend");
        self.backend_from_env = is_from_twin(matches, "backend");
        self.segments_from_env = is_from_twin(matches, "segments");
        self.rollout_from_env = is_from_twin(matches, "sdpa_rollout");
        self.graph_engine_from_env = is_from_twin(matches, "graph_engine");
    }
}
