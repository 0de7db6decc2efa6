//! What random calls may miss: caches during decoding, blocks that are masked from the start.

use metallic::Context;
use metallic::dispatch::Backend;
use metallic::op::{Mask, MaskTensor, Sdpa, SdpaArgs};
use metallic::tensor::DType;

use super::{context, contexts};
use crate::cpu::linear::testing::gaussian;
use crate::cpu::simd::Level;

/// Attention of gaussian queries and keys over values that are all 1.
fn over_ones(context: &Context, q_len: usize, kv_len: usize, mask: Mask) -> Vec<f32> {
    let (heads, kv_heads, dim) = (4, 2, 16);
    let upload = |seed, heads, len| {
        context.upload_f32([1, heads, len, dim], &gaussian(seed, heads * len * dim)).unwrap()
    };
    let ones = vec![1.0; kv_heads * kv_len * dim];
    let args = SdpaArgs {
        q: upload(1, heads, q_len),
        k: upload(2, kv_heads, kv_len),
        v: context.upload_f32([1, kv_heads, kv_len, dim], &ones).unwrap(),
        mask,
        kv_lens: None,
        scale: None,
        softcap: None,
        out: context.zeros(DType::F32, [1, heads, q_len, dim]).unwrap(),
    };
    context.run::<Sdpa>(&args).unwrap();
    context.download_f32(&args.out).unwrap()
}

fn all_ones(got: &[f32]) -> bool {
    got.iter().all(|x| (x - 1.0).abs() < 1e-4)
}

#[test]
fn decoding_reuses_one_mask_and_one_executable() {
    let legacy = context(2, Level::detect(), Backend::Legacy);
    let graph = context(2, Level::detect(), Backend::Graph);
    for kv_len in 300..340 {
        for context in [&legacy, &graph] {
            assert!(all_ones(&over_ones(context, 1, kv_len, Mask::causal())), "{kv_len}");
        }
    }
    let masks = legacy.cache().masks.stats();
    assert_eq!((masks.hits, masks.misses), (39, 1));
    assert_eq!(graph.cache().masks.stats().misses, 0);
    let executables = graph.cache().executables.stats();
    assert_eq!((executables.hits, executables.misses), (39, 1));
    assert!(graph.cache().executables.list()[0].bytes > 0);
}

#[test]
fn blocks_that_are_masked_from_the_start_leave_no_nan() {
    // Far more hidden keys than any tile holds, then a few visible ones, then hidden ones.
    for (q_len, kv_len, visible) in [(1, 2000, 1700..1701), (9, 700, 500..505), (130, 700, 0..3)] {
        let allowed: Vec<u8> = (0..kv_len).map(|key| visible.contains(&key).into()).collect();
        let added: Vec<f32> =
            allowed.iter().map(|seen| if *seen > 0 { 0.0 } else { f32::NEG_INFINITY }).collect();
        for (name, context) in contexts() {
            let bool = context.upload(DType::Bool, [kv_len], &allowed).unwrap();
            let additive = context.upload_f32([kv_len], &added).unwrap();
            for tensor in [MaskTensor::Bool(bool), MaskTensor::Additive(additive)] {
                let mask = Mask { tensor: Some(tensor), ..Mask::none() };
                assert!(all_ones(&over_ones(&context, q_len, kv_len, mask)), "{name} {kv_len}");
            }
        }
    }
}

#[test]
fn a_mask_of_nothing_but_infinity_gives_zeros() {
    for (name, context) in contexts() {
        for (q_len, kv_len) in [(1, 1500), (40, 90)] {
            let hidden = context.upload_f32([1], &[f32::NEG_INFINITY]).unwrap();
            let got = over_ones(&context, q_len, kv_len, Mask::additive(hidden));
            assert!(got.iter().all(|x| *x == 0.0), "{name}");
            // Large, but not infinite: an even softmax, not zeros.
            let large = context.upload_f32([1], &[f32::MIN]).unwrap();
            let got = over_ones(&context, q_len, kv_len, Mask::additive(large));
            assert!(all_ones(&got), "{name} {q_len} {:?}", &got[..20]);
        }
    }
}
