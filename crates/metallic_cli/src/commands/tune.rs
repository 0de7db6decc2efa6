//! `metallic tune`: measures a device's engines for attention, side by side, and writes what the device
//! reads when it is opened next.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;

use metallic::config::{cache_dir, process_env};
use metallic::dispatch::{Backend, EngineChoice, Policies, Policy, PolicyChoice, PolicySource};
use metallic::op::{Op, Sdpa};
use metallic::tensor::DType;
use metallic::{Context, Error as CoreError};
use metallic_devices::engines::{EngineTable, class, machine};
use metallic_testkit::cases::sdpa::{SdpaCase, SdpaTypes};
use metallic_testkit::problem::{self, PlacedSdpa};
use serde_json::{Value, json};

use super::bench_sdpa::{self, ENOUGH_US, median, time};
use crate::args::TuneArgs;
use crate::error::{Error, Result};
use crate::output::{note, print_json};
use crate::{device, model};

/// The source that policies name while engines are measured.
const SOURCE: PolicySource = PolicySource::Flag("metallic tune");

/// Measures every shape on every engine and writes the table.
///
/// # Errors
/// Shapes that do not fit, a model that cannot be read, a table that cannot be written.
pub(super) fn run(args: &TuneArgs) -> Result<()> {
    let shapes = shapes(args)?;
    shapes.iter().try_for_each(|(case, types)| bench_sdpa::check(case, *types))?;
    let mut ctx = device::open(&args.backend)?;
    let engines: Vec<&'static str> = ctx
        .registry()
        .entries::<Sdpa>()
        .iter()
        .filter(|entry| entry.backend == Backend::Graph)
        .map(|entry| entry.variant)
        .collect();
    let device = ctx.device().id();
    if engines.len() < 2 {
        let engines = engines.join(", ");
        note!("{device} has one engine for attention ({engines}); there is nothing to choose");
        return if args.json { print_json(&json!({ "engines": engines })) } else { Ok(()) };
    }
    let dir = cache_dir(&process_env).ok_or(Error::NoCacheDir)?;
    let machine = machine(ctx.device());
    let mut table = EngineTable::load(&dir, &machine);
    let mut rows = Vec::new();
    let mut out = io::stdout().lock();
    for (case, types) in &shapes {
        let row = measure(&mut ctx, args.repetitions, (case, *types), &engines)?;
        if !args.json {
            writeln!(out, "{}", row.line())?;
        }
        table.record(row.class.clone(), row.us.clone());
        rows.push(row);
    }
    drop(out);
    let path = table.write(&dir).map_err(Error::write(&EngineTable::path(&dir, &machine)))?;
    note!(
        "measured {} on {device}, whole calls as the host makes them, median of {}; {} class(es) in {}",
        engines.join(" and "),
        args.repetitions,
        rows.len(),
        path.display()
    );
    if args.json {
        print_json(&to_json(&machine, &path, &rows))?;
    }
    device::finish(&ctx)
}

/// The shapes to measure: those of the lists, or with a model its heads and types.
fn shapes(args: &TuneArgs) -> Result<Vec<(SdpaCase, SdpaTypes)>> {
    let of_model = args.model.model.is_some() || args.model.random_weights.is_some();
    let mut heads = Vec::new();
    if of_model {
        let files = model::open(&args.model)?;
        let config = files.config();
        heads.push((config.n_heads, config.n_kv_heads, config.head_dim));
    } else {
        for &q_heads in &args.q_heads.0 {
            for &kv_heads in &args.kv_heads.0 {
                heads.extend(args.head_dim.0.iter().map(|&dim| (q_heads, kv_heads, dim)));
            }
        }
    }
    let types: Vec<SdpaTypes> = match of_model {
        true => vec![SdpaTypes { q: DType::F32, kv: args.context.cache_types().0 }],
        false => args.dtype.iter().map(|&dtype| SdpaTypes::same(dtype)).collect(),
    };
    let mut shapes = Vec::new();
    for &batch in &args.batch.0 {
        for &(q_heads, kv_heads, dim) in &heads {
            for &q_len in &args.q_len.0 {
                for &kv_len in args.kv_len.0.iter().filter(|kv_len| **kv_len >= q_len) {
                    let case = SdpaCase::new(batch, (q_heads, kv_heads), (q_len, kv_len), dim);
                    let case = if args.causal || of_model { case.causal() } else { case };
                    let live = i32::try_from(kv_len).unwrap_or(i32::MAX);
                    let case = match args.live || of_model {
                        true => case.kv_lens(&vec![live; batch]),
                        false => case,
                    };
                    shapes.extend(types.iter().map(|&types| (case.clone(), types)));
                }
            }
        }
    }
    Ok(shapes)
}

/// What the engines did on one shape.
struct Row {
    case: String,
    types: String,
    class: String,
    /// Median µs of a call, by engine.
    us: BTreeMap<String, f64>,
    /// Why an engine did not run.
    refused: BTreeMap<String, String>,
}

impl Row {
    fn fastest(&self) -> Option<&str> {
        let fastest = self.us.iter().min_by(|a, b| a.1.total_cmp(b.1));
        fastest.map(|(engine, _)| engine.as_str())
    }

    fn line(&self) -> String {
        let times = self.us.iter().map(|(engine, us)| format!("{engine} {us:.1} µs"));
        let refused = self.refused.iter().map(|(engine, why)| format!("{engine} not run: {why}"));
        let all: Vec<String> = times.chain(refused).collect();
        let fastest = self.fastest().unwrap_or("none");
        format!("{} {}: {fastest} ({})", self.case, self.types, all.join(", "))
    }
}

fn measure(
    ctx: &mut Context,
    repetitions: usize,
    (case, types): (&SdpaCase, SdpaTypes),
    engines: &[&'static str],
) -> Result<Row> {
    let placed = PlacedSdpa::new(ctx, case, types, &problem::sdpa(case, types))?;
    let class = class(&Sdpa::check(&placed.args)?);
    let mut runs = Vec::new();
    let mut refused = BTreeMap::new();
    for &engine in engines {
        demand(ctx, engine);
        match ctx.run::<Sdpa>(&placed.args) {
            Ok(_) => {}
            Err(
                error @ (CoreError::Unsupported { .. }
                | CoreError::Declined { .. }
                | CoreError::Compile { .. }),
            ) => {
                refused.insert(engine.to_owned(), error.to_string());
                continue;
            }
            Err(error) => return Err(error.into()),
        }
        ctx.device().synchronize()?;
        let once_us = time(ctx, &placed, 1)?;
        runs.push((engine, (ENOUGH_US / once_us.max(0.1)).ceil() as usize, Vec::new()));
    }
    for _ in 0..repetitions {
        for (engine, calls, samples) in &mut runs {
            demand(ctx, engine);
            samples.push(time(ctx, &placed, *calls)?);
        }
    }
    let us = runs.into_iter().map(|(engine, _, samples)| (engine.to_owned(), median(samples)));
    let us = us.collect();
    Ok(Row { case: case.name.clone(), types: types.to_string(), class, us, refused })
}

fn demand(ctx: &mut Context, engine: &str) {
    let mut policies: Policies = ctx.registry().policies().clone();
    let choice = PolicyChoice { policy: Policy::Force(Backend::Graph), source: SOURCE };
    policies.ops.insert(Sdpa::ID, choice);
    policies.required.remove(Sdpa::ID);
    policies.engine = Some(EngineChoice { name: engine.to_owned(), source: SOURCE });
    ctx.registry_mut().set_policies(policies);
}

fn to_json(machine: &str, path: &PathBuf, rows: &[Row]) -> Value {
    let rows = rows.iter().map(|row| {
        json!({
            "case": row.case,
            "types": row.types,
            "class": row.class,
            "us": row.us,
            "not_run": row.refused,
            "engine": row.fastest(),
        })
    });
    json!({ "machine": machine, "file": path, "shapes": rows.collect::<Vec<_>>() })
}
