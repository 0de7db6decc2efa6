//! Environment twins of flags: `METALLIC_ARG_` and the flag's name in capitals. A flag wins over its
//! twin. Flags of one name share a twin only where they mean the same; where they do not, the twin
//! carries the command's name, as `METALLIC_ARG_PARITY_JSON`.

use std::ffi::OsString;

use clap::builder::BoolishValueParser;
use clap::error::{ContextKind, ContextValue};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};
use metallic::config::is_set;

/// Flags whose name means something else in another command, as (command, flag).
const OWN: [(&str, &str); 4] =
    [("parity", "json"), ("op sdpa", "output"), ("bench", "output"), ("probe", "output")];

/// `command` with a twin for each of its flags and of its subcommands'.
pub(super) fn with_twins(command: Command) -> Command {
    with_twins_in(command, "")
}

fn with_twins_in(command: Command, path: &str) -> Command {
    let command = command.mut_args(|arg| match twin(&arg, path) {
        Some(name) => {
            let arg = match arg.get_action() {
                ArgAction::SetTrue => arg.value_parser(BoolishValueParser::new()),
                _ => arg,
            };
            let name: &'static str = name.leak();
            arg.env(name).hide_env_values(true)
        }
        None => arg,
    });
    command.mut_subcommands(|inner| {
        let path = format!("{path} {}", inner.get_name());
        with_twins_in(inner, path.trim_start())
    })
}

/// The twin's name; `path` is the command's, without the program's.
pub(super) fn twin(arg: &Arg, path: &str) -> Option<String> {
    let long = arg.get_long().filter(|long| !matches!(*long, "help" | "version"))?;
    let name = match OWN.contains(&(path, long)) {
        true => format!("{path} {long}"),
        false => long.to_owned(),
    };
    Some(format!("METALLIC_ARG_{}", name.to_uppercase().replace(['-', ' '], "_")))
}

/// Whether the value of `id` came from its twin.
pub(super) fn is_from_twin(matches: &ArgMatches, id: &str) -> bool {
    matches.try_contains_id(id).is_ok()
        && matches.value_source(id) == Some(ValueSource::EnvVariable)
}

/// The variables that `error` comes from; none when `args` alone give the same one. `plain` is the
/// command without twins.
pub(super) fn blamed(
    error: &clap::Error,
    mut plain: Command,
    twinned: &Command,
    args: &[OsString],
) -> Vec<String> {
    let typed = plain.try_get_matches_from_mut(args).err();
    if typed.is_some_and(|typed| typed.to_string() == error.to_string()) {
        return Vec::new();
    }
    let mut command = twinned;
    let mut set = Vec::new();
    let mut words = args.iter().skip(1);
    loop {
        let twins = command.get_arguments().filter_map(|arg| Some((arg, arg.get_env()?)));
        let twins = twins.filter_map(|(arg, name)| Some((arg, name.to_str()?.to_owned())));
        set.extend(twins.filter(|(_, name)| is_set(name)));
        match words.next().and_then(|word| command.find_subcommand(word)) {
            Some(inner) => command = inner,
            None => break,
        }
    }
    let named: Vec<String> =
        set.iter().filter(|(arg, _)| is_named(error, arg)).map(|(_, name)| name.clone()).collect();
    if named.is_empty() { set.into_iter().map(|(_, name)| name).collect() } else { named }
}

/// Whether `error` is about `arg`.
fn is_named(error: &clap::Error, arg: &Arg) -> bool {
    let Some(long) = arg.get_long() else { return false };
    let is_it = |text: &String| text.split([' ', '=']).next() == Some(&format!("--{long}"));
    [ContextKind::InvalidArg, ContextKind::PriorArg].into_iter().any(|kind| match error.get(kind) {
        Some(ContextValue::String(text)) => is_it(text),
        Some(ContextValue::Strings(texts)) => texts.iter().any(is_it),
        _ => false,
    })
}
