//! Which memory arrays may lie in, and what packages keep.

use metallic::Result;
use objc2::AnyThread;
use objc2::rc::autoreleasepool;
use objc2_metal::{MTLBuffer, MTLDevice, MTLResourceOptions};
use objc2_metal_performance_shaders_graph::MPSGraphTensorData;

use super::rig::{Array, F16, F32, Rig, Spot, difference};
use crate::metal::failure;
use crate::metal::graph::emit::{Binary, Emitter};
use crate::metal::graph::package::{Order, Packages};
use crate::metal::graph::value::{Value, shape};
use crate::probe::{Finding, Verdict};

/// `x + x`.
fn twice(emitter: &Emitter, fed: &[Value]) -> Result<Value> {
    emitter.binary(Binary::Add, &fed[0], &fed[0])
}

fn doubled(array: &Array) -> Vec<f32> {
    array.values.iter().map(|value| 2.0 * value).collect()
}

pub(super) fn offsets(rig: &Rig) -> Result<Finding> {
    if !rig.platform.at_least(15) {
        return Ok(Finding::new(Verdict::NotAsked, "arrays at an offset begin with macOS 15"));
    }
    let mut wrong = Vec::new();
    for offset in [0, 2, 4, 6, 16, 30, 254, 256, 258, 4098] {
        let mut array = Array::noise(1, &[3, 5], F16);
        array.offset = offset;
        let spot = Spot { offset, ..Spot::dense(&[3, 5], F16) };
        let got = rig.result(std::slice::from_ref(&array), &spot, twice)?;
        if difference(&got, &doubled(&array)) > 0.0 {
            wrong.push(offset.to_string());
        }
    }
    Ok(match wrong.is_empty() {
        true => {
            Finding::new(Verdict::AsAssumed, "every even offset of f16 rows of 10 bytes is right")
        }
        false => Finding::new(Verdict::Worse, format!("wrong at offsets {}", wrong.join(", "))),
    })
}

pub(super) fn small_buffers(rig: &Rig) -> Result<Finding> {
    let bytes = 16;
    autoreleasepool(|_| {
        let options = MTLResourceOptions::StorageModeShared;
        let buffer = rig.device.newBufferWithLength_options(bytes, options);
        let buffer = buffer.ok_or_else(|| failure("probe", "no buffer"))?;
        // SAFETY: none but that this is what the probe asks: the buffer has the bytes of the
        // elements, and no more.
        let data = unsafe {
            MPSGraphTensorData::initWithMTLBuffer_shape_dataType(
                MPSGraphTensorData::alloc(),
                &buffer,
                &shape(&[2, 4]),
                F16,
            )
        };
        drop(data);
        let seen = format!("a buffer of {} bytes was accepted for f16 [2, 4]", buffer.length());
        Ok(Finding::new(Verdict::Better, seen))
    })
}

pub(super) fn placed_results(rig: &Rig) -> Result<Finding> {
    if !rig.platform.at_least(15) {
        return Ok(Finding::new(Verdict::NotAsked, "views begin with macOS 15"));
    }
    let array = Array::noise(1, &[2, 3, 8], F32);
    let dense = Spot { offset: 96, ..Spot::dense(&[2, 3, 8], F32) };
    let strided = Spot { strides: vec![80, 16, 1], ..dense.clone() };
    let mut seen = Vec::new();
    let mut right = true;
    for (name, spot) in [("at an offset", dense), ("in a strided view", strided)] {
        let got = rig.result(std::slice::from_ref(&array), &spot, twice)?;
        let error = difference(&got, &doubled(&array));
        right &= error == 0.0;
        seen.push(format!("{name}: largest error {error:.1e}"));
    }
    let verdict = if right { Verdict::AsAssumed } else { Verdict::Worse };
    Ok(Finding::new(verdict, seen.join("; ")))
}

pub(super) fn packages(rig: &Rig) -> Result<Finding> {
    let dir = std::env::temp_dir().join(format!("metallic-probe-{}", std::process::id()));
    let Some(packages) = Packages::new(dir.clone(), &rig.platform) else {
        return Ok(Finding::new(Verdict::NotAsked, "packages begin with macOS 14"));
    };
    // Three feeds of one shape that are not interchangeable: (a − b) · c.
    let arrays = [1, 2, 3].map(|seed| Array::noise(seed, &[4, 8], F32));
    let build = |emitter: &Emitter, fed: &[Value]| {
        let difference = emitter.binary(Binary::Subtract, &fed[0], &fed[1])?;
        emitter.binary(Binary::Multiply, &difference, &fed[2])
    };
    let mut compiled = rig.compile(&arrays, build)?;
    let spot = Spot::dense(&[4, 8], F32);
    let (want, _) = rig.run(&compiled, &arrays, &spot)?;
    let order = Order { inputs: vec![0, 1, 2], outputs: vec![0] };
    packages.save("probe", &compiled.executable, &order);
    let loaded = packages.load("probe");
    let finding = match loaded {
        None => Finding::new(Verdict::Worse, "the package was not written, or not read"),
        Some((executable, _)) => {
            compiled.executable = executable;
            let (got, _) = rig.run(&compiled, &arrays, &spot)?;
            let error = difference(&got, &want);
            let verdict = if error == 0.0 { Verdict::AsAssumed } else { Verdict::Worse };
            Finding::new(verdict, format!("largest difference after loading {error:.1e}"))
        }
    };
    std::fs::remove_dir_all(&dir).map_err(|error| failure("probe", error.to_string()))?;
    Ok(finding)
}
