//! What the benches share: a context, and how long samples are.

use std::time::Duration;

use criterion::Criterion;
use metallic::Context;
use metallic::config::process_env;
use metallic::dispatch::Policies;
use metallic_devices::cpu::{CpuDevice, CpuOptions};
use metallic_devices::cuda::CudaDevice;
use metallic_devices::metal::{MetalDevice, MetalOptions};
use metallic_devices::{KINDS, Profile};
use metallic_instrumentation::Recorder;

/// Names the device that is measured; without it, the one that `metallic run` takes here.
const DEVICE: &str = "METALLIC_BENCH_DEVICE";

/// A context on the device to be measured.
pub(crate) fn context() -> Context {
    let (policies, recorder) = (Policies::default(), Recorder::disabled());
    let name = process_env(DEVICE).unwrap_or_else(|| KINDS[0].to_owned());
    match name.as_str() {
        "cpu" => CpuDevice::context(CpuOptions::default(), policies, recorder),
        "cuda" => {
            CudaDevice::context(0, Profile::default(), policies, recorder).expect("the GPU opens")
        }
        "metal" => {
            let options = MetalOptions::default();
            MetalDevice::context(options, policies, recorder).expect("the GPU opens")
        }
        _ => panic!("{DEVICE} is {name}, not one of {}", KINDS.join(", ")),
    }
}

/// Short samples: there are many cells, and machines are noisy enough for medians anyway.
pub(crate) fn criterion() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(500))
        .configure_from_args()
}
