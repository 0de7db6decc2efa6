//! The halves of a transformer block, each as one executable, against the oracle.

use metallic::dispatch::{Backend, Policy, PolicyChoice, PolicySource};
use metallic::op::Op;
use metallic::segment::{AttentionBlock, MlpBlock};
use metallic_testkit::cases::block::blocks;
use metallic_testkit::parity::{Target, run_blocks};

use crate::support::{graph, macos_15};

#[test]
fn halves_of_blocks_agree_with_the_oracle() {
    let mut ctx = graph();
    let mut policies = ctx.registry().policies().clone();
    for op in [AttentionBlock::ID, MlpBlock::ID] {
        let source = PolicySource::Flag("--test");
        let choice = PolicyChoice { policy: Policy::Force(Backend::Graph), source };
        policies.ops.insert(op, choice);
    }
    ctx.registry_mut().set_policies(policies);
    let target = Target { label: "graph", ctx: &ctx, backend: Some(Backend::Graph) };
    let report = run_blocks(&[target], &blocks(), &mut |_| {});
    let failures: Vec<_> = report
        .failures()
        .map(|row| format!("{} {} {}: {:?}", row.variant, row.case, row.types, row.failure))
        .collect();
    let first = failures[..failures.len().min(8)].join("\n");
    assert!(failures.is_empty(), "{} of {}:\n{first}", failures.len(), report.rows.len());
    for op in [AttentionBlock::ID, MlpBlock::ID] {
        let ran = report.rows.iter().filter(|row| row.op == op).count();
        // Before macOS 15 nothing is written into a cache inside a graph.
        let can = op == MlpBlock::ID || macos_15();
        assert_eq!(ran >= 4, can, "{ran} cases of {op} ran: {:?}", report.not_run.first());
    }
    // What is refused is a type that cannot be read in place, here or on an older system.
    for case in &report.not_run {
        let known = ["supported are", "begins with macOS"];
        let says = known.iter().any(|words| case.reason.contains(words));
        assert!(says, "{}: {}", case.case, case.reason);
    }
}
