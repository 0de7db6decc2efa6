//! The references of both halves of a block: the ops' own references, one after another.

use metallic::op::{Band, Mask, Precision, RopePairing};
use metallic::tensor::DType;

use super::estimate::{Estimate, Matrix, U32, add, exact, linear, rms_norm, swiglu, turned};
use super::sdpa::{SdpaProblem, sdpa};
use crate::cases::block::BlockCase;

/// One step through a block on host values, all dense, row-major and as stored.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockProblem {
    /// Shapes and features.
    pub case: BlockCase,
    /// `[batch · len, hidden]`.
    pub x: Vec<f64>,
    /// `[batch · len, hidden]`.
    pub pending: Option<Vec<f64>>,
    /// Added to mean squares.
    pub eps: f64,
    /// `[hidden]`, before attention.
    pub attn_norm: Vec<f64>,
    /// `[hidden]`, before the feed-forward layer.
    pub ffn_norm: Vec<f64>,
    /// Projections of queries, keys and values.
    pub qkv: [Matrix; 3],
    /// Output projection.
    pub o: Matrix,
    /// `[head_dim]` each.
    pub qk_norm: Option<[Vec<f64>; 2]>,
    /// `[batch · len, pairs]`.
    pub cos: Vec<f64>,
    /// `[batch · len, pairs]`.
    pub sin: Vec<f64>,
    /// Keys before the step, `[batch, kv_heads, kv_len, head_dim]`; NaN where nothing is live.
    pub k_cache: Vec<f64>,
    /// Values, likewise.
    pub v_cache: Vec<f64>,
    /// Projections of gate and up.
    pub gate_up: [Matrix; 2],
    /// Projection back to the stream.
    pub down: Matrix,
}

/// What an attention block leaves behind.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionReference {
    /// The residual stream, `[batch · len, hidden]`.
    pub x: Vec<Estimate>,
    /// Keys after the step, `[batch, kv_heads, kv_len, head_dim]`.
    pub k_cache: Vec<Estimate>,
    /// Values, likewise.
    pub v_cache: Vec<Estimate>,
    /// `[batch · len, hidden]`.
    pub out: Vec<Estimate>,
}

/// The residual sum.
fn stream(problem: &BlockProblem) -> Vec<Estimate> {
    let x = exact(&problem.x);
    problem.pending.as_ref().map_or(x.clone(), |pending| add(&x, &exact(pending)))
}

/// The stream and the result of the feed-forward half.
pub fn mlp_block(problem: &BlockProblem) -> [Vec<Estimate>; 2] {
    let x = stream(problem);
    let normed = rms_norm(&x, &problem.ffn_norm, problem.eps);
    let [gate, up] = problem.gate_up.each_ref().map(|matrix| linear(&normed, matrix));
    let out = linear(&swiglu(&gate, &up), &problem.down);
    [x, out]
}

/// What the attention half leaves behind.
pub fn attention_block(problem: &BlockProblem) -> AttentionReference {
    let BlockCase { q_heads, kv_heads, head_dim, .. } = problem.case;
    let x = stream(problem);
    let normed = rms_norm(&x, &problem.attn_norm, problem.eps);
    let [mut q, mut k, v] = problem.qkv.each_ref().map(|matrix| linear(&normed, matrix));
    if let Some([of_q, of_k]) = &problem.qk_norm {
        q = rms_norm(&q, of_q, problem.eps);
        k = rms_norm(&k, of_k, problem.eps);
    }
    rotate(problem, &mut q, q_heads);
    rotate(problem, &mut k, kv_heads);
    let k_cache = appended(problem, &problem.k_cache, &k);
    let v_cache = appended(problem, &problem.v_cache, &v);
    let mut q = heads_first(problem, &q, q_heads, head_dim);
    if problem.case.precision == Precision::Quantized {
        // As activations before products: to the type of what they are multiplied with.
        q = half(problem.case.cache, &q);
    }
    let attended = attend(problem, &q, &k_cache, &v_cache);
    let out = linear(&attended, &problem.o);
    AttentionReference { x, k_cache, v_cache, out }
}

fn rotate(problem: &BlockProblem, x: &mut [Estimate], heads: usize) {
    let BlockCase { head_dim, pairs, pairing, .. } = problem.case;
    for (index, head) in x.chunks_exact_mut(head_dim).enumerate() {
        for pair in 0..pairs {
            let (a, b) = match pairing {
                RopePairing::Interleaved => (2 * pair, 2 * pair + 1),
                RopePairing::Half => (pair, pair + pairs),
            };
            let angle = index / heads * pairs + pair;
            [head[a], head[b]] = turned([head[a], head[b]], problem.cos[angle], problem.sin[angle]);
        }
    }
}

/// `[batch · len, heads · dim]` as `[batch, heads, len, dim]`.
fn heads_first(problem: &BlockProblem, x: &[Estimate], heads: usize, dim: usize) -> Vec<Estimate> {
    let (batch, len) = (problem.case.batch(), problem.case.len);
    let rows =
        (0..batch).flat_map(|b| (0..heads).flat_map(move |h| (0..len).map(move |i| (b, h, i))));
    rows.flat_map(|(b, h, i)| &x[((b * len + i) * heads + h) * dim..][..dim]).copied().collect()
}

/// The cache with `new: [batch · len, kv_heads · dim]` stored behind what each sequence has.
fn appended(problem: &BlockProblem, cache: &[f64], new: &[Estimate]) -> Vec<Estimate> {
    let BlockCase { kv_heads, head_dim, len, cache: dtype, .. } = problem.case;
    let kv_len = problem.case.kv_len();
    let new = heads_first(problem, new, kv_heads, head_dim);
    let mut cache = exact(cache);
    for (b, start) in problem.case.starts.iter().enumerate() {
        for (h, i) in (0..kv_heads).flat_map(|h| (0..len).map(move |i| (h, i))) {
            let from = &new[((b * kv_heads + h) * len + i) * head_dim..][..head_dim];
            let to = ((b * kv_heads + h) * kv_len + start + i) * head_dim;
            cache[to..to + head_dim].copy_from_slice(&stored(dtype, from));
        }
    }
    cache
}

/// Unit roundoff of a two-byte type and half its least number; `None` for others.
fn two_bytes(dtype: DType) -> Option<(f64, f64)> {
    match dtype {
        DType::F16 => Some((2f64.powi(-11), 2f64.powi(-25))),
        DType::Bf16 => Some((2f64.powi(-8), 0.0)),
        _ => None,
    }
}

/// Numbers after rounding to a two-byte type; those that meet another stay as they are.
fn half(dtype: DType, x: &[Estimate]) -> Vec<Estimate> {
    let (unit, tiny) = two_bytes(dtype).unwrap_or_default();
    x.iter().map(|x| x.rounded(unit * x.value.abs() + tiny)).collect()
}

/// A row after storage: rounded by at most half a unit in the last place.
fn stored(dtype: DType, row: &[Estimate]) -> Vec<Estimate> {
    match dtype {
        DType::F32 | DType::F16 | DType::Bf16 => half(dtype, row),
        // Half a code of the largest of 32, whose scale is an f16.
        DType::Q8_0 => {
            let block = |block: &[Estimate]| -> Vec<Estimate> {
                let largest = block.iter().fold(0.0, |most: f64, x| most.max(x.value.abs()));
                let error = largest / 254.0 + largest * 2f64.powi(-11);
                block.iter().map(|x| x.rounded(error)).collect()
            };
            row.chunks(32).flat_map(block).collect()
        }
        other => panic!("no cache of {other}"),
    }
}

/// Attention by its own reference, and what the errors of its operands do to it.
///
/// Where activations may be rounded, attention takes queries in the cache's two-byte type and works
/// as it does on such queries everywhere (`tolerance::sdpa`): weights are rounded to that type
/// before they meet the values, and so is the result. `Σ (w v)²` is at most `spread²`.
fn attend(problem: &BlockProblem, q: &[Estimate], k: &[Estimate], v: &[Estimate]) -> Vec<Estimate> {
    let BlockCase { q_heads, kv_heads, head_dim, len, .. } = problem.case;
    let (batch, kv_len, dim) = (problem.case.batch(), problem.case.kv_len(), head_dim);
    let values = |of: &[Estimate]| of.iter().map(|x| x.value).collect();
    let scale = f64::from((1.0 / (dim as f64).sqrt()) as f32);
    let attention = SdpaProblem {
        batch,
        q_heads,
        kv_heads,
        q_len: len,
        kv_len,
        head_dim: dim,
        v_dim: dim,
        q: values(q),
        k: values(k),
        v: values(v),
        band: band(&problem.case),
        mask: None,
        kv_lens: Some(problem.case.starts.iter().map(|start| (start + len) as i64).collect()),
        scale,
        softcap: None,
    };
    let reference = sdpa(&attention);
    let largest = |of: &mut dyn Iterator<Item = f64>| of.fold(0.0, f64::max);
    let rounds = problem.case.precision == Precision::Quantized;
    let (unit, _) = two_bytes(problem.case.cache).filter(|_| rounds).unwrap_or_default();
    let mut out = vec![Estimate::default(); batch * len * q_heads * dim];
    for (row, facts) in reference.rows.iter().enumerate() {
        let (b, h, i) = (row / len / q_heads, row / len % q_heads, row % len);
        let q = &q[row * dim..][..dim];
        let kv = ((b * kv_heads + h / (q_heads / kv_heads)) * kv_len) * dim;
        let live = (problem.case.starts[b] + len) * dim;
        let (k, v) = (&k[kv..kv + live], &v[kv..kv + live]);
        let score = largest(&mut k.chunks_exact(dim).map(|k| {
            let pairs = q.iter().zip(k);
            let of = |(q, k): (&Estimate, &Estimate)| {
                (k.value * q.sigma).powi(2) + (q.value * k.sigma).powi(2)
            };
            scale * pairs.map(of).sum::<f64>().sqrt()
        }));
        // A score off by δ moves weights by 2δ; then the arithmetic of scores and sums.
        let arithmetic = U32 * (4.0 * facts.dot + 8.0 + 2.0 * (facts.attended as f64).sqrt());
        let of_weights = 2.0 * score + arithmetic;
        for d in 0..dim {
            let element = row * dim + d;
            let of_values = largest(&mut v.iter().skip(d).step_by(dim).map(|v| v.sigma));
            let of_weights = of_weights.hypot(unit / 3f64.sqrt()) * reference.spread[element];
            out[((b * len + i) * q_heads + h) * dim + d] =
                Estimate { value: reference.out[element], sigma: of_values.hypot(of_weights) };
        }
    }
    if rounds { half(problem.case.cache, &out) } else { out }
}

/// The band of a case.
pub(crate) fn band(case: &BlockCase) -> Band {
    case.window.map_or_else(Mask::causal, Mask::sliding_window).band
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::problem;
    use crate::tolerance::{compare, of_estimates};

    type Mistake = (&'static str, fn(&mut BlockProblem));

    /// What a kernel may get wrong in attention.
    const ATTENTION: [Mistake; 9] = [
        ("pending left out", |p| p.pending = None),
        ("no bias of v", |p| p.qkv[2].bias = None),
        ("pairs of the other kind", |p| p.case.pairing = RopePairing::Interleaved),
        ("positions of the first sequence for all", |p| {
            let first = p.cos.len() / p.case.batch();
            let (cos, sin) = (p.cos[..first].to_vec(), p.sin[..first].to_vec());
            p.cos[first..].copy_from_slice(&cos);
            p.sin[first..].copy_from_slice(&sin);
        }),
        ("norms of q and k exchanged", |p| {
            if let Some(norms) = &mut p.qk_norm {
                norms.swap(0, 1);
            }
        }),
        ("weights of k and v exchanged", |p| p.qkv.swap(1, 2)),
        ("the last live key unseen", |p| p.case.window = Some(1)),
        ("a norm's weight of 1", |p| p.attn_norm.fill(1.0)),
        ("one cached value of many", |p| p.v_cache[..8].fill(4.0)),
    ];

    const MLP: [Mistake; 3] = [
        ("pending left out", |p| p.pending = None),
        ("gate and up exchanged", |p| p.gate_up.swap(0, 1)),
        ("a norm's weight of 1", |p| p.ffn_norm.fill(1.0)),
    ];

    #[test]
    fn bounds_tell_a_wrong_block_from_a_right_one() {
        let case = || BlockCase::new(9, 3).and(4);
        let features = BlockCase { qk_norm: true, ..case() };
        let quantized = features.clone().types([DType::Q8_0; 2], DType::Q8_0).quantized();
        for case in [features, quantized] {
            let right = problem(&case);
            let judge = |want: &[Estimate], got: &[Estimate], what: &str| {
                let (want, bounds) = of_estimates(want);
                assert!(compare(&want, &want, &bounds).passed(), "{case}");
                let got = of_estimates(got).0;
                assert!(!compare(&got, &want, &bounds).passed(), "{case}: {what} goes unseen");
            };
            let all = |reference: AttentionReference| {
                let AttentionReference { x, k_cache, v_cache, out } = reference;
                [x, k_cache, v_cache, out].concat()
            };
            for (what, mistake) in ATTENTION {
                let mut wrong = right.clone();
                mistake(&mut wrong);
                judge(&all(attention_block(&right)), &all(attention_block(&wrong)), what);
                // The result alone shows it too.
                judge(&attention_block(&right).out, &attention_block(&wrong).out, what);
            }
            for (what, mistake) in MLP {
                let mut wrong = right.clone();
                mistake(&mut wrong);
                judge(&mlp_block(&right)[1], &mlp_block(&wrong)[1], what);
            }
        }
    }
}
