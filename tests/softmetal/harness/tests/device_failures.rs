//! The Metal device when something goes wrong on order, and what it leaves behind. The switchboard is
//! one for the process, so these tests run one at a time.

use std::sync::{Barrier, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use metallic::dispatch::Policies;
use metallic::op::{Add, AddArgs, RmsNorm, RmsNormArgs};
use metallic::tensor::Tensor;
use metallic::{Context, Error, Result};
use metallic_devices::Profile;
use metallic_devices::metal::{MetalDevice, MetalOptions};
use metallic_instrumentation::Recorder;
use softmetal_objc::{control, counts};

/// Takes turns.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn metal(options: MetalOptions) -> Context {
    MetalDevice::context(options, Policies::default(), Recorder::disabled()).unwrap()
}

fn ones(ctx: &Context) -> Tensor {
    ctx.upload_f32([1, 64], &[1.0; 64]).unwrap()
}

fn add(ctx: &Context, x: &Tensor, y: &Tensor) -> Result<()> {
    ctx.run::<Add>(&AddArgs { x: x.clone(), y: y.clone() }).map(drop)
}

/// Objects of all classes.
fn live() -> usize {
    counts().values().map(|count| count.live).sum()
}

/// Fails unless `want` objects or fewer are left soon: a queue's thread lets go of the last command
/// buffer a little later.
#[track_caller]
fn settle(want: usize) {
    for _ in 0..200 {
        if live() <= want {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{} objects are left, expected {want}: {:?}", live(), counts());
}

#[test]
fn a_lost_command_buffer_is_the_error_of_the_read_that_waits_for_it() {
    let _turn = alone();
    let ctx = metal(MetalOptions::default());
    let (x, y) = (ones(&ctx), ones(&ctx));
    control().fail_command_buffer(1);
    add(&ctx, &x, &y).unwrap();
    let error = ctx.download_f32(&x).unwrap_err();
    assert!(matches!(error, Error::Device { what: "add", .. }), "{error}");
    assert!(error.to_string().contains("device to be removed"), "{error}");
    // Told once; then the device goes on.
    add(&ctx, &x, &y).unwrap();
    assert_eq!(ctx.download_f32(&x).unwrap(), [2.0; 64]);
}

#[test]
fn several_ops_of_a_lost_command_buffer_are_named() {
    let _turn = alone();
    let ctx = metal(MetalOptions::default());
    let (x, y, weight) = (ones(&ctx), ones(&ctx), ctx.upload_f32([64], &[1.0; 64]).unwrap());
    control().fail_command_buffer(1);
    add(&ctx, &x, &y).unwrap();
    let args = RmsNormArgs { x: x.clone(), residual: None, weight, eps: 1e-6, out: x };
    ctx.run::<RmsNorm>(&args).unwrap();
    let error = ctx.device().synchronize().unwrap_err().to_string();
    assert!(error.contains("in one of add, rms_norm"), "{error}");
    ctx.device().synchronize().unwrap();
}

#[test]
fn a_failure_in_the_middle_of_a_pipeline_is_not_lost() {
    let _turn = alone();
    for nth in [1, 2, 5, 10] {
        let options = MetalOptions { max_kernels: 1, ..MetalOptions::default() };
        let ctx = metal(options);
        let (x, y) = (ones(&ctx), ones(&ctx));
        control().fail_command_buffer(nth);
        let failed = (0..10).filter(|_| add(&ctx, &x, &y).is_err()).count();
        let at_the_end = ctx.device().synchronize().is_err();
        control().fail_command_buffer(0);
        assert_eq!(failed + usize::from(at_the_end), 1, "command buffer {nth}");
    }
}

#[test]
fn latency_profile_fails_in_the_op_itself() {
    let _turn = alone();
    let ctx = metal(MetalOptions { profile: Profile::Latency, ..MetalOptions::default() });
    let (x, y) = (ones(&ctx), ones(&ctx));
    control().fail_command_buffer(1);
    let error = add(&ctx, &x, &y).unwrap_err();
    assert!(matches!(error, Error::Device { what: "add", .. }), "{error}");
    add(&ctx, &x, &y).unwrap();
}

#[test]
fn a_file_that_does_not_compile_is_an_error_with_the_compilers_log() {
    let _turn = alone();
    let ctx = metal(MetalOptions::default());
    let (x, y) = (ones(&ctx), ones(&ctx));
    control().fail_next_library("add.metal:3:1: error: no such thing");
    for _ in 0..2 {
        let error = add(&ctx, &x, &y).unwrap_err();
        assert!(matches!(error, Error::Compile { .. }), "{error}");
        assert!(error.to_string().contains("add.metal:3:1: error: no such thing"), "{error}");
    }
    assert_eq!(ctx.download_f32(&x).unwrap(), [1.0; 64]);
}

/// Masks are made of infinities, of which fast math promises nothing.
#[test]
fn kernels_are_compiled_without_fast_math() {
    let _turn = alone();
    if control().kernel_options().fast_math {
        return; // It is forced on: this is the lane that tries kernels with it.
    }
    for version in [(14, 0), (15, 0), (26, 0)] {
        control().set_os_version(version);
        let ctx = metal(MetalOptions::default());
        let (x, y) = (ones(&ctx), ones(&ctx));
        add(&ctx, &x, &y).unwrap();
        assert_eq!(control().counter("fast_math_compiles"), 0, "macOS {version:?}");
    }
    control().set_os_version((15, 0));
}

#[test]
fn no_memory_is_an_error_and_nothing_else_changes() {
    let _turn = alone();
    let ctx = metal(MetalOptions::default());
    control().fail_allocation(1);
    let error = ctx.zeros(metallic::tensor::DType::F32, [100, 100]).unwrap_err();
    assert!(matches!(error, Error::OutOfMemory { .. }), "{error}");
    assert_eq!(ctx.device().memory().in_use, 0);
    ones(&ctx);
}

#[test]
fn threads_that_ask_at_the_same_time_compile_once() {
    let _turn = alone();
    let ctx = metal(MetalOptions::default());
    let before = control().counter("library_compiles");
    let barrier = Barrier::new(8);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let (x, y) = (ones(&ctx), ones(&ctx));
                barrier.wait();
                add(&ctx, &x, &y).unwrap();
                assert_eq!(ctx.download_f32(&x).unwrap(), [2.0; 64]);
            });
        }
    });
    assert_eq!(control().counter("library_compiles") - before, 1);
}

#[test]
fn objects_do_not_pile_up() {
    let _turn = alone();
    let ctx = metal(MetalOptions { max_kernels: 5, ..MetalOptions::default() });
    let (x, y) = (ones(&ctx), ones(&ctx));
    let step = || {
        for _ in 0..12 {
            let y = ctx.upload_f32([1, 64], &[0.5; 64]).unwrap();
            add(&ctx, &x, &y).unwrap();
        }
        add(&ctx, &x, &y).unwrap();
        ctx.download_f32(&x).unwrap();
    };
    for _ in 0..3 {
        step();
    }
    let before = live();
    for _ in 0..50 {
        step();
    }
    settle(before);
    assert_eq!(control().unpooled(), 0);
}

#[test]
fn a_device_leaves_nothing_behind() {
    let _turn = alone();
    let open_and_use = || {
        let ctx = metal(MetalOptions::default());
        let (x, y) = (ones(&ctx), ones(&ctx));
        add(&ctx, &x, &y).unwrap();
        ctx.download_f32(&x).unwrap();
        // Left open: encoded, not committed.
        add(&ctx, &x, &y).unwrap();
    };
    open_and_use();
    // The device itself and its name stay: there is one for the process.
    settle(8);
    let before = live();
    for _ in 0..5 {
        open_and_use();
    }
    settle(before);
}
