//! The least work and traffic a case needs, for rooflines. Not: what a kernel really does.

use metallic::tensor::DType;

use super::{CaseMaskKind, SdpaCase, SdpaTypes};

/// Floating-point operations: `2 · head_dim` for each score and `2 · v_dim` for its share of the
/// result, over the pairs of query and key that the band and the live lengths leave. Softmax is
/// not counted, and a mask tensor hides nothing, as no kernel can know before reading it.
pub fn flops(case: &SdpaCase) -> f64 {
    let pairs: f64 = (0..case.batch).map(|b| visible_pairs(case, live(case, b))).sum();
    2.0 * pairs * case.q_heads as f64 * (case.head_dim + case.v_dim) as f64
}

/// Bytes: q and the mask tensor once, the live rows of k and v once, out once. A band is not
/// counted out, as rows at its ends are read for some query nearly always.
pub fn bytes(case: &SdpaCase, types: SdpaTypes) -> f64 {
    let per = |dtype: DType| dtype.block_bytes() as f64 / dtype.block_len() as f64;
    let queries = (case.batch * case.q_heads * case.q_len) as f64;
    let live: usize = (0..case.batch).map(|b| live(case, b)).sum();
    let width = (case.head_dim + case.v_dim) as f64;
    let mask = case.mask.map_or(0.0, |mask| {
        let dtype = match mask.kind {
            CaseMaskKind::Additive(dtype) | CaseMaskKind::AdditiveLowest(dtype) => dtype,
            CaseMaskKind::Bool => DType::Bool,
        };
        case.mask_shape(mask.axes).iter().product::<usize>() as f64 * per(dtype)
    });
    queries * width * per(types.q) + (live * case.kv_heads) as f64 * width * per(types.kv) + mask
}

fn live(case: &SdpaCase, b: usize) -> usize {
    let kv_len = case.kv_len as i64;
    case.kv_lens.as_ref().map_or(kv_len, |lens| i64::from(lens[b]).clamp(0, kv_len)) as usize
}

fn visible_pairs(case: &SdpaCase, live: usize) -> f64 {
    let diagonal = case.band.diagonal(case.q_len, live);
    (0..case.q_len)
        .map(|row| {
            let (start, end) = case.band.visible(row, diagonal, live);
            end.saturating_sub(start) as f64
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_count_live_visible_pairs() {
        let types = SdpaTypes::same(DType::F16);
        let case = SdpaCase::new(2, (14, 2), (1, 100), 64);
        assert_eq!(flops(&case), 2.0 * 200.0 * 14.0 * 128.0);
        // 28 query rows and 400 key rows, 128 wide, 2 bytes each.
        assert_eq!(bytes(&case, types), (28.0 + 400.0) * 256.0);
        let ragged = case.kv_lens(&[10, 1000]);
        assert_eq!(flops(&ragged), 2.0 * 110.0 * 14.0 * 128.0);
        let causal = SdpaCase::new(1, (1, 1), (4, 4), 64).causal();
        assert_eq!(flops(&causal), 2.0 * 10.0 * 128.0);
        let masked = SdpaCase::new(1, (1, 1), (4, 4), 64)
            .mask(CaseMaskKind::Additive(DType::F32), super::super::MaskAxes::Rows);
        assert_eq!(bytes(&masked, types), 8.0 * 256.0 + 64.0);
    }
}
