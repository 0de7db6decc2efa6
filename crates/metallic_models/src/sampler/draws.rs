//! What a device needs to know to draw the next tokens itself, as [`super::Sampler`] would: the settings, and
//! the random numbers to come.

use metallic::segment::FollowingSteps;

use super::{Rng, SamplerConfig};

/// The next draws of a sampler.
#[derive(Clone, Debug, PartialEq)]
pub struct Draws {
    k: usize,
    temperature: f32,
    top_p: f32,
    min_p: f32,
    /// As it is before the first of them.
    rng: Rng,
}

impl Draws {
    /// Those of a sampler of `config` that is about to draw with `rng`, where its tokens depend on
    /// nothing but logits and random numbers and a device can tell them.
    pub(super) fn new(config: &SamplerConfig, rng: &Rng, vocab: usize) -> Option<Self> {
        let &SamplerConfig { top_k: k, temperature, top_p, min_p, typical_p, .. } = config;
        let fits = k <= FollowingSteps::MOST_K.min(vocab);
        let plain = typical_p >= 1.0 && config.logit_bias.is_empty() && !config.penalizes();
        let random = k > 0 && !config.is_greedy();
        let rng = rng.clone();
        (fits && plain && random).then_some(Self { k, temperature, top_p, min_p, rng })
    }

    /// Those after the next `steps`.
    pub(crate) fn after(mut self, steps: usize) -> Self {
        for _ in 0..steps {
            self.rng.uniform();
        }
        self
    }

    /// As [`FollowingSteps::draw`] has them, with random numbers for `steps` steps.
    pub(crate) fn words(&self, steps: usize) -> Vec<i32> {
        let Self { k, temperature, top_p, min_p, ref rng } = *self;
        let mut rng = rng.clone();
        let mut words = vec![k as i32];
        words.extend([temperature, top_p, min_p.ln()].map(|value| value.to_bits() as i32));
        for _ in 0..steps {
            let bits = rng.uniform().to_bits();
            words.extend([bits as i32, (bits >> 32) as i32]);
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Choose, Sampler, Scores};
    use super::*;

    #[test]
    fn random_numbers_are_those_the_sampler_goes_on_with() {
        let config = SamplerConfig { seed: Some(3), ..SamplerConfig::default() };
        let mut sampler = Sampler::new(config).unwrap();
        let ahead = sampler.draws(1000).unwrap();
        let words = ahead.words(3);
        assert_eq!(words.len(), FollowingSteps::DRAW_WORDS + 6);
        assert_eq!(words[0], 40);
        assert_eq!(words[3] as u32, 0.05f32.ln().to_bits());
        // A token that a device drew spends one, as one that is drawn here.
        assert_eq!(sampler.choose(Scores::Drawn(7)).unwrap(), 7);
        assert_eq!(sampler.draws(1000).as_ref(), Some(&ahead.clone().after(1)));
        sampler.sample(&[1.0; 100]).unwrap();
        let later = sampler.draws(1000).unwrap();
        assert_eq!(later, ahead.clone().after(2));
        assert_eq!(later.words(1)[4..], words[8..]);
        assert_ne!(later, ahead);
        sampler.reset();
        assert_eq!(sampler.draws(1000), Some(ahead));
    }

    #[test]
    fn what_depends_on_more_is_drawn_by_the_host() {
        let base = || SamplerConfig { seed: Some(1), ..SamplerConfig::default() };
        let draws = |config| Sampler::new(config).unwrap().draws(100).is_some();
        assert!(draws(base()));
        assert!(draws(SamplerConfig { top_k: 64, top_p: 1.0, min_p: 0.0, ..base() }));
        for config in [
            SamplerConfig { top_k: 0, ..base() },
            SamplerConfig { top_k: 1, ..base() },
            SamplerConfig { top_k: 65, ..base() },
            SamplerConfig { temperature: 0.0, ..base() },
            SamplerConfig { typical_p: 0.9, ..base() },
            SamplerConfig { repeat_penalty: 1.1, ..base() },
            SamplerConfig { presence_penalty: 0.1, ..base() },
            SamplerConfig { logit_bias: vec![(1, -1.0)], ..base() },
        ] {
            assert!(!draws(config.clone()), "{config:?}");
        }
        assert!(Sampler::new(base()).unwrap().draws(39).is_none());
    }
}
