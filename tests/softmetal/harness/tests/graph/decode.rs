//! Two hundred steps of a growing sequence: one executable a class, nothing that piles up.

use metallic::Context;
use metallic::graph::LengthPolicy;
use metallic::op::{Mask, Sdpa, SdpaArgs};
use metallic::tensor::{DType, Tensor};
use metallic_devices::GraphOptions;
use metallic_instrumentation::Recorder;
use softmetal_objc::{control, counts};

use crate::support::{graph_with, macos_15, promises};

struct Sequence {
    ctx: Context,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
}

impl Sequence {
    fn new(options: GraphOptions) -> Self {
        let ctx = graph_with(options, Recorder::disabled());
        let upload = |shape: [usize; 4], step: usize| {
            let count = shape.iter().product::<usize>();
            let values: Vec<f32> =
                (0..count).map(|i| (i * step % 37) as f32 / 18.0 - 1.0).collect();
            let bytes = values.iter().flat_map(|value| half::f16::from_f32(*value).to_le_bytes());
            ctx.upload(DType::F16, shape, &bytes.collect::<Vec<_>>()).unwrap()
        };
        let (q, k) = (upload([1, 4, 1, 32], 7), upload([1, 2, 768, 32], 11));
        let v = upload([1, 2, 768, 32], 13);
        let out = ctx.zeros(DType::F16, [1, 4, 1, 32]).unwrap();
        Self { ctx, q, k, v, out }
    }

    fn step(&self, live: usize) -> Vec<u8> {
        let view = |cache: &Tensor| cache.narrow(2, 0, live.next_multiple_of(256)).unwrap();
        let args = SdpaArgs {
            q: self.q.clone(),
            k: view(&self.k),
            v: view(&self.v),
            mask: Mask::causal(),
            kv_lens: Some(self.ctx.upload_i32([1], &[live as i32]).unwrap()),
            scale: None,
            softcap: None,
            out: self.out.clone(),
        };
        self.ctx.run::<Sdpa>(&args).unwrap();
        self.ctx.download(&self.out).unwrap()
    }
}

/// Live objects of the classes that a step makes.
fn live_objects() -> usize {
    counts()
        .iter()
        .filter(|(name, _)| name.starts_with("MPS") || name.starts_with("NSArray"))
        .map(|(_, count)| count.live)
        .sum()
}

/// Alone in its process: other tests make objects too.
#[test]
fn two_hundred_steps_compile_once_a_class_and_leave_nothing_behind() {
    if std::env::var_os("METALLIC_TEST_ALONE").is_none() {
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "decode::two_hundred_steps_compile_once_a_class_and_leave_nothing_behind",
            ])
            .env("METALLIC_TEST_ALONE", "1")
            .status()
            .unwrap();
        assert!(status.success());
        return;
    }
    let sequence = Sequence::new(promises());
    for live in [100, 300] {
        sequence.step(live);
    }
    let warm = sequence.ctx.cache().executables.stats();
    let objects = live_objects();
    let memory = sequence.ctx.device().memory();
    for live in 101..=301 {
        sequence.step(live);
    }
    let stats = sequence.ctx.cache().executables.stats();
    assert_eq!((stats.misses, stats.hits), (warm.misses, warm.hits + 201));
    assert_eq!(warm.misses, 2);
    assert_eq!(live_objects(), objects, "objects pile up");
    assert_eq!(sequence.ctx.device().memory().in_use, memory.in_use, "memory piles up");
    assert!(control().counter("graph_splits") > 200, "command buffers were split on the way");
    assert_eq!(control().counter("graph_compiles_above_level_0"), 0);
    assert_eq!(control().counter("graph_compiles_without_wait"), 0);
}

#[test]
fn one_executable_of_unknown_lengths_gives_what_classes_give() {
    if !macos_15() {
        return;
    }
    let classes = Sequence::new(promises());
    let any = Sequence::new(GraphOptions { lengths: LengthPolicy::Dynamic, ..promises() });
    for live in [1, 9, 250, 256, 257, 400, 512] {
        assert_eq!(any.step(live), classes.step(live), "{live}");
    }
    assert_eq!(any.ctx.cache().executables.stats().misses, 1);
}
