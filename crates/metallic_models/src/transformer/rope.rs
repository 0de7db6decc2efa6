//! Rotary position embedding: which frequencies a model uses. Not: the rotation itself.
//!
//! The formulas are those of Hugging Face `transformers`, `modeling_rope_utils.py`, computed in
//! f64 and rounded once.

use std::f64::consts::PI;

pub use metallic::op::RopePairing;

/// How the frequencies are stretched for contexts longer than the model was trained with.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All positions are divided by `factor`.
    Linear {
        /// How many times longer the context becomes.
        factor: f64,
    },
    /// Llama 3: long wavelengths are divided, short ones kept, those between blended.
    Llama3 {
        /// How many times longer the context becomes.
        factor: f64,
        /// `original_context / low_freq_factor` is the shortest wavelength divided in full.
        low_freq_factor: f64,
        /// `original_context / high_freq_factor` is the longest wavelength kept.
        high_freq_factor: f64,
        /// Context length in tokens that the model was trained with.
        original_context: u32,
    },
    /// YaRN (Peng et al., 2023): a ramp between kept and divided frequencies.
    Yarn {
        /// How many times longer the context becomes.
        factor: f64,
        /// Context length in tokens that the model was trained with.
        original_context: u32,
        /// What cosines and sines are multiplied by.
        attn_factor: f64,
        /// Rotations within the original context from which on a frequency is kept (usually 32).
        beta_fast: f64,
        /// Rotations within the original context below which a frequency is divided (usually 1).
        beta_slow: f64,
    },
    /// One divisor per pair, as GGUF stores Llama 3's scaling (`rope_freqs.weight`).
    FreqFactors(
        /// `dims / 2` divisors.
        Vec<f32>,
    ),
}

/// Rotary position embedding of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeConfig {
    /// Base of the geometric series of wavelengths.
    pub theta: f64,
    /// How many elements of a head are rotated, the first ones; even.
    pub dims: usize,
    /// Which elements form a pair.
    pub pairing: RopePairing,
    /// Stretching for long contexts.
    pub scaling: RopeScaling,
}

/// YaRN's usual factor for cosines and sines, `0.1 ln(factor) + 1`.
pub fn yarn_attn_factor(factor: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * factor.ln() + 1.0 }
}

impl RopeConfig {
    /// Radians per position of each pair: `[dims / 2]`.
    pub fn inv_freq(&self) -> Vec<f32> {
        let dims = self.dims as f64;
        (0..self.dims / 2)
            .map(|pair| {
                let plain = self.theta.powf(-2.0 * pair as f64 / dims);
                self.scale(pair, plain) as f32
            })
            .collect()
    }

    /// What cosines and sines are multiplied by; 1 for all but YaRN.
    pub fn attention_factor(&self) -> f32 {
        match self.scaling {
            RopeScaling::Yarn { attn_factor, .. } => attn_factor as f32,
            _ => 1.0,
        }
    }

    fn scale(&self, pair: usize, plain: f64) -> f64 {
        match &self.scaling {
            RopeScaling::None => plain,
            RopeScaling::Linear { factor } => plain / factor,
            RopeScaling::FreqFactors(factors) => {
                plain / f64::from(factors.get(pair).copied().unwrap_or(1.0))
            }
            &RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_context,
            } => {
                let rotations = f64::from(original_context) * plain / (2.0 * PI);
                if rotations < low_freq_factor {
                    plain / factor
                } else if rotations > high_freq_factor {
                    plain
                } else {
                    let keep = (rotations - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    (1.0 - keep) * plain / factor + keep * plain
                }
            }
            &RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, .. } => {
                let low = self.pair_of_rotations(beta_fast, original_context).floor().max(0.0);
                let high = self.pair_of_rotations(beta_slow, original_context).ceil();
                let high = high.min(self.dims as f64 - 1.0);
                let width = if high == low { 0.001 } else { high - low };
                let divide = ((pair as f64 - low) / width).clamp(0.0, 1.0);
                divide * plain / factor + (1.0 - divide) * plain
            }
        }
    }

    /// The (fractional) pair that turns `rotations` times within `context` positions.
    fn pair_of_rotations(&self, rotations: f64, context: u32) -> f64 {
        let wavelength = f64::from(context) / (rotations * 2.0 * PI);
        self.dims as f64 * wavelength.ln() / (2.0 * self.theta.ln())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rope(theta: f64, dims: usize, scaling: RopeScaling) -> RopeConfig {
        RopeConfig { theta, dims, pairing: RopePairing::Half, scaling }
    }

    fn assert_close(got: &[f32], expected: &[f64]) {
        assert_eq!(got.len(), expected.len());
        for (got, expected) in got.iter().zip(expected) {
            let error = (f64::from(*got) - expected).abs();
            assert!(error <= 1e-6 * expected.abs(), "{got} instead of {expected}");
        }
    }

    #[test]
    fn plain_frequencies_are_a_geometric_series() {
        let plain = rope(10_000.0, 8, RopeScaling::None);
        assert_close(&plain.inv_freq(), &[1.0, 0.1, 0.01, 0.001]);
        assert_eq!(plain.attention_factor(), 1.0);
        let linear = rope(10_000.0, 8, RopeScaling::Linear { factor: 4.0 });
        assert_close(&linear.inv_freq(), &[0.25, 0.025, 0.0025, 0.00025]);
        let factors = RopeScaling::FreqFactors(vec![1.0, 2.0, 4.0, 8.0]);
        let divided = rope(10_000.0, 8, factors);
        assert_close(&divided.inv_freq(), &[1.0, 0.05, 0.0025, 0.000125]);
    }

    #[test]
    fn llama3_keeps_short_blends_middle_and_divides_long_wavelengths() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context: 1000,
        };
        // Wavelengths 6.28, 62.8, 628, 6283: kept below 250, divided above 1000; at 628 the
        // context holds 1000 * 0.01 / 2π = 1.5915494 rotations, a share (r - 1) / 3 is kept.
        let keep: f64 = (1000.0 * 0.01 / (2.0 * PI) - 1.0) / 3.0;
        assert!((keep - 0.197_183_14).abs() < 1e-7);
        let middle = (1.0 - keep) * 0.01 / 8.0 + keep * 0.01;
        assert!((middle - 0.002_975_352_5).abs() < 1e-9);
        assert_close(&rope(10_000.0, 8, scaling).inv_freq(), &[1.0, 0.1, middle, 0.001 / 8.0]);
    }

    #[test]
    fn yarn_ramps_between_kept_and_divided() {
        let scaling = RopeScaling::Yarn {
            factor: 4.0,
            original_context: 32_768,
            attn_factor: yarn_attn_factor(4.0),
            beta_fast: 32.0,
            beta_slow: 1.0,
        };
        let yarn = rope(1_000_000.0, 128, scaling);
        // Qwen2.5's own numbers: 128 ln(32768 / (32·2π)) / (2 ln 1e6) = 23.596 -> 23,
        // 128 ln(32768 / 2π) / (2 ln 1e6) = 39.651 -> 40; pair 30 is (30 - 23) / 17 divided.
        let plain = |pair: f64| 1e6f64.powf(-pair / 64.0);
        let frequencies = yarn.inv_freq();
        let divide = 7.0 / 17.0;
        let expected = [
            plain(0.0),
            plain(23.0),
            plain(30.0) * ((1.0 - divide) + divide / 4.0),
            plain(40.0) / 4.0,
            plain(63.0) / 4.0,
        ];
        let got = [0, 23, 30, 40, 63].map(|pair| frequencies[pair]);
        assert_close(&got, &expected);
        assert!((yarn.attention_factor() - 1.138_629_4).abs() < 1e-6);
        assert_eq!(yarn_attn_factor(1.0), 1.0);
    }
}
