//! The oracle against results worked out by hand.

use super::*;

/// One head of width 1 with the given keys and values; queries of 1, scale 1.
fn one_head(q_len: usize, k: &[f64], v: &[f64]) -> SdpaProblem {
    SdpaProblem {
        batch: 1,
        q_heads: 1,
        kv_heads: 1,
        q_len,
        kv_len: k.len(),
        head_dim: 1,
        v_dim: 1,
        q: vec![1.0; q_len],
        k: k.to_vec(),
        v: v.to_vec(),
        band: Band::OPEN,
        mask: None,
        kv_lens: None,
        scale: 1.0,
        softcap: None,
    }
}

fn close(got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(want) {
        assert!((got - want).abs() < 1e-12, "{got} is not {want}");
    }
}

#[test]
fn weights_are_a_softmax_of_scaled_capped_scores() {
    let ln3 = 3f64.ln();
    let mut problem = one_head(1, &[0.0, ln3], &[4.0, 8.0]);
    // Weights 1 : 3.
    close(&sdpa(&problem).out, &[7.0]);
    problem.scale = 2.0;
    // Weights 1 : 9.
    close(&sdpa(&problem).out, &[7.6]);
    problem.scale = 1.0;
    problem.softcap = Some(0.5);
    let weight = (0.5 * (ln3 / 0.5).tanh()).exp();
    close(&sdpa(&problem).out, &[(4.0 + 8.0 * weight) / (1.0 + weight)]);
}

#[test]
fn causal_rows_end_at_the_lower_right_of_the_live_keys() {
    let causal = Band { right: Some(0), ..Band::OPEN };
    let mut problem = one_head(2, &[0.0; 4], &[1.0, 2.0, 3.0, 4.0]);
    problem.band = causal;
    close(&sdpa(&problem).out, &[2.0, 2.5]);
    problem.kv_lens = Some(vec![3]);
    close(&sdpa(&problem).out, &[1.5, 2.0]);
    problem.kv_lens = Some(vec![1]);
    // The first query lies before every key.
    close(&sdpa(&problem).out, &[0.0, 1.0]);
    problem.kv_lens = Some(vec![-3]);
    close(&sdpa(&problem).out, &[0.0, 0.0]);
    problem.kv_lens = None;
    problem.band = Band { left: Some(1), right: Some(0), offset: Some(1) };
    close(&sdpa(&problem).out, &[1.5, 2.5]);
}

#[test]
fn hidden_keys_are_never_touched_and_seen_ones_always_are() {
    let mut problem = one_head(2, &[0.0, f64::NAN, 0.0], &[1.0, f64::INFINITY, 3.0]);
    let hide = |values| Some(TensorMask { shape: [1, 1, 2, 3], values });
    let inf = f64::NEG_INFINITY;
    problem.mask = hide(TensorMaskValues::Additive(vec![0.0, inf, 0.0, inf, inf, inf]));
    close(&sdpa(&problem).out, &[2.0, 0.0]);
    problem.mask = hide(TensorMaskValues::Bool(vec![true, false, true, false, false, false]));
    close(&sdpa(&problem).out, &[2.0, 0.0]);
    problem.mask = hide(TensorMaskValues::Bool(vec![true, false, true, true, true, true]));
    let out = sdpa(&problem).out;
    close(&out[..1], &[2.0]);
    assert!(out[1].is_nan(), "NaN in a seen key must come through");
}

#[test]
fn the_lowest_number_is_a_number() {
    let lowest = f64::from(f32::MIN);
    let mut problem = one_head(1, &[0.0, 5.0], &[1.0, 3.0]);
    let mask = |values| Some(TensorMask { shape: [1, 1, 1, 2], values });
    problem.mask = mask(TensorMaskValues::Additive(vec![lowest, lowest]));
    let reference = sdpa(&problem);
    close(&reference.out, &[2.0]);
    assert_eq!(reference.rows[0].additive, 0.0, "nothing is rounded");
    problem.mask = mask(TensorMaskValues::Additive(vec![0.0, lowest]));
    close(&sdpa(&problem).out, &[1.0]);
}

#[test]
fn heads_and_sequences_read_their_own_keys_and_masks() {
    // Two sequences, four query heads on two key heads, values that name their place.
    let problem = SdpaProblem {
        batch: 2,
        q_heads: 4,
        kv_heads: 2,
        q_len: 1,
        kv_len: 2,
        head_dim: 1,
        v_dim: 2,
        q: vec![0.0; 8],
        k: vec![0.0; 8],
        v: (0..16).map(f64::from).collect(),
        band: Band::OPEN,
        // Sequence 0 sees key 0, sequence 1 key 1.
        mask: Some(TensorMask {
            shape: [2, 1, 1, 2],
            values: TensorMaskValues::Bool(vec![true, false, false, true]),
        }),
        kv_lens: None,
        scale: 1.0,
        softcap: None,
    };
    let reference = sdpa(&problem);
    let heads = [[0.0, 1.0], [0.0, 1.0], [4.0, 5.0], [4.0, 5.0]];
    let second = [[10.0, 11.0], [10.0, 11.0], [14.0, 15.0], [14.0, 15.0]];
    close(&reference.out, [heads, second].as_flattened().as_flattened());
    assert!(reference.rows.iter().all(|row| row.attended == 1));
}
