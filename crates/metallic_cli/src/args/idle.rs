//! Flags that come with a group and that one command does not use: hidden from its help, and refused
//! when typed. Their environment twins are meant for all commands and pass.

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Command};

/// Commands, and the flags (by their field) that change nothing there.
const IDLE: [(&str, &[&str]); 4] = [
    ("bench sdpa", &["segments", "sdpa_rollout", "rollout_key"]),
    ("parity", &["segments", "sdpa_rollout", "rollout_key"]),
    ("op sdpa", &["segments"]),
    (
        "tune",
        &[
            "sdpa_backend",
            "backend",
            "segments",
            "sdpa_rollout",
            "rollout_key",
            "graph_engine",
            "require_backend",
            "ctx_size",
            "batch_size",
            "ubatch_size",
            "exact",
        ],
    ),
];

/// `command` with such flags out of its help.
pub(super) fn hidden(mut command: Command) -> Command {
    for (path, ids) in IDLE {
        command = at(command, path, &|inner| {
            ids.iter().fold(inner, |inner, id| inner.mut_arg(id, |arg| arg.hide(true)))
        });
    }
    command
}

/// `command` with its subcommand at `path` as `edit` leaves it.
fn at(command: Command, path: &str, edit: &dyn Fn(Command) -> Command) -> Command {
    match path.split_once(' ') {
        Some((first, rest)) => command.mut_subcommand(first, |inner| at(inner, rest, edit)),
        None => command.mut_subcommand(path, edit),
    }
}

/// Refuses such flags where they were typed.
///
/// # Errors
/// The parser's own kind of error.
pub(super) fn check(command: &mut Command, matches: &ArgMatches) -> Result<(), clap::Error> {
    let (mut path, mut inner, mut at) = (String::new(), matches, &*command);
    while let Some((name, matches)) = inner.subcommand() {
        path = format!("{path} {name}").trim_start().to_owned();
        inner = matches;
        let Some(found) = at.find_subcommand(name) else { break };
        at = found;
    }
    let idle = IDLE.iter().find(|(idle, _)| *idle == path).map_or(&[][..], |(_, ids)| *ids);
    let typed = idle.iter().find(|id| inner.value_source(id) == Some(ValueSource::CommandLine));
    let Some(id) = typed else { return Ok(()) };
    let long = at.get_arguments().find(|arg| arg.get_id() == *id).and_then(clap::Arg::get_long);
    let flag = long.unwrap_or(id).to_owned();
    let words = format!("--{flag} changes nothing in `metallic {path}`; leave it out");
    Err(command.error(ErrorKind::ArgumentConflict, words))
}
