//! The choice of a backend: forced, automatic, required, refused, and giving way.

use std::sync::Arc;

use metallic::dispatch::{
    Backend, Draw, EngineChoice, EnginePreference, ExecCx, KernelInvocable, Policies, Policy,
    PolicySource, Preference, Reason, RolloutChoice, Segments, SegmentsChoice, Support,
};
use metallic::op::{Sdpa, SdpaArgs, SdpaSpec};
use metallic::tensor::DType;
use metallic::{Context, Error};
use metallic_testkit::null_device::{Failure, NullControls, NullOptions, null_context};

use crate::support::{SMALL, policy_for_all, sdpa_policy};

fn refuses() -> Option<Reason> {
    Some(Reason::Range { what: "head_dim", got: 8, max: 4 })
}

fn graph_first(_: &metallic::op::SdpaSpec) -> Preference {
    Preference { backend: Backend::Graph, reason: "measured" }
}

/// What ran, as `backend:variant (reason)`.
fn run(ctx: &Context) -> Result<String, Error> {
    let selection = ctx.run::<Sdpa>(&SMALL.call(ctx))?;
    let (backend, variant, reason) = (selection.backend, selection.variant, selection.reason);
    Ok(format!("{backend}:{variant} ({reason})"))
}

fn forced(backend: Backend) -> NullOptions {
    NullOptions { policies: sdpa_policy(Policy::Force(backend)), ..NullOptions::default() }
}

#[test]
fn auto_takes_the_first_kernel_or_the_preferred_one() {
    let ctx = null_context(NullOptions::default());
    let first = "legacy:null (auto: first registered kernel that can run)";
    assert_eq!(run(&ctx).unwrap(), first);
    let ctx = null_context(NullOptions { prefer: Some(graph_first), ..NullOptions::default() });
    assert_eq!(run(&ctx).unwrap(), "graph:null_graph (auto: measured)");
}

#[test]
fn auto_gives_way_to_what_can_run_and_says_why() {
    let options = NullOptions {
        prefer: Some(graph_first),
        graph_refuses: refuses(),
        ..NullOptions::default()
    };
    assert_eq!(
        run(&null_context(options)).unwrap(),
        "legacy:null (auto: measured asks for graph, which cannot run; \
         graph:null_graph: head_dim is 8, at most 4)"
    );
}

#[test]
fn a_forced_backend_runs_or_is_an_error() {
    for backend in Backend::ALL {
        let got = run(&null_context(forced(backend))).unwrap();
        assert!(got.starts_with(backend.name()), "{got}");
        assert!(got.ends_with("(forced by --sdpa-backend)"), "{got}");
    }
    let options = NullOptions { graph_refuses: refuses(), ..forced(Backend::Graph) };
    let error = run(&null_context(options)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "sdpa: backend graph was demanded by --sdpa-backend, but cannot run here: \
         head_dim is 8, at most 4; use `auto` to let another backend run"
    );
    let options = NullOptions { legacy: false, ..forced(Backend::Legacy) };
    let error = run(&null_context(options)).unwrap_err();
    let Error::Unsupported { reason, backend, .. } = error else { panic!("{error}") };
    assert_eq!((reason, backend), (Reason::NotRegistered, Backend::Legacy));
}

#[test]
fn when_nobody_can_run_every_reason_is_given() {
    let options = NullOptions {
        legacy_refuses: Some(Reason::Missing { feature: "softcap" }),
        graph_refuses: refuses(),
        ..NullOptions::default()
    };
    assert_eq!(
        run(&null_context(options)).unwrap_err().to_string(),
        "sdpa: no backend on null:0 can run this call: legacy:null: no support for softcap; \
         graph:null_graph: head_dim is 8, at most 4"
    );
    let options = NullOptions { legacy: false, graph: false, ..NullOptions::default() };
    let error = run(&null_context(options)).unwrap_err().to_string();
    assert!(error.ends_with("no such kernel is registered on this device"), "{error}");
}

#[test]
fn a_backend_for_all_ops_binds_only_where_it_has_a_kernel() {
    let all = policy_for_all(Policy::Force(Backend::Graph));
    let with = NullOptions { policies: all.clone(), ..NullOptions::default() };
    assert_eq!(run(&null_context(with)).unwrap(), "graph:null_graph (forced by --backend)");
    let without = NullOptions { graph: false, policies: all.clone(), ..NullOptions::default() };
    assert_eq!(
        run(&null_context(without)).unwrap(),
        "legacy:null (graph by --backend, but not registered)"
    );
    // Where it has one, a refusal is an error as for one op.
    let refused = NullOptions { policies: all, graph_refuses: refuses(), ..NullOptions::default() };
    assert!(matches!(run(&null_context(refused)), Err(Error::Unsupported { .. })));
    // A graph in the place of a missing legacy kernel still gives way to nobody but says why.
    let legacy = policy_for_all(Policy::Force(Backend::Legacy));
    let only_graph = NullOptions { legacy: false, policies: legacy, ..NullOptions::default() };
    assert_eq!(
        run(&null_context(only_graph)).unwrap(),
        "graph:null_graph (legacy by --backend, but not registered)"
    );
}

#[test]
fn a_required_backend_that_is_not_selected_is_an_error() {
    let required =
        |backend| Policies { required: [("sdpa", backend)].into(), ..Policies::default() };
    let options = |backend| NullOptions { policies: required(backend), ..NullOptions::default() };
    assert!(run(&null_context(options(Backend::Legacy))).is_ok());
    assert_eq!(
        run(&null_context(options(Backend::Graph))).unwrap_err().to_string(),
        "sdpa: backend graph is required, but legacy was selected \
         (auto: first registered kernel that can run)"
    );
    // Also when the required one was selected and then gave way.
    let controls = Arc::new(NullControls::default());
    controls.fail(Failure::Error("no compiler".to_owned()));
    let options = NullOptions {
        prefer: Some(graph_first),
        controls: Arc::clone(&controls),
        ..options(Backend::Graph)
    };
    let error = run(&null_context(options)).unwrap_err();
    let Error::RequiredBackend { required, selected, reason, .. } = error else {
        panic!("{error}")
    };
    assert_eq!((required, selected), (Backend::Graph, Backend::Legacy));
    assert!(reason.starts_with("auto: measured asks for graph"), "{reason}");
    assert!(reason.contains("no compiler"), "{reason}");
    assert_eq!(controls.legacy_runs(), 0, "the other backend did not run");
}

#[test]
fn a_graph_that_does_not_compile_gives_way_under_auto_and_is_not_tried_again() {
    let controls = Arc::new(NullControls::default());
    controls.fail(Failure::Error("no compiler".to_owned()));
    let options = NullOptions {
        prefer: Some(graph_first),
        controls: Arc::clone(&controls),
        ..NullOptions::default()
    };
    let ctx = null_context(options);
    for _ in 0..3 {
        let got = run(&ctx).unwrap();
        assert!(got.starts_with("legacy:null ("), "{got}");
        assert!(got.contains("graph:null_graph: compiling sdpa prefill"), "{got}");
        assert!(got.contains("null:0: compile: no compiler"), "{got}");
    }
    assert_eq!((controls.compiles(), controls.legacy_runs()), (1, 3));
    // Clearing the cache forgets the failure.
    controls.fail(Failure::None);
    ctx.cache().clear();
    assert_eq!(run(&ctx).unwrap(), "graph:null_graph (auto: measured)");
    assert_eq!((controls.compiles(), controls.graph_runs()), (2, 1));
}

#[test]
fn a_forced_graph_that_does_not_compile_is_the_error() {
    let controls = Arc::new(NullControls::default());
    controls.fail(Failure::Error("no compiler".to_owned()));
    let ctx =
        null_context(NullOptions { controls: Arc::clone(&controls), ..forced(Backend::Graph) });
    for _ in 0..2 {
        let error = run(&ctx).unwrap_err();
        assert!(matches!(&error, Error::Compile { .. }), "{error}");
        assert!(error.to_string().contains("no compiler"), "{error}");
    }
    assert_eq!((controls.compiles(), controls.legacy_runs()), (1, 0));
}

/// An engine beside the null device's.
#[derive(Debug)]
struct Second {
    support: Support,
    declines: bool,
}

impl KernelInvocable<Sdpa> for Second {
    fn supports(&self, _: &SdpaSpec) -> Support {
        self.support.clone()
    }

    fn run(&self, _: &ExecCx<'_>, _: &SdpaSpec, _: &SdpaArgs) -> Result<(), Error> {
        let reason = Reason::Missing { feature: "odd addresses" };
        match self.declines {
            true => Err(Error::Declined { op: "sdpa", kernel: "second", reason }),
            false => Ok(()),
        }
    }
}

fn with_second(policies: Policies, support: Support, declines: bool) -> Context {
    let mut ctx = null_context(NullOptions { policies, legacy: false, ..NullOptions::default() });
    ctx.registry_mut().register::<Sdpa>(Backend::Graph, "second", Second { support, declines });
    ctx
}

fn second_by(flag: &'static str, policies: Policies) -> Policies {
    let (name, source) = ("second".to_owned(), PolicySource::Flag(flag));
    Policies { engine: Some(EngineChoice { name, source }), ..policies }
}

#[test]
fn an_engine_runs_when_demanded_or_preferred() {
    let ctx = with_second(Policies::default(), Support::Yes, false);
    assert_eq!(ctx.registry().engines(), ["null_graph", "second"]);
    assert!(run(&ctx).unwrap().starts_with("graph:null_graph ("));
    let demanded = second_by("--graph-engine", Policies::default());
    let ctx = with_second(demanded, Support::Yes, false);
    assert_eq!(run(&ctx).unwrap(), "graph:second (forced by --graph-engine (second))");
    let mut ctx = with_second(Policies::default(), Support::Yes, false);
    let prefer =
        |_: &SdpaSpec| Some(EnginePreference { engine: "second", reason: "measured".to_owned() });
    ctx.registry_mut().prefer_engine::<Sdpa>(prefer);
    assert_eq!(
        run(&ctx).unwrap(),
        "graph:second (auto: first registered kernel that can run; engine second: measured)"
    );
}

#[test]
fn an_engine_that_declines_gives_way_unless_demanded() {
    let graph = sdpa_policy(Policy::Force(Backend::Graph));
    for policies in [Policies::default(), graph.clone()] {
        let mut ctx = with_second(policies, Support::Yes, true);
        ctx.registry_mut().prefer_engine::<Sdpa>(|_: &SdpaSpec| {
            Some(EnginePreference { engine: "second", reason: "measured".to_owned() })
        });
        let got = run(&ctx).unwrap();
        assert!(got.starts_with("graph:null_graph ("), "{got}");
        assert!(got.contains("second cannot run this call: no support for odd addresses"), "{got}");
    }
    let ctx = with_second(second_by("--graph-engine", graph), Support::Yes, true);
    assert!(matches!(run(&ctx), Err(Error::Declined { kernel: "second", .. })));
}

#[test]
fn a_demanded_engine_that_cannot_run_or_is_not_there_is_an_error() {
    let refuses = Support::No(Reason::Missing { feature: "softcap" });
    let demanded = second_by("--graph-engine", Policies::default());
    let error = run(&with_second(demanded.clone(), refuses, false)).unwrap_err().to_string();
    assert!(
        error.contains("demanded by --graph-engine (second)") && error.contains("softcap"),
        "{error}"
    );
    assert!(with_second(demanded.clone(), Support::Yes, false).registry().check_engine().is_ok());
    let ctx = null_context(NullOptions { policies: demanded, ..NullOptions::default() });
    assert_eq!(
        ctx.registry().check_engine().unwrap_err().to_string(),
        "unknown value `second` for --graph-engine; accepted: auto, null_graph (on null:0)"
    );
}

#[test]
fn tensors_of_another_device_are_refused_by_name() {
    #[derive(Debug)]
    struct Elsewhere;
    impl metallic::tensor::Buffer for Elsewhere {
        fn device(&self) -> metallic::device::DeviceId {
            metallic::device::DeviceId { kind: "other", index: 3 }
        }
        fn bytes(&self) -> usize {
            1 << 20
        }
        fn as_any(&self) -> &dyn std::any::Any {
            self
        }
    }
    let ctx = null_context(NullOptions::default());
    let mut call = SMALL.call(&ctx);
    let layout = *call.v.layout();
    call.v = metallic::tensor::Tensor::new(Arc::new(Elsewhere), DType::F32, layout).unwrap();
    assert_eq!(
        ctx.run::<Sdpa>(&call).unwrap_err().to_string(),
        "sdpa: v lies on other:3, but the context runs on null:0"
    );
}

#[test]
fn runs_are_counted_by_kernel() {
    let mut ctx = null_context(NullOptions::default());
    run(&ctx).unwrap();
    ctx.registry_mut().set_policies(sdpa_policy(Policy::Force(Backend::Graph)));
    run(&ctx).unwrap();
    run(&ctx).unwrap();
    let counts: Vec<_> =
        ctx.runs("sdpa").into_iter().map(|run| (run.selection.variant, run.calls)).collect();
    assert_eq!(counts, [("null", 1), ("null_graph", 2)]);
}

#[test]
fn what_holds_for_attention_holds_for_attention_within_a_segment() {
    let policies = sdpa_policy(Policy::Force(Backend::Graph));
    for op in ["sdpa", "attention_block"] {
        let (choice, own) = policies.choice(op);
        assert!(own && choice.policy == Policy::Force(Backend::Graph), "{op}");
    }
    assert!(!policies.choice("mlp_block").1);
    let mut policies = policies;
    policies.required.insert("sdpa", Backend::Graph);
    assert_eq!(policies.required("attention_block"), Some(Backend::Graph));
    policies.required.insert("attention_block", Backend::Legacy);
    assert_eq!(policies.required("attention_block"), Some(Backend::Legacy));
    assert_eq!(policies.required("mlp_block"), None);
}

fn segments_are_steps(ctx: &metallic::Context) -> bool {
    ctx.registry().policies().segments.segments == Segments::Step
}

#[test]
fn segments_run_where_asked_for_or_preferred() {
    let mut ctx = null_context(NullOptions::default());
    assert_eq!(ctx.registry().segments(), (false, "auto: null:0 runs blocks op by op".to_owned()));
    ctx.registry_mut().prefer_segments("one launch a block");
    assert_eq!(ctx.registry().segments(), (true, "auto: one launch a block".to_owned()));
    assert!(!ctx.registry().whole_steps_for(1));
    ctx.registry_mut().prefer_whole_steps();
    assert!(ctx.registry().whole_steps_for(1) && !ctx.registry().whole_steps_for(2));
    for (segments, on) in [(Segments::Off, false), (Segments::On, true), (Segments::Step, true)] {
        let source = PolicySource::Flag("--segments");
        let segments = SegmentsChoice { segments, source };
        ctx.registry_mut().set_policies(Policies { segments, ..Policies::default() });
        assert_eq!(ctx.registry().segments().0, on);
        assert_eq!(ctx.registry().whole_steps_for(1), segments_are_steps(&ctx));
    }
    assert_eq!(ctx.registry().segments().1, "step by --segments");
    assert!(!ctx.registry().whole_steps_for(2));
    // The halves of a block are as `auto` has them.
    assert!(ctx.registry().runs_segments());
}

#[test]
fn a_rollout_keeps_the_rest_of_the_requests_on_legacy() {
    let share = "30".parse().unwrap();
    let rollout = RolloutChoice { share, source: PolicySource::Flag("--sdpa-rollout") };
    let with = |policies: Policies, graph_refuses| NullOptions {
        policies: Policies { rollout: [("sdpa", rollout.clone())].into(), ..policies },
        prefer: Some(graph_first),
        graph_refuses,
        ..NullOptions::default()
    };
    let mut ctx = null_context(with(Policies::default(), None));
    // A call of no request is not among the share.
    assert!(run(&ctx).unwrap().starts_with("legacy:null (rollout: "));
    let mut on_graph = 0;
    for request in 0..200 {
        let key = format!("request {request}");
        ctx.begin_request(&key);
        let ran = run(&ctx).unwrap();
        if share.admits(Draw::of(&key)) {
            on_graph += 1;
            assert_eq!(ran, "graph:null_graph (auto: measured)");
        } else {
            let reason = format!(
                "legacy:null (rollout: graph for 30 % of requests by --sdpa-rollout, this one falls at {})",
                Draw::of(&key)
            );
            assert_eq!(ran, reason);
        }
        assert_eq!(run(&ctx).unwrap(), ran, "every call of a request runs alike");
    }
    assert!((40..80).contains(&on_graph), "{on_graph} of 200");
    // What is demanded is not drawn, and a request in the share still gives way with a reason.
    let ctx = null_context(with(sdpa_policy(Policy::Force(Backend::Graph)), None));
    assert!(run(&ctx).unwrap().starts_with("graph:"));
    let mut ctx = null_context(with(Policies::default(), refuses()));
    let admitted = (0..).map(|i| i.to_string()).find(|key| share.admits(Draw::of(key))).unwrap();
    ctx.begin_request(&admitted);
    assert!(run(&ctx).unwrap().contains("asks for graph, which cannot run"));
}
