//! Attention in plain f32, as a simple kernel would do it, right or with one mistake.

use half::{bf16, f16};
use metallic::tensor::DType;
use metallic_testkit::oracle::{SdpaProblem, TensorMask, TensorMaskValues};
use metallic_testkit::storage::rounded;

/// How the kernel goes about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// All scores of a row, then softmax, then the sum over values.
    Composed,
    /// Tiles of keys with a running maximum; weights rounded to the storage type before they
    /// meet values, as matrix units want them.
    Online,
}

/// One mistake somebody has made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mistake {
    None,
    /// Scores kept in f16 before scaling.
    F16Scores,
    /// Causal masks aligned to the upper left.
    UpperLeft,
    /// Query heads dealt to key heads in turn.
    HeadsInTurn,
    /// Only the first head is computed.
    FirstHeadOnly,
    /// Live lengths not looked at.
    AllKeysLive,
    /// Live lengths hide keys but do not move the diagonal.
    DiagonalOfCapacity,
    /// A fully masked row divides 0 by 0.
    HiddenRowsAreNan,
    /// A fully masked row is the mean of all values.
    HiddenRowsAreMeans,
    /// Hidden values are multiplied by 0.
    ZeroTimesPoison,
    /// NaN scores are taken for hidden keys.
    NanSwallowed,
    /// The scale is applied twice.
    ScaledTwice,
    /// The default scale whatever was asked for.
    DefaultScale,
    /// The softcap comes after the mask.
    CapAfterMask,
    /// No softcap.
    NoCap,
    /// The lowest finite number is taken for −inf.
    LowestIsHidden,
    /// The mask of the first sequence for all.
    MaskOfFirstSequence,
    /// The mask of the first head for all.
    MaskOfFirstHead,
    /// With a mask tensor, the band is forgotten.
    BandForgottenWithMask,
    /// Windows one key too wide.
    WindowTooWide,
    /// The last, partial tile is left out.
    PartialTileLost,
    /// The rest of the last tile scores 0 instead of −inf.
    PaddingScoresZero,
    /// Key numbers kept in 16 bits with a sign.
    KeysIn16Bits,
    /// The width of values taken from q.
    WidthOfQueries,
    /// The running maximum is not applied to what was summed before.
    NoRescale,
}

impl Mistake {
    pub(crate) const ALL: [Mistake; 24] = [
        Mistake::F16Scores,
        Mistake::UpperLeft,
        Mistake::HeadsInTurn,
        Mistake::FirstHeadOnly,
        Mistake::AllKeysLive,
        Mistake::DiagonalOfCapacity,
        Mistake::HiddenRowsAreNan,
        Mistake::HiddenRowsAreMeans,
        Mistake::ZeroTimesPoison,
        Mistake::NanSwallowed,
        Mistake::ScaledTwice,
        Mistake::DefaultScale,
        Mistake::CapAfterMask,
        Mistake::NoCap,
        Mistake::LowestIsHidden,
        Mistake::MaskOfFirstSequence,
        Mistake::MaskOfFirstHead,
        Mistake::BandForgottenWithMask,
        Mistake::WindowTooWide,
        Mistake::PartialTileLost,
        Mistake::PaddingScoresZero,
        Mistake::KeysIn16Bits,
        Mistake::WidthOfQueries,
        Mistake::NoRescale,
    ];
}

/// Keys of one tile.
const TILE: usize = 64;

/// The kernel.
pub(crate) struct Plain {
    pub(crate) way: Way,
    pub(crate) mistake: Mistake,
    /// Storage type of q and out.
    pub(crate) dtype: DType,
}

impl Plain {
    /// The result, rounded to storage.
    pub(crate) fn run(&self, p: &SdpaProblem) -> Vec<f64> {
        let mut out = Vec::new();
        for b in 0..p.batch {
            for h in 0..p.q_heads {
                for i in 0..p.q_len {
                    if self.mistake == Mistake::FirstHeadOnly && h > 0 {
                        out.extend(vec![0.0; p.v_dim]);
                        continue;
                    }
                    out.extend(self.row(p, [b, h, i]).into_iter().map(f64::from));
                }
            }
        }
        rounded(self.dtype, &out)
    }

    fn row(&self, p: &SdpaProblem, at: [usize; 3]) -> Vec<f32> {
        let seen: Vec<Option<f32>> = (0..p.kv_len).map(|j| self.score(p, at, j)).collect();
        match self.way {
            Way::Composed => self.composed(p, at, &seen),
            Way::Online => self.online(p, at, &seen),
        }
    }

    /// The score of key `j`, `None` where it is hidden.
    fn score(&self, p: &SdpaProblem, [b, h, i]: [usize; 3], j: usize) -> Option<f32> {
        let mistake = self.mistake;
        if mistake == Mistake::PartialTileLost && j >= p.kv_len / TILE * TILE {
            return None;
        }
        if !self.in_band(p, b, i, j) || (mistake != Mistake::AllKeysLive && j >= p.live(b)) {
            return None;
        }
        let additive = self.mask(p.mask.as_ref(), [b, h, i, j])?;
        let q = &p.q[((b * p.q_heads + h) * p.q_len + i) * p.head_dim..][..p.head_dim];
        let k = &p.k[self.kv_row(p, b, h, j) * p.head_dim..][..p.head_dim];
        let mut dot = 0f32;
        for (q, k) in q.iter().zip(k) {
            dot += *q as f32 * *k as f32;
        }
        if mistake == Mistake::F16Scores {
            dot = f16::from_f32(dot).to_f32();
        }
        let mut scale = p.scale as f32;
        if mistake == Mistake::DefaultScale {
            scale = 1.0 / (p.head_dim as f32).sqrt();
        }
        if mistake == Mistake::ScaledTwice {
            scale *= scale;
        }
        let mut score = dot * scale;
        let cap = p.softcap.map(|cap| cap as f32).filter(|_| mistake != Mistake::NoCap);
        if mistake == Mistake::CapAfterMask {
            score += additive;
        }
        if let Some(cap) = cap {
            score = cap * (score / cap).tanh();
        }
        if mistake != Mistake::CapAfterMask {
            score += additive;
        }
        (mistake != Mistake::NanSwallowed || !score.is_nan()).then_some(score)
    }

    fn in_band(&self, p: &SdpaProblem, b: usize, i: usize, j: usize) -> bool {
        if self.mistake == Mistake::BandForgottenWithMask && p.mask.is_some() {
            return true;
        }
        let corner = match self.mistake {
            Mistake::UpperLeft => 0,
            Mistake::DiagonalOfCapacity => p.kv_len as i64 - p.q_len as i64,
            _ => p.live(b) as i64 - p.q_len as i64,
        };
        let diagonal = i as i64 + p.band.offset.unwrap_or(corner);
        let wider = i64::from(self.mistake == Mistake::WindowTooWide);
        let j = j as i64;
        p.band.left.is_none_or(|left| j >= diagonal - left as i64 - wider)
            && p.band.right.is_none_or(|right| j <= diagonal + right as i64)
    }

    fn mask(&self, mask: Option<&TensorMask>, at: [usize; 4]) -> Option<f32> {
        let Some(TensorMask { shape, values }) = mask else { return Some(0.0) };
        let mut at = at;
        match self.mistake {
            Mistake::MaskOfFirstSequence => at[0] = 0,
            Mistake::MaskOfFirstHead => at[1] = 0,
            _ => {}
        }
        let index = (0..4).fold(0, |index, axis| {
            index * shape[axis] + if shape[axis] == 1 { 0 } else { at[axis] }
        });
        match values {
            TensorMaskValues::Bool(values) => values[index].then_some(0.0),
            TensorMaskValues::Additive(values) => {
                let lowest = self.mistake == Mistake::LowestIsHidden && values[index] < -60000.0;
                Some(values[index] as f32).filter(|value| *value != f32::NEG_INFINITY && !lowest)
            }
        }
    }

    fn kv_row(&self, p: &SdpaProblem, b: usize, h: usize, j: usize) -> usize {
        let kv_head = match self.mistake {
            Mistake::HeadsInTurn => h % p.kv_heads,
            _ => h / (p.q_heads / p.kv_heads),
        };
        let j = if self.mistake == Mistake::KeysIn16Bits { j & 0x7fff } else { j };
        (b * p.kv_heads + kv_head) * p.kv_len + j
    }

    fn value<'a>(&self, p: &'a SdpaProblem, [b, h, _]: [usize; 3], j: usize) -> &'a [f64] {
        let width =
            if self.mistake == Mistake::WidthOfQueries { p.head_dim.min(p.v_dim) } else { p.v_dim };
        &p.v[self.kv_row(p, b, h, j) * p.v_dim..][..width]
    }

    fn composed(&self, p: &SdpaProblem, at: [usize; 3], seen: &[Option<f32>]) -> Vec<f32> {
        let mut out = vec![0f32; p.v_dim];
        let max = seen.iter().flatten().fold(f32::NEG_INFINITY, |max, score| max.max(*score));
        let mut total: f32 = seen.iter().flatten().map(|score| (score - max).exp()).sum();
        if self.mistake == Mistake::PaddingScoresZero {
            let padding = p.kv_len.next_multiple_of(TILE) - p.kv_len;
            total += padding as f32 * (-max).exp();
        }
        if seen.iter().flatten().next().is_none() {
            match self.mistake {
                Mistake::HiddenRowsAreNan => return vec![f32::NAN; p.v_dim],
                Mistake::HiddenRowsAreMeans => {
                    for j in 0..p.kv_len {
                        for (out, v) in out.iter_mut().zip(self.value(p, at, j)) {
                            *out += *v as f32 / p.kv_len as f32;
                        }
                    }
                }
                _ => {}
            }
            return out;
        }
        for (j, score) in seen.iter().enumerate() {
            let weight = match score {
                Some(score) => (score - max).exp() / total,
                None if self.mistake == Mistake::ZeroTimesPoison => 0.0,
                None => continue,
            };
            for (out, v) in out.iter_mut().zip(self.value(p, at, j)) {
                *out += weight * *v as f32;
            }
        }
        out
    }

    fn online(&self, p: &SdpaProblem, at: [usize; 3], seen: &[Option<f32>]) -> Vec<f32> {
        let mut out = vec![0f32; p.v_dim];
        let (mut max, mut total) = (f32::NEG_INFINITY, 0f32);
        for (tile, scores) in seen.chunks(TILE).enumerate() {
            let tile_max = scores.iter().flatten().fold(max, |max, score| max.max(*score));
            if scores.iter().flatten().next().is_none() {
                continue;
            }
            if tile_max > max && self.mistake != Mistake::NoRescale {
                let shrink = if max == f32::NEG_INFINITY { 0.0 } else { (max - tile_max).exp() };
                total *= shrink;
                // What is not there yet must not be scaled: infinity may come.
                out.iter_mut().for_each(|out| *out *= shrink);
            }
            max = tile_max;
            for (index, score) in scores.iter().enumerate() {
                let Some(score) = score else { continue };
                let weight = (score - max).exp();
                total += weight;
                let weight = match self.dtype {
                    DType::F16 => f16::from_f32(weight).to_f32(),
                    DType::Bf16 => bf16::from_f32(weight).to_f32(),
                    _ => weight,
                };
                for (out, v) in out.iter_mut().zip(self.value(p, at, tile * TILE + index)) {
                    *out += weight * *v as f32;
                }
            }
        }
        if total == 0.0 {
            return vec![0.0; p.v_dim];
        }
        out.iter().map(|out| out / total).collect()
    }
}
