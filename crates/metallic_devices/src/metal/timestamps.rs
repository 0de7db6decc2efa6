//! When kernels begin and end on the GPU, where it has counters for that. Asked only while every op
//! runs alone ([`crate::Profile::Latency`]): one op's samples are read before the next op begins.
//!
//! GPUs of Apple sample at the borders of encoders, so each kernel gets an encoder of its own; others
//! sample between the kernels of one. Samples count ticks of the GPU's clock. Metal reads both clocks
//! at once: two such readings give the length of a tick, and the ticks between which an op ran.

use std::ptr::NonNull;

use objc2::rc::{Retained, autoreleasepool};
use objc2::runtime::ProtocolObject;
use objc2_foundation::NSRange;
use objc2_metal::{
    MTLCommonCounterSetTimestamp, MTLComputeCommandEncoder, MTLComputePassDescriptor,
    MTLCounterSampleBuffer, MTLCounterSampleBufferDescriptor, MTLCounterSamplingPoint,
    MTLCounterSet, MTLDevice, MTLStorageMode,
};

/// Kernels of one op that are timed at most: a sample buffer holds 32 KiB (gpuweb#3648), and a kernel
/// takes two samples of 8 bytes.
const MAX_KERNELS: usize = 2048;
/// `MTLCounterErrorValue`: a sample that was not taken. Some systems leave 0 instead (wgpu#9414).
const NOT_SAMPLED: u64 = u64::MAX;

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clocks {
    /// The host's, in nanoseconds.
    cpu: u64,
    /// The GPU's, in ticks.
    gpu: u64,
}

impl Clocks {
    /// Nanoseconds of a tick between `self` and `later`; `None` where a clock stood still.
    fn tick_ns(self, later: Clocks) -> Option<f64> {
        let cpu = later.cpu.checked_sub(self.cpu).filter(|span| *span > 0)?;
        let gpu = later.gpu.checked_sub(self.gpu).filter(|span| *span > 0)?;
        Some(cpu as f64 / gpu as f64)
    }
}

/// The timestamps of one device.
pub(super) struct Timestamps {
    device: Retained<ProtocolObject<dyn MTLDevice>>,
    samples: Retained<ProtocolObject<dyn MTLCounterSampleBuffer>>,
    /// Whether samples are taken at the borders of encoders, and not between kernels.
    at_borders: bool,
    /// The clocks when the device was opened: the longer ago, the better a tick is known.
    opened: Clocks,
}

// SAFETY: Metal lets one thread at a time use a sample buffer: whoever calls holds the stream's mutex.
unsafe impl Send for Timestamps {}
// SAFETY: as above.
unsafe impl Sync for Timestamps {}

impl Timestamps {
    /// The timestamps of `device`, if it has any.
    pub(super) fn of(device: &Retained<ProtocolObject<dyn MTLDevice>>) -> Option<Self> {
        let supports = |point| device.supportsCounterSampling(point);
        let at_borders = supports(MTLCounterSamplingPoint::AtStageBoundary);
        if !at_borders && !supports(MTLCounterSamplingPoint::AtDispatchBoundary) {
            return None;
        }
        autoreleasepool(|_| {
            // SAFETY: a constant of Metal's, set before the program begins.
            let wanted = unsafe { MTLCommonCounterSetTimestamp };
            let set = device.counterSets()?.iter().find(|set| *set.name() == *wanted)?;
            let descriptor = MTLCounterSampleBufferDescriptor::new();
            descriptor.setCounterSet(Some(&set));
            descriptor.setStorageMode(MTLStorageMode::Shared);
            // SAFETY: Metal answers with an error when this is more than it gives.
            unsafe { descriptor.setSampleCount(2 * MAX_KERNELS) };
            let samples = device.newCounterSampleBufferWithDescriptor_error(&descriptor).ok()?;
            let opened = clocks(device);
            Some(Self { device: device.clone(), samples, at_borders, opened })
        })
    }

    /// Both clocks now.
    pub(super) fn clocks(&self) -> Clocks {
        clocks(&self.device)
    }

    /// The place of an op's kernel number `index`; `None` beyond the last one that is timed.
    pub(super) fn place(&self, index: usize) -> Option<Place<'_>> {
        (index < MAX_KERNELS).then_some(Place { timestamps: self, index })
    }

    /// How long the first `kernels` places of an op took, in microseconds. The op was handed over
    /// after `before` and is done. `None` when a sample is missing: an older one may lie in its
    /// place, which shows in that it was taken before.
    pub(super) fn durations(&self, kernels: usize, before: Clocks) -> Option<Vec<f64>> {
        let now = self.clocks();
        let tick_us = self.opened.tick_ns(now)? / 1000.0;
        let taken =
            |tick: u64| tick != NOT_SAMPLED && tick != 0 && (before.gpu..=now.gpu).contains(&tick);
        let samples = self.resolve(2 * kernels)?;
        let pairs = samples.chunks_exact(2).map(|pair| {
            let span = pair[1].checked_sub(pair[0])?;
            (taken(pair[0]) && taken(pair[1])).then_some(span as f64 * tick_us)
        });
        pairs.collect()
    }

    /// The first `count` samples, in ticks.
    fn resolve(&self, count: usize) -> Option<Vec<u64>> {
        autoreleasepool(|_| {
            // SAFETY: the range lies in the sample buffer, and what writes it is done.
            let data = unsafe { self.samples.resolveCounterRange(NSRange::new(0, count)) }?;
            let bytes = data.to_vec();
            let ticks = bytes
                .chunks_exact(8)
                .map(|tick| u64::from_le_bytes(tick.try_into().expect("chunks are 8 bytes long")));
            Some(ticks.collect()).filter(|ticks: &Vec<u64>| ticks.len() == count)
        })
    }
}

/// Where the samples of one kernel go.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    timestamps: &'a Timestamps,
    index: usize,
}

impl Place<'_> {
    /// What the kernel's encoder is opened with; `None` where it needs none of its own.
    pub(super) fn pass(self) -> Option<Retained<MTLComputePassDescriptor>> {
        let Timestamps { samples, at_borders, .. } = self.timestamps;
        at_borders.then(|| {
            let pass = MTLComputePassDescriptor::computePassDescriptor();
            // SAFETY: a pass has an attachment 0; both samples lie in the sample buffer.
            unsafe {
                let attachment = pass.sampleBufferAttachments().objectAtIndexedSubscript(0);
                attachment.setSampleBuffer(Some(samples));
                attachment.setStartOfEncoderSampleIndex(2 * self.index);
                attachment.setEndOfEncoderSampleIndex(2 * self.index + 1);
            }
            pass
        })
    }

    /// Samples before the kernel, where its encoder does not.
    pub(super) fn begin(self, encoder: &ProtocolObject<dyn MTLComputeCommandEncoder>) {
        self.sample(encoder, 2 * self.index);
    }

    /// Samples after the kernel, where its encoder does not.
    pub(super) fn end(self, encoder: &ProtocolObject<dyn MTLComputeCommandEncoder>) {
        self.sample(encoder, 2 * self.index + 1);
    }

    fn sample(self, encoder: &ProtocolObject<dyn MTLComputeCommandEncoder>, index: usize) {
        let Timestamps { samples, at_borders, .. } = self.timestamps;
        if !at_borders {
            // SAFETY: the sample lies in the sample buffer. The barrier keeps other kernels out of
            // the time.
            unsafe {
                encoder.sampleCountersInBuffer_atSampleIndex_withBarrier(samples, index, true);
            }
        }
    }
}

fn clocks(device: &ProtocolObject<dyn MTLDevice>) -> Clocks {
    let (mut cpu, mut gpu) = (0, 0);
    // SAFETY: both are written before the call returns.
    unsafe {
        device.sampleTimestamps_gpuTimestamp(NonNull::from(&mut cpu), NonNull::from(&mut gpu))
    };
    Clocks { cpu, gpu }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_have_the_length_that_two_readings_give() {
        let (first, later) = (Clocks { cpu: 1000, gpu: 70 }, Clocks { cpu: 3500, gpu: 130 });
        assert_eq!(first.tick_ns(later), Some(2500.0 / 60.0));
        for still in [Clocks { cpu: 1000, gpu: 130 }, Clocks { cpu: 3500, gpu: 70 }] {
            assert_eq!(first.tick_ns(still), None);
        }
        assert_eq!(later.tick_ns(first), None);
    }
}
