//! Both halves of blocks, each as one op.

use metallic::Context;
use metallic::op::Op;
use metallic::segment::{AttentionBlock, MlpBlock};

use super::{Called, Progress, Report, Target, Trial, Tried, timed};
use crate::block::{PlacedBlock, cache_estimates, cache_values, problem};
use crate::cases::block::BlockCase;
use crate::oracle::{self, AttentionReference, BlockProblem};
use crate::tolerance::of_estimates;

/// Runs both halves of every case on every target. Everything that a half writes is judged: the
/// stream, the caches with what lies past them, and the result.
pub fn run_blocks(
    targets: &[Target<'_>],
    cases: &[BlockCase],
    progress: &mut dyn FnMut(Progress<'_>),
) -> Report {
    let mut report = Report { schema: 1, ..Report::default() };
    for case in cases {
        let problem = problem(case);
        let AttentionReference { x, k_cache, v_cache, out } = oracle::attention_block(&problem);
        let caches = [&k_cache, &v_cache].map(|cache| cache_estimates(case, cache));
        let [keys, values] = caches;
        let attention = of_estimates(&[x, keys, values, out].concat());
        let mlp = of_estimates(&oracle::mlp_block(&problem).concat());
        let types = case.cache.to_string();
        let tried = |op| Tried { op, case: &case.name, types: &types };
        for target in targets {
            let ctx = target.ctx;
            let placed = PlacedBlock::new(ctx, &problem);
            let trial = placed.as_ref().map_err(Clone::clone).and_then(|placed| {
                let call = &mut || call_attention(ctx, placed, &problem);
                Trial::run(target, (&attention.0, &attention.1), call)
            });
            report.add(target, tried(AttentionBlock::ID), trial, progress);
            let trial = placed.and_then(|placed| {
                let call = &mut || call_mlp(ctx, &placed, &problem);
                Trial::run(target, (&mlp.0, &mlp.1), call)
            });
            report.add(target, tried(MlpBlock::ID), trial, progress);
        }
    }
    report
}

fn call_attention(
    ctx: &Context,
    placed: &PlacedBlock,
    problem: &BlockProblem,
) -> metallic::Result<Called> {
    let args = placed.attention(ctx, problem)?;
    let (selection, us) = timed::<AttentionBlock>(ctx, &args)?;
    let mut got = stream(ctx, &args.x)?;
    for cache in [&args.k_cache, &args.v_cache] {
        got.extend(cache_values(ctx, &problem.case, cache)?);
    }
    got.extend(stream(ctx, &args.out)?);
    Ok(Called { selection, us, got, damage: None })
}

fn call_mlp(
    ctx: &Context,
    placed: &PlacedBlock,
    problem: &BlockProblem,
) -> metallic::Result<Called> {
    let args = placed.mlp(ctx, problem)?;
    let (selection, us) = timed::<MlpBlock>(ctx, &args)?;
    let got = [stream(ctx, &args.x)?, stream(ctx, &args.out)?].concat();
    Ok(Called { selection, us, got, damage: None })
}

fn stream(ctx: &Context, tensor: &metallic::tensor::Tensor) -> metallic::Result<Vec<f64>> {
    Ok(ctx.download_f32(tensor)?.into_iter().map(f64::from).collect())
}
