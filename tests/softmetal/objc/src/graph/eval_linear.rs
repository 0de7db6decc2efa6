//! Matrix products, attention and softmax. Products add in f32; 0 · NaN is NaN.

use super::infer::axis_of;
use super::value::{Value, broadcast_strides, in_parallel, joint_shape, places, strides};
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
    let (x, y) = (a.as_floats(), b.as_floats());
    let mut out = vec![0.0f32; xs.len() * rows * columns];
    in_parallel(&mut out, columns, |line, sums| {
        let (n, row) = (line / rows, line % rows);
        let factors = &x[xs[n] + row * inner..][..inner];
        add_rows(sums, factors, &y[ys[n]..][..inner * columns]);
    });
    let shape = [&batch[..], &[rows, columns]].concat();
    Value::floats(a.dtype, shape, out)
}

/// Adds to `sums` the rows of `values`, each times its factor, in their order.
fn add_rows(sums: &mut [f32], factors: &[f32], values: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the machine has these instructions.
        return unsafe { add_rows_avx2(sums, factors, values) };
    }
    add_rows_anywhere(sums, factors, values);
}

/// The same additions, eight columns at a time.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn add_rows_avx2(sums: &mut [f32], factors: &[f32], values: &[f32]) {
    add_rows_anywhere(sums, factors, values);
}

/// Four rows at a time: the additions stay what they were, and sums are loaded and stored a fourth
/// as often.
#[inline(always)]
fn add_rows_anywhere(sums: &mut [f32], factors: &[f32], values: &[f32]) {
    let columns = sums.len();
    let mut fours = factors.chunks_exact(4);
    let mut blocks = values.chunks_exact(4 * columns.max(1));
    for (f, block) in fours.by_ref().zip(blocks.by_ref()) {
        let (first, rest) = block.split_at(columns);
        let (second, rest) = rest.split_at(columns);
        let (third, fourth) = rest.split_at(columns);
        let rows = first.iter().zip(second).zip(third).zip(fourth);
        for (sum, (((a, b), c), d)) in sums.iter_mut().zip(rows) {
            *sum = (((*sum + f[0] * a) + f[1] * b) + f[2] * c) + f[3] * d;
        }
    }
    for (factor, row) in fours.remainder().iter().zip(blocks.remainder().chunks(columns.max(1))) {
        for (sum, value) in sums.iter_mut().zip(row) {
            *sum += factor * value;
        }
    }
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
        inputs.get(3).map(|mask| (mask.as_floats(), broadcast_strides(&mask.shape, &scores)));
    let (qs, ks, vs) = (q.as_floats(), k.as_floats(), v.as_floats());
    let (k_steps, v_steps) = (
        broadcast_strides(&k.shape, &[batch, heads, keys, width]),
        broadcast_strides(&v.shape, &[batch, heads, keys, wide]),
    );
    let mut out = vec![0.0; batch * heads * rows * wide];
    in_parallel(&mut out, wide, |line, target| {
        let (b, h, row) = (line / (heads * rows), line / rows % heads, line % rows);
        let (k_start, v_start) = (b * k_steps[0] + h * k_steps[1], b * v_steps[0] + h * v_steps[1]);
        let query = &qs[line * width..][..width];
        let mut row_scores: Vec<f32> = (0..keys)
            .map(|key| {
                let key_row = &ks[k_start + key * width..][..width];
                let score = query.iter().zip(key_row).map(|(a, b)| a * b).sum::<f32>() * scale;
                mask.as_ref().map_or(score, |(values, steps)| {
                    score + values[b * steps[0] + h * steps[1] + row * steps[2] + key * steps[3]]
                })
            })
            .collect();
        softmax_row(&mut row_scores);
        add_rows(target, &row_scores, &vs[v_start..][..keys * wide]);
    });
    Value::floats(q.dtype, vec![batch, heads, rows, wide], out)
}

pub(super) fn softmax(x: &Value, axis: i64, narrow: bool) -> Value {
    let axis = axis_of(axis, x.shape.len()).unwrap_or_else(|text| abort!("{text}"));
    let own = strides(&x.shape);
    let mut outer = x.shape.clone();
    outer[axis] = 1;
    let mut list = x.to_floats();
    let round = narrow && x.dtype != DType::F32;
    if !round && own[axis] == 1 {
        in_parallel(&mut list, x.shape[axis], |_, row| softmax_row(row));
        return Value::floats(x.dtype, x.shape.clone(), list);
    }
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
