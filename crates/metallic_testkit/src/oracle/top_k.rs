//! The k largest of a row by sorting all of it.

use std::cmp::Ordering;

/// What `TopK` gives of one row.
#[derive(Clone, Debug, PartialEq)]
pub struct TopKReference {
    /// The largest, in descending order.
    pub values: Vec<f32>,
    /// Their columns.
    pub ids: Vec<usize>,
    /// How many of the row are NaN or infinite.
    pub not_finite: usize,
}

/// The `k` largest of `row`: as numbers, of equals the lower column first, NaN after all.
pub fn top_k(row: &[f32], k: usize) -> TopKReference {
    let mut ids: Vec<usize> = (0..row.len()).collect();
    // A stable sort keeps equals in the order of their columns.
    ids.sort_by(|&a, &b| match row[b].partial_cmp(&row[a]) {
        Some(order) => order,
        None if row[a].is_nan() && row[b].is_nan() => Ordering::Equal,
        None => row[a].is_nan().cmp(&row[b].is_nan()),
    });
    ids.truncate(k);
    let values = ids.iter().map(|&id| row[id]).collect();
    let not_finite = row.iter().filter(|value| !value.is_finite()).count();
    TopKReference { values, ids, not_finite }
}
