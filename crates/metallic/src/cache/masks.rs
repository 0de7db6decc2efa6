//! Additive band masks (causal, windows), one buffer for a whole range of lengths.
//!
//! A band depends only on `key − query − offset`, so a wide buffer whose rows hold that pattern
//! serves every length and offset of its bucket: a call gets a view shifted sideways. A growing
//! sequence therefore reuses one buffer, layers share it, and nothing is rebuilt per step.
//!
//! ```text
//! buffer cell (row, column) = band(column − row − half)     half = the bucket of kv_len
//! view of (rows, kv_len, offset) = columns half − offset .. half − offset + kv_len
//! ```

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use half::{bf16, f16};
use metallic_instrumentation::Recorder;

use super::lru::{Limits, Lru, Shared};
use super::stats::{CacheStats, EntryInfo};
use crate::device::{BandFill, Device, DeviceId};
use crate::error::{Error, Result};
use crate::op::{Band, KV_BUCKET};
use crate::tensor::{Buffer, DType, Layout, Shape, Tensor};

/// Host bytes a mask is built in at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// A wanted view: 0 where query `row` may see key `column`, −inf elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BandRequest {
    /// Keys visible before the diagonal; `None` for all.
    pub left: Option<usize>,
    /// Keys visible after the diagonal; `None` for all.
    pub right: Option<usize>,
    /// Query rows of the view.
    pub rows: usize,
    /// Key columns of the view.
    pub kv_len: usize,
    /// Key under the diagonal of the view's first row.
    pub offset: i64,
    /// f32, f16 or bf16.
    pub dtype: DType,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct MaskKey {
    device: DeviceId,
    dtype: DType,
    left: Option<usize>,
    right: Option<usize>,
    rows: usize,
    half: usize,
}

impl fmt::Display for MaskKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bound = |keys: Option<usize>| keys.map_or("*".to_owned(), |keys| keys.to_string());
        let Self { device, dtype, rows, half, .. } = self;
        let (left, right) = (bound(self.left), bound(self.right));
        write!(f, "{dtype} band[{left},{right}] q<={rows} kv<={half} on {device}")
    }
}

impl Shared for Arc<dyn Buffer> {
    fn in_use(&self) -> bool {
        Arc::strong_count(self) > 1
    }
}

/// The service masks come from.
pub struct MaskArena {
    masks: Mutex<Lru<MaskKey, Arc<dyn Buffer>>>,
}

impl MaskArena {
    /// The name in events and tables.
    pub const NAME: &'static str = "mask_arena";

    /// An empty arena.
    pub fn new(limits: Limits) -> Self {
        Self { masks: Mutex::new(Lru::new(Self::NAME, limits)) }
    }

    /// A mask `[rows, kv_len]` with a contiguous last axis, built only if no buffer of its bucket
    /// is there.
    ///
    /// # Errors
    /// When the device has no memory for it.
    pub fn band(
        &self,
        request: BandRequest,
        device: &dyn Device,
        recorder: &Recorder,
    ) -> Result<Tensor> {
        let BandRequest { left, right, rows, kv_len, offset, dtype } = request;
        let bucket_rows = rows.next_power_of_two();
        let half = kv_len.next_power_of_two().max(KV_BUCKET);
        let width = 2 * half + bucket_rows;
        let in_bucket = (-(bucket_rows as i64)..=half as i64).contains(&offset);
        if !in_bucket {
            // A diagonal far outside the keys: one call's own mask, kept by nobody.
            let buffer = build(device, dtype, left, right, rows, kv_len, offset)?;
            return Tensor::new(buffer, dtype, Layout::contiguous(Shape::new(&[rows, kv_len])));
        }
        let key = MaskKey { device: device.id(), dtype, left, right, rows: bucket_rows, half };
        let mut masks = self.lock();
        let buffer = match masks.get(&key, recorder) {
            Some(buffer) => buffer,
            None => {
                let buffer = build(device, dtype, left, right, bucket_rows, width, half as i64)?;
                masks.insert(key, Arc::clone(&buffer), buffer.bytes(), recorder);
                buffer
            }
        };
        drop(masks);
        let shift = (half as i64 - offset) as usize;
        Tensor::new(buffer, dtype, Layout::contiguous(Shape::new(&[bucket_rows, width])))?
            .narrow(0, 0, rows)?
            .narrow(1, shift, kv_len)
    }

    /// Removes every mask that is not in use; returns how many went.
    pub fn clear(&self) -> usize {
        self.lock().clear()
    }

    /// The entries, most recently used first.
    pub fn list(&self) -> Vec<EntryInfo> {
        self.lock().list()
    }

    /// Counters and ages.
    pub fn stats(&self) -> CacheStats {
        self.lock().stats()
    }

    fn lock(&self) -> MutexGuard<'_, Lru<MaskKey, Arc<dyn Buffer>>> {
        self.masks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for MaskArena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MaskArena").field("stats", &self.stats()).finish()
    }
}

fn build(
    device: &dyn Device,
    dtype: DType,
    left: Option<usize>,
    right: Option<usize>,
    rows: usize,
    width: usize,
    offset: i64,
) -> Result<Arc<dyn Buffer>> {
    let band = Band { left, right, offset: None };
    let element = dtype.block_bytes();
    let hidden: &[u8] = match dtype {
        DType::F16 => &f16::NEG_INFINITY.to_le_bytes(),
        DType::Bf16 => &bf16::NEG_INFINITY.to_le_bytes(),
        _ => &f32::NEG_INFINITY.to_le_bytes(),
    };
    let bytes = rows.checked_mul(width).and_then(|cells| cells.checked_mul(element));
    let device_id = device.id();
    let bytes = bytes.ok_or(Error::OutOfMemory { device: device_id, bytes: usize::MAX })?;
    // The device refuses what it cannot hold; the host then holds a few rows at a time.
    let buffer = device.allocate(bytes)?;
    let fill = BandFill { band: Band { offset: Some(offset), ..band }, rows, width, dtype };
    if device.fill_band(&*buffer, &fill)? {
        return Ok(buffer);
    }
    let row_bytes = (width * element).max(1);
    let rows_at_once = (CHUNK_BYTES / row_bytes).clamp(1, rows.max(1));
    let mut chunk = Vec::with_capacity(rows_at_once * row_bytes);
    for first in (0..rows).step_by(rows_at_once) {
        chunk.clear();
        for row in first..rows.min(first + rows_at_once) {
            let start_of_row = chunk.len();
            chunk.extend(std::iter::repeat_n(hidden, width).flatten());
            let (start, end) = band.visible(row, offset, width);
            if start < end {
                // Zero bytes are 0.0 in all three types.
                chunk[start_of_row..][start * element..end * element].fill(0);
            }
        }
        device.write(&*buffer, first * width * element, &chunk)?;
    }
    Ok(buffer)
}
