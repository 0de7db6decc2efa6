//! Every op but attention at every instruction level, against the plain loops.

use metallic::Context;
use metallic_devices::cpu::simd::Level;
use metallic_devices::cpu::{CpuDevice, CpuOptions};
use metallic_instrumentation::Recorder;
use metallic_testkit::ops;

fn context(level: Level, threads: usize) -> Context {
    CpuDevice::context(CpuOptions { threads, level }, Default::default(), Recorder::disabled())
}

#[test]
fn ops_agree_with_the_plain_loops() {
    let plain = Level::available().next().unwrap_or_else(Level::detect);
    let reference = context(plain, 1);
    for level in Level::available() {
        let rows = ops::run(&reference, &context(level, 3), true, &mut |_| {});
        assert!(rows.len() > 100, "{} cases", rows.len());
        for row in rows {
            assert_eq!(row.failure, None, "{} of {} at {}", row.case, row.kernel, level.name());
        }
    }
}
