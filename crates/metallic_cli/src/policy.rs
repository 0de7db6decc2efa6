//! Which backend each op shall run on, from flags, their environment twins, the environment and
//! the configuration file. Precedence is `metallic::config`'s; contradictions end here.

use metallic::config::{self, FORCE_SDPA_BACKEND, FlagPolicies, ReadEnv};
use metallic::dispatch::{Backend, Policies, Policy, PolicySource};
use metallic::op::{Op, Sdpa};

use crate::args::BackendArgs;
use crate::error::{Error, Result};

const SDPA_TWIN: &str = "METALLIC_ARG_SDPA_BACKEND";
const ALL_TWIN: &str = "METALLIC_ARG_BACKEND";
const ROLLOUT_TWIN: &str = "METALLIC_ARG_SDPA_ROLLOUT";
const ENGINE_TWIN: &str = "METALLIC_ARG_GRAPH_ENGINE";
const SEGMENTS_TWIN: &str = "METALLIC_ARG_SEGMENTS";

/// The policies `args` ask for.
///
/// # Errors
/// An unknown value anywhere, or two wishes of the same rank that differ.
pub(crate) fn resolve(args: &BackendArgs, env: ReadEnv<'_>) -> Result<Policies> {
    // A typed `--backend` is above the twin of `--sdpa-backend`.
    let overruled = args.sdpa_backend_from_env && args.backend.is_some() && !args.backend_from_env;
    let sdpa = args.sdpa_backend.filter(|_| !overruled);
    let flags = FlagPolicies {
        sdpa,
        all: args.backend,
        segments: args.segments,
        sdpa_rollout: args.sdpa_rollout,
        engine: args.graph_engine.clone(),
    };
    let mut policies = config::policies(flags, env)?;
    if args.sdpa_backend_from_env && !overruled {
        check_twin(args.sdpa_backend, env)?;
    }
    let twin = |source: &PolicySource| match source {
        PolicySource::Flag("--sdpa-backend") if args.sdpa_backend_from_env => Some(SDPA_TWIN),
        PolicySource::Flag("--backend") if args.backend_from_env => Some(ALL_TWIN),
        PolicySource::Flag("--sdpa-rollout") if args.rollout_from_env => Some(ROLLOUT_TWIN),
        PolicySource::Flag("--segments") if args.segments_from_env => Some(SEGMENTS_TWIN),
        PolicySource::Flag("--graph-engine") if args.graph_engine_from_env => Some(ENGINE_TWIN),
        _ => None,
    };
    let sources = policies.ops.values_mut().map(|choice| &mut choice.source);
    let rollouts = policies.rollout.values_mut().map(|choice| &mut choice.source);
    let engine = policies.engine.as_mut().map(|engine| &mut engine.source);
    let others = [&mut policies.all.source, &mut policies.segments.source];
    for source in sources.chain(rollouts).chain(others).chain(engine) {
        if let Some(twin) = twin(source) {
            *source = PolicySource::Env(twin);
        }
    }
    // A rollout from a file or the environment may stand beside a backend that is demanded now.
    if let (Some(rollout), Policy::Force(forced)) =
        (policies.rollout(Sdpa::ID), policies.choice(Sdpa::ID).0.policy)
        && args.sdpa_rollout.is_some()
        && !args.rollout_from_env
    {
        return Err(Error::Contradiction {
            first: format!("--sdpa-rollout {}", rollout.share),
            second: format!("{forced} for attention, by {}", policies.choice(Sdpa::ID).0.source),
        });
    }
    let choice = policies.choice(Sdpa::ID).0;
    if let (Some(engine), Policy::Force(Backend::Legacy)) = (&policies.engine, choice.policy) {
        return Err(Error::Contradiction {
            first: format!("engine {} of the graph backend, by {}", engine.name, engine.source),
            second: format!("legacy for attention, by {}", choice.source),
        });
    }
    if let Some(required) = args.require_backend {
        let choice = policies.choice(Sdpa::ID).0;
        if let Policy::Force(forced) = choice.policy
            && forced != required
        {
            return Err(Error::Contradiction {
                first: format!("--require-backend {required}"),
                second: format!("{forced} for attention, by {}", choice.source),
            });
        }
        policies.required.insert(Sdpa::ID, required);
    }
    Ok(policies)
}

/// Two variables for one thing must agree.
fn check_twin(twin: Option<Policy>, env: ReadEnv<'_>) -> Result<()> {
    let (Some(twin), Some(forced)) = (twin, env(FORCE_SDPA_BACKEND)) else { return Ok(()) };
    match forced.parse::<Policy>() {
        Ok(forced) if forced != twin => Err(Error::Contradiction {
            first: format!("{SDPA_TWIN}={twin}"),
            second: format!("{FORCE_SDPA_BACKEND}={forced}"),
        }),
        _ => Ok(()),
    }
}

/// What was asked for, by whom: a line each.
pub(crate) fn describe(policies: &Policies) -> Vec<String> {
    let choice = policies.choice(Sdpa::ID).0;
    let mut lines = vec![format!("sdpa backend: {} (from {})", choice.policy, choice.source)];
    let all = &policies.all;
    if all.policy != Policy::Auto {
        lines.push(format!("backend of other ops: {} (from {})", all.policy, all.source));
    }
    if let Some(rollout) = policies.rollout(Sdpa::ID) {
        let idle = if choice.policy == Policy::Auto { "" } else { "; has no effect without auto" };
        let (share, source) = (rollout.share, &rollout.source);
        lines.push(format!("sdpa rollout: graph for {share} of requests (from {source}){idle}"));
    }
    if let Some(engine) = &policies.engine {
        lines.push(format!("graph engine: {} (from {})", engine.name, engine.source));
    }
    let segments = &policies.segments;
    lines.push(format!("segments: {} (from {})", segments.segments, segments.source));
    if let Some(required) = policies.required(Sdpa::ID) {
        lines.push(format!("required sdpa backend: {required}"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{self, Command};

    fn backend_args(flags: &[&str]) -> BackendArgs {
        let words: Vec<_> = ["metallic", "run"].iter().chain(flags).map(Into::into).collect();
        match args::parse(&words).unwrap().command {
            Command::Run(args) => args.backend,
            _ => unreachable!("`run` was parsed"),
        }
    }

    fn sdpa(args: &BackendArgs, force: Option<&str>) -> Result<(Policy, String)> {
        let env =
            |name: &str| (name == FORCE_SDPA_BACKEND).then_some(force).flatten().map(str::to_owned);
        let policies = resolve(args, &env)?;
        let choice = policies.choice(Sdpa::ID).0;
        Ok((choice.policy, choice.source.to_string()))
    }

    #[test]
    fn flags_win_and_are_named() {
        let graph = Policy::Force(Backend::Graph);
        let args = backend_args(&["--sdpa-backend", "mpsgraph"]);
        assert_eq!(sdpa(&args, Some("legacy")).unwrap(), (graph, "--sdpa-backend".to_owned()));
        let args = backend_args(&[]);
        let (policy, source) = sdpa(&args, Some("legacy")).unwrap();
        assert_eq!(policy, Policy::Force(Backend::Legacy));
        assert!(source.contains(FORCE_SDPA_BACKEND));
        assert!(sdpa(&args, Some("cudnn")).unwrap_err().is_usage());
    }

    #[test]
    fn twins_have_the_rank_of_the_environment() {
        let mut args = backend_args(&["--sdpa-backend", "graph"]);
        args.sdpa_backend_from_env = true;
        assert_eq!(sdpa(&args, None).unwrap().1, format!("environment variable {SDPA_TWIN}"));
        assert!(sdpa(&args, Some("graph")).is_ok());
        let error = sdpa(&args, Some("legacy")).unwrap_err();
        assert!(error.is_usage() && error.to_string().contains(FORCE_SDPA_BACKEND), "{error}");
        args.backend = Some(Policy::Force(Backend::Legacy));
        let (policy, source) = sdpa(&args, Some("legacy")).unwrap();
        assert_eq!((policy, source.as_str()), (Policy::Force(Backend::Legacy), "--backend"));
    }

    #[test]
    fn a_rollout_needs_auto() {
        let args = backend_args(&["--sdpa-rollout", "25%", "--sdpa-backend", "graph"]);
        let error = sdpa(&args, None).unwrap_err();
        assert!(error.is_usage() && error.to_string().contains("--sdpa-rollout 25 %"), "{error}");
        assert!(sdpa(&backend_args(&["--sdpa-rollout", "25"]), None).is_ok());
        // From the environment it stands aside.
        let env = |name: &str| (name == metallic::config::SDPA_ROLLOUT).then(|| "25".to_owned());
        let policies = resolve(&backend_args(&["--sdpa-backend", "graph"]), &env).unwrap();
        assert_eq!(policies.rollout(Sdpa::ID).unwrap().share.to_string(), "25 %");
        let env = |name: &str| (name == metallic::config::SDPA_ROLLOUT).then(|| "many".to_owned());
        assert!(resolve(&backend_args(&[]), &env).unwrap_err().is_usage());
    }

    #[test]
    fn an_engine_is_asked_for_by_flag_over_environment_and_not_of_legacy() {
        let env = |name: &str| (name == config::GRAPH_ENGINE).then(|| "fused".to_owned());
        let engine = |flags: &[&str]| {
            resolve(&backend_args(flags), &env).map(|policies| {
                policies.engine.map(|engine| (engine.name, engine.source.to_string()))
            })
        };
        let flagged = Some(("cudnn".to_owned(), "--graph-engine".to_owned()));
        assert_eq!(engine(&["--graph-engine", "cudnn"]).unwrap(), flagged);
        let (name, source) = engine(&[]).unwrap().unwrap();
        assert_eq!(name, "fused");
        assert!(source.contains(config::GRAPH_ENGINE), "{source}");
        assert_eq!(engine(&["--graph-engine", "auto"]).unwrap(), None);
        let error = engine(&["--sdpa-backend", "legacy"]).unwrap_err();
        assert!(error.is_usage() && error.to_string().contains("engine fused"), "{error}");
    }

    #[test]
    fn a_required_backend_must_be_possible() {
        let args = backend_args(&["--sdpa-backend", "legacy", "--require-backend", "graph"]);
        let error = sdpa(&args, None).unwrap_err();
        assert!(error.to_string().contains("--require-backend graph"), "{error}");
        assert!(sdpa(&backend_args(&["--require-backend", "graph"]), None).is_ok());
    }
}
