//! Flags of `metallic bench`, in llama-bench's words.

use clap::{Args, Subcommand, ValueEnum};
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
    /// Numbers of threads [default: 1 and all]
    #[arg(short, long, value_name = "LIST", value_parser = values::int_list)]
    pub(crate) threads: Option<IntList>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BenchSdpaArgs {
    /// Sequences
    #[arg(long, value_name = "LIST", default_value = "1", value_parser = values::int_list)]
    pub(crate) batch: IntList,
    /// Query heads
    #[arg(long, value_name = "LIST", default_value = "14", value_parser = values::int_list)]
    pub(crate) q_heads: IntList,
    /// Key and value heads
    #[arg(long, value_name = "LIST", default_value = "2", value_parser = values::int_list)]
    pub(crate) kv_heads: IntList,
    /// Queries of each sequence
    #[arg(long, value_name = "LIST", default_value = "1,512", value_parser = values::int_list)]
    pub(crate) q_len: IntList,
    /// Keys of each sequence
    #[arg(long, value_name = "LIST", default_value = "512", value_parser = values::int_list)]
    pub(crate) kv_len: IntList,
    /// Width of queries, keys and values
    #[arg(long, value_name = "LIST", default_value = "64", value_parser = values::int_list)]
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
