//! What a GPU alone can show: recorded steps, fused halves of blocks, a missing cuDNN. Without a GPU
//! each test says so on standard error and ends.

use std::io::Write;

use metallic::context::{StepSpec, unique_id};
use metallic::dispatch::{
    Backend, EngineChoice, Policies, Policy, PolicyChoice, PolicySource, Selection,
};
use metallic::op::{Add, AddArgs};
use metallic::tensor::{DType, Tensor};
use metallic::{Context, Error, Result};
use metallic_devices::Profile;
use metallic_devices::cuda::{Component, CudaDevice, library};
use metallic_instrumentation::Recorder;
use metallic_testkit::cases::block::blocks;
use metallic_testkit::cases::sdpa::{SdpaTypes, quick};
use metallic_testkit::parity::{Report, Target, run, run_blocks};

/// Says so past the harness, which keeps what passing tests print.
fn not_run(test: &str, reason: &str) {
    let _ = writeln!(std::io::stderr(), "{test}: not run, {reason}");
}

/// A context on the first GPU, or nothing and a word about it.
fn gpu(test: &str, policies: Policies) -> Option<Context> {
    if CudaDevice::count() == 0 {
        not_run(test, "there is no GPU");
        return None;
    }
    Some(
        CudaDevice::context(0, Profile::default(), policies, Recorder::disabled())
            .expect("the GPU opens"),
    )
}

fn forced(backend: Backend) -> Policies {
    let source = PolicySource::Flag("--test");
    let all = PolicyChoice { policy: Policy::Force(backend), source };
    Policies { all, ..Policies::default() }
}

/// `x += y` as a step.
struct Sum {
    spec: StepSpec,
    x: Tensor,
    y: Tensor,
}

impl Sum {
    /// Over `rows` rows of ones.
    fn new(ctx: &Context, rows: usize) -> Self {
        let ones = vec![1.0; rows * 4];
        let tensor = || ctx.upload_f32([rows, 4], &ones).expect("memory");
        let (model, buffers) = (unique_id(), unique_id());
        let spec = StepSpec { model, buffers, rows, kv_len: 1024, logits: false };
        Self { spec, x: tensor(), y: tensor() }
    }

    fn step(&self, ctx: &Context) -> f32 {
        let mut work = || ctx.run::<Add>(&self.args()).map(|_| ());
        ctx.step::<Error>(self.spec, &mut work).expect("the step runs");
        self.first(ctx)
    }

    fn args(&self) -> AddArgs {
        AddArgs { x: self.x.clone(), y: self.y.clone() }
    }

    /// The value that all elements have.
    fn first(&self, ctx: &Context) -> f32 {
        let values = ctx.download_f32(&self.x).expect("the result");
        assert!(values.iter().all(|value| *value == values[0]), "{values:?}");
        values[0]
    }
}

/// How many steps ran as recorded and as plain ones.
fn counts(ctx: &Context) -> [u64; 2] {
    let runs = ctx.runs(metallic::context::STEP);
    let of = |wanted: &str| {
        let is_it = |selection: &Selection| selection.variant == wanted;
        runs.iter().filter(|run| is_it(&run.selection)).map(|run| run.calls).sum()
    };
    [of("recorded"), of("plain")]
}

#[test]
fn steps_of_two_contexts_do_not_meet() {
    let test = "steps_of_two_contexts_do_not_meet";
    let (Some(one), Some(other)) = (gpu(test, Policies::default()), gpu(test, Policies::default()))
    else {
        return;
    };
    let (a, b) = (Sum::new(&one, 2), Sum::new(&other, 3));
    for step in 2..8u8 {
        assert_eq!(a.step(&one), f32::from(step));
        assert_eq!(b.step(&other), f32::from(step));
    }
    assert_eq!((counts(&one), counts(&other)), ([5, 1], [5, 1]));
    // What one recorded outlives the other.
    drop((b, other));
    assert_eq!(a.step(&one), 8.0);
}

#[test]
fn new_buffers_and_other_rows_are_other_steps() {
    let Some(ctx) = gpu("new_buffers_and_other_rows_are_other_steps", Policies::default()) else {
        return;
    };
    let (few, many) = (Sum::new(&ctx, 1), Sum::new(&ctx, 700));
    for step in 2..6u8 {
        assert_eq!(few.step(&ctx), f32::from(step));
        assert_eq!(many.step(&ctx), f32::from(step));
    }
    // After a reset the buffers are others, and so is their id.
    let again = Sum { spec: StepSpec { buffers: unique_id(), ..few.spec }, ..Sum::new(&ctx, 1) };
    drop(few);
    for step in 2..6u8 {
        assert_eq!(again.step(&ctx), f32::from(step));
    }
    assert_eq!(many.step(&ctx), 6.0);
    assert_eq!(counts(&ctx), [10, 3]);
}

#[test]
fn what_cannot_be_recorded_runs_plainly() {
    let test = "what_cannot_be_recorded_runs_plainly";
    let Some(ctx) = gpu(test, Policies::default()) else { return };
    let sum = Sum::new(&ctx, 2);
    let mut reads = || -> Result<()> {
        ctx.run::<Add>(&sum.args())?;
        ctx.download_f32(&sum.x).map(|_| ())
    };
    for step in 2..6u8 {
        ctx.step(sum.spec, &mut reads).expect("a plain step");
        assert_eq!(sum.first(&ctx), f32::from(step), "once a step, whatever was tried first");
    }
    assert_eq!(counts(&ctx)[0], 0);
    // The failure left nothing behind.
    let other = Sum::new(&ctx, 2);
    for step in 2..6u8 {
        assert_eq!(other.step(&ctx), f32::from(step));
    }
    assert_eq!(counts(&ctx)[0], 3);
    let Some(strict) = gpu(test, forced(Backend::Graph)) else { return };
    let sum = Sum::new(&strict, 2);
    let mut reads = || strict.download_f32(&sum.x).map(|_| ());
    strict.step(sum.spec, &mut reads).expect("the first step of a kind is plain");
    let error = strict.step(sum.spec, &mut reads).unwrap_err().to_string();
    assert!(error.contains("host memory"), "{error}");
}

/// Fails with every row that did.
fn judge(report: &Report) {
    let failures: Vec<_> = report
        .failures()
        .map(|row| format!("{} {} {}: {:?}", row.op, row.target, row.case, row.failure))
        .collect();
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
    assert!(!report.rows.is_empty());
}

/// Results are NaN before each run, so whatever a kernel leaves out shows.
#[test]
fn halves_of_blocks_and_attention_agree_with_the_oracle() {
    let test = "halves_of_blocks_and_attention_agree_with_the_oracle";
    for backend in Backend::ALL {
        let Some(ctx) = gpu(test, forced(backend)) else { return };
        let target = Target { label: backend.name(), ctx: &ctx, backend: Some(backend) };
        let report = run_blocks(&[target], &blocks(), &mut |_| {});
        judge(&report);
        let prompts = |types: DType| {
            let is_it =
                |case: &str| case.contains("new150") && case.ends_with(&format!("{types} {types}"));
            report.rows.iter().filter(|row| is_it(&row.case)).count()
        };
        // Both halves of a prompt in each two-byte type, in one op each.
        assert_eq!((prompts(DType::F16), prompts(DType::Bf16)), (2, 2), "{backend}");
        judge(&run(&[target], &quick(), &SdpaTypes::ALL, &mut |_| {}));
    }
}

#[test]
fn without_cudnn_attention_runs_and_says_so() {
    let test = "without_cudnn_attention_runs_and_says_so";
    let Err(missing) = &library(Component::Cudnn).state else {
        not_run(test, "cuDNN is here");
        return;
    };
    let source = PolicySource::Flag("--graph-engine");
    let engine = Some(EngineChoice { name: "cudnn".to_owned(), source });
    let Some(ctx) = gpu(test, Policies { engine, ..Policies::default() }) else { return };
    let target = Target { label: "cudnn", ctx: &ctx, backend: None };
    let types = [SdpaTypes::same(DType::F16)];
    let report = run(&[target], &quick()[..1], &types, &mut |_| {});
    assert!(report.rows.is_empty() && report.not_run[0].reason.contains(missing.as_str()));
    let Some(ctx) = gpu(test, Policies::default()) else { return };
    judge(&run(
        &[Target { label: "auto", ctx: &ctx, backend: None }],
        &quick()[..1],
        &types,
        &mut |_| {},
    ));
}
