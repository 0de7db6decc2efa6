//! New keys or values in their cache, by slice update.
//!
//! Inside the graph the updated cache is a value like any other. After the run only the new rows
//! go into the cache in memory, in place: a result as large as the cache would have to be copied.

use metallic::Result;
use metallic::graph::KvAppendNode;

use super::Lowering;
use crate::metal::graph::emit::{Binary, Emitter};
use crate::metal::graph::value::Value;

/// The updated cache `[batch, kv_heads, kv_len, dim]`, and the new rows in its type.
///
/// New rows that only fill up a length class land behind the live ones, where nothing looks.
pub(super) fn lower(lowering: &Lowering<'_>, node: &KvAppendNode) -> Result<(Value, Value)> {
    let (cache, starts) = (lowering.value(node.cache)?, lowering.value(node.starts)?);
    let emitter = &lowering.emitter;
    let new = emitter.cast(&lowering.value(node.new)?, cache.dtype)?;
    let ([batch, heads, kv_len, dim], rows) =
        ([cache.dim(0), cache.dim(1), cache.dim(2), cache.dim(3)], new.dim(2));
    // Rows that fill up a class may reach past the end: there is room for them meanwhile.
    let padded = if rows > 1 {
        let zero = emitter.scalar(0.0, cache.dtype)?;
        emitter.concat(&cache, &emitter.broadcast_to(&zero, &[batch, heads, rows, dim])?, 2)?
    } else {
        cache.clone()
    };
    // Positions are data on the device: what lies outside is moved inside, and the kernel that
    // writes the rows into memory reports it.
    let starts = emitter.binary(Binary::Maximum, &starts, &emitter.integers(&[0], &[1])?)?;
    let most = (padded.dim(2) - rows) as i32;
    let starts = emitter.binary(Binary::Minimum, &starts, &emitter.integers(&[most], &[1])?)?;
    let mut updated = padded;
    for sequence in 0..batch {
        let start = emitter.slice(&starts, 0, sequence, 1)?;
        let at = place(emitter, sequence, &start)?;
        let rows = emitter.slice(&new, 0, sequence, 1)?;
        updated = emitter.slice_update(&updated, &rows, &at)?;
    }
    let whole = if rows > 1 { emitter.slice(&updated, 2, 0, kv_len)? } else { updated };
    Ok((whole, new))
}

/// `[sequence, 0, start, 0]`.
fn place(emitter: &Emitter, sequence: isize, start: &Value) -> Result<Value> {
    let before = emitter.integers(&[sequence as i32, 0], &[2])?;
    let after = emitter.integers(&[0], &[1])?;
    emitter.concat(&emitter.concat(&before, start, 0)?, &after, 0)
}
