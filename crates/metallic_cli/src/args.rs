//! What was typed in: commands and flags, not yet what they mean.
//!
//! Every long flag has an environment twin (`twins`).

mod bench;
mod explain;
mod groups;
mod idle;
mod probe;
mod tune;
mod twins;
mod values;

pub(crate) use bench::{
    BenchArgs, BenchCommand, BenchFormat, BenchLimitsArgs, BenchLists, BenchSdpaArgs,
};
pub(crate) use explain::ExplainArgs;
pub(crate) use groups::{
    BackendArgs, ContextArgs, GenerateArgs, ModelArgs, PromptArgs, SamplingArgs,
};
pub(crate) use probe::ProbeArgs;
pub(crate) use tune::TuneArgs;
pub(crate) use values::{IntList, LogitBias};

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Arg, ArgMatches, Args, Command as ClapCommand, CommandFactory, FromArgMatches, Parser};
use clap::{Subcommand, ValueHint};

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "metallic",
    version,
    about = "Runs language models, with attention as hand-written kernels or as a compiled graph",
    after_help = "Without a model file: metallic run -p \"Once upon a time\"\n\
                  With one: metallic pull ORG/REPO, then metallic chat -m ORG/REPO\n\
                  Flags of a command: metallic run --help",
    arg_required_else_help = true,
    subcommand_required = true
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// One variant a command.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Continue a prompt; stdout carries the generated text alone
    Run(Box<RunArgs>),
    /// Talk with a chat model
    Chat(Box<ChatArgs>),
    /// Measure how well a model predicts a text
    Perplexity(PerplexityArgs),
    /// Show a model's header, tensors and memory plan
    Inspect(InspectArgs),
    /// Show the tokens of a text
    Tokenize(TokenizeArgs),
    /// List devices and their kernels
    Devices(DevicesArgs),
    /// Compile every kernel of an NVIDIA GPU into the disk cache
    Prewarm(PrewarmArgs),
    /// Download a model from the hub
    Pull(PullArgs),
    /// Run one operation on tensors in files
    #[command(subcommand)]
    Op(OpCommand),
    /// Compare every backend with the f64 oracle
    Parity(ParityArgs),
    /// Measure speed, as llama-bench does; `bench sdpa` measures attention alone
    Bench(Box<BenchArgs>),
    /// Show which kernels a model would run, and why, without running them
    Explain(Box<ExplainArgs>),
    /// Measure a GPU's engines for attention and write down which is faster where
    Tune(Box<TuneArgs>),
    /// Ask an Apple GPU what no document says, for a report
    Probe(ProbeArgs),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) prompt: PromptArgs,
    #[command(flatten)]
    pub(crate) generate: GenerateArgs,
    /// Print the prompt before the generated text
    #[arg(long)]
    pub(crate) echo: bool,
    /// Apply the model's chat template to the prompt
    #[arg(long)]
    pub(crate) chat: bool,
    /// System message; implies --chat
    #[arg(long, value_name = "TEXT", visible_alias = "system-prompt", allow_hyphen_values = true)]
    pub(crate) system: Option<String>,
    /// Print one JSON object instead of the text
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    #[command(flatten)]
    pub(crate) context: ContextArgs,
    #[command(flatten)]
    pub(crate) backend: BackendArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ChatArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) generate: GenerateArgs,
    /// System message
    #[arg(long, value_name = "TEXT", visible_alias = "system-prompt", allow_hyphen_values = true)]
    pub(crate) system: Option<String>,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    #[command(flatten)]
    pub(crate) context: ContextArgs,
    #[command(flatten)]
    pub(crate) backend: BackendArgs,
}

/// Measure how well a model predicts a text
///
/// The whole text is one window if it fits the context (-c, else the model's); otherwise it is cut
/// into consecutive windows of that size, each beginning anew. The first token of a window is not
/// predicted. `tokens` in the JSON counts all tokens, `nll` has one natural-log value for each
/// predicted one.
#[derive(Debug, Args)]
pub(crate) struct PerplexityArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// The text; `-` reads standard input
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,
    /// Run both backends and compare their distributions, as `legacy,graph`
    #[arg(long, value_name = "A,B", value_parser = values::backend_pair)]
    pub(crate) compare: Option<values::BackendPair>,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) context: ContextArgs,
    #[command(flatten)]
    pub(crate) backend: BackendArgs,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// Path, folder or hub name; without it the embedded model
    #[arg(value_name = "MODEL", conflicts_with_all = ["model", "random_weights"])]
    pub(crate) path: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Plan the memory of this device; see `metallic devices`
    #[arg(long, value_name = "DEVICE", default_value = metallic_devices::KINDS[0])]
    pub(crate) device: String,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) context: ContextArgs,
}

#[derive(Debug, Args)]
pub(crate) struct TokenizeArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) prompt: PromptArgs,
    /// Print the ids alone, as a JSON list
    #[arg(long)]
    pub(crate) ids: bool,
    /// Print one JSON object
    #[arg(long, conflicts_with = "ids")]
    pub(crate) json: bool,
    /// Leave out the tokens a model puts around every text
    #[arg(long)]
    pub(crate) no_special: bool,
    /// Take text like <|im_end|> as text, not as a control token
    #[arg(long)]
    pub(crate) no_parse_special: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DevicesArgs {
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PrewarmArgs {
    /// Device whose kernels are compiled
    #[arg(long, value_name = "DEVICE", default_value = "cuda")]
    pub(crate) device: String,
    /// Architecture to compile for, as sm_90a, with no device needed [default: the device's]
    #[arg(long, value_name = "ARCH")]
    pub(crate) arch: Option<String>,
    /// Name each kernel
    #[arg(short, long)]
    pub(crate) verbose: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// org/repo, org/repo:file or org/repo:quantisation
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// Print the local path alone
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum OpCommand {
    /// Scaled dot-product attention: tensors `q k v` and optional `mask`, `kv_lens` to `out`
    Sdpa(Box<OpSdpaArgs>),
}

/// Scaled dot-product attention on tensors in files
///
/// IN holds `q` [batch, q_heads, q_len, head_dim], `k` [batch, kv_heads, kv_len, head_dim], `v`
/// [batch, kv_heads, kv_len, v_dim], and may hold `mask` (bool or float, broadcasting to [batch,
/// q_heads, q_len, kv_len]) and `kv_lens` (i32 or i64, [batch]); any other tensor is refused. OUT gets
/// `out` in q's type.
#[derive(Debug, Args)]
pub(crate) struct OpSdpaArgs {
    /// Safetensors file with the inputs
    #[arg(long, value_name = "IN", value_hint = ValueHint::FilePath)]
    pub(crate) inputs: PathBuf,
    /// Safetensors file to write
    #[arg(long, value_name = "OUT", value_hint = ValueHint::FilePath)]
    pub(crate) output: PathBuf,
    /// Query i sees keys up to its diagonal; without an offset aligned to the lower right
    #[arg(long)]
    pub(crate) causal: bool,
    /// Place of the first query's diagonal, in keys
    #[arg(long, value_name = "N")]
    pub(crate) causal_offset: Option<i64>,
    /// Keys visible before the diagonal
    #[arg(long, value_name = "N")]
    pub(crate) window_left: Option<usize>,
    /// Keys visible after the diagonal
    #[arg(long, value_name = "N")]
    pub(crate) window_right: Option<usize>,
    /// Factor of the scores [default: 1/sqrt(head_dim)]
    #[arg(long, value_name = "F", value_parser = values::finite)]
    pub(crate) scale: Option<f32>,
    /// Bound of the scores
    #[arg(long, value_name = "F", value_parser = values::above_zero)]
    pub(crate) softcap: Option<f32>,
    /// Print shapes, backend, reason, times and cache events as JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) backend: BackendArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ParityArgs {
    /// A part of the matrix that takes seconds
    #[arg(long)]
    pub(crate) quick: bool,
    /// Compare every op but attention with the CPU's plain loops, instead of attention with the
    /// oracle
    #[arg(long, conflicts_with = "json")]
    pub(crate) ops: bool,
    /// Write the report as JSON; `-` prints it
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) json: Option<PathBuf>,
    /// Where all of it passes, write the certificate that lets `auto` run graphs on this machine;
    /// runs what models promise of their caches too
    #[arg(long, conflicts_with_all = ["quick", "ops"])]
    pub(crate) certify: bool,
    #[command(flatten)]
    pub(crate) backend: BackendArgs,
}

#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    pub(crate) shell: clap_complete::Shell,
}

/// The command line with the environment twins of its flags.
pub(crate) fn command() -> ClapCommand {
    twins::with_twins(plain())
}

/// The command line without twins.
fn plain() -> ClapCommand {
    let command = Cli::command().mut_subcommand("bench", bench::with_lists);
    negative_numbers(idle::hidden(command))
}

/// Lets `-1` reach the parser of its flag's value, which says what is wrong with it.
fn negative_numbers(command: ClapCommand) -> ClapCommand {
    let takes_value = |arg: &Arg| arg.get_action().takes_values() && !arg.is_positional();
    let command = command.mut_args(|arg| match takes_value(&arg) {
        true => arg.allow_negative_numbers(true),
        false => arg,
    });
    command.mut_subcommands(negative_numbers)
}

/// Parses the arguments, the program's name first.
///
/// # Errors
/// What does not fit; also `--help` and `--version`, which the parser treats alike.
pub(crate) fn parse(args: &[OsString]) -> Result<Cli, clap::Error> {
    let mut command = command();
    let matches = command.try_get_matches_from_mut(args)?;
    idle::check(&mut command, &matches)?;
    let mut cli = Cli::from_arg_matches(&matches)?;
    let inputs = cli.command.inputs();
    if let Some(backend) = cli.command.backend_mut() {
        backend.note_sources(innermost(&matches));
        backend.inputs = inputs;
    }
    if let Command::Bench(bench) = &mut cli.command
        && bench.command.is_none()
    {
        bench.note_lists(innermost(&matches));
    }
    Ok(cli)
}

/// The environment variables that a parser's error comes from.
pub(crate) fn blamed_twins(error: &clap::Error, args: &[OsString]) -> Vec<String> {
    twins::blamed(error, plain(), &command(), args)
}

/// The command that `args` name, and its name without the program's.
pub(crate) fn named_command(args: &[OsString]) -> (ClapCommand, String) {
    let (mut command, mut path) = (plain(), Vec::new());
    for word in args.iter().skip(1) {
        let Some(inner) = command.find_subcommand(word).cloned() else { break };
        path.push(inner.get_name().to_owned());
        command = inner;
    }
    (command, path.join(" "))
}

/// The command that `args` name, as `metallic op sdpa`.
pub(crate) fn command_path(args: &[OsString]) -> String {
    format!("metallic {}", named_command(args).1).trim_end().to_owned()
}

fn innermost(matches: &ArgMatches) -> &ArgMatches {
    matches.subcommand().map_or(matches, |(_, inner)| innermost(inner))
}

impl Command {
    /// The files that this command reads, as they were named.
    fn inputs(&self) -> Vec<PathBuf> {
        let prompt = |args: &PromptArgs| args.file.clone();
        let (model, file) = match self {
            Command::Run(args) => (Some(&args.model), prompt(&args.prompt)),
            Command::Chat(args) => (Some(&args.model), None),
            Command::Perplexity(args) => (Some(&args.model), Some(args.file.clone())),
            Command::Bench(args) => (Some(&args.model), None),
            Command::Tune(args) => (Some(&args.model), None),
            Command::Op(OpCommand::Sdpa(args)) => (None, Some(args.inputs.clone())),
            _ => (None, None),
        };
        let model = model.into_iter().flat_map(|args| {
            [args.model.clone(), args.random_weights.clone()].into_iter().flatten()
        });
        model.chain(file).collect()
    }

    fn backend_mut(&mut self) -> Option<&mut BackendArgs> {
        match self {
            Command::Run(args) => Some(&mut args.backend),
            Command::Chat(args) => Some(&mut args.backend),
            Command::Perplexity(args) => Some(&mut args.backend),
            Command::Op(OpCommand::Sdpa(args)) => Some(&mut args.backend),
            Command::Explain(args) => Some(&mut args.backend),
            Command::Tune(args) => Some(&mut args.backend),
            Command::Parity(args) => Some(&mut args.backend),
            Command::Bench(args) => match &mut args.command {
                Some(BenchCommand::Sdpa(args)) => Some(&mut args.backend),
                Some(BenchCommand::Limits(_)) => None,
                None => Some(&mut args.backend),
            },
            Command::Inspect(_)
            | Command::Tokenize(_)
            | Command::Devices(_)
            | Command::Prewarm(_)
            | Command::Pull(_)
            | Command::Probe(_)
            | Command::Completions(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every flag of every command: its command, its twin, and what it takes.
    fn flags() -> Vec<(String, String, Vec<String>)> {
        let (mut flags, mut commands) = (Vec::new(), vec![(command(), String::new())]);
        while let Some((command, path)) = commands.pop() {
            for arg in command.get_arguments() {
                let Some(expected) = twins::twin(arg, &path) else { continue };
                let twin = arg.get_env().and_then(|name| name.to_str()).unwrap_or_default();
                assert_eq!(twin, expected, "{path} {arg}");
                let takes = arg.get_action().takes_values();
                let names = arg.get_value_names().filter(|_| takes).unwrap_or_default();
                let names = names.iter().map(ToString::to_string).collect();
                flags.push((path.clone(), twin.to_owned(), names));
            }
            commands.extend(command.get_subcommands().map(|inner| {
                let path = format!("{path} {}", inner.get_name()).trim_start().to_owned();
                (inner.clone(), path)
            }));
        }
        flags
    }

    #[test]
    fn the_command_line_is_consistent_and_every_flag_has_its_twin() {
        command().debug_assert();
        assert!(flags().len() > 50);
    }

    #[test]
    fn flags_that_share_a_twin_take_the_same() {
        let flags = flags();
        for (path, twin, takes) in &flags {
            let other = flags.iter().find(|(_, name, other)| name == twin && other != takes);
            assert!(other.is_none(), "{twin} is {takes:?} in {path}, and {other:?}");
        }
        assert!(flags.iter().any(|(_, twin, _)| twin == "METALLIC_ARG_PARITY_JSON"));
        assert!(flags.iter().any(|(_, twin, _)| twin == "METALLIC_ARG_OP_SDPA_OUTPUT"));
    }
}
