//! `metallic bench sdpa`: attention alone, legacy and graph side by side, runs interleaved.

use std::io::{self, Write};
use std::time::Instant;

use metallic::Context;
use metallic::dispatch::{Backend, Policy, PolicyChoice, PolicySource};
use metallic::op::{Op, Sdpa};
use metallic::tensor::DType;
use metallic_testkit::cases::sdpa::{SdpaCase, SdpaTypes, bytes, flops};
use metallic_testkit::problem::{self, PlacedSdpa};
use serde_json::{Value, json};

use super::bench_limits;
use crate::args::BenchSdpaArgs;
use crate::device;
use crate::error::Result;
use crate::output::print_json;

/// A measurement lasts at least this long, so that the clock and the scheduler matter little.
pub(super) const ENOUGH_US: f64 = 2000.0;

/// Measures every combination of the lists.
///
/// # Errors
/// Shapes that do not fit, a backend that cannot run one.
pub(super) fn run(args: &BenchSdpaArgs) -> Result<()> {
    let cases = cases(args);
    cases.iter().try_for_each(check)?;
    let limits = args.limits.then(|| bench_limits::of(&args.backend)).transpose()?;
    let mut ctx = device::open(&args.backend)?;
    let asked = ctx.registry().policies().choice(Sdpa::ID).0.policy;
    let backends: Vec<Backend> = Backend::ALL
        .into_iter()
        .filter(|backend| asked == Policy::Auto || asked == Policy::Force(*backend))
        .collect();
    let mut out = io::stdout().lock();
    if !args.json {
        writeln!(out, "{}: {}", ctx.device().id(), ctx.device().description())?;
        writeln!(
            out,
            "| batch | heads | q_len | kv_len | dim | dtype | mask | backend | µs | GFLOP/s | \
             GB/s | first µs | against legacy | of the limit |"
        )?;
        writeln!(out, "|{}", "---|".repeat(14))?;
    }
    let mut rows = Vec::new();
    for case in cases {
        for &dtype in &args.dtype {
            let measured = measure(&mut ctx, args.repetitions, &case, dtype, &backends)?;
            let legacy_us = measured.iter().find(|m| m.backend == Backend::Legacy).map(|m| m.us);
            for measurement in measured {
                let ratio = legacy_us.map(|legacy_us| legacy_us / measurement.us);
                let mut row = row(args, &case, dtype, &measurement, ratio);
                if let Some(limits) = &limits {
                    let bytes = bytes(&case, SdpaTypes::same(dtype));
                    let (floor, bound) = limits.floor(flops(&case), bytes);
                    row["share_of_limit"] = json!(floor * 1e6 / measurement.us);
                    row["bound_by"] = json!(bound);
                    row["limits"] = limits.to_json();
                }
                if args.json {
                    rows.push(row);
                } else {
                    print(&mut out, &row)?;
                }
            }
        }
    }
    drop(out);
    if args.json {
        print_json(&Value::Array(rows))?;
    }
    device::finish(&ctx)
}

fn cases(args: &BenchSdpaArgs) -> Vec<SdpaCase> {
    let mut cases = Vec::new();
    for &batch in &args.batch.0 {
        for &q_heads in &args.q_heads.0 {
            for &kv_heads in &args.kv_heads.0 {
                for &q_len in &args.q_len.0 {
                    for &kv_len in &args.kv_len.0 {
                        for &dim in &args.head_dim.0 {
                            let heads = (q_heads, kv_heads);
                            let case = SdpaCase::new(batch, heads, (q_len, kv_len), dim);
                            cases.push(if args.causal { case.causal() } else { case });
                        }
                    }
                }
            }
        }
    }
    cases
}

/// What one backend did on one shape.
struct Measurement {
    backend: Backend,
    variant: &'static str,
    /// Median of a call.
    us: f64,
    /// The very first call, with whatever had to be compiled.
    first_us: f64,
}

fn measure(
    ctx: &mut Context,
    repetitions: usize,
    case: &SdpaCase,
    dtype: DType,
    backends: &[Backend],
) -> Result<Vec<Measurement>> {
    let types = SdpaTypes::same(dtype);
    let placed = PlacedSdpa::new(ctx, case, types, &problem::sdpa(case, types))?;
    let mut runs = Vec::new();
    for &backend in backends {
        force(ctx, backend);
        let start = Instant::now();
        let selection = ctx.run::<Sdpa>(&placed.args)?;
        ctx.device().synchronize()?;
        let first_us = start.elapsed().as_secs_f64() * 1e6;
        // The first call may have compiled; the second says how long one takes.
        let once_us = time(ctx, &placed, 1)?;
        let calls = (ENOUGH_US / once_us.max(0.1)).ceil() as usize;
        let measurement = Measurement { backend, variant: selection.variant, us: 0.0, first_us };
        runs.push((measurement, calls, Vec::new()));
    }
    for _ in 0..repetitions {
        for (measurement, calls, samples) in &mut runs {
            force(ctx, measurement.backend);
            samples.push(time(ctx, &placed, *calls)?);
        }
    }
    Ok(runs.into_iter().map(|(m, _, samples)| Measurement { us: median(samples), ..m }).collect())
}

/// The middle of some samples; 0 without any.
pub(super) fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or(0.0)
}

/// The op itself checks shapes, but only once there are numbers; this asks before they are made.
///
/// # Errors
/// A shape that the op would refuse.
pub(super) fn check(case: &SdpaCase) -> Result<()> {
    if case.kv_heads > 0 && case.q_heads.is_multiple_of(case.kv_heads) && case.head_dim > 0 {
        return Ok(());
    }
    let what = if case.head_dim == 0 { "head_dim" } else { "q_heads" };
    let (got, kv_heads) = (if case.head_dim == 0 { 0 } else { case.q_heads }, case.kv_heads);
    let expected = if case.head_dim == 0 {
        "at least 1".to_owned()
    } else {
        format!("a multiple of kv_heads = {kv_heads}, which is at least 1")
    };
    let (what, got) = (what.to_owned(), got.to_string());
    Err(metallic::Error::Shape { op: Sdpa::ID, what, expected, got }.into())
}

/// Mean µs of a call, over `calls` of them.
///
/// # Errors
/// As those of a call.
pub(super) fn time(ctx: &Context, placed: &PlacedSdpa, calls: usize) -> Result<f64> {
    let start = Instant::now();
    for _ in 0..calls {
        ctx.run::<Sdpa>(&placed.args)?;
    }
    ctx.device().synchronize()?;
    Ok(start.elapsed().as_secs_f64() * 1e6 / calls as f64)
}

fn force(ctx: &mut Context, backend: Backend) {
    let mut policies = ctx.registry().policies().clone();
    let source = PolicySource::Flag("metallic bench");
    policies.ops.insert(Sdpa::ID, PolicyChoice { policy: Policy::Force(backend), source });
    policies.required.remove(Sdpa::ID);
    ctx.registry_mut().set_policies(policies);
}

fn row(
    args: &BenchSdpaArgs,
    case: &SdpaCase,
    dtype: DType,
    measurement: &Measurement,
    ratio: Option<f64>,
) -> Value {
    json!({
        "batch": case.batch,
        "q_heads": case.q_heads,
        "kv_heads": case.kv_heads,
        "q_len": case.q_len,
        "kv_len": case.kv_len,
        "head_dim": case.head_dim,
        "dtype": dtype.name(),
        "causal": args.causal,
        "backend": measurement.backend.name(),
        "variant": measurement.variant,
        "us": measurement.us,
        "gflops_per_second": flops(case) / measurement.us / 1e3,
        "gbytes_per_second": bytes(case, SdpaTypes::same(dtype)) / measurement.us / 1e3,
        "first_us": measurement.first_us,
        "speed_against_legacy": ratio,
    })
}

fn print(out: &mut impl Write, row: &Value) -> io::Result<()> {
    let text = |key: &str| row[key].as_str().unwrap_or_default();
    let number = |key: &str| row[key].as_f64().unwrap_or_default();
    let ratio = row["speed_against_legacy"].as_f64();
    writeln!(
        out,
        "| {} | {}/{} | {} | {} | {} | {} | {} | {} ({}) | {:.1} | {:.2} | {:.2} | {:.0} | {} | {} |",
        row["batch"],
        row["q_heads"],
        row["kv_heads"],
        row["q_len"],
        row["kv_len"],
        row["head_dim"],
        text("dtype"),
        if row["causal"] == json!(true) { "causal" } else { "none" },
        text("backend"),
        text("variant"),
        number("us"),
        number("gflops_per_second"),
        number("gbytes_per_second"),
        number("first_us"),
        ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}x")),
        share(row),
    )
}

/// `62 % f32`, or a dash where no limits were measured.
fn share(row: &Value) -> String {
    match row["share_of_limit"].as_f64() {
        Some(share) => {
            format!("{:.0} % {}", share * 100.0, row["bound_by"].as_str().unwrap_or_default())
        }
        None => "-".to_owned(),
    }
}
