//! The MPSGraph executor when the system is older or newer, or a compilation fails: each changes
//! the stand-ins for the whole process, so these tests run one after another.

use std::sync::{Mutex, MutexGuard, PoisonError};

use metallic::dispatch::{Backend, Policies, Policy, PolicyChoice, PolicySource, Selection};
use metallic::op::{Mask, Sdpa, SdpaArgs};
use metallic::tensor::DType;
use metallic::{Context, Error};
use metallic_devices::GraphOptions;
use metallic_devices::Terms;
use metallic_devices::certificate::{Certificate, CertifiedRun};
use metallic_devices::metal::{MetalDevice, MetalOptions, machine, probe};
use metallic_instrumentation::Recorder;
use metallic_testkit::cases::sdpa::{SdpaTypes, quick};
use metallic_testkit::parity::{Target, run};
use softmetal_objc::control;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    let guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    control().set_os_version((15, 0));
    guard
}

fn context(policy: Policy, graph: GraphOptions) -> Context {
    let mut policies = Policies::default();
    policies.ops.insert("sdpa", PolicyChoice { policy, source: PolicySource::Flag("--test") });
    let options = MetalOptions { graph, ..MetalOptions::default() };
    MetalDevice::context(options, policies, Recorder::disabled()).unwrap()
}

fn forced(graph: GraphOptions) -> Context {
    context(Policy::Force(Backend::Graph), graph)
}

fn decode(ctx: &Context, dtype: DType, kv_len: usize) -> metallic::Result<Selection> {
    let zeros = |shape: [usize; 4]| ctx.zeros(dtype, shape).unwrap();
    ctx.run::<Sdpa>(&SdpaArgs {
        q: zeros([1, 4, 1, 32]),
        k: zeros([1, 2, kv_len, 32]),
        v: zeros([1, 2, kv_len, 32]),
        mask: Mask::none(),
        kv_lens: None,
        scale: None,
        softcap: None,
        out: zeros([1, 4, 1, 32]),
    })
}

#[test]
fn a_compilation_that_fails_is_an_error_and_no_crash() {
    let _alone = alone();
    // Another form of the demanded backend takes over, and says why.
    control().fail_next_graph_compile();
    let other = decode(&forced(GraphOptions::default()), DType::F16, 40).unwrap();
    assert_eq!((other.backend, other.variant), (Backend::Graph, "SdpaMpsGraphOp-decomposed"));
    assert!(other.reason.contains("compiling"), "{}", other.reason);
    // Where there is none, the failure is the error.
    control().set_os_version((14, 0));
    let ctx = forced(GraphOptions::default());
    control().fail_next_graph_compile();
    let error = decode(&ctx, DType::F16, 40).unwrap_err();
    assert!(matches!(error, Error::Compile { .. }), "{error}");
    decode(&ctx, DType::F16, 300).unwrap();
}

#[test]
fn auto_runs_graphs_once_they_are_certified_and_says_why_not_before() {
    let _alone = alone();
    let dir = std::env::temp_dir().join(format!("metallic-certified-{}", std::process::id()));
    let options = GraphOptions { certificates: Some(dir.clone()), ..GraphOptions::default() };
    let before = decode(&context(Policy::Auto, options.clone()), DType::F16, 40).unwrap();
    assert_eq!(before.backend, Backend::Legacy);
    assert!(before.reason.contains("no certificate"), "{}", before.reason);
    let (target, cases) = ("graph".to_owned(), 10);
    let run = CertifiedRun { target, cases, failed: 0, not_run: 0, worst_ratio: 0.5 };
    let machine = machine().unwrap();
    Certificate::new(&machine, 0, vec![run]).write(&dir, &machine).unwrap();
    let ctx = context(Policy::Auto, options.clone());
    let after = decode(&ctx, DType::F16, 40).unwrap();
    assert_eq!((after.backend, after.variant), (Backend::Graph, "SdpaMpsGraphOp"));
    assert!(after.reason.contains("is certified"), "{}", after.reason);
    // What does not compile gives way, with the reason.
    control().fail_next_graph_compile();
    let fallen = decode(&ctx, DType::F16, 300).unwrap();
    assert!(fallen.reason.contains("compiling"), "{}", fallen.reason);
    assert_ne!(fallen.variant, "SdpaMpsGraphOp");
    // An update of the system ends it.
    control().set_os_version((15, 1));
    let updated = decode(&context(Policy::Auto, options), DType::F16, 40).unwrap();
    assert_eq!(updated.backend, Backend::Legacy, "{}", updated.reason);
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn each_system_gets_the_form_it_can_run() {
    let _alone = alone();
    let options = GraphOptions { terms: Terms::of_models(true), ..GraphOptions::default() };
    for (version, f16, f32) in [
        ((14, 0), "SdpaMpsGraphOp-decomposed", "SdpaMpsGraphOp-decomposed"),
        ((15, 0), "SdpaMpsGraphOp", "SdpaMpsGraphOp-decomposed"),
        ((26, 0), "SdpaMpsGraphOp", "SdpaMpsGraphOp"),
    ] {
        control().set_os_version(version);
        let ctx = forced(options.clone());
        assert_eq!(decode(&ctx, DType::F16, 40).unwrap().variant, f16, "{version:?}");
        assert_eq!(decode(&ctx, DType::F32, 40).unwrap().variant, f32, "{version:?}");
    }
}

#[test]
fn attention_agrees_with_the_oracle_on_macos_14_and_26() {
    let _alone = alone();
    for version in [(14, 0), (26, 0)] {
        control().set_os_version(version);
        let ctx = forced(GraphOptions::default());
        let target = Target { label: "graph", ctx: &ctx, backend: Some(Backend::Graph) };
        let types = [SdpaTypes::same(DType::F32), SdpaTypes::same(DType::F16)];
        let report = run(&[target], &quick(), &types, &mut |_| {});
        let failures: Vec<_> = report
            .failures()
            .map(|row| format!("{} {} {}: {:?}", row.variant, row.case, row.types, row.failure))
            .collect();
        let first = failures[..failures.len().min(8)].join("\n");
        assert!(report.passed(), "{version:?}: {} failed:\n{first}", failures.len());
    }
}

/// The probes that end no process and take no minutes, against the stand-in's known answers.
#[test]
fn probes_run() {
    let _alone = alone();
    for name in [
        "masked-rows",
        "offsets",
        "placed-results",
        "continuation",
        "levels",
        "packages",
        "any-length",
    ] {
        let finding = probe::run(name).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(!finding.seen.is_empty(), "{name}");
    }
    assert!(probe::run("nothing").is_err());
}
