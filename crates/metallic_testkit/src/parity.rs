//! Runs cases on contexts and judges the results. Prints nothing: the caller gets a report.

mod blocks;

pub use blocks::run_blocks;

use std::time::Instant;

use metallic::dispatch::{Backend, Selection};
use metallic::op::{Op, Sdpa};
use metallic::{Context, Error};
use serde::Serialize;

use crate::cases::sdpa::{SdpaCase, SdpaTypes};
use crate::oracle;
use crate::problem::{self, PlacedSdpa};
use crate::tolerance::{self, Comparison};

/// A context to try, usually with one backend forced through its policies.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Its name in the report.
    pub label: &'a str,
    /// Where the cases run.
    pub ctx: &'a Context,
    /// The backend that must have run; another one is a failure.
    pub backend: Option<Backend>,
}

/// One case that ran.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// The op.
    pub op: &'static str,
    /// The case.
    pub case: String,
    /// Element types, as `f16` or `f16/q8_0` for keys and values of another type; of a block, that
    /// of its cache.
    pub types: String,
    /// The target's name.
    pub target: String,
    /// The device.
    pub device: String,
    /// The backend that ran.
    pub backend: String,
    /// The kernel among that backend's.
    pub variant: String,
    /// Largest absolute error.
    pub max_abs: f64,
    /// Largest relative error.
    pub max_rel: f64,
    /// Normalised mean square error.
    pub nmse: f64,
    /// Allowed error of the worst element.
    pub tolerance: f64,
    /// Largest error in units of what is allowed there.
    pub worst_ratio: f64,
    /// Duration of the first call in µs, with whatever had to be compiled.
    pub first_us: f64,
    /// Duration of the second call in µs, until its result is there.
    pub us: f64,
    /// Why it failed; `None` when it passed.
    pub failure: Option<String>,
}

/// One case that could not run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NotRun {
    /// The op.
    pub op: &'static str,
    /// The case.
    pub case: String,
    /// Element types.
    pub types: String,
    /// The target's name.
    pub target: String,
    /// Why not.
    pub reason: String,
}

/// What ran, what failed, what did not run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// Version of this layout.
    pub schema: u32,
    /// Every case that ran, those that failed too.
    pub rows: Vec<Row>,
    /// How many of them failed.
    pub failed: usize,
    /// Every case that no kernel takes, with the kernels' reasons.
    pub not_run: Vec<NotRun>,
}

impl Report {
    /// The rows that failed.
    pub fn failures(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| row.failure.is_some())
    }

    /// Takes the outcome of one case in.
    fn add(
        &mut self,
        target: &Target<'_>,
        tried: Tried<'_>,
        trial: metallic::Result<Trial>,
        progress: &mut dyn FnMut(Progress<'_>),
    ) {
        let trial = match trial {
            Ok(trial) => trial,
            Err(
                error @ (Error::Unsupported { .. }
                | Error::NoBackend { .. }
                | Error::Declined { .. }),
            ) => {
                let Tried { op, case, types } = tried;
                let not_run = NotRun {
                    op,
                    case: case.to_owned(),
                    types: types.to_owned(),
                    target: target.label.to_owned(),
                    reason: error.to_string(),
                };
                progress(Progress::NotRun(&not_run));
                return self.not_run.push(not_run);
            }
            Err(error) => Trial::failed(error),
        };
        let row = trial.row(target, tried);
        progress(Progress::Ran(&row));
        self.failed += usize::from(row.failure.is_some());
        self.rows.push(row);
    }

    /// Adds what another run found.
    pub fn extend(&mut self, other: Report) {
        self.failed += other.failed;
        self.rows.extend(other.rows);
        self.not_run.extend(other.not_run);
    }

    /// Whether something ran and nothing failed.
    pub fn passed(&self) -> bool {
        self.failed == 0 && !self.rows.is_empty()
    }
}

/// Something a caller may want to show while a run goes on.
#[derive(Clone, Copy, Debug)]
pub enum Progress<'a> {
    /// A case ran.
    Ran(&'a Row),
    /// A case could not run.
    NotRun(&'a NotRun),
}

/// Runs every case with each of `types` that it can be stored in, on every target. Each runs
/// twice, the second time as a replay of what the first compiled; both results are judged.
pub fn run(
    targets: &[Target<'_>],
    cases: &[SdpaCase],
    types: &[SdpaTypes],
    progress: &mut dyn FnMut(Progress<'_>),
) -> Report {
    let mut report = Report { schema: 1, ..Report::default() };
    for case in cases {
        for &types in types.iter().filter(|types| case.fits(**types)) {
            let problem = problem::sdpa(case, types);
            let reference = oracle::sdpa(&problem);
            let bounds = tolerance::sdpa(types.q, types.kv).bounds(&reference);
            for target in targets {
                let trial = PlacedSdpa::new(target.ctx, case, types, &problem).and_then(|placed| {
                    let call = &mut || call_sdpa(target.ctx, &placed);
                    Trial::run(target, (&reference.out, &bounds), call)
                });
                let tried = Tried { op: Sdpa::ID, case: &case.name, types: &types.to_string() };
                report.add(target, tried, trial, progress);
            }
        }
    }
    report
}

/// What was tried.
#[derive(Clone, Copy)]
struct Tried<'a> {
    op: &'static str,
    case: &'a str,
    types: &'a str,
}

/// One call.
struct Called {
    selection: Selection,
    us: f64,
    got: Vec<f64>,
    damage: Option<String>,
}

/// Runs one call of `O` and times it until its result is there.
fn timed<O: Op>(ctx: &Context, args: &O::Args) -> metallic::Result<(Selection, f64)> {
    ctx.device().synchronize()?;
    let start = Instant::now();
    let selection = ctx.run::<O>(args)?;
    ctx.device().synchronize()?;
    Ok((selection, start.elapsed().as_secs_f64() * 1e6))
}

fn call_sdpa(ctx: &Context, placed: &PlacedSdpa) -> metallic::Result<Called> {
    placed.out.restore(ctx)?;
    let (selection, us) = timed::<Sdpa>(ctx, &placed.args)?;
    Ok(Called { selection, us, got: placed.out.values(ctx)?, damage: damage(ctx, placed)? })
}

/// One case on one target.
#[derive(Default)]
struct Trial {
    selection: Option<Selection>,
    comparison: Comparison,
    first_us: f64,
    us: f64,
    failure: Option<String>,
}

impl Trial {
    fn failed(error: Error) -> Self {
        Self { failure: Some(error.to_string()), ..Self::default() }
    }

    /// Two calls, each judged. `call` makes one: its result, and what it damaged.
    fn run(
        target: &Target<'_>,
        (want, bounds): (&[f64], &[f64]),
        call: &mut dyn FnMut() -> metallic::Result<Called>,
    ) -> metallic::Result<Self> {
        let mut trial = Trial::default();
        for name in ["first call", "replay"] {
            let Called { selection, us, got, damage } = call()?;
            trial.us = us;
            if trial.selection.is_none() {
                trial.first_us = us;
            }
            let comparison = tolerance::compare(&got, want, bounds);
            let failure =
                failure(&comparison).or(damage).or_else(|| wrong_backend(target, &selection));
            // The worse of both calls is reported.
            if trial.selection.is_none() || comparison.worst_ratio > trial.comparison.worst_ratio {
                trial.comparison = comparison;
            }
            if trial.failure.is_none() {
                trial.failure = failure.map(|failure| format!("{name}: {failure}"));
            }
            trial.selection = Some(selection);
        }
        Ok(trial)
    }

    fn row(self, target: &Target<'_>, Tried { op, case, types }: Tried<'_>) -> Row {
        let Self { selection, comparison, first_us, us, failure } = self;
        let (backend, variant) = selection.map_or_else(
            || ("none".to_owned(), "none".to_owned()),
            |selection| (selection.backend.to_string(), selection.variant.to_owned()),
        );
        Row {
            op,
            case: case.to_owned(),
            types: types.to_owned(),
            target: target.label.to_owned(),
            device: target.ctx.device().id().to_string(),
            backend,
            variant,
            max_abs: comparison.max_abs,
            max_rel: comparison.max_rel,
            nmse: comparison.nmse,
            tolerance: comparison.bound,
            worst_ratio: comparison.worst_ratio,
            first_us,
            us,
            failure,
        }
    }
}

fn failure(comparison: &Comparison) -> Option<String> {
    if comparison.passed() {
        return None;
    }
    let Comparison { nan_mismatch, inf_sign_mismatch, worst_ratio, worst, .. } = comparison;
    let at = worst.unwrap_or_default();
    Some(match (nan_mismatch, inf_sign_mismatch) {
        (0, 0) => format!("error {worst_ratio:.2} times the allowed one at element {at}"),
        (0, count) => format!("{count} infinities misplaced, first at element {at}"),
        (count, _) => format!("{count} NaN misplaced, first at element {at}"),
    })
}

fn damage(ctx: &Context, placed: &PlacedSdpa) -> metallic::Result<Option<String>> {
    for (name, input) in &placed.inputs {
        if let Some(byte) = input.first_change(ctx)? {
            return Ok(Some(format!("wrote into {name}, byte {byte}")));
        }
    }
    let byte = placed.out.first_damage(ctx)?;
    Ok(byte.map(|byte| format!("wrote outside of out, byte {byte} of its buffer")))
}

fn wrong_backend(target: &Target<'_>, selection: &Selection) -> Option<String> {
    let demanded = target.backend.filter(|demanded| *demanded != selection.backend)?;
    let Selection { backend, variant, reason, .. } = selection;
    Some(format!("{demanded} was demanded, but {backend}:{variant} ran ({reason})"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::sdpa::quick;
    use crate::null_device::{Compute, NullOptions, null_context};
    use metallic::dispatch::{Policy, PolicyChoice, PolicySource};
    use metallic::tensor::DType;

    fn context(backend: Option<Backend>, options: NullOptions) -> Context {
        let mut ctx = null_context(options);
        if let Some(backend) = backend {
            let mut policies = ctx.registry().policies().clone();
            let source = PolicySource::Flag("--sdpa-backend");
            let choice = PolicyChoice { policy: Policy::Force(backend), source };
            policies.ops.insert("sdpa", choice);
            ctx.registry_mut().set_policies(policies);
        }
        ctx
    }

    #[test]
    fn the_reference_itself_passes_on_both_backends() {
        let contexts =
            Backend::ALL.map(|backend| (backend, context(Some(backend), NullOptions::default())));
        let targets = contexts.each_ref().map(|(backend, ctx)| Target {
            label: backend.name(),
            ctx,
            backend: Some(*backend),
        });
        let (cases, mut seen) = (quick(), 0);
        let report = run(&targets, &cases, &SdpaTypes::ALL, &mut |_| seen += 1);
        let failures: Vec<_> = report.failures().collect();
        assert!(report.passed(), "{failures:#?}");
        assert_eq!(seen, report.rows.len());
        let fitting: usize = cases
            .iter()
            .map(|case| SdpaTypes::ALL.iter().filter(|types| case.fits(**types)).count())
            .sum();
        assert_eq!(report.rows.len(), 2 * fitting);
        assert!(report.not_run.is_empty());
        for row in &report.rows {
            assert_eq!(row.backend, row.target);
        }
    }

    #[test]
    fn wrong_results_and_wrong_backends_fail() {
        let zeros = NullOptions { compute: Compute::Zeros, ..NullOptions::default() };
        let ctx = context(None, zeros);
        let target = Target { label: "zeros", ctx: &ctx, backend: Some(Backend::Graph) };
        let types = [SdpaTypes::same(DType::F32)];
        let case = SdpaCase::new(2, (4, 2), (3, 5), 32);
        let report = run(&[target], &[case], &types, &mut |_| {});
        let failure = report.rows[0].failure.as_deref().unwrap();
        assert!(failure.starts_with("first call: error "), "{failure}");
        assert_eq!(report.failed, 1);

        let ctx = context(None, NullOptions::default());
        let target = Target { label: "auto", ctx: &ctx, backend: Some(Backend::Graph) };
        let case = SdpaCase::new(1, (2, 2), (1, 5), 32);
        let report = run(&[target], &[case], &types, &mut |_| {});
        let failure = report.rows[0].failure.as_deref().unwrap();
        assert!(failure.contains("graph was demanded, but legacy:null ran"), "{failure}");
    }

    #[test]
    fn what_no_kernel_takes_is_reported_with_its_reason() {
        let ctx = context(Some(Backend::Graph), NullOptions { graph: false, ..Default::default() });
        let target = Target { label: "graph", ctx: &ctx, backend: Some(Backend::Graph) };
        let types = [SdpaTypes::same(DType::F16)];
        let report = run(&[target], &quick()[..1], &types, &mut |_| {});
        assert!(!report.passed() && report.rows.is_empty());
        assert!(report.not_run[0].reason.contains("no such kernel is registered"));
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["schema"], 1);
        assert_eq!(json["not_run"][0]["types"], "f16");
    }
}
