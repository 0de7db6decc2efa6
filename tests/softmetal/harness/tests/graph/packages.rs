//! Executables on disk.

use std::fs;
use std::path::{Path, PathBuf};

use metallic::op::{Mask, Sdpa, SdpaArgs};
use metallic::tensor::DType;
use metallic_devices::GraphOptions;
use metallic_instrumentation::exporter::ChannelExporter;
use metallic_instrumentation::{MetricEvent, Recorder};

use crate::support::graph_with;

/// One call in a new context: its result, and whether its executable came from disk.
fn run(dir: &Path) -> (Vec<f32>, bool) {
    let (exporter, events) = ChannelExporter::new();
    let options = GraphOptions { packages: Some(dir.to_owned()), ..GraphOptions::default() };
    let ctx = graph_with(options, Recorder::new(vec![Box::new(exporter)]));
    let values = |from: usize| (from..from + 256).map(|i| (i % 23) as f32 / 11.0 - 1.0);
    let upload = |from| ctx.upload_f32([1, 2, 4, 32], &values(from).collect::<Vec<_>>()).unwrap();
    let args = SdpaArgs {
        q: upload(0),
        k: upload(5),
        v: upload(9),
        mask: Mask::causal(),
        kv_lens: None,
        scale: None,
        softcap: None,
        out: ctx.zeros(DType::F32, [1, 2, 4, 32]).unwrap(),
    };
    ctx.run::<Sdpa>(&args).unwrap();
    let out = ctx.download_f32(&args.out).unwrap();
    let hits: Vec<bool> = events
        .try_iter()
        .filter_map(|record| match record.event {
            MetricEvent::ResourceCacheAccess { cache_key, hit, .. }
                if cache_key.starts_with("mpsgraph_package") =>
            {
                Some(hit)
            }
            _ => None,
        })
        .collect();
    assert_eq!(hits.len(), 1, "one executable was asked for");
    (out, hits[0])
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

#[test]
fn an_executable_is_kept_and_a_damaged_one_is_made_anew() {
    let dir = std::env::temp_dir().join(format!("metallic-packages-{}", std::process::id()));
    let (want, from_disk) = run(&dir);
    assert!(!from_disk);
    assert_eq!(run(&dir), (want.clone(), true));
    let damages: [fn(&mut Vec<u8>); 2] =
        [|bytes| bytes.truncate(bytes.len() / 2), |bytes| bytes[0] ^= 1];
    for damage in damages {
        for path in files(&dir) {
            let mut bytes = fs::read(&path).unwrap();
            damage(&mut bytes);
            fs::write(&path, bytes).unwrap();
            assert_eq!(run(&dir), (want.clone(), false), "{}", path.display());
            assert_eq!(run(&dir), (want.clone(), true), "made anew after {}", path.display());
        }
    }
    // Nothing half made stays behind.
    assert!(fs::read_dir(&dir).unwrap().count() == 1);
    fs::remove_dir_all(&dir).unwrap();
}
