//! The f64 reference of attention: `out = softmax(cap(scale · q kᵀ) + mask) v`.
//!
//! THE reference: tests, parity runs and benches all use this one. It follows the words of
//! `metallic::op::Sdpa` and shares no code with any kernel, not even the band arithmetic. A key
//! that a row may not see (band, live length, `false`, −inf) takes no part in it at all, so no
//! NaN can come from there. Every other key does, with the arithmetic of IEEE numbers: a mask of
//! the lowest finite number is a number like any other.

use std::thread;

use metallic::op::Band;

/// One attention call on host values, all dense and row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct SdpaProblem {
    /// Sequences.
    pub batch: usize,
    /// Query heads; a multiple of `kv_heads`.
    pub q_heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Queries of each sequence.
    pub q_len: usize,
    /// Keys of each sequence, live or not.
    pub kv_len: usize,
    /// Width of a query and a key.
    pub head_dim: usize,
    /// Width of a value.
    pub v_dim: usize,
    /// `[batch, q_heads, q_len, head_dim]`.
    pub q: Vec<f64>,
    /// `[batch, kv_heads, kv_len, head_dim]`.
    pub k: Vec<f64>,
    /// `[batch, kv_heads, kv_len, v_dim]`.
    pub v: Vec<f64>,
    /// The visible band.
    pub band: Band,
    /// The mask tensor.
    pub mask: Option<TensorMask>,
    /// Live keys per sequence, clamped to `0 ..= kv_len`; `None` when all are.
    pub kv_lens: Option<Vec<i64>>,
    /// Factor of the scores.
    pub scale: f64,
    /// Bound of the scores.
    pub softcap: Option<f64>,
}

/// A mask tensor that repeats along its axes of length 1.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorMask {
    /// Each axis 1 or that of `[batch, q_heads, q_len, kv_len]`.
    pub shape: [usize; 4],
    /// Row-major values.
    pub values: TensorMaskValues,
}

/// What a mask tensor says of each pair of query and key.
#[derive(Clone, Debug, PartialEq)]
pub enum TensorMaskValues {
    /// Added to the score; −inf hides.
    Additive(Vec<f64>),
    /// `false` hides.
    Bool(Vec<bool>),
}

/// The result, with what a tolerance needs to know of each row's conditioning.
#[derive(Clone, Debug, PartialEq)]
pub struct Reference {
    /// `[batch, q_heads, q_len, v_dim]`.
    pub out: Vec<f64>,
    /// `Σ weight · |v|` of each element of `out`: what a relative error of the weights scales.
    pub spread: Vec<f64>,
    /// `[batch, q_heads, q_len]`.
    pub rows: Vec<RowFacts>,
    /// Width of a value.
    pub v_dim: usize,
}

/// One row's conditioning.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RowFacts {
    /// Keys that take part.
    pub attended: usize,
    /// Largest `|scale| · ‖q‖ · ‖k‖` among keys with a share in the result: it bounds the partial
    /// sums of a score.
    pub dot: f64,
    /// Largest `|additive mask|` among those keys, unless it swallows every score.
    pub additive: f64,
}

/// A key whose weight is below this part of the largest has no share in the result.
const SHARE: f64 = 1e-9;
/// An additive value beyond this swallows any score, in f32 as in f64: no rounding happens.
const SWALLOWS: f64 = 1e30;

/// The reference result of `problem`. Heads are spread over threads; nothing else is clever.
pub fn sdpa(problem: &SdpaProblem) -> Reference {
    let SdpaProblem { batch, q_heads, .. } = *problem;
    let heads: Vec<_> = (0..batch).flat_map(|b| (0..q_heads).map(move |h| (b, h))).collect();
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let share = heads.len().div_ceil(workers).max(1);
    let mut parts: Vec<Reference> = thread::scope(|scope| {
        let started: Vec<_> = heads
            .chunks(share)
            .map(|heads| scope.spawn(move || some_heads(problem, heads)))
            .collect();
        started.into_iter().map(|worker| worker.join().expect("plain arithmetic")).collect()
    });
    let mut all = Reference { out: vec![], spread: vec![], rows: vec![], v_dim: problem.v_dim };
    for part in &mut parts {
        all.out.append(&mut part.out);
        all.spread.append(&mut part.spread);
        all.rows.append(&mut part.rows);
    }
    all
}

fn some_heads(problem: &SdpaProblem, heads: &[(usize, usize)]) -> Reference {
    let v_dim = problem.v_dim;
    let mut part = Reference { out: vec![], spread: vec![], rows: vec![], v_dim };
    for &(b, h) in heads {
        let key_norms = key_norms(problem, b, h);
        for i in 0..problem.q_len {
            row(problem, [b, h, i], &key_norms, &mut part);
        }
    }
    part
}

/// One row of the result: query `i` of head `h` in sequence `b`.
fn row(problem: &SdpaProblem, [b, h, i]: [usize; 3], key_norms: &[f64], part: &mut Reference) {
    let SdpaProblem { v_dim, scale, .. } = *problem;
    let q = problem.query(b, h, i);
    let live = problem.live(b);

    // Scores of the keys this row sees, and only of those.
    let mut seen: Vec<(usize, f64)> = Vec::new();
    for j in 0..live {
        if !problem.in_band(b, i, j) {
            continue;
        }
        let Some(additive) = problem.allowed([b, h, i, j]) else { continue };
        let mut score = 0.0;
        for (q, k) in q.iter().zip(problem.key(b, h, j)) {
            score += q * k;
        }
        score *= scale;
        if let Some(cap) = problem.softcap {
            score = cap * (score / cap).tanh();
        }
        seen.push((j, score + additive));
    }

    let mut out = vec![0.0; v_dim];
    let mut spread = vec![0.0; v_dim];
    let mut facts = RowFacts { attended: seen.len(), ..RowFacts::default() };
    if !seen.is_empty() {
        // `f64::max` passes over NaN; a NaN score makes its own weight NaN, and so the total.
        let max = seen.iter().fold(f64::NEG_INFINITY, |max, (_, score)| max.max(*score));
        let total: f64 = seen.iter().map(|(_, score)| (score - max).exp()).sum();
        let q_norm = norm(q);
        for &(j, score) in &seen {
            let unnormalised = (score - max).exp();
            let weight = unnormalised / total;
            for (d, v) in problem.value(b, h, j).iter().enumerate() {
                out[d] += weight * v;
                spread[d] += weight * v.abs();
            }
            if unnormalised >= SHARE {
                facts.dot = facts.dot.max(scale.abs() * q_norm * key_norms[j]);
                let additive = problem.allowed([b, h, i, j]).map_or(0.0, f64::abs);
                if additive < SWALLOWS {
                    facts.additive = facts.additive.max(additive);
                }
            }
        }
    }
    part.out.append(&mut out);
    part.spread.append(&mut spread);
    part.rows.push(facts);
}

fn key_norms(problem: &SdpaProblem, b: usize, h: usize) -> Vec<f64> {
    (0..problem.kv_len).map(|j| norm(problem.key(b, h, j))).collect()
}

fn norm(values: &[f64]) -> f64 {
    values.iter().map(|value| value * value).sum::<f64>().sqrt()
}

impl SdpaProblem {
    /// Live keys of sequence `b`.
    pub fn live(&self, b: usize) -> usize {
        let Some(lens) = &self.kv_lens else { return self.kv_len };
        lens[b].clamp(0, self.kv_len as i64) as usize
    }

    /// Whether query `i` of sequence `b` has key `j` in its band: the diagonal of query `i` is at
    /// key `i + offset`, by default the lower right corner of the live keys.
    fn in_band(&self, b: usize, i: usize, j: usize) -> bool {
        let Band { left, right, offset } = self.band;
        let lower_right = self.live(b) as i128 - self.q_len as i128;
        let diagonal = i as i128 + offset.map_or(lower_right, i128::from);
        left.is_none_or(|left| j as i128 >= diagonal - left as i128)
            && right.is_none_or(|right| j as i128 <= diagonal + right as i128)
    }

    /// What the mask tensor adds to the score at `[b, h, i, j]`; `None` where it hides the key.
    fn allowed(&self, at: [usize; 4]) -> Option<f64> {
        let Some(mask) = &self.mask else { return Some(0.0) };
        let mut index = 0;
        for (at, len) in at.into_iter().zip(mask.shape) {
            index = index * len + if len == 1 { 0 } else { at };
        }
        match &mask.values {
            TensorMaskValues::Additive(values) => {
                Some(values[index]).filter(|value| *value != f64::NEG_INFINITY)
            }
            TensorMaskValues::Bool(values) => values[index].then_some(0.0),
        }
    }

    /// Whether query `i` of head `h` in sequence `b` sees key `j`.
    pub fn sees(&self, [b, h, i, j]: [usize; 4]) -> bool {
        j < self.live(b) && self.in_band(b, i, j) && self.allowed([b, h, i, j]).is_some()
    }

    fn query(&self, b: usize, h: usize, i: usize) -> &[f64] {
        let start = ((b * self.q_heads + h) * self.q_len + i) * self.head_dim;
        &self.q[start..start + self.head_dim]
    }

    /// Key `j` that query head `h` reads.
    fn key(&self, b: usize, h: usize, j: usize) -> &[f64] {
        let start = self.kv_row(b, h, j) * self.head_dim;
        &self.k[start..start + self.head_dim]
    }

    /// Value `j` that query head `h` reads.
    fn value(&self, b: usize, h: usize, j: usize) -> &[f64] {
        let start = self.kv_row(b, h, j) * self.v_dim;
        &self.v[start..start + self.v_dim]
    }

    /// Query heads share key heads in runs of `q_heads / kv_heads`.
    fn kv_row(&self, b: usize, h: usize, j: usize) -> usize {
        let kv_head = h / (self.q_heads / self.kv_heads);
        (b * self.kv_heads + kv_head) * self.kv_len + j
    }
}

#[cfg(test)]
mod tests;
