//! The command stream: order, submission, timing.

use metallic::Context;
use metallic::op::{Add, AddArgs};
use metallic::tensor::Tensor;
use metallic_devices::Profile;
use metallic_devices::metal::MetalOptions;
use metallic_instrumentation::exporter::ChannelExporter;
use metallic_instrumentation::{MetricEvent, Recorder};

use crate::support::{metal, metal_with};

fn ones(ctx: &Context) -> Tensor {
    ctx.upload_f32([1, 64], &[1.0; 64]).unwrap()
}

fn add(ctx: &Context, x: &Tensor, y: &Tensor) -> metallic::Result<()> {
    ctx.run::<Add>(&AddArgs { x: x.clone(), y: y.clone() }).map(drop)
}

#[test]
fn work_runs_in_order_whatever_a_command_buffer_holds() {
    for max_kernels in [1, 2, 7, 1000] {
        let options = MetalOptions { max_kernels, ..MetalOptions::default() };
        let ctx = metal_with(options, Recorder::disabled());
        let (x, y) = (ones(&ctx), ones(&ctx));
        // Doubling in turn: Fibonacci numbers, as long as f32 holds them.
        let (mut a, mut b) = (1u32, 1u32);
        for step in 0..30 {
            let (to, from) = if step % 2 == 0 { (&x, &y) } else { (&y, &x) };
            add(&ctx, to, from).unwrap();
            (a, b) = (b, a + b);
        }
        assert_eq!(ctx.download_f32(&y).unwrap(), [b as f32; 64], "{max_kernels} {a}");
    }
}

#[test]
fn the_host_waits_before_it_overwrites_what_the_gpu_still_reads() {
    let ctx = metal();
    let (x, y) = (ones(&ctx), ones(&ctx));
    for step in 0..20u8 {
        add(&ctx, &x, &y).unwrap();
        let bytes: Vec<u8> = [f32::from(step); 64].iter().flat_map(|v| v.to_le_bytes()).collect();
        ctx.device().write(&**y.buffer(), 0, &bytes).unwrap();
    }
    let want = 2.0 + (0..19).map(f32::from as fn(u8) -> f32).sum::<f32>();
    assert_eq!(ctx.download_f32(&x).unwrap(), [want; 64]);
}

#[test]
fn buffers_freed_while_the_gpu_uses_them_are_not_given_to_the_host() {
    let ctx = metal();
    let x = ones(&ctx);
    for step in 0..50u8 {
        let y = ctx.upload_f32([1, 64], &[f32::from(step); 64]).unwrap();
        add(&ctx, &x, &y).unwrap();
    }
    let want = 1.0 + (0..50).map(f32::from as fn(u8) -> f32).sum::<f32>();
    assert_eq!(ctx.download_f32(&x).unwrap(), [want; 64]);
}

#[test]
fn throughput_profile_times_every_command_buffer() {
    let (exporter, events) = ChannelExporter::new();
    let options = MetalOptions { max_kernels: 2, ..MetalOptions::default() };
    let ctx = metal_with(options, Recorder::new(vec![Box::new(exporter)]));
    let (x, y) = (ones(&ctx), ones(&ctx));
    for _ in 0..5 {
        add(&ctx, &x, &y).unwrap();
    }
    ctx.device().synchronize().unwrap();
    let buffers = events.try_iter().filter(|record| match &record.event {
        MetricEvent::InternalKernelCompleted { parent_op, .. } => parent_op == "command_buffer",
        _ => false,
    });
    assert_eq!(buffers.count(), 3);
}

#[test]
fn latency_profile_times_every_op() {
    let (exporter, events) = ChannelExporter::new();
    let options = MetalOptions { profile: Profile::Latency, ..MetalOptions::default() };
    let ctx = metal_with(options, Recorder::new(vec![Box::new(exporter)]));
    let (x, y) = (ones(&ctx), ones(&ctx));
    for _ in 0..3 {
        add(&ctx, &x, &y).unwrap();
    }
    let adds = events.try_iter().filter(|record| match &record.event {
        MetricEvent::KernelTimed { op, kernel, .. } => op == "add" && kernel == "add_f32",
        _ => false,
    });
    assert_eq!(adds.count(), 3);
}
