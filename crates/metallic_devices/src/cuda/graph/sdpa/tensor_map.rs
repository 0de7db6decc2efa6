//! What Hopper's copy engine must know of a tensor: `CUtensorMap`, encoded by the driver.

use std::ffi::c_void;
use std::mem::MaybeUninit;

use bytemuck::{Pod, Zeroable};
use cudarc::driver::sys::{
    self, CUresult, CUtensorMapDataType, CUtensorMapFloatOOBfill, CUtensorMapInterleave,
    CUtensorMapL2promotion, CUtensorMapSwizzle,
};
use metallic::Result;
use metallic::tensor::DType;

use crate::cuda::error::device_error;
use crate::cuda::gpu::Gpu;

/// Elements of a swizzled row: 128 bytes.
const PANEL: u32 = 64;

/// A map, as kernels take it by value.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub(super) struct TensorMap([u64; 16]);

/// A `[batch, heads, length, width]` tensor of 2-byte elements.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mapped {
    /// Its first element.
    pub start: u64,
    /// Axis lengths.
    pub shape: [i32; 4],
    /// Elements between batches, heads and rows, each a multiple of 8.
    pub strides: [i64; 3],
    /// f16 or bf16.
    pub dtype: DType,
    /// Rows of a box; a box is 64 elements wide.
    pub rows: usize,
}

impl TensorMap {
    /// The map of `tensor`, with the 128-byte swizzle of warpgroup products and zeros outside.
    ///
    /// # Errors
    /// When the driver refuses.
    pub(super) fn new(gpu: &Gpu, tensor: Mapped) -> Result<Self> {
        let [batch, heads, length, width] = tensor.shape.map(|axis| axis as u64);
        let [by_batch, by_head, by_row] = tensor.strides.map(|stride| stride as u64 * 2);
        let shape = [width, length, heads, batch];
        let strides = [by_row, by_head, by_batch];
        let boxes = [PANEL, tensor.rows as u32, 1, 1];
        let dtype = match tensor.dtype {
            DType::Bf16 => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            _ => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
        };
        gpu.stream.bind()?;
        let mut map = MaybeUninit::<sys::CUtensorMap>::zeroed();
        // SAFETY: all arrays have the four (three) entries that rank 4 asks for; the map is written
        // on success.
        let code = unsafe {
            sys::cuTensorMapEncodeTiled(
                map.as_mut_ptr(),
                dtype,
                4,
                tensor.start as *mut c_void,
                shape.as_ptr(),
                strides.as_ptr(),
                boxes.as_ptr(),
                [1u32; 4].as_ptr(),
                CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
                CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
                CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        };
        if code != CUresult::CUDA_SUCCESS {
            let reason = format!("{code:?} for {tensor:?}");
            return Err(device_error(gpu.id(), "map a tensor", reason));
        }
        // SAFETY: written by the driver, and zeros before: every byte is a value.
        let words = unsafe { map.assume_init() }.opaque;
        Ok(Self(words))
    }
}
