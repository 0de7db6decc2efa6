//! What must not pass: divergent flow, sizes beyond the limits, bindings that do not fit, source that is
//! not MSL.

use softmetal_emulator::{CompileOptions, Grid, Library, check_rules};

use crate::support::{Bytes, dispatch, function, options};

const WRONG: &str = include_str!("../kernels/wrong.metal");

fn refused(kernel: &str, options: &CompileOptions, grid: Grid, threads: [u32; 3]) -> String {
    let kernel = function(WRONG, kernel, &[], options);
    let mut buffers = [Bytes::zeros(64 * 4), Bytes::zeros(64 * 4)];
    dispatch(&kernel, &mut buffers, &[], grid, threads).expect_err("it must be refused")
}

fn line(mark: &str) -> String {
    let at = WRONG.lines().position(|line| line.contains(mark)).expect("the mark is in the source");
    format!("program_source:{}: ", at + 1)
}

const ONE_GROUP: Grid = Grid::Threadgroups([1, 1, 1]);

#[test]
fn divergent_operations_name_kernel_and_line() {
    let message = refused("divergent_sum", &options(), ONE_GROUP, [32, 1, 1]);
    assert!(
        message.starts_with(&format!("kernel divergent_sum: {}", line("DIVERGENT 1"))),
        "{message}"
    );
    assert!(message.contains("lanes 0000ffff of ffffffff"), "{message}");
    let message = refused("divergent_barrier", &options(), ONE_GROUP, [32, 1, 1]);
    assert!(
        message.starts_with(&format!("kernel divergent_barrier: {}", line("DIVERGENT 2"))),
        "{message}"
    );
    assert!(message.contains("31 of 32 threads"), "{message}");
}

#[test]
fn outside_strict_mode_active_lanes_go_on() {
    let options = CompileOptions { strict: false, ..options() };
    let kernel = function(WRONG, "divergent_sum", &[], &options);
    let mut buffers = [Bytes::zeros(32 * 4)];
    dispatch(&kernel, &mut buffers, &[], ONE_GROUP, [32, 1, 1]).unwrap();
    let expected: Vec<u32> = (0..32).map(|lane| if lane < 16 { 120 } else { 0 }).collect();
    assert_eq!(buffers[0].to_u32(), expected);
}

#[test]
fn a_failed_dispatch_leaves_the_next_one_right() {
    for _ in 0..3 {
        refused("divergent_sum", &options(), ONE_GROUP, [32, 1, 1]);
        let kernel = function(WRONG, "reverse_groups", &[], &options());
        let mut buffers = [Bytes::zeros(32 * 4), Bytes::u32(&(0..32).collect::<Vec<u32>>())];
        dispatch(&kernel, &mut buffers, &[], ONE_GROUP, [32, 1, 1]).unwrap();
        assert_eq!(buffers[0].to_u32(), (0..32).rev().collect::<Vec<u32>>());
    }
}

#[test]
fn limits_and_bindings_are_checked() {
    let refused = |kernel, grid, threads| refused(kernel, &options(), grid, threads);
    let message = refused("too_much", ONE_GROUP, [32, 1, 1]);
    assert_eq!(message, "kernel too_much: 32784 bytes of threadgroup memory, 32768 are possible");
    let message = refused("reverse_groups", ONE_GROUP, [1025, 1, 1]);
    assert!(message.contains("1 to 1024 are possible"), "{message}");
    let message = refused("reverse_groups", Grid::Threads([0, 1, 1]), [32, 1, 1]);
    assert!(message.contains("an empty grid"), "{message}");
    let kernel = function(WRONG, "reverse_groups", &[], &options());
    let message =
        dispatch(&kernel, &mut [Bytes::zeros(128)], &[], ONE_GROUP, [32, 1, 1]).unwrap_err();
    assert_eq!(message, "kernel reverse_groups: in (Device, index 1) is not bound");
    let message = dispatch(&kernel, &mut [], &[(0, 24)], ONE_GROUP, [32, 1, 1]).unwrap_err();
    assert!(message.contains("not a multiple of 16"), "{message}");
}

/// A kernel with `body`, which may use `out`, `in` (constant data), `shared` and `helper`.
fn program(body: &str) -> String {
    format!(
        "#include <metal_stdlib>\nusing namespace metal;\n\
         static float helper(threadgroup float *p) {{ return p[0]; }}\n\
         static float mine(thread float *p) {{ return p[0]; }}\n\
         static float from_device(device const float *p) {{ return p[0]; }}\n\
         static float from_constant(constant float *p) {{ return p[0]; }}\n\
         constant float table[] = {{0.5, 1.5}};\n\
         kernel void f(device float *out [[buffer(0)]], constant float *in [[buffer(1)]],\n\
         device const float4 *four [[buffer(2)]], threadgroup float *shared [[threadgroup(0)]]) {{\n{body}\n}}"
    )
}

#[test]
fn rules_of_the_language_are_enforced() {
    let dir = options().cache_dir;
    let good = "float x = in[0] + four[0].x; out[0] = helper(shared) + mine(&x); shared[1] = x; float4 v = float4(half4(1.0h)); out[1] = v.y + from_constant(table) + from_device(out) + from_constant(in);";
    check_rules(&program(good), &dir).unwrap();
    let wrong = [
        ("a device pointer as threadgroup", "out[0] = helper(out);"),
        ("a device pointer as thread", "out[0] = mine(out);"),
        ("double", "double d = 1.0; out[0] = d;"),
        ("a write to const device", "four[0] = float4(1.0);"),
        ("a write to constant", "in[0] = 1.0;"),
        ("half4 to float4", "float4 v = half4(1.0h); out[0] = v.x;"),
        ("a pointer without an address space", "float *p = out; p[0] = 1.0;"),
        ("threadgroup memory from device", "threadgroup float *p = out; p[0] = 1.0;"),
        ("a constant pointer as device", "out[0] = from_device(in);"),
        ("a device pointer as constant", "out[0] = from_constant(out);"),
        ("an unknown function", "out[0] = no_such_function(1.0);"),
    ];
    for (name, body) in wrong {
        let message = check_rules(&program(body), &dir).expect_err(name);
        assert!(message.starts_with("program_source:10:"), "{name}: {message}");
        assert!(Library::compile(&program(body), &options()).is_err(), "{name}");
    }
}

#[test]
fn guard_pages_find_accesses_out_of_bounds() {
    let run = |kernel: &str, threads: u32| {
        let kernel = function(WRONG, kernel, &[], &options());
        let mut buffers = [Bytes::zeros(32 * 4), Bytes::zeros(32 * 4)];
        dispatch(&kernel, &mut buffers, &[], Grid::Threads([threads, 1, 1]), [32, 1, 1])
    };
    let place = line("BOUNDS 1");
    let message = run("past_the_buffer", 32).unwrap_err();
    assert_eq!(
        message,
        format!(
            "kernel past_the_buffer: {place}a read 0 bytes past the end of buffer 1 (in) of 128 bytes"
        )
    );
    // The tail of 12 bytes before the page cannot fault; writes are seen by the pattern.
    let kernel = function(WRONG, "past_the_end_by_one", &[], &options());
    let message =
        dispatch(&kernel, &mut [Bytes::zeros(33 * 4)], &[], Grid::Threads([34, 1, 1]), [34, 1, 1])
            .unwrap_err();
    assert_eq!(
        message,
        "kernel past_the_end_by_one: 0 bytes past the end of buffer 0 (out) were written"
    );
    let message = run("past_the_variable", 32).unwrap_err();
    assert!(
        message.contains("threadgroup memory was written outside of its variables"),
        "{message}"
    );
    let message = run("writes_into_constant_data", 32).unwrap_err();
    assert!(
        message.contains("a write at byte 0 of buffer 1 (in) of 128 bytes, which is read-only"),
        "{message}"
    );
    run("reverse_groups", 32).unwrap();
}
