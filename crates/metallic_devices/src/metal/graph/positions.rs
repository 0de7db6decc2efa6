//! The positions 0, 1, 2… as arrays, for executables that do not bake lengths in.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use metallic::Result;

use super::super::buffer::{MetalBuffer, Storage};
use super::super::failure;
use super::super::pool::Pool;

/// Arrays kept; beyond this they are forgotten together. They are never changed, so one in use
/// lives on with its command buffer.
const MAX_ARRAYS: usize = 32;

/// Arrays of positions by length and by how often they begin anew.
#[derive(Default)]
pub(super) struct Positions(Mutex<HashMap<(usize, usize), Arc<MetalBuffer>>>);

impl Positions {
    /// `0 .. q_len`, `group` times.
    ///
    /// # Errors
    /// No memory.
    pub(super) fn rows(
        &self,
        pool: &Arc<Pool>,
        q_len: usize,
        group: usize,
    ) -> Result<Arc<MetalBuffer>> {
        let mut arrays = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(array) = arrays.get(&(q_len, group)) {
            return Ok(Arc::clone(array));
        }
        let array = Arc::new(pool.allocate(q_len * group * size_of::<i32>(), Storage::Shared)?);
        let start = array.host_start();
        let start = start.ok_or_else(|| failure("run", "shared memory without an address"))?;
        for index in 0..q_len * group {
            // SAFETY: the buffer has room for as many; shared memory of the pool is not in use.
            unsafe { start.cast::<i32>().add(index).write_unaligned((index % q_len) as i32) };
        }
        if arrays.len() >= MAX_ARRAYS {
            arrays.clear();
        }
        arrays.insert((q_len, group), Arc::clone(&array));
        Ok(array)
    }

    /// `0 .. kv_len`.
    ///
    /// # Errors
    /// No memory.
    pub(super) fn keys(&self, pool: &Arc<Pool>, kv_len: usize) -> Result<Arc<MetalBuffer>> {
        self.rows(pool, kv_len, 1)
    }
}
