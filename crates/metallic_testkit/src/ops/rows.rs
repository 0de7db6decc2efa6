//! The ops that work row by row: embedding, norms, writing into the KV cache.

use metallic::op::{Embedding, EmbeddingArgs, KvAppend, KvAppendArgs, RmsNorm, RmsNormArgs};
use metallic::tensor::DType;

use super::weights::{normals, stored};
use super::{Duel, bytes_as_values, exactly, near, poisoned, run_op, weight_types};
use crate::random::Random;

/// Every table type, bit by bit.
pub(super) fn embedding(duel: &mut Duel<'_>) {
    const VOCAB: usize = 37;
    for dtype in weight_types() {
        for width in [256, 2304].into_iter().chain((!dtype.is_quantized()).then_some(77)) {
            let case = format!("embedding {dtype} {width}");
            let mut random = Random::named(&case);
            let table = stored(&mut random, dtype, VOCAB * width);
            let ids: Vec<i32> = (0..9).map(|_| random.below(VOCAB) as i32).collect();
            duel.compare(
                case,
                &|ctx, _| {
                    let out = poisoned(ctx, [ids.len(), width])?;
                    let args = EmbeddingArgs {
                        ids: ctx.upload_i32([ids.len()], &ids)?,
                        table: ctx.upload(dtype, [VOCAB, width], &table)?,
                        out: out.clone(),
                    };
                    let kernel = run_op::<Embedding>(ctx, &args)?;
                    Ok((ctx.download_f32(&out)?, kernel))
                },
                &exactly,
            );
        }
    }
}

/// Alone, after a residual sum, and in place, at widths of heads and of hidden states.
pub(super) fn rms_norm(duel: &mut Duel<'_>) {
    for (rows, width) in [(5, 1), (33, 64), (14, 128), (3, 257), (7, 896), (2, 5120)] {
        for form in ["", " residual", " in place"] {
            let case = format!("rms_norm {rows}x{width}{form}");
            let mut random = Random::named(&case);
            let mut values = || normals(&mut random, rows * width);
            let (x, r) = (values(), values());
            let weight = normals(&mut random, width);
            duel.compare(
                case,
                &|ctx, _| {
                    let x = ctx.upload_f32([rows, width], &x)?;
                    let residual = match form {
                        " residual" => Some(ctx.upload_f32([rows, width], &r)?),
                        _ => None,
                    };
                    let out = match form {
                        " in place" => x.clone(),
                        _ => poisoned(ctx, [rows, width])?,
                    };
                    let args = RmsNormArgs {
                        x: x.clone(),
                        residual,
                        weight: ctx.upload_f32([width], &weight)?,
                        eps: 1e-5,
                        out: out.clone(),
                    };
                    let kernel = run_op::<RmsNorm>(ctx, &args)?;
                    let all = [ctx.download_f32(&out)?, ctx.download_f32(&x)?].concat();
                    Ok((all, kernel))
                },
                // The sum of squares in another order, a square root and a division.
                &near(1e-5, 1e-6),
            );
        }
    }
}

/// Every cache type, bit by bit, at a position of each sequence's own, from strided rows.
pub(super) fn kv_append(duel: &mut Duel<'_>) {
    const CAPACITY: usize = 19;
    for dtype in [DType::F32, DType::F16, DType::Bf16, DType::Q8_0] {
        for (batch, heads, len, dim) in [(2, 3, 4, 64), (1, 2, 1, 128), (3, 1, 7, 96)] {
            let case = format!("kv_append {dtype} {batch}x{heads}x{len}x{dim}");
            let mut random = Random::named(&case);
            let new = normals(&mut random, batch * len * heads * dim);
            let before = stored(&mut random, dtype, batch * heads * CAPACITY * dim);
            let starts: Vec<i32> =
                (0..batch).map(|_| random.below(CAPACITY - len + 1) as i32).collect();
            duel.compare(
                case,
                &|ctx, _| {
                    let cache = ctx.upload(dtype, [batch, heads, CAPACITY, dim], &before)?;
                    let new = ctx.upload_f32([batch, len, heads, dim], &new)?;
                    let args = KvAppendArgs {
                        new: new.permute(&[0, 2, 1, 3])?,
                        starts: ctx.upload_i32([batch], &starts)?,
                        cache: cache.clone(),
                    };
                    let kernel = run_op::<KvAppend>(ctx, &args)?;
                    Ok((bytes_as_values(&ctx.download(&cache)?), kernel))
                },
                &exactly,
            );
        }
    }
}
