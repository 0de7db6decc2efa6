//! The commands, one file each.

mod bench;
mod bench_limits;
mod bench_sdpa;
mod certify;
mod chat;
mod chat_input;
mod completions;
mod devices;
mod explain;
mod inspect;
mod op;
mod parity;
mod parity_ops;
mod perplexity;
mod prewarm;
mod probe;
#[cfg_attr(not(feature = "hub"), path = "commands/pull_without_hub.rs")]
mod pull;
mod run;
mod tokenize;
mod tune;

use crate::args::{BenchCommand, Command, OpCommand};
use crate::error::Result;

/// Runs a command.
///
/// # Errors
/// Whatever ends it.
pub(crate) fn run(command: Command) -> Result<()> {
    match command {
        Command::Run(args) => run::run(&args),
        Command::Chat(args) => chat::run(&args),
        Command::Perplexity(args) => perplexity::run(&args),
        Command::Inspect(args) => inspect::run(args),
        Command::Tokenize(args) => tokenize::run(&args),
        Command::Devices(args) => devices::run(&args),
        Command::Prewarm(args) => prewarm::run(&args),
        Command::Pull(args) => pull::run(&args),
        Command::Op(OpCommand::Sdpa(args)) => op::sdpa(&args),
        Command::Parity(args) => parity::run(&args),
        Command::Bench(args) => match &args.command {
            Some(BenchCommand::Sdpa(sdpa)) => bench_sdpa::run(sdpa),
            Some(BenchCommand::Limits(limits)) => bench_limits::run(limits),
            None => bench::run(&args),
        },
        Command::Explain(args) => explain::run(&args),
        Command::Tune(args) => tune::run(&args),
        Command::Probe(args) => probe::run(&args),
        Command::Completions(args) => completions::run(&args),
    }
}
