//! Attention as plain f64 loops over dense host arrays.

use metallic::op::Band;

/// A mask tensor of shape `[batch, q_heads, q_len, kv_len]`, dense.
#[derive(Clone, Debug)]
pub(super) enum HostMask {
    Additive(Vec<f32>),
    Bool(Vec<u8>),
}

/// One call on the host; `q`, `k` and `v` are dense.
#[derive(Clone, Debug)]
pub(super) struct Host {
    pub batch: usize,
    pub q_heads: usize,
    pub kv_heads: usize,
    pub q_len: usize,
    pub kv_len: usize,
    pub head_dim: usize,
    pub v_dim: usize,
    pub q: Vec<f32>,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
    pub band: Band,
    pub mask: Option<HostMask>,
    pub kv_lens: Option<Vec<i32>>,
    pub scale: Option<f32>,
    pub softcap: Option<f32>,
}

impl Host {
    /// Why `key` is not seen does not matter: the score's mask, or `None`.
    fn allowed(&self, [b, h, i, j]: [usize; 4]) -> Option<f64> {
        let live = self
            .kv_lens
            .as_ref()
            .map_or(self.kv_len as i64, |lens| i64::from(lens[b]).clamp(0, self.kv_len as i64));
        let center = i as i128 + i128::from(self.band.offset.unwrap_or(live - self.q_len as i64));
        let before = self.band.left.is_some_and(|left| (j as i128) < center - left as i128);
        let after = self.band.right.is_some_and(|right| (j as i128) > center + right as i128);
        if j as i64 >= live || before || after {
            return None;
        }
        let at = ((b * self.q_heads + h) * self.q_len + i) * self.kv_len + j;
        match &self.mask {
            None => Some(0.0),
            Some(HostMask::Bool(mask)) => (mask[at] != 0).then_some(0.0),
            Some(HostMask::Additive(mask)) => {
                (mask[at] != f32::NEG_INFINITY).then_some(f64::from(mask[at]))
            }
        }
    }

    /// `[batch, q_heads, q_len, v_dim]`
    pub(super) fn attention(&self) -> Vec<f64> {
        let Self { q_heads, kv_heads, q_len, kv_len, head_dim, v_dim, .. } = *self;
        let scale = self.scale.map_or(1.0 / (head_dim as f64).sqrt(), f64::from);
        let mut out = Vec::new();
        for row in 0..self.batch * q_heads * q_len {
            let (b, h, i) = (row / q_len / q_heads, row / q_len % q_heads, row % q_len);
            let kv = (b * kv_heads + h / (q_heads / kv_heads)) * kv_len;
            let q = &self.q[row * head_dim..][..head_dim];
            let mut scores = Vec::new();
            for j in 0..kv_len {
                if let Some(mask) = self.allowed([b, h, i, j]) {
                    let k = &self.k[(kv + j) * head_dim..][..head_dim];
                    let dot: f64 =
                        q.iter().zip(k).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum();
                    let score = dot * scale;
                    let score = self
                        .softcap
                        .map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh());
                    scores.push((j, score + mask));
                }
            }
            let max = scores.iter().fold(f64::NEG_INFINITY, |max, (_, score)| max.max(*score));
            let total: f64 = scores.iter().map(|(_, score)| (score - max).exp()).sum();
            let mut sums = vec![0.0; v_dim];
            for (j, score) in scores {
                let weight = (score - max).exp() / total;
                for (sum, v) in sums.iter_mut().zip(&self.v[(kv + j) * v_dim..]) {
                    *sum += weight * f64::from(*v);
                }
            }
            out.extend(sums);
        }
        out
    }
}
