//! Flags of `metallic bench`, in llama-bench's words.

use clap::{ArgAction, ArgMatches, Args, Command, Subcommand, ValueEnum};
use metallic::tensor::DType;

use super::{BackendArgs, ContextArgs, IntList, ModelArgs, values};

/// Measure speed, as llama-bench does
///
/// Lists are written 128,256 or 128-512+128 or 1-8*2. Tokenisation and sampling are not measured.
/// One warm-up goes first; it is what the column `cold` shows, the rest is `warm`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    pub(crate) command: Option<BenchCommand>,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Prompt lengths; 0 leaves the prompt test out
    #[arg(short = 'p', long, value_name = "LIST", default_value = "512")]
    #[arg(value_parser = values::int_list)]
    pub(crate) n_prompt: IntList,
    /// Generated tokens; 0 leaves the generation test out
    #[arg(short = 'n', long, value_name = "LIST", default_value = "128")]
    #[arg(value_parser = values::int_list)]
    pub(crate) n_gen: IntList,
    /// Tokens in the cache beforehand
    #[arg(short = 'd', long, value_name = "LIST", default_value = "0")]
    #[arg(value_parser = values::int_list)]
    pub(crate) n_depth: IntList,
    /// A prompt and a generation after it as one test (-pg); may be given several times
    #[arg(long, value_name = "P,G", value_parser = values::prompt_and_generation)]
    pub(crate) pg: Vec<(usize, usize)>,
    /// Generated tokens that a device may choose before they are read, as for `run`
    #[arg(long, value_name = "N", value_parser = values::steps_at_once)]
    pub(crate) steps_at_once: Option<usize>,
    /// Measured runs of each test
    #[arg(short, long, value_name = "N", default_value = "5", value_parser = values::positive)]
    pub(crate) repetitions: usize,
    /// Format on standard output
    #[arg(short, long, value_name = "FORMAT", default_value = "md")]
    pub(crate) output: BenchFormat,
    /// Format on standard error, as well (-oe)
    #[arg(long, value_name = "FORMAT")]
    pub(crate) output_err: Option<BenchFormat>,
    /// Measure the device's limits first, and show the share of the one that binds
    #[arg(long)]
    pub(crate) limits: bool,
    #[command(flatten)]
    pub(crate) context: ContextArgs,
    #[command(flatten)]
    pub(crate) backend: BackendArgs,
    /// All values of the flags that are single elsewhere.
    #[arg(skip)]
    pub(crate) lists: BenchLists,
}

/// What `bench` runs every test with, one after the other; empty for the default alone.
#[derive(Clone, Debug, Default)]
pub(crate) struct BenchLists {
    pub(crate) threads: Vec<usize>,
    pub(crate) ubatch_sizes: Vec<usize>,
    pub(crate) cache_types_k: Vec<DType>,
    pub(crate) cache_types_v: Vec<DType>,
}

/// `bench` with lists for the flags of [`BenchLists`].
pub(super) fn with_lists(command: Command) -> Command {
    ["threads", "ubatch_size", "cache_type_k", "cache_type_v"].into_iter().fold(
        command,
        |command, id| {
            command.mut_arg(id, |arg| {
                let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
                let list = arg.action(ArgAction::Append).value_delimiter(',');
                list.help(format!("{help}; several as A,B"))
            })
        },
    )
}

impl BenchArgs {
    /// Takes all values of lists, of which the groups keep the first.
    pub(super) fn note_lists(&mut self, matches: &ArgMatches) {
        fn all<T: Clone + Send + Sync + 'static>(matches: &ArgMatches, id: &str) -> Vec<T> {
            matches.get_many(id).into_iter().flatten().cloned().collect()
        }
        self.lists = BenchLists {
            threads: all(matches, "threads"),
            ubatch_sizes: all(matches, "ubatch_size"),
            cache_types_k: all(matches, "cache_type_k"),
            cache_types_v: all(matches, "cache_type_v"),
        };
    }
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BenchFormat {
    Md,
    Csv,
    Json,
    Jsonl,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Measure attention alone, legacy and graph side by side
    Sdpa(Box<BenchSdpaArgs>),
    /// Measure what a device can do at most: products, bytes from memory
    Limits(BenchLimitsArgs),
}

#[derive(Debug, Args)]
pub(crate) struct BenchLimitsArgs {
    /// Device to measure: cpu or cuda
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub(crate) device: String,
    /// Numbers of threads, as 1,4 [default: 1 and all]
    #[arg(short, long, value_name = "N", value_parser = values::thread_list)]
    pub(crate) threads: Option<IntList>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BenchSdpaArgs {
    /// Sequences
    #[arg(long, value_name = "LIST", default_value = "1", value_parser = values::positive_list)]
    pub(crate) batch: IntList,
    /// Query heads
    #[arg(long, value_name = "LIST", default_value = "14", value_parser = values::positive_list)]
    pub(crate) q_heads: IntList,
    /// Key and value heads
    #[arg(long, value_name = "LIST", default_value = "2", value_parser = values::positive_list)]
    pub(crate) kv_heads: IntList,
    /// Queries of each sequence
    #[arg(long, value_name = "LIST", default_value = "1,512", value_parser = values::positive_list)]
    pub(crate) q_len: IntList,
    /// Keys of each sequence
    #[arg(long, value_name = "LIST", default_value = "512", value_parser = values::positive_list)]
    pub(crate) kv_len: IntList,
    /// Width of queries, keys and values
    #[arg(long, value_name = "LIST", default_value = "64", value_parser = values::positive_list)]
    pub(crate) head_dim: IntList,
    /// Element types
    #[arg(long, value_name = "LIST", default_value = "f16", value_delimiter = ',')]
    #[arg(value_parser = values::float_type)]
    pub(crate) dtype: Vec<DType>,
    /// With a causal mask, aligned to the lower right
    #[arg(long)]
    pub(crate) causal: bool,
    /// Measured runs of each shape and backend
    #[arg(short, long, value_name = "N", default_value = "5", value_parser = values::positive)]
    pub(crate) repetitions: usize,
    /// Measure the device's limits first, and show the share of the one that binds
    #[arg(long)]
    pub(crate) limits: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) backend: BackendArgs,
}
