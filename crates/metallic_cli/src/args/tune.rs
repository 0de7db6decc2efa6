//! Flags of `metallic tune`.

use clap::Args;
use metallic::tensor::DType;

use super::{BackendArgs, ContextArgs, IntList, ModelArgs, values};

/// Measure a device's engines for attention, and write down which is faster where
///
/// Shapes are those of the lists; with a model its heads, its cache's types and live lengths take the
/// place of the lists of heads, widths and types. What is written is read whenever the device is opened
/// with the same driver and libraries; --graph-engine overrules it.
#[derive(Debug, Args)]
pub(crate) struct TuneArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Sequences
    #[arg(long, value_name = "LIST", default_value = "1", value_parser = values::positive_list)]
    pub(crate) batch: IntList,
    /// Query heads
    #[arg(long, value_name = "LIST", default_value = "14", value_parser = values::positive_list)]
    pub(crate) q_heads: IntList,
    /// Key and value heads
    #[arg(long, value_name = "LIST", default_value = "2", value_parser = values::positive_list)]
    pub(crate) kv_heads: IntList,
    /// Queries of each sequence; combinations with fewer keys are left out
    #[arg(long, value_name = "LIST", default_value = "1,512", value_parser = values::positive_list)]
    pub(crate) q_len: IntList,
    /// Keys of each sequence
    #[arg(long, value_name = "LIST", default_value = "512,4096")]
    #[arg(value_parser = values::positive_list)]
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
    /// With live lengths on the device, as a cache has them
    #[arg(long)]
    pub(crate) live: bool,
    /// Measured runs of each shape and engine
    #[arg(short, long, value_name = "N", default_value = "5", value_parser = values::positive)]
    pub(crate) repetitions: usize,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) context: ContextArgs,
    #[command(flatten)]
    pub(crate) backend: BackendArgs,
}
