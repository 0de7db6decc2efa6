//! Flags of `metallic explain`.

use clap::Args;

use super::{BackendArgs, ContextArgs, IntList, ModelArgs, values};

/// Show which kernels a model would run, and why
///
/// Nothing is computed: the model is loaded, and every op of a prompt and of a generated token is checked
/// and its kernel chosen as `run` would. -v adds what each choice depends on.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Prompt lengths [default: 512, or as many as fit the context]
    #[arg(short = 'p', long, value_name = "LIST", value_parser = values::int_list)]
    pub(crate) n_prompt: Option<IntList>,
    /// Tokens in the cache beforehand
    #[arg(short = 'd', long, value_name = "LIST", default_value = "0")]
    #[arg(value_parser = values::int_list)]
    pub(crate) n_depth: IntList,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) context: ContextArgs,
    #[command(flatten)]
    pub(crate) backend: BackendArgs,
}
