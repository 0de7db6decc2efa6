//! Matrix products, attention and softmax. Products add in f32; 0 · NaN is NaN.

use super::infer::axis_of;
use super::value::{Value, broadcast_strides, joint_shape, places, strides};
use crate::mps::dtype::DType;
use crate::runtime::abort::abort;

/// Scores that a 32-bit index cannot address come out as garbage on some GPUs; here they end the process.
const MAX_SCORES: usize = 1 << 31;

pub(super) fn matmul(a: &Value, b: &Value) -> Value {
    let (ar, br) = (a.shape.len(), b.shape.len());
    let (rows, inner, columns) = (a.shape[ar - 2], a.shape[ar - 1], b.shape[br - 1]);
    if b.shape[br - 2] != inner {
        abort!("matmul of {:?} and {:?}", a.shape, b.shape);
    }
    let batch = joint_shape(&a.shape[..ar - 2], &b.shape[..br - 2]);
    let starts = |shape: &[usize], size: usize| -> Vec<usize> {
        places(&batch, &broadcast_strides(shape, &batch), 0)
            .into_iter()
            .map(|at| at * size)
            .collect()
    };
    let (xs, ys) =
        (starts(&a.shape[..ar - 2], rows * inner), starts(&b.shape[..br - 2], inner * columns));
    let (x, y) = (a.to_floats(), b.to_floats());
    let mut out = vec![0.0f32; xs.len() * rows * columns];
    for (n, (xs, ys)) in xs.iter().zip(&ys).enumerate() {
        for row in 0..rows {
            let sums = &mut out[(n * rows + row) * columns..][..columns];
            for k in 0..inner {
                let factor = x[xs + row * inner + k];
                for (sum, value) in sums.iter_mut().zip(&y[ys + k * columns..][..columns]) {
                    *sum += factor * value;
                }
            }
        }
    }
    let shape = [&batch[..], &[rows, columns]].concat();
    Value::floats(a.dtype, shape, out)
}

/// Softmax of one row in f32. A row of nothing but -inf gives NaN, as -inf minus -inf does.
fn softmax_row(row: &mut [f32]) {
    let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for x in row.iter_mut() {
        *x = (*x - most).exp();
        sum += *x;
    }
    for x in row.iter_mut() {
        *x /= sum;
    }
}

/// Query, key, value and maybe a mask; q: [batch, heads, q_len, width], k and v: [batch, heads or 1, kv_len, width].
pub(super) fn sdpa(inputs: &[&Value], scale: f32) -> Value {
    let (q, k, v) = (inputs[0], inputs[1], inputs[2]);
    let [batch, heads, rows, width] = q.shape[..] else {
        abort!("attention of rank {}", q.shape.len())
    };
    let (keys, wide) = (k.shape[2], v.shape[3]);
    if heads * rows * keys >= MAX_SCORES {
        abort!(
            "attention with {heads} heads, {rows} queries and {keys} keys leaves 32-bit indices"
        );
    }
    let scores = [batch, heads, rows, keys];
    let mask =
        inputs.get(3).map(|mask| (mask.to_floats(), broadcast_strides(&mask.shape, &scores)));
    let (qs, ks, vs) = (q.to_floats(), k.to_floats(), v.to_floats());
    let (k_steps, v_steps) = (
        broadcast_strides(&k.shape, &[batch, heads, keys, width]),
        broadcast_strides(&v.shape, &[batch, heads, keys, wide]),
    );
    let mut out = vec![0.0; batch * heads * rows * wide];
    let mut row_scores = vec![0.0; keys];
    for b in 0..batch {
        for h in 0..heads {
            let (k_start, v_start) =
                (b * k_steps[0] + h * k_steps[1], b * v_steps[0] + h * v_steps[1]);
            for row in 0..rows {
                let line = (b * heads + h) * rows + row;
                let query = &qs[line * width..][..width];
                for (key, score) in row_scores.iter_mut().enumerate() {
                    let key_row = &ks[k_start + key * width..][..width];
                    *score = query.iter().zip(key_row).map(|(a, b)| a * b).sum::<f32>() * scale;
                    if let Some((values, steps)) = &mask {
                        *score +=
                            values[b * steps[0] + h * steps[1] + row * steps[2] + key * steps[3]];
                    }
                }
                softmax_row(&mut row_scores);
                let target = &mut out[line * wide..][..wide];
                for (key, weight) in row_scores.iter().enumerate() {
                    for (sum, value) in target.iter_mut().zip(&vs[v_start + key * wide..][..wide]) {
                        *sum += weight * value;
                    }
                }
            }
        }
    }
    Value::floats(q.dtype, vec![batch, heads, rows, wide], out)
}

pub(super) fn softmax(x: &Value, axis: i64, narrow: bool) -> Value {
    let axis = axis_of(axis, x.shape.len()).unwrap_or_else(|text| abort!("{text}"));
    let own = strides(&x.shape);
    let mut outer = x.shape.clone();
    outer[axis] = 1;
    let mut list = x.to_floats();
    let round = narrow && x.dtype != DType::F32;
    for start in places(&outer, &own, 0) {
        let at = |i: usize| start + i * own[axis];
        let mut row: Vec<f32> = (0..x.shape[axis]).map(|i| list[at(i)]).collect();
        if round {
            narrow_row(&mut row, x.dtype);
        } else {
            softmax_row(&mut row);
        }
        for (i, value) in row.into_iter().enumerate() {
            list[at(i)] = value;
        }
    }
    Value::floats(x.dtype, x.shape.clone(), list)
}

/// Softmax that rounds to a narrow type after every step.
fn narrow_row(row: &mut [f32], dtype: DType) {
    let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for x in row.iter_mut() {
        *x = dtype.round((*x - most).exp());
        sum = dtype.round(sum + *x);
    }
    for x in row.iter_mut() {
        *x /= sum;
    }
}

/// Keeps `lower` diagonals below and `upper` above the main one; -1 keeps all. The rest is 0.
pub(super) fn band(x: &Value, lower: i64, upper: i64) -> Value {
    let rank = x.shape.len();
    if rank < 2 {
        abort!("bandPart of rank {rank}");
    }
    let (rows, columns) = (x.shape[rank - 2], x.shape[rank - 1]);
    let mut list = x.to_floats();
    for (place, value) in list.iter_mut().enumerate() {
        let (row, column) = ((place / columns % rows) as i64, (place % columns) as i64);
        let inside = (lower < 0 || row - column <= lower) && (upper < 0 || column - row <= upper);
        if !inside {
            *value = 0.0;
        }
    }
    if x.dtype.is_float() {
        Value::floats(x.dtype, x.shape.clone(), list)
    } else {
        Value::integers(x.dtype, x.shape.clone(), list.into_iter().map(|x| x as i64).collect())
    }
}
