//! New rows into caches of every type, through strides, and positions that no cache has.

use metallic::op::{KvAppend, KvAppendArgs};
use metallic::tensor::DType;
use metallic::{Context, Result};
use metallic_testkit::storage::{decode, encode};

use crate::support::{alike, metal, normal};

const CACHE_TYPES: [DType; 4] = [DType::F32, DType::F16, DType::Bf16, DType::Q8_0];

struct Case {
    dtype: DType,
    heads: usize,
    new_len: usize,
    dim: usize,
    starts: Vec<i32>,
}

/// Appends to heads `1 .. 1 + heads` of a cache with two heads more, from rows stored as a
/// projection writes them; gives the whole cache.
fn append(ctx: &Context, case: &Case) -> Result<Vec<f32>> {
    let Case { dtype, heads, new_len, dim, ref starts } = *case;
    let (batch, capacity) = (starts.len(), 11);
    let mut values = normal("new rows", batch * new_len * heads * dim);
    // A row of zeros, and values that f16 does not hold.
    values[..dim].fill(0.0);
    if let Some(large) = values.get_mut(dim + 1) {
        *large = 7e4;
    }
    let new = ctx.upload_f32([batch, new_len, heads, dim], &values)?.permute(&[0, 2, 1, 3])?;
    let shape = [batch, heads + 2, capacity, dim];
    let before: Vec<f64> =
        normal("cache", shape.iter().product()).into_iter().map(f64::from).collect();
    let all = ctx.upload(dtype, shape, &encode(dtype, &before))?;
    let cache = all.narrow(1, 1, heads)?;
    let starts = ctx.upload_i32([batch], starts)?;
    ctx.run::<KvAppend>(&KvAppendArgs { new, starts, cache })?;
    Ok(decode(dtype, &ctx.download(&all)?).into_iter().map(|value| value as f32).collect())
}

#[test]
fn rows_are_stored_as_on_the_cpu() {
    for dtype in CACHE_TYPES {
        for (heads, new_len, dim, starts) in [
            (1, 1, 32, vec![0]),
            (2, 1, 64, vec![10, 3]),
            (3, 5, 96, vec![6, 0]),
            (2, 11, 128, vec![0]),
        ] {
            let case = Case { dtype, heads, new_len, dim, starts };
            let what = format!("{dtype} {heads}x{new_len}x{dim} at {:?}", case.starts);
            // Bit for bit: rounding is to the nearest on both.
            alike(&what, 0.0, |ctx| append(ctx, &case).unwrap());
        }
    }
}

#[test]
fn odd_widths_are_stored_where_rows_are_not_blocks() {
    for dtype in [DType::F32, DType::F16, DType::Bf16] {
        let case = Case { dtype, heads: 2, new_len: 3, dim: 7, starts: vec![1, 8] };
        alike(&format!("{dtype}"), 0.0, |ctx| append(ctx, &case).unwrap());
    }
}

#[test]
fn a_position_outside_the_cache_is_an_error_when_the_result_is_read() {
    for start in [-1, 10, i32::MAX, i32::MIN] {
        let ctx = metal();
        let case = |starts| Case { dtype: DType::F16, heads: 2, new_len: 2, dim: 32, starts };
        let error = append(&ctx, &case(vec![0, start])).unwrap_err().to_string();
        assert!(error.contains("kv_append"), "{error}");
        assert!(error.contains(&format!("2 rows at position {start} of 11")), "{error}");
        append(&ctx, &case(vec![0, 9])).unwrap();
    }
}
