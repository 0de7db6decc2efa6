//! What `TopK` refuses.

use metallic::op::{Op, TopK, TopKArgs};
use metallic::tensor::{DType, Layout, Shape, Tensor};
use metallic::{Context, Error};
use metallic_testkit::null_device::{NullOptions, null_context};

fn args(ctx: &Context, rows: usize, width: usize, k: usize) -> TopKArgs {
    let zeros = |dtype, shape: &[usize]| ctx.zeros(dtype, shape).unwrap();
    TopKArgs {
        x: zeros(DType::F32, &[rows, width]),
        values: zeros(DType::F32, &[rows, k]),
        ids: zeros(DType::I32, &[rows, k]),
        not_finite: zeros(DType::I32, &[rows]),
    }
}

#[test]
fn what_fits_passes_with_rows_of_any_stride() {
    let ctx = null_context(NullOptions::default());
    let fits = args(&ctx, 3, 700, TopK::MAX_K);
    let spec = TopK::check(&fits).unwrap();
    assert_eq!((spec.width, spec.k), (700, 256));
    assert_eq!(spec.to_string(), "width=700 k=256");
    let x = ctx.zeros(DType::F32, [3, 800]).unwrap().narrow(1, 50, 700).unwrap();
    assert_eq!(TopK::check(&TopKArgs { x, ..fits.clone() }).unwrap(), spec);
    let x = ctx.zeros(DType::F32, [1, 700]).unwrap().broadcast([3, 700]).unwrap();
    assert_eq!(TopK::check(&TopKArgs { x, ..fits }).unwrap(), spec);
    assert_eq!(TopK::check(&args(&ctx, 0, 5, 5)).unwrap().k, 5);
}

#[test]
fn what_does_not_fit_is_refused() {
    let ctx = null_context(NullOptions::default());
    let refused = |args: &TopKArgs| TopK::check(args).unwrap_err().to_string();
    for (width, k) in [(700, 0), (700, 257), (5, 6)] {
        let error = refused(&args(&ctx, 2, width, k));
        assert!(error.contains("values axis 1 (k)"), "{error}");
    }
    let fits = || args(&ctx, 2, 64, 8);
    let f16 = ctx.zeros(DType::F16, [2, 64]).unwrap();
    let error = TopK::check(&TopKArgs { x: f16, ..fits() }).unwrap_err();
    assert!(matches!(error, Error::DType { binding: "x", .. }), "{error}");
    let error = TopK::check(&TopKArgs { ids: fits().values, ..fits() }).unwrap_err();
    assert!(matches!(error, Error::DType { binding: "ids", .. }), "{error}");
    let x = ctx.zeros(DType::F32, [64, 2]).unwrap().permute(&[1, 0]).unwrap();
    assert!(refused(&TopKArgs { x, ..fits() }).contains("rows must be contiguous"));
    let other = args(&ctx, 3, 64, 9);
    assert!(refused(&TopKArgs { ids: other.ids.clone(), ..fits() }).contains("ids axis 0"));
    let narrow = other.ids.narrow(0, 0, 2).unwrap();
    assert!(refused(&TopKArgs { ids: narrow, ..fits() }).contains("ids axis 1"));
    let counts = other.not_finite;
    assert!(refused(&TopKArgs { not_finite: counts, ..fits() }).contains("not_finite axis 0"));
}

#[test]
fn outputs_lie_apart_from_the_input_and_each_other() {
    let ctx = null_context(NullOptions::default());
    let shared = ctx.zeros(DType::F32, [2, 64]).unwrap();
    let view = |dtype, shape: &[usize], offset| {
        let dense = Layout::contiguous(Shape::new(shape));
        let layout = Layout::strided(dense.shape(), dense.strides(), offset).unwrap();
        Tensor::new(shared.buffer().clone(), dtype, layout).unwrap()
    };
    let fits = args(&ctx, 2, 64, 8);
    let packed = TopKArgs {
        values: view(DType::F32, &[2, 8], 0),
        ids: view(DType::I32, &[2, 8], 16),
        not_finite: view(DType::I32, &[2], 32),
        ..fits
    };
    TopK::check(&packed).unwrap();
    for overlapping in [
        TopKArgs { x: shared.clone(), ..packed.clone() },
        TopKArgs { ids: view(DType::I32, &[2, 8], 15), ..packed.clone() },
        TopKArgs { not_finite: view(DType::I32, &[2], 31), ..packed.clone() },
        TopKArgs { not_finite: view(DType::I32, &[2], 3), ..packed },
    ] {
        let error = TopK::check(&overlapping).unwrap_err().to_string();
        assert!(error.contains("memory apart"), "{error}");
    }
}
