//! Draws of the sampler, written down: `scripts/test-softcuda` has the kernel that draws on a GPU repeat them.
//! `UPDATE_EXPECT=1 cargo test -p metallic_models draws` writes them anew.

use expect_test::expect_file;
use metallic_models::sampler::{Sampler, SamplerConfig};

/// Logits that both sides make alike, and how tokens are drawn from them.
struct Case {
    vocab: usize,
    /// Different logits, 1/64 apart.
    levels: u32,
    /// So many tokens, from the third one on, are ahead by 4.
    ahead: usize,
    draws: usize,
    /// k, temperature, top-p, min-p.
    rule: (usize, f32, f32, f32),
}

/// A line of the file: the case, its seed, the sum of all tokens drawn, and the first of them.
fn line(seed: u32, case: &Case) -> String {
    let Case { vocab, levels, ahead, draws, rule } = *case;
    let (top_k, temperature, top_p, min_p) = rule;
    let mut sampler = Sampler::new(SamplerConfig {
        top_k,
        temperature,
        top_p,
        min_p,
        seed: Some(u64::from(seed)),
        ..SamplerConfig::default()
    })
    .unwrap();
    let mut value = seed;
    let mut tokens = Vec::new();
    for _ in 0..draws {
        let logits: Vec<f32> = (0..vocab)
            .map(|id| {
                value = value.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let bonus = if (2..2 + ahead).contains(&id) { 256 } else { 0 };
                ((value >> 16) % levels + bonus) as f32 / 64.0
            })
            .collect();
        tokens.push(sampler.sample(&logits).unwrap());
    }
    // FNV-1a, a token at a time.
    let hash = tokens.iter().fold(0x811c_9dc5u32, |hash, id| (hash ^ id).wrapping_mul(0x0100_0193));
    let first: Vec<_> = tokens.iter().take(6).map(ToString::to_string).collect();
    let ln_min_p = min_p.ln().to_bits();
    let first = first.join(" ");
    format!(
        "{seed} {vocab} {levels} {ahead} {draws} {top_k} {temperature} {top_p} {ln_min_p:08x} {hash:08x} {first}\n"
    )
}

#[test]
fn draws_are_those_written_down() {
    let default = (40, 0.8, 0.95, 0.05);
    let rules = [
        default,
        (2, 1.0, 1.0, 0.0),
        (8, 0.7, 0.9, 0.0),
        (64, 1.5, 1.0, 0.0),
        (64, 3.0, 0.99, 0.01),
        (20, 1.0, 0.5, 0.3),
        (5, 1e-38, 0.95, 0.05),
        (33, 0.3, 1.0, 1.0),
    ];
    let mut lines = String::new();
    let mut seed = 0;
    for (vocab, levels, ahead) in [
        (900, 1024, 0),
        // Ties, and nothing but ties.
        (900, 7, 0),
        (300, 1, 0),
        // Most candidates are those of one block, or of two.
        (1500, 300, 60),
        (6000, 500, 700),
        // As few tokens as candidates.
        (64, 2000, 3),
    ] {
        for rule in rules {
            seed += 1;
            lines.push_str(&line(seed, &Case { vocab, levels, ahead, draws: 12, rule }));
        }
    }
    expect_file!["../draws.txt"].assert_eq(&lines);
}
