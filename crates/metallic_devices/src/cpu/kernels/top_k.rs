//! The k largest of a row with their columns: one pass, in which most blocks fail one comparison.

/// Elements whose largest is compared at once.
const BLOCK: usize = 64;
/// Candidates that are collected before they are thinned out, at least.
const ROOM: usize = 128;

/// Writes the `values.len()` largest of `x` and their columns, largest first, of equals the lower
/// column first, NaN after every number. Gives how many elements are NaN or infinite.
///
/// # Panics
/// When `x` is shorter than `values`, or `ids` has another length.
pub fn top_k(x: &[f32], values: &mut [f32], ids: &mut [i32]) -> usize {
    let k = values.len();
    assert_eq!(ids.len(), k, "columns of the output");
    assert!(x.len() >= k, "k is at most the width");
    if k == 0 {
        return x.iter().filter(|x| !x.is_finite()).count();
    }
    let room = (2 * k).max(ROOM);
    let mut best: Vec<u64> = Vec::with_capacity(room);
    // The k-th best so far, and its value where it is a number.
    let (mut bar, mut bar_value) = (0, None);
    let mut not_finite = 0;
    for (index, block) in x.chunks(BLOCK).enumerate() {
        let (max, odd) = survey(block);
        not_finite += odd;
        // Columns ascend, so an equal value comes too late.
        if bar_value.is_some_and(|bar| max <= bar) {
            continue;
        }
        for (column, &value) in (index * BLOCK..).zip(block) {
            let key = key(value, column as u32);
            if key <= bar {
                continue;
            }
            best.push(key);
            if best.len() == room {
                best.select_nth_unstable_by(k - 1, |a, b| b.cmp(a));
                best.truncate(k);
                bar = best[k - 1];
                bar_value = Some(value_of(bar)).filter(|value| !value.is_nan());
            }
        }
    }
    best.sort_unstable_by(|a, b| b.cmp(a));
    for ((value, id), &key) in values.iter_mut().zip(ids).zip(&best) {
        *value = value_of(key);
        *id = !(key as u32) as i32;
    }
    not_finite
}

/// The largest number of `block` (−inf for none), and how many elements are no finite numbers.
fn survey(block: &[f32]) -> (f32, usize) {
    // Lanes that do not depend on each other, which compilers turn into vector registers.
    const LANES: usize = 16;
    let (mut max, mut odd) = ([f32::NEG_INFINITY; LANES], [0u32; LANES]);
    let mut look = |lane: usize, x: f32| {
        max[lane] = if x > max[lane] { x } else { max[lane] };
        odd[lane] += u32::from(!x.is_finite());
    };
    let (chunks, rest) = block.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &x) in chunk.iter().enumerate() {
            look(lane, x);
        }
    }
    for (lane, &x) in rest.iter().enumerate() {
        look(lane, x);
    }
    (max.into_iter().fold(f32::NEG_INFINITY, f32::max), odd.iter().sum::<u32>() as usize)
}

/// A number that is larger for what comes first: the value's order above the column's reverse.
fn key(value: f32, column: u32) -> u64 {
    // Adding 0 makes 0 of −0. Bits of negative numbers fall as the numbers grow.
    let bits = (value + 0.0).to_bits();
    let order = match value {
        value if value.is_nan() => 0,
        _ if bits >> 31 == 1 => !bits,
        _ => bits | 1 << 31,
    };
    u64::from(order) << 32 | u64::from(!column)
}

/// The value of a [`key`].
fn value_of(key: u64) -> f32 {
    let order = (key >> 32) as u32;
    match order {
        0 => f32::NAN,
        _ if order >> 31 == 1 => f32::from_bits(order & !(1 << 31)),
        _ => f32::from_bits(!order),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn best(x: &[f32], k: usize) -> (Vec<f32>, Vec<i32>, usize) {
        let (mut values, mut ids) = (vec![0.0; k], vec![-1; k]);
        let not_finite = top_k(x, &mut values, &mut ids);
        (values, ids, not_finite)
    }

    #[test]
    fn keys_order_numbers_and_keep_them() {
        let inf = f32::INFINITY;
        let ascending = [-inf, -3.5, -f32::MIN_POSITIVE, 0.0, 1e-40, 1.0, inf];
        for pair in ascending.windows(2) {
            assert!(key(pair[0], 0) < key(pair[1], u32::MAX - 1), "{pair:?}");
        }
        for value in ascending {
            assert_eq!(value_of(key(value, 7)).to_bits(), value.to_bits());
        }
        assert!(key(f32::NAN, 0) < key(-inf, u32::MAX - 1));
        assert!(key(-f32::NAN, 5) < key(f32::NAN, 4), "NaNs are equal");
        assert!(value_of(key(f32::NAN, 0)).is_nan());
        assert!(key(-0.0, 3) > key(0.0, 4) && key(0.0, 3) > key(-0.0, 4));
    }

    #[test]
    fn equals_come_by_column_and_nan_comes_last() {
        let (nan, inf) = (f32::NAN, f32::INFINITY);
        assert_eq!(best(&[1.0, 3.0, 3.0, 2.0], 3), (vec![3.0, 3.0, 2.0], vec![1, 2, 3], 0));
        assert_eq!(best(&[-0.0, 0.0], 1), (vec![0.0], vec![0], 0));
        let (values, ids, odd) = best(&[nan, -inf, nan, 5.0, inf], 5);
        assert_eq!(values[..3], [inf, 5.0, -inf]);
        assert!(values[3].is_nan() && values[4].is_nan());
        assert_eq!((ids, odd), (vec![4, 3, 1, 0, 2], 4));
        let (values, ids, odd) = best(&[nan; 200], 2);
        assert!(values.iter().all(|value| value.is_nan()));
        assert_eq!((ids, odd), (vec![0, 1], 200));
    }

    #[test]
    fn long_rows_give_what_a_full_sort_gives() {
        let mut state = 1u32;
        let mut row = |levels: u32, width: usize| -> Vec<f32> {
            let mut next = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) % levels
            };
            // Few levels, so that there are ties.
            (0..width).map(|_| if next() == 0 { f32::NAN } else { next() as f32 - 40.0 }).collect()
        };
        for (levels, width) in [(2, 300), (90, 5000), (100_000, 20_000)] {
            let mut rows = vec![row(levels, width)];
            rows.push(rows[0].iter().map(|x| if x.is_nan() { -9e9 } else { *x }).collect());
            rows[1].sort_by(f32::total_cmp);
            for row in rows {
                let mut keys: Vec<u64> = row.iter().zip(0..).map(|(&x, at)| key(x, at)).collect();
                keys.sort_unstable_by(|a, b| b.cmp(a));
                for k in [1, 2, 40, 64, 65, 256] {
                    let (_, ids, odd) = best(&row, k);
                    let want: Vec<i32> =
                        keys[..k].iter().map(|key| !(*key as u32) as i32).collect();
                    assert_eq!(ids, want, "{levels} {width} {k}");
                    assert_eq!(odd, row.iter().filter(|x| !x.is_finite()).count());
                }
            }
        }
    }
}
