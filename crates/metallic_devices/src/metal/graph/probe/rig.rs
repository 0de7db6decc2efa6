//! What probes are asked with: a GPU, arrays of host values, graphs of a few ops.

use std::ptr::NonNull;

use half::f16;
use metallic::Result;
use metallic::tensor::Layout;
use metallic_instrumentation::Recorder;
use objc2::Message;
use objc2::rc::Retained;
use objc2::runtime::ProtocolObject;
use objc2_metal::MTLDevice;
use objc2_metal_performance_shaders::MPSDataType;
use objc2_metal_performance_shaders_graph::MPSGraphOptimization;

use super::super::bind::{Place, bind};
use super::super::compile::{Compiled, executable, on_big_stack};
use super::super::emit::Emitter;
use super::super::encode::encode;
use super::super::lower::{Lowered, Made, Slot};
use super::super::platform::Platform;
use super::super::value::{Value, element_bytes};
use crate::metal::buffer::{MetalBuffer, Storage};
use crate::metal::device::MetalDevice;
use crate::metal::failure;
use crate::metal::stream::Metal;

pub(super) const F32: MPSDataType = MPSDataType::Float32;
pub(super) const F16: MPSDataType = MPSDataType::Float16;

/// A GPU of this probe's own.
pub(super) struct Rig {
    pub(super) device: Retained<ProtocolObject<dyn MTLDevice>>,
    pub(super) metal: Metal,
    pub(super) platform: Platform,
}

/// Values of the host, and where they are to lie.
#[derive(Clone, Debug)]
pub(super) struct Array {
    pub(super) dims: Vec<usize>,
    pub(super) dtype: MPSDataType,
    pub(super) values: Vec<f32>,
    /// Bytes before the first element.
    pub(super) offset: usize,
}

impl Array {
    /// An f32 or f16 array of `values`, from the first byte of its buffer.
    pub(super) fn new(dims: &[usize], dtype: MPSDataType, values: Vec<f32>) -> Self {
        debug_assert_eq!(dims.iter().product::<usize>(), values.len());
        Self { dims: dims.to_vec(), dtype, values, offset: 0 }
    }

    /// Values between −1 and 1 that look like nothing, the same every time.
    pub(super) fn noise(seed: u32, dims: &[usize], dtype: MPSDataType) -> Self {
        let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
        let mut next = || {
            // Marsaglia's xorshift.
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            let value = (state >> 8) as f32 / (1 << 23) as f32 - 1.0;
            if dtype == F16 { f16::from_f32(value).to_f32() } else { value }
        };
        let values = (0..dims.iter().product()).map(|_| next()).collect();
        Self::new(dims, dtype, values)
    }

    fn bytes(&self) -> Vec<u8> {
        let half = |value: &f32| f16::from_f32(*value).to_le_bytes();
        match self.dtype {
            F16 => self.values.iter().flat_map(half).collect(),
            _ => self.values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        }
    }
}

/// Where a result is to lie: shape, strides in elements, bytes before it.
#[derive(Clone, Debug)]
pub(super) struct Spot {
    pub(super) dims: Vec<usize>,
    pub(super) strides: Vec<usize>,
    pub(super) dtype: MPSDataType,
    pub(super) offset: usize,
}

impl Spot {
    /// A dense array from the first byte.
    pub(super) fn dense(dims: &[usize], dtype: MPSDataType) -> Self {
        let strides = Layout::contiguous(dims.into()).strides().to_vec();
        Self { dims: dims.to_vec(), strides, dtype, offset: 0 }
    }

    fn span(&self) -> usize {
        1 + self
            .dims
            .iter()
            .zip(&self.strides)
            .map(|(dim, stride)| (dim - 1) * stride)
            .sum::<usize>()
    }
}

impl Rig {
    pub(super) fn open() -> Result<Self> {
        let device = MetalDevice::new(Default::default(), Recorder::disabled())?;
        let platform = Platform::of(device.identity());
        Ok(Self { device: device.raw().retain(), metal: device.metal().clone(), platform })
    }

    /// A graph of `build` over placeholders like `inputs`, as the program compiles graphs.
    pub(super) fn compile(
        &self,
        inputs: &[Array],
        build: impl FnOnce(&Emitter, &[Value]) -> Result<Value> + Send,
    ) -> Result<Compiled> {
        self.compile_at(MPSGraphOptimization::Level0, inputs, build)
    }

    /// As [`Rig::compile`], at another level.
    pub(super) fn compile_at(
        &self,
        level: MPSGraphOptimization,
        inputs: &[Array],
        build: impl FnOnce(&Emitter, &[Value]) -> Result<Value> + Send,
    ) -> Result<Compiled> {
        on_big_stack(|| {
            let emitter = Emitter::new(self.platform.at_least(15));
            let placeholders = inputs.iter().map(|input| {
                let dims: Vec<isize> = input.dims.iter().map(|dim| *dim as isize).collect();
                emitter.placeholder("input", &dims, input.dtype)
            });
            let placeholders: Vec<Value> = placeholders.collect::<Result<_>>()?;
            let outputs = vec![(Made::Output, build(&emitter, &placeholders)?)];
            let slots = (0..inputs.len()).map(Slot::Input);
            let feeds = slots.zip(placeholders).collect();
            let macos_26 = self.platform.at_least(26);
            let lowered = Lowered { emitter, feeds, outputs, level, macos_26 };
            executable(&self.device, &lowered).map(|(compiled, _)| compiled)
        })
    }

    /// Runs `compiled` once and gives the result, and whether the command buffer was committed
    /// on the way.
    pub(super) fn run(
        &self,
        compiled: &Compiled,
        inputs: &[Array],
        spot: &Spot,
    ) -> Result<(Vec<f32>, bool)> {
        let fed: Vec<MetalBuffer> =
            inputs.iter().map(|input| self.upload(input)).collect::<Result<_>>()?;
        let bytes = spot.offset + spot.span() * element_bytes(spot.dtype);
        let result = self.metal.pool().allocate(bytes, Storage::Shared)?;
        let mut split = false;
        self.metal.encode("probe", |encoder| {
            let mut data = Vec::new();
            for input in &compiled.inputs {
                let Slot::Input(number) = input.slot else { continue };
                let layout = Layout::contiguous(inputs[number].dims[..].into());
                let place = Place {
                    buffer: fed[number].raw(),
                    offset: inputs[number].offset,
                    dtype: input.dtype,
                    dims: &inputs[number].dims,
                    strides: layout.strides(),
                };
                data.push(bind(&place, true).map_err(|why| failure("bind", why.reason()))?);
            }
            let place = Place {
                buffer: result.raw(),
                offset: spot.offset,
                dtype: spot.dtype,
                dims: &spot.dims,
                strides: &spot.strides,
            };
            let target = [bind(&place, true).map_err(|why| failure("bind", why.reason()))?];
            let mut touched: Vec<&MetalBuffer> = fed.iter().collect();
            touched.push(&result);
            encoder.with_command_buffer("probe", &touched, |buffer| {
                let next = encode(&compiled.executable, buffer, &data, &target);
                split =
                    !std::ptr::eq::<objc2::runtime::AnyObject>((*next).as_ref(), buffer.as_ref());
                Ok(next)
            })
        })?;
        self.metal.synchronize()?;
        Ok((read(&result, spot)?, split))
    }

    /// As [`Rig::run`] for a dense result, compiled anew.
    pub(super) fn result(
        &self,
        inputs: &[Array],
        spot: &Spot,
        build: impl FnOnce(&Emitter, &[Value]) -> Result<Value> + Send,
    ) -> Result<Vec<f32>> {
        let compiled = self.compile(inputs, build)?;
        self.run(&compiled, inputs, spot).map(|(values, _)| values)
    }

    fn upload(&self, array: &Array) -> Result<MetalBuffer> {
        let bytes = array.bytes();
        let buffer = self.metal.pool().allocate(array.offset + bytes.len(), Storage::Shared)?;
        let start = buffer.host_start().ok_or_else(|| failure("probe", "no shared memory"))?;
        // SAFETY: the buffer has room for the offset and the bytes; nothing else uses it yet.
        unsafe {
            let from = NonNull::from(&bytes[..]).cast();
            start.add(array.offset).copy_from_nonoverlapping(from, bytes.len());
        }
        Ok(buffer)
    }
}

/// The elements at `spot` of a buffer that nothing writes any more.
fn read(buffer: &MetalBuffer, spot: &Spot) -> Result<Vec<f32>> {
    let start = buffer.host_start().ok_or_else(|| failure("probe", "no shared memory"))?;
    let count: usize = spot.dims.iter().product();
    let element = element_bytes(spot.dtype);
    let values = (0..count).map(|index| {
        let (mut rest, mut place) = (index, 0);
        for (dim, stride) in spot.dims.iter().zip(&spot.strides).rev() {
            place += rest % dim * stride;
            rest /= dim;
        }
        let mut bytes = [0; 4];
        // SAFETY: `place` is below the span for which the buffer was made.
        unsafe {
            let from = start.add(spot.offset + place * element);
            from.copy_to_nonoverlapping(NonNull::from(&mut bytes).cast(), element);
        }
        let [a, b, ..] = bytes;
        if spot.dtype == F16 {
            f16::from_le_bytes([a, b]).to_f32()
        } else {
            f32::from_le_bytes(bytes)
        }
    });
    Ok(values.collect())
}

/// The largest difference of two lists; NaN on one side alone is infinite.
pub(super) fn difference(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).fold(0.0, |most: f32, (a, b)| match (a.is_nan(), b.is_nan()) {
        (true, true) => most,
        (false, false) => most.max((a - b).abs()),
        _ => f32::INFINITY,
    })
}
