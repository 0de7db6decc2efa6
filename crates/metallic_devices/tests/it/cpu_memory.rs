//! Which memory kernels may share: a tensor that is written lies apart from what is read, is the
//! same tensor where an op says so, and never lies in a mapped file.

use metallic::op::{
    Add, AddArgs, Embedding, EmbeddingArgs, KvAppend, KvAppendArgs, Linear, LinearArgs, Mask,
    Precision, RmsNorm, RmsNormArgs, Rope, RopeArgs, RopePairing, Sdpa, SdpaArgs, SwiGlu,
    SwiGluArgs,
};
use metallic::tensor::{DType, HostBytes, Tensor};
use metallic::{Context, Error, Result};
use metallic_devices::cpu::{CpuDevice, CpuOptions};
use metallic_instrumentation::Recorder;

fn context() -> Context {
    let options = CpuOptions { threads: 2, ..CpuOptions::default() };
    CpuDevice::context(options, Default::default(), Recorder::disabled())
}

/// Rows `first .. first + 2` of four rows of four.
fn rows(four: &Tensor, first: usize) -> Tensor {
    four.narrow(0, first, 2).unwrap()
}

fn refused<T: std::fmt::Debug>(result: Result<T>) {
    let error = result.unwrap_err();
    assert!(
        matches!(&error, Error::Shape { what, .. } if what.starts_with("the memory")),
        "{error}"
    );
}

#[test]
fn a_norm_after_a_residual_sum_does_not_write_where_it_reads() {
    let ctx = context();
    let four = ctx.upload_f32([4, 4], &[1.0; 16]).unwrap();
    let other = ctx.upload_f32([2, 4], &[2.0; 8]).unwrap();
    let weight = ctx.upload_f32([4], &[1.0; 4]).unwrap();
    let norm = |x: Tensor, residual: Option<&Tensor>, out: Tensor| {
        let (residual, weight) = (residual.cloned(), weight.clone());
        ctx.run::<RmsNorm>(&RmsNormArgs { x, residual, weight, eps: 1e-6, out })
    };
    refused(norm(rows(&four, 0), Some(&other), rows(&four, 0)));
    refused(norm(rows(&four, 0), Some(&rows(&four, 1)), other.clone()));
    refused(norm(other.clone(), Some(&rows(&four, 0)), rows(&four, 1)));
    refused(norm(rows(&four, 0), None, rows(&four, 1)));
    norm(rows(&four, 0), None, rows(&four, 0)).unwrap();
    norm(rows(&four, 0), Some(&other), rows(&four, 2)).unwrap();
    let sums = ctx.download_f32(&rows(&four, 0)).unwrap();
    assert!(sums.iter().all(|sum| (sum - 3.0).abs() < 1e-5), "the residual was added: {sums:?}");
}

#[test]
fn swiglu_writes_over_either_operand_or_both() {
    let ctx = context();
    let values = [0.5, -1.0, 2.0, -3.0];
    let tensor = || ctx.upload_f32([1, 4], &values).unwrap();
    let run = |gate: Tensor, up: Tensor, out: Tensor| {
        ctx.run::<SwiGlu>(&SwiGluArgs { gate, up, out: out.clone() }).unwrap();
        ctx.download_f32(&out).unwrap()
    };
    let (gate, up, both) = (tensor(), tensor(), tensor());
    let want = run(tensor(), tensor(), tensor());
    for got in [
        run(gate.clone(), tensor(), gate),
        run(tensor(), up.clone(), up),
        run(both.clone(), both.clone(), both),
    ] {
        let close = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-6;
        assert!(got.iter().zip(&want).all(close), "{got:?} {want:?}");
    }
}

#[test]
fn outputs_lie_apart_from_inputs() {
    let ctx = context();
    let four = ctx.upload_f32([4, 4], &[1.0; 16]).unwrap();
    let other = ctx.upload_f32([4, 4], &[1.0; 16]).unwrap();
    refused(ctx.run::<Add>(&AddArgs { x: rows(&four, 0), y: rows(&four, 1) }));
    ctx.run::<Add>(&AddArgs { x: rows(&four, 0), y: rows(&four, 2) }).unwrap();
    refused(ctx.run::<Linear>(&LinearArgs {
        x: four.clone(),
        weight: other.clone(),
        bias: None,
        precision: Precision::Exact,
        out: four.clone(),
    }));
    let heads = |tensor: &Tensor| tensor.reshape([1, 1, 4, 4]).unwrap();
    refused(ctx.run::<KvAppend>(&KvAppendArgs {
        new: heads(&four),
        starts: ctx.upload_i32([1], &[0]).unwrap(),
        cache: heads(&four),
    }));
    refused(ctx.run::<Sdpa>(&SdpaArgs {
        q: heads(&four),
        k: heads(&other),
        v: heads(&other),
        mask: Mask::causal(),
        kv_lens: None,
        scale: None,
        softcap: None,
        out: heads(&four),
    }));
}

fn rope(x: Tensor, ctx: &Context) -> Result<()> {
    let rows = x.shape()[0];
    let angles = || ctx.upload_f32([rows, 2], &vec![0.5; 2 * rows]).unwrap();
    let (cos, sin, pairing) = (angles(), angles(), RopePairing::Half);
    ctx.run::<Rope>(&RopeArgs { x, cos, sin, pairing }).map(|_| ())
}

#[test]
fn rows_that_share_elements_are_not_turned() {
    let ctx = context();
    let one = ctx.upload_f32([1, 1, 4], &[1.0; 4]).unwrap();
    let error = rope(one.broadcast([3, 1, 4]).unwrap(), &ctx).unwrap_err();
    assert!(error.to_string().contains("x strides"), "{error}");
    rope(one, &ctx).unwrap();
}

/// Bytes as a mapped file has them: aligned, and not the device's own.
#[repr(align(64))]
struct Aligned([u8; 16]);

impl AsRef<[u8]> for Aligned {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

#[test]
#[should_panic(expected = "kernels never write into a mapped file")]
fn nothing_is_written_into_a_file() {
    let ctx = context();
    let x = ctx.import(DType::F32, [1, 1, 4], HostBytes::new(Aligned([0; 16]))).unwrap();
    let _ = rope(x, &ctx);
}

#[test]
fn tables_and_ids_are_what_they_should_be() {
    let ctx = context();
    let embed = |dtype, id| {
        let table = ctx.zeros(dtype, [3, 4]).unwrap();
        let ids = ctx.upload_i32([1], &[id]).unwrap();
        let out = ctx.empty(DType::F32, [1, 4]).unwrap();
        ctx.run::<Embedding>(&EmbeddingArgs { ids, table, out })
    };
    embed(DType::F16, 2).unwrap();
    assert!(matches!(embed(DType::I32, 2), Err(Error::DType { binding: "table", .. })));
    let error = embed(DType::F16, -1).unwrap_err();
    assert!(error.to_string().contains("token id -1 "), "{error}");
}
