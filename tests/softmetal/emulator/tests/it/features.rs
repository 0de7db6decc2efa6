//! Each part of the language on a kernel of its own.

use softmetal_emulator::{
    BindingKind, CompileOptions, Constant, ConstantValue, Function, Grid, Sanitizer,
};

use crate::support::{Bytes, Numbers, ORDERS, dispatch, function, library, options};

const SOURCE: &str = include_str!("../kernels/features.metal");
const ONE_THREAD: (Grid, [u32; 3]) = (Grid::Threads([1, 1, 1]), [1, 1, 1]);

fn plain(name: &str) -> Function {
    function(SOURCE, name, &[], &options())
}

#[test]
fn vectors_and_scalar_functions() {
    let mut buffers = [Bytes::zeros(13 * 4), Bytes::f32(&[0.0, 0.0, 0.0, 4.0, 5.0, 6.0])];
    dispatch(&plain("vectors"), &mut buffers, &[], ONE_THREAD.0, ONE_THREAD.1).unwrap();
    let expected = [
        2135.0,
        654.0,
        3.0 * 4.0 + 5.0 + 2.0 * 6.0,
        22.0,
        2.5,
        4.0 + 31.0 + 3.0 + 188.0,
        3.0,
        7.0,
        3.0 + 5.0 + 2.0 + 3.0 - 1.0,
        256.0,
        10.0 + 2.0 + 0.5 + 1.0,
        1.0 + 16.0 + 4.0 + 6.0,
        1.0,
    ];
    assert_eq!(buffers[0].to_f32(), expected);
}

#[test]
fn simdgroup_and_quadgroup_functions() {
    let mut buffers = [Bytes::zeros(16 * 32 * 4)];
    dispatch(&plain("lanes"), &mut buffers, &[], Grid::Threadgroups([1, 1, 1]), [32, 1, 1])
        .unwrap();
    let out = buffers[0].to_u32();
    let value = |lane: u32| lane * 3 + 1;
    let ballot = (0..32).filter(|lane| lane % 3 == 0).fold(0, |mask, lane| mask | 1 << lane);
    for lane in 0..32u32 {
        let below: u32 = (0..lane).map(value).sum();
        let quad: u32 = (lane / 4 * 4..lane / 4 * 4 + 4).map(value).sum();
        let expected = [
            (0..32).map(value).sum(),
            94 * 1000 + 1,
            value(lane ^ 5),
            value(if lane < 28 { lane + 4 } else { lane }),
            value(if lane >= 4 { lane - 4 } else { lane }),
            value(9),
            below + value(lane),
            below,
            ballot,
            quad,
            lane / 4 * 10 + lane % 4,
            2,
            value(31 - lane),
            value((lane + 1) % 32),
            u32::from(lane == 0),
            value(lane / 4 * 4 + 2),
        ];
        let got: Vec<u32> = (0..16).map(|row| out[row * 32 + lane as usize]).collect();
        assert_eq!(got, expected, "lane {lane}");
    }
}

#[test]
fn grids_that_do_not_divide() {
    let (width, height, depth) = (10, 7, 3);
    let mut buffers = [Bytes::zeros(width * height * depth * 4)];
    let grid = Grid::Threads([width as u32, height as u32, depth as u32]);
    dispatch(&plain("positions"), &mut buffers, &[], grid, [4, 3, 2]).unwrap();
    for (at, value) in buffers[0].to_u32().into_iter().enumerate() {
        let (x, y) = (at % width, at / width % height);
        let size = |at: usize, full: usize, end: usize| full.min(end - at / full * full) as u32;
        assert_eq!(value, size(x, 4, width) * 100 + size(y, 3, height), "{x}, {y}");
    }
}

/// Counts 5000 values in threadgroups of `threads`.
fn histogram(options: &CompileOptions, threads: u32) {
    let n = 5000;
    let mut numbers = Numbers(5);
    let values: Vec<u32> = (0..n).map(|_| numbers.next().to_bits() >> 7).collect();
    let mut expected = [0; 16];
    values.iter().for_each(|value| expected[(value % 16) as usize] += 1);
    let kernel = function(SOURCE, "histogram", &[], options);
    let mut buffers = [Bytes::u32(&values), Bytes::zeros(64), Bytes::u32(&[n])];
    dispatch(&kernel, &mut buffers, &[], Grid::Threads([n, 1, 1]), [threads, 1, 1]).unwrap();
    assert_eq!(buffers[1].to_u32(), expected);
}

#[test]
fn atomics_count_every_value() {
    for order in ORDERS {
        histogram(&CompileOptions { order, ..options() }, 96);
    }
}

#[test]
fn atomics_are_no_races_in_the_largest_threadgroups() {
    histogram(&CompileOptions { sanitizer: Some(Sanitizer::Thread), ..options() }, 1024);
}

#[test]
fn function_constants_of_every_type() {
    let constant = |index, value| Constant { index, value };
    let mut constants = vec![
        constant(1, ConstantValue::I16(-5)),
        constant(2, ConstantValue::U32(4_000_000_000)),
        constant(3, ConstantValue::F32(0.25)),
        constant(4, ConstantValue::F16(half::f16::from_f32(1.5).to_bits())),
    ];
    let run = |constants: &[Constant]| {
        let mut buffers = [Bytes::zeros(24)];
        let kernel = function(SOURCE, "constants", constants, &options());
        dispatch(&kernel, &mut buffers, &[], ONE_THREAD.0, ONE_THREAD.1).unwrap();
        buffers[0].to_f32()
    };
    assert_eq!(run(&constants), [-5.0, 4e9, 0.25, 1.5, 154.0, 3.5]);
    constants.push(constant(5, ConstantValue::U32(3)));
    assert_eq!(run(&constants)[4], 6.0);
    let refused = |constants: &[Constant]| {
        library(SOURCE, &options()).function("constants", constants).err().unwrap()
    };
    assert_eq!(
        refused(&constants[1..]),
        "function constants: constant short_value (index 1) has no value"
    );
    constants[0].value = ConstantValue::I32(-5);
    assert_eq!(
        refused(&constants),
        "function constants: constant short_value (index 1) is given as I32(-5), which is not its type"
    );
}

#[test]
fn layouts_of_structs_are_exported() {
    let library = library(SOURCE, &options());
    let layout = library.struct_layout("Mixed").unwrap();
    let fields: Vec<(&str, usize, usize)> =
        layout.fields.iter().map(|f| (f.name.as_str(), f.offset, f.size)).collect();
    let expected = [
        ("first", 0, 1),
        ("second", 2, 6),
        ("inner", 16, 32),
        ("count", 48, 8),
        ("more", 56, 8),
        ("tail", 64, 12),
    ];
    assert_eq!(fields, expected);
    assert_eq!((layout.size, layout.align), (80, 16));
    assert_eq!(library.struct_layout("Absent"), None);
}

#[test]
fn a_kernel_can_limit_its_threads() {
    let kernel = plain("limited");
    assert_eq!(kernel.max_total_threads(), 64);
    let run = |threads| {
        let mut buffers = [Bytes::zeros(65 * 4)];
        dispatch(&kernel, &mut buffers, &[], Grid::Threads([threads, 1, 1]), [threads, 1, 1])
    };
    run(64).unwrap();
    assert!(run(65).unwrap_err().contains("1 to 64 are possible"));
}

#[test]
fn kernels_in_namespaces_share_threadgroup_memory_with_helpers() {
    let kernel = plain("mirrored_float");
    assert_eq!(kernel.static_threadgroup_bytes(), 64 * 4 * 2 + 16);
    let mut buffers = [Bytes::zeros(64 * 4)];
    dispatch(&kernel, &mut buffers, &[], Grid::Threadgroups([1, 1, 1]), [64, 1, 1]).unwrap();
    let expected: Vec<f32> = (0..64).map(|t| (3 * (63 - t) + 5) as f32).collect();
    assert_eq!(buffers[0].to_f32(), expected);
}

#[test]
fn libraries_and_functions_go_between_threads() {
    fn shared<T: Send + Sync + 'static>() {}
    shared::<softmetal_emulator::Library>();
    shared::<Function>();
}

#[test]
fn bindings_are_described() {
    let kernel = plain("struct_argument");
    let found: Vec<_> = kernel
        .bindings()
        .iter()
        .map(|b| (b.name.as_str(), b.kind, b.index, b.read_only, b.size, b.align))
        .collect();
    let expected = [
        ("out", BindingKind::Device, 0, false, 4, 4),
        ("m", BindingKind::Constant, 1, true, 80, 16),
        ("shared", BindingKind::Threadgroup, 0, false, 16, 16),
    ];
    assert_eq!(found, expected);
    assert_eq!((kernel.max_total_threads(), kernel.thread_execution_width()), (1024, 32));
    assert_eq!(plain("histogram").static_threadgroup_bytes(), 64);
}
