//! Times of kernels on the GPU. The switchboard is one for the process, so these tests run one at a time.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use metallic::Context;
use metallic::dispatch::{Backend, Policies, Policy, PolicyChoice, PolicySource};
use metallic::op::{Add, AddArgs, Mask, Op, Sdpa, SdpaArgs};
use metallic::tensor::{DType, Tensor};
use metallic_devices::Profile;
use metallic_devices::metal::{MetalDevice, MetalOptions};
use metallic_instrumentation::exporter::ChannelExporter;
use metallic_instrumentation::{MetricEvent, Recorder};
use softmetal_objc::{CounterSampling, control};

/// Takes turns.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A device that runs each op alone, and the times that it records: parent op, kernel, ns.
struct Timed {
    ctx: Context,
    times: Box<dyn Fn() -> Vec<(String, String, u64)>>,
}

/// `backend` is demanded for attention.
fn timed(backend: Backend) -> Timed {
    let (exporter, events) = ChannelExporter::new();
    let options = MetalOptions { profile: Profile::Latency, ..MetalOptions::default() };
    let mut policies = Policies::default();
    let source = PolicySource::Flag("--test");
    policies.ops.insert(Sdpa::ID, PolicyChoice { policy: Policy::Force(backend), source });
    let recorder = Recorder::new(vec![Box::new(exporter)]);
    let ctx = MetalDevice::context(options, policies, recorder).unwrap();
    let times = move || {
        let times = events.try_iter().filter_map(|record| match record.event {
            MetricEvent::KernelTimed { op, kernel, duration_ns } => Some((op, kernel, duration_ns)),
            _ => None,
        });
        times.collect()
    };
    Timed { ctx, times: Box::new(times) }
}

/// Events of graphs that are no times of the GPU.
const ON_HOST: [&str; 2] = ["sdpa_compile", "sdpa_encode"];

/// Attention of one token over 1030 keys; the kernels of it that were timed.
fn decode(timed: &Timed) -> Vec<String> {
    let ctx = &timed.ctx;
    let ones =
        |heads, len| ctx.upload_f32([1, heads, len, 64], &vec![1.0; heads * len * 64]).unwrap();
    let (q, out) = (ones(4, 1), ctx.empty(DType::F32, [1, 4, 1, 64]).unwrap());
    let (k, v) = (ones(2, 1030), ones(2, 1030));
    (timed.times)();
    let args = SdpaArgs {
        q,
        k,
        v,
        mask: Mask::none(),
        kv_lens: None,
        scale: None,
        softcap: None,
        out: out.clone(),
    };
    ctx.run::<Sdpa>(&args).unwrap();
    let out = ctx.download_f32(&out).unwrap();
    assert!(out.iter().all(|value| (value - 1.0).abs() < 1e-4), "{out:?}");
    let of_gpu =
        |op: &str, kernel: &str| op == "mpsgraph" || (op == "sdpa" && !ON_HOST.contains(&kernel));
    let times = (timed.times)().into_iter().filter(|(op, kernel, _)| of_gpu(op, kernel));
    times.map(|(_, kernel, _)| kernel).collect()
}

fn add(ctx: &Context, x: &Tensor, y: &Tensor) {
    ctx.run::<Add>(&AddArgs { x: x.clone(), y: y.clone() }).unwrap();
}

/// Whether `kernels` are two, or more, each with a time of its own.
fn each_alone(kernels: &[String]) -> bool {
    kernels.len() > 1 && kernels.iter().all(|kernel| !kernel.contains('+'))
}

#[test]
fn every_kernel_has_its_time_where_the_gpu_samples() {
    let _turn = alone();
    for point in [CounterSampling::AtStageBoundary, CounterSampling::AtDispatchBoundary] {
        control().set_counter_sampling(point);
        let kernels = decode(&timed(Backend::Legacy));
        control().set_counter_sampling(CounterSampling::AtStageBoundary);
        assert!(each_alone(&kernels), "{point:?}: {kernels:?}");
    }
}

#[test]
fn times_are_nanoseconds_of_the_kernel() {
    let _turn = alone();
    let timed = timed(Backend::Legacy);
    let ones = || timed.ctx.upload_f32([1, 1 << 20], &vec![1.0; 1 << 20]).unwrap();
    let (x, y) = (ones(), ones());
    add(&timed.ctx, &x, &y);
    (timed.times)();
    let start = Instant::now();
    add(&timed.ctx, &x, &y);
    let wall = start.elapsed().as_nanos() as u64;
    let times = (timed.times)();
    let [(op, kernel, ns)] = &times[..] else { panic!("{times:?}") };
    assert_eq!((op.as_str(), kernel.as_str()), ("add", "add_f32"));
    // Nearly all of the time is the kernel's; ticks taken for nanoseconds would be a fortieth.
    assert!((wall / 10..=wall).contains(ns), "{ns} of {wall} ns");
}

#[test]
fn an_op_has_one_time_where_the_gpu_does_not_sample() {
    let _turn = alone();
    control().set_counter_sampling(CounterSampling::Never);
    let never = decode(&timed(Backend::Legacy));
    control().set_counter_sampling(CounterSampling::AtStageBoundary);
    control().fail_allocation(1);
    let refused = decode(&timed(Backend::Legacy));
    for kernels in [never, refused] {
        let [all] = &kernels[..] else { panic!("{kernels:?}") };
        assert!(all.contains('+'), "{all}");
    }
}

#[test]
fn samples_that_are_missing_or_of_an_earlier_op_are_no_times() {
    let _turn = alone();
    let timed = timed(Backend::Legacy);
    // On the second round the places hold what the first one left.
    for written in [false, true, false] {
        control().set_counters_written(written);
        let kernels = decode(&timed);
        control().set_counters_written(true);
        assert_eq!(each_alone(&kernels), written, "{kernels:?}");
        assert!(written || kernels.len() == 1, "{kernels:?}");
    }
}

#[test]
fn graphs_have_one_time() {
    let _turn = alone();
    let kernels = decode(&timed(Backend::Graph));
    assert_eq!(kernels.len(), 1, "{kernels:?}");
}
