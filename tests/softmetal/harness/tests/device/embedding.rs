//! Rows of tables of every type, and token ids that no table has.

use metallic::op::{Embedding, EmbeddingArgs};
use metallic::tensor::DType;
use metallic::{Context, Result};

use crate::support::{alike, metal, stored};

const VOCAB: usize = 7;

/// Rows of a table that begins behind another row, into a tensor with rows around it.
fn gather(ctx: &Context, dtype: DType, width: usize, ids: &[i32]) -> Result<Vec<f32>> {
    let bytes = stored(&format!("table {dtype}"), dtype, (VOCAB + 1) * width);
    let table = ctx.upload(dtype, [VOCAB + 1, width], &bytes)?.narrow(0, 1, VOCAB)?;
    let ids = ctx.upload_i32([ids.len()], ids)?;
    let rows = ids.shape()[0];
    let all = ctx.upload_f32([rows + 2, width], &vec![7.5; (rows + 2) * width])?;
    let out = all.narrow(0, 1, rows)?;
    ctx.run::<Embedding>(&EmbeddingArgs { ids, table, out })?;
    ctx.download_f32(&all)
}

#[test]
fn every_type_is_decoded_as_on_the_cpu() {
    let ids = [3, 0, VOCAB as i32 - 1, 3, 5];
    for dtype in DType::ALL {
        let widths: &[usize] = match dtype {
            DType::I32 | DType::I64 | DType::Bool => continue,
            dtype if dtype.block_len() == 256 => &[256, 768],
            dtype if dtype.block_len() == 32 => &[32, 96, 1056],
            _ => &[1, 33, 896],
        };
        for &width in widths {
            // One multiplication and one addition, fused or not.
            alike(&format!("{dtype} {width}"), 1e-6, |ctx| {
                gather(ctx, dtype, width, &ids).unwrap()
            });
        }
    }
}

#[test]
fn a_token_outside_the_table_is_an_error_when_the_result_is_read() {
    for id in [-1, VOCAB as i32, i32::MIN, i32::MAX] {
        let ctx = metal();
        let error = gather(&ctx, DType::Q8_0, 64, &[0, id, 1]).unwrap_err().to_string();
        assert!(error.contains("embedding"), "{error}");
        assert!(error.contains(&format!("token id {id} in a table of 7 rows")), "{error}");
        // The device goes on.
        gather(&ctx, DType::Q8_0, 64, &[0, 1]).unwrap();
    }
}

#[test]
fn no_ids_are_no_rows() {
    alike("no ids", 0.0, |ctx| gather(ctx, DType::F16, 8, &[]).unwrap());
}
