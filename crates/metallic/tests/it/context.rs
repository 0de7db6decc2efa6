//! Tensors through a context: memory, transfers, copies.

use metallic::Error;
use metallic::tensor::{DType, HostBytes};
use metallic_testkit::null_device::{NullOptions, null_context};

#[test]
fn values_go_up_and_come_back() {
    let ctx = null_context(NullOptions::default());
    let tensor = ctx.upload_f32([2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
    assert_eq!(ctx.download_f32(&tensor.narrow(0, 1, 1).unwrap()).unwrap(), [4.0, 5.0, 6.0]);
    let column = tensor.narrow(1, 1, 1).unwrap();
    assert!(matches!(ctx.download(&column), Err(Error::View { what: "download", .. })));
    let wrong = ctx.upload(DType::F32, [2, 3], &[0; 23]).unwrap_err();
    assert!(wrong.to_string().contains("23 bytes"), "{wrong}");
    let imported = ctx.import(DType::F16, [2], HostBytes::new(vec![0, 0x3c, 0, 0x40])).unwrap();
    assert_eq!(ctx.download(&imported).unwrap(), [0, 0x3c, 0, 0x40]);
    let second = imported.narrow(0, 1, 1).unwrap();
    assert_eq!(ctx.download_later(&second).unwrap().wait().unwrap(), [0, 0x40]);
    assert!(matches!(ctx.download_later(&column), Err(Error::View { what: "download", .. })));
    assert!(matches!(ctx.download_f32(&imported), Err(Error::DType { expected: "f32", .. })));
    assert!(ctx.import(DType::F16, [3], HostBytes::new(vec![0; 4])).is_err());
}

#[test]
fn sizes_beyond_memory_are_errors() {
    let ctx = null_context(NullOptions { memory: 1000, ..NullOptions::default() });
    for shape in [[1000, 1000], [usize::MAX, 2], [usize::MAX / 2, 1]] {
        let error = ctx.zeros(DType::F32, shape).unwrap_err();
        assert!(matches!(error, Error::OutOfMemory { .. }), "{error}");
    }
    assert_eq!(ctx.device().memory().in_use, 0);
}

#[test]
fn the_prefix_of_a_cache_moves_to_a_larger_one() {
    let ctx = null_context(NullOptions::default());
    let values: Vec<f32> = (0..2 * 3 * 4).map(|value| value as f32).collect();
    let small = ctx.upload_f32([2, 3, 4], &values).unwrap();
    let large = ctx.zeros(DType::F32, [2, 5, 4]).unwrap();
    ctx.copy_prefix(&small, &large, 1, 2).unwrap();
    let got = ctx.download_f32(&large).unwrap();
    let head = |b: usize| &got[b * 20..b * 20 + 20];
    assert_eq!(head(0)[..8], values[..8]);
    assert_eq!(head(1)[..8], values[12..20]);
    assert!(head(0)[8..].iter().chain(&head(1)[8..]).all(|value| *value == 0.0));
}

#[test]
fn a_prefix_is_copied_only_between_tensors_that_differ_in_its_axis_alone() {
    let ctx = null_context(NullOptions::default());
    let from = ctx.zeros(DType::F32, [2, 3, 4]).unwrap();
    let to = |dtype, shape: [usize; 3]| ctx.zeros(dtype, shape).unwrap();
    for wrong in [
        to(DType::F16, [2, 5, 4]),
        to(DType::F32, [1, 5, 4]),
        to(DType::F32, [2, 5, 3]),
        to(DType::F32, [2, 2, 4]),
        to(DType::F32, [2, 6, 4]).narrow(1, 0, 5).unwrap(),
    ] {
        assert!(
            ctx.copy_prefix(&from, &wrong, 1, 3).is_err(),
            "{:?} {}",
            wrong.layout(),
            wrong.dtype()
        );
    }
    // A view behind an offset is read and written where it lies.
    let values: Vec<f32> = (0..8).map(|value| value as f32).collect();
    let pair = ctx.upload_f32([2, 2, 2], &values).unwrap();
    let target = to(DType::F32, [2, 2, 2]);
    let (second, first) = (pair.narrow(0, 1, 1).unwrap(), target.narrow(0, 1, 1).unwrap());
    ctx.copy_prefix(&second, &first, 1, 1).unwrap();
    assert_eq!(ctx.download_f32(&target).unwrap(), [0.0, 0.0, 0.0, 0.0, 4.0, 5.0, 0.0, 0.0]);
}
