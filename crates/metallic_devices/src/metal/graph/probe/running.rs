//! What compiling and encoding cost and do on the way.

use std::thread;
use std::time::Instant;

use metallic::Context;
use metallic::Result;
use metallic::dispatch::{Backend, Policies, Policy, PolicyChoice, PolicySource};
use metallic::graph::LengthPolicy;
use metallic::op::{Mask, Op, Sdpa, SdpaArgs};
use metallic::tensor::DType;
use metallic_instrumentation::Recorder;
use objc2_metal_performance_shaders_graph::MPSGraphOptimization;

use super::rig::{Array, F16, F32, Rig, Spot, difference};
use crate::metal::graph::emit::{Binary, Emitter, Unary};
use crate::metal::graph::value::Value;
use crate::metal::{MetalDevice, MetalOptions};
use crate::probe::{Finding, Verdict};
use crate::process::peak_memory_bytes;
use crate::{GraphOptions, Terms};

/// `ops` additions, each of the result of the one before.
fn chain(emitter: &Emitter, fed: &[Value], ops: usize) -> Result<Value> {
    (0..ops).try_fold(fed[0].clone(), |sum, _| {
        // Not an addition that a compiler folds into a product.
        emitter.unary(Unary::Tanh, &emitter.binary(Binary::Add, &sum, &fed[0])?)
    })
}

pub(super) fn continuation(rig: &Rig) -> Result<Finding> {
    let array = Array::noise(1, &[64, 64], F32);
    let arrays = std::slice::from_ref(&array);
    let mut seen = Vec::new();
    for ops in [10, 30, 50, 200] {
        let compiled = rig.compile(arrays, |emitter, fed| chain(emitter, fed, ops))?;
        let (_, split) = rig.run(&compiled, arrays, &Spot::dense(&[64, 64], F32))?;
        let what = if split { "committed on the way" } else { "one command buffer" };
        seen.push(format!("{} ops: {what}", 2 * ops));
    }
    Ok(Finding::new(Verdict::Measured, seen.join("; ")))
}

pub(super) fn levels(rig: &Rig) -> Result<Finding> {
    let array = Array::noise(1, &[64, 64], F16);
    let arrays = std::slice::from_ref(&array);
    let spot = Spot::dense(&[64, 64], F16);
    let mut results = Vec::new();
    for level in [MPSGraphOptimization::Level0, MPSGraphOptimization::Level1] {
        let build = |emitter: &Emitter, fed: &[Value]| emitter.softmax(&chain(emitter, fed, 4)?, 1);
        let compiled = rig.compile_at(level, arrays, build)?;
        results.push(rig.run(&compiled, arrays, &spot)?.0);
    }
    let apart = difference(&results[0], &results[1]);
    Ok(Finding::new(Verdict::Measured, format!("largest difference {apart:.2e}")))
}

/// Runs of each thread.
const RUNS: usize = 50;

pub(super) fn threads(rig: &Rig) -> Result<Finding> {
    let array = Array::noise(1, &[64, 64], F32);
    let arrays = std::slice::from_ref(&array);
    let spot = Spot::dense(&[64, 64], F32);
    let compiled = rig.compile(arrays, |emitter, fed| chain(emitter, fed, 8))?;
    let (want, _) = rig.run(&compiled, arrays, &spot)?;
    // Each thread has a queue of its own, so that nothing of ours stands between them.
    let worker = || -> Result<f32> {
        let rig = Rig::open()?;
        (0..RUNS).try_fold(0.0, |most: f32, _| {
            let (got, _) = rig.run(&compiled, arrays, &spot)?;
            Ok(most.max(difference(&got, &want)))
        })
    };
    let results: Vec<Result<f32>> = thread::scope(|scope| {
        let started: Vec<_> = (0..2).map(|_| scope.spawn(worker)).collect();
        started.into_iter().filter_map(|worker| worker.join().ok()).collect()
    });
    let most = results.into_iter().try_fold(0.0, |most: f32, result| Ok(most.max(result?)));
    let most: Result<f32> = most;
    let most = most?;
    let verdict = if most == 0.0 { Verdict::Better } else { Verdict::AsAssumed };
    Ok(Finding::new(verdict, format!("largest difference {most:.1e} in {} runs", 2 * RUNS)))
}

/// A context whose attention is a graph under `lengths`.
fn context(lengths: LengthPolicy) -> Result<Context> {
    let terms = Terms::of_models(false);
    let graph = GraphOptions { terms, lengths, ..GraphOptions::default() };
    let mut policies = Policies::default();
    let source = PolicySource::Flag("metallic probe");
    let choice = PolicyChoice { policy: Policy::Force(Backend::Graph), source };
    policies.ops.insert(Sdpa::ID, choice);
    let options = MetalOptions { graph, ..MetalOptions::default() };
    MetalDevice::context(options, policies, Recorder::disabled())
}

/// One new token over `kv_len` keys; the result as bytes.
fn decode(ctx: &Context, kv_len: usize) -> Result<Vec<u8>> {
    let upload = |seed, dims: [usize; 4]| {
        let values = Array::noise(seed, &dims, F16).values;
        let half = |value: &f32| half::f16::from_f32(*value).to_le_bytes();
        let bytes: Vec<u8> = values.iter().flat_map(half).collect();
        ctx.upload(DType::F16, dims, &bytes)
    };
    let args = SdpaArgs {
        q: upload(1, [1, 14, 1, 64])?,
        k: upload(2, [1, 2, kv_len, 64])?,
        v: upload(3, [1, 2, kv_len, 64])?,
        mask: Mask::causal(),
        kv_lens: None,
        scale: None,
        softcap: None,
        out: ctx.zeros(DType::F16, [1, 14, 1, 64])?,
    };
    ctx.run::<Sdpa>(&args)?;
    ctx.download(&args.out)
}

/// Lengths that are tried, from one more than a bucket on.
const LENGTHS: usize = 100;

pub(super) fn any_length(rig: &Rig) -> Result<Finding> {
    if !rig.platform.at_least(15) {
        return Ok(Finding::new(Verdict::NotAsked, "the attention op begins with macOS 15"));
    }
    let (any, classes) = (context(LengthPolicy::Dynamic)?, context(LengthPolicy::Bucketed)?);
    decode(&any, 256)?;
    let before = peak_memory_bytes().unwrap_or(0);
    let start = Instant::now();
    for kv_len in 257..257 + LENGTHS {
        decode(&any, kv_len)?;
    }
    let ms = start.elapsed().as_secs_f64() * 1e3 / LENGTHS as f64;
    let grown = peak_memory_bytes().unwrap_or(0).saturating_sub(before);
    let same = [256, 300, 356].into_iter().try_fold(true, |same, kv_len| {
        Ok::<_, metallic::Error>(same && decode(&any, kv_len)? == decode(&classes, kv_len)?)
    })?;
    let verdict = if same { Verdict::Measured } else { Verdict::Worse };
    let right = if same { "as with length classes" } else { "NOT as with length classes" };
    let seen =
        format!("{ms:.2} ms a new length, {grown} bytes more after {LENGTHS}, results {right}");
    Ok(Finding::new(verdict, seen))
}
