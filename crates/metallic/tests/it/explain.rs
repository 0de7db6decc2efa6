//! Choices that are explained and not run.

use std::sync::Arc;

use metallic::context::Explanation;
use metallic::dispatch::{Backend, Policy, Preference, Reason};
use metallic::op::{Sdpa, SdpaSpec};
use metallic::{Context, Error};
use metallic_testkit::null_device::{NullControls, NullOptions, null_context};

use crate::support::{SMALL, Shapes, sdpa_policy};

fn graph_first(_: &SdpaSpec) -> Preference {
    Preference { backend: Backend::Graph, reason: "measured" }
}

/// Explains one call.
fn explain(ctx: &Context) -> (Result<(), Error>, Vec<Explanation>) {
    ctx.explain(|| ctx.run::<Sdpa>(&SMALL.call(ctx)).map(drop))
}

#[test]
fn what_is_explained_is_what_runs_then() {
    let ctx = null_context(NullOptions { prefer: Some(graph_first), ..NullOptions::default() });
    let (done, explained) = ctx.explain(|| {
        for shapes in [SMALL, Shapes { q_len: 1, ..SMALL }, SMALL] {
            ctx.run::<Sdpa>(&shapes.call(&ctx))?;
        }
        Ok::<(), Error>(())
    });
    done.unwrap();
    assert_eq!(ctx.runs("sdpa"), [], "nothing ran");
    let [prefill, decode] = &explained[..] else { panic!("two specs, not {explained:?}") };
    assert_eq!((prefill.calls, decode.calls), (2, 1));
    assert!(prefill.spec.starts_with("prefill") && decode.spec.starts_with("decode"));
    assert_eq!(prefill.others, [(Backend::Legacy, "null")]);
    let ran = ctx.run::<Sdpa>(&SMALL.call(&ctx)).unwrap();
    assert_eq!(prefill.kernel, Some((ran.backend, ran.variant)));
    assert_eq!(prefill.reason, &*ran.reason);
    assert_eq!(ctx.runs("sdpa").len(), 1);
}

#[test]
fn what_cannot_run_is_the_same_error() {
    let refuses = Some(Reason::Range { what: "head_dim", got: 8, max: 4 });
    let policies = sdpa_policy(Policy::Force(Backend::Graph));
    let options = NullOptions { policies, graph_refuses: refuses, ..NullOptions::default() };
    let (done, explained) = explain(&null_context(options));
    assert!(matches!(done, Err(Error::Unsupported { .. })), "{done:?}");
    assert_eq!(explained, []);
}

#[test]
fn nothing_is_compiled_or_run() {
    let controls = Arc::new(NullControls::default());
    let policies = sdpa_policy(Policy::Force(Backend::Graph));
    let options = NullOptions { policies, controls: controls.clone(), ..NullOptions::default() };
    let ctx = null_context(options);
    explain(&ctx).0.unwrap();
    assert_eq!((controls.compiles(), controls.graph_runs()), (0, 0));
    ctx.run::<Sdpa>(&SMALL.call(&ctx)).unwrap();
    assert_eq!((controls.compiles(), controls.graph_runs()), (1, 1));
}
