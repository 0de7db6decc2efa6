//! The halves of a block as one fused graph each, against attention as a graph among composed
//! neighbours, op by op, as models run it without segments. Both ways go through the registry,
//! and both walk through the weights of several layers, as a model does.

mod common;

use std::cell::Cell;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use metallic::Context;
use metallic::dispatch::{Backend, Policy, PolicyChoice, PolicySource};
use metallic::op::{Op, Sdpa};
use metallic::segment::{AttentionBlock, AttentionBlockArgs, MlpBlock, MlpBlockArgs};
use metallic::tensor::DType;
use metallic_testkit::block::{PlacedBlock, problem};
use metallic_testkit::cases::block::BlockCase;

/// Layers whose weights no cache holds together.
const LAYERS: usize = 8;

/// A context on which attention and segments run as `backend`.
fn context(backend: Backend) -> Context {
    let mut ctx = common::context();
    let mut policies = ctx.registry().policies().clone();
    let source = PolicySource::Flag("the benchmark");
    let choice = PolicyChoice { policy: Policy::Force(backend), source };
    for op in [Sdpa::ID, AttentionBlock::ID, MlpBlock::ID] {
        policies.ops.insert(op, choice.clone());
    }
    ctx.registry_mut().set_policies(policies);
    ctx
}

/// Blocks of Qwen2.5-0.5B and of SmolLM2-135M, decoding and reading a prompt, with their names.
fn cases() -> Vec<(String, BlockCase)> {
    let qwen = |past, len| BlockCase::new(past, len).shapes((14, 2), 64, 896, 4864);
    let smol = |past, len| BlockCase::new(past, len).llama().shapes((9, 3), 64, 576, 1536);
    let (q8_0, f16) = (DType::Q8_0, DType::F16);
    let mut cases = Vec::new();
    for (past, len) in [(256, 1), (4096, 1), (0, 512)] {
        for (model, case) in [("qwen", qwen(past, len)), ("smol", smol(past, len))] {
            let case = case.types([q8_0; 2], f16).quantized();
            cases.push((format!("{model} q8_0 {len} after {past}"), case));
        }
    }
    cases.push(("qwen f16 1 after 256".to_owned(), qwen(256, 1).types([f16; 2], f16)));
    cases
}

fn attention_op_by_op(ctx: &Context, args: &AttentionBlockArgs) -> metallic::Result<()> {
    args.calls(&|shape| ctx.empty(DType::F32, shape))?.run(ctx)?;
    ctx.device().synchronize()
}

fn mlp_op_by_op(ctx: &Context, args: &MlpBlockArgs) -> metallic::Result<()> {
    args.calls(&|shape| ctx.empty(DType::F32, shape))?.run(ctx)?;
    ctx.device().synchronize()
}

fn whole<O: Op>(ctx: &Context, args: &O::Args) -> metallic::Result<()> {
    ctx.run::<O>(args)?;
    ctx.device().synchronize()
}

/// A way to run one call.
type Way<'a, A> = (&'a str, &'a Context, fn(&Context, &A) -> metallic::Result<()>);

fn time<A>(criterion: &mut Criterion, group: &str, case: &str, layers: &[A], ways: &[Way<'_, A>]) {
    let mut group = criterion.benchmark_group(group);
    for (name, ctx, run) in ways {
        let turn = Cell::new(0);
        group.bench_function(BenchmarkId::new(*name, case), |bencher| {
            bencher.iter(|| {
                turn.set((turn.get() + 1) % layers.len());
                run(ctx, &layers[turn.get()]).expect("a case of the list runs");
            });
        });
    }
    group.finish();
}

fn fused(criterion: &mut Criterion) {
    let (graph, legacy) = (context(Backend::Graph), context(Backend::Legacy));
    for (name, case) in cases() {
        let problem = problem(&case);
        let layer = || PlacedBlock::new(&graph, &problem).expect("memory for a layer");
        let layers: Vec<_> = (0..LAYERS).map(|_| layer()).collect();
        let attention: Vec<_> = layers
            .iter()
            .map(|layer| layer.attention(&graph, &problem).expect("memory for a call"))
            .collect();
        let ways: [Way<'_, AttentionBlockArgs>; 3] = [
            ("fused", &graph, whole::<AttentionBlock>),
            ("sdpa graph and neighbours", &graph, attention_op_by_op),
            ("composed", &legacy, whole::<AttentionBlock>),
        ];
        time(criterion, "attention_block", &name, &attention, &ways);
        let mlp: Vec<_> = layers
            .iter()
            .map(|layer| layer.mlp(&graph, &problem).expect("memory for a call"))
            .collect();
        let ways: [Way<'_, MlpBlockArgs>; 3] = [
            ("fused", &graph, whole::<MlpBlock>),
            ("op by op", &graph, mlp_op_by_op),
            ("composed", &legacy, whole::<MlpBlock>),
        ];
        time(criterion, "mlp_block", &name, &mlp, &ways);
    }
}

criterion_group! { name = benches; config = common::criterion(); targets = fused }
criterion_main!(benches);
