//! Choosing from the likeliest tokens alone, where that gives what all logits would give.
//!
//! Top-k comes before every filter that looks at more than one token, so that k tokens decide.
//! Penalties and biases come before it: while they lower logits only, none of the tokens that are
//! left out can enter, and n tokens that are lowered make room for n others at most.

use metallic::op::TopK;

use super::{Candidate, Draws, Sampler};
use crate::error::{Error, Result};

/// What is known of the next token.
#[derive(Clone, Copy, Debug)]
pub enum Scores<'a> {
    /// Every logit: `[vocab]`.
    All(&'a [f32]),
    /// As many of the likeliest tokens as were asked for, likeliest first; of equals, the lower
    /// id first. No logit of the vocabulary is NaN or infinite.
    Best(&'a [Candidate]),
    /// A device drew this token already, as [`Choose::draws`] said.
    Drawn(u32),
}

/// Who chooses the next token of a text.
pub trait Choose {
    /// How many of the likeliest of `vocab` tokens the next choice needs to know; `None` for all
    /// logits.
    fn best_needed(&self, vocab: usize) -> Option<usize>;

    /// What a device needs to know to choose the next tokens itself, each of them by chance; `None`
    /// where a device cannot, or the likeliest tokens are chosen.
    fn draws(&self, vocab: usize) -> Option<Draws> {
        let _ = vocab;
        None
    }

    /// Chooses the next token. It is given as many as it asked for, or all, or what was drawn.
    ///
    /// # Errors
    /// What the chooser cannot choose from.
    fn choose(&mut self, scores: Scores<'_>) -> Result<u32>;
}

/// Samples, and accepts what it chose.
impl Choose for Sampler {
    fn best_needed(&self, vocab: usize) -> Option<usize> {
        let config = &self.config;
        let kept = match config.top_k {
            _ if config.is_greedy() => 1,
            // With k beyond the vocabulary the chain starts from all tokens in their own order.
            k if k == 0 || k > vocab => return None,
            k => k,
        };
        let lowers = config.repeat_penalty >= 1.0
            && config.presence_penalty >= 0.0
            && config.frequency_penalty >= 0.0;
        let lowers = (lowers || !config.penalizes())
            && config.logit_bias.iter().all(|(_, bias)| *bias <= 0.0);
        let needed = kept + self.counts.len() + config.logit_bias.len();
        (lowers && needed <= TopK::MAX_K).then(|| needed.min(vocab))
    }

    fn draws(&self, vocab: usize) -> Option<Draws> {
        Draws::new(&self.config, &self.rng, vocab)
    }

    fn choose(&mut self, scores: Scores<'_>) -> Result<u32> {
        let token = match scores {
            Scores::All(logits) => self.sample(logits)?,
            Scores::Best(candidates) => self.sample_best(candidates)?,
            Scores::Drawn(token) => {
                // Spent where it was drawn.
                self.rng.uniform();
                token
            }
        };
        self.accept(token);
        Ok(token)
    }
}

impl Sampler {
    /// Chooses the next token from the likeliest ones, as many as [`Choose::best_needed`] said,
    /// with the outcome of [`Sampler::sample`] on all logits. Does not accept it.
    ///
    /// # Errors
    /// As [`Sampler::sample`]; of logits that are not finite it sees only those of `best`.
    pub fn sample_best(&mut self, best: &[Candidate]) -> Result<u32> {
        let not_finite =
            |candidate: &&Candidate| candidate.logit.is_nan() || candidate.logit == f32::INFINITY;
        let numbers = best.iter().any(|candidate| candidate.logit > f32::NEG_INFINITY);
        if let Some(bad) = best.iter().find(not_finite) {
            let (index, value) = (bad.id as usize, bad.logit);
            return Err(Error::LogitsNotFinite { index, value });
        }
        if !numbers {
            return Err(Error::LogitsNotFinite { index: 0, value: f32::NEG_INFINITY });
        }
        let mut candidates = std::mem::take(&mut self.candidates);
        let kept = if self.config.is_greedy() { 1 } else { self.config.top_k };
        candidates.fill_from(best.iter().map(|candidate| self.adjusted(*candidate)), kept);
        let likeliest = candidates.first();
        self.candidates = candidates;
        let likeliest = likeliest.filter(|likeliest| likeliest.logit > f32::NEG_INFINITY);
        let likeliest = likeliest.ok_or(Error::NothingToSample)?;
        if self.config.is_greedy() {
            return Ok(likeliest.id);
        }
        self.draw().ok_or(Error::NothingToSample)
    }

    /// `candidate` with its biases and penalties.
    fn adjusted(&self, candidate: Candidate) -> Candidate {
        let Candidate { id, mut logit } = candidate;
        for (_, bias) in self.config.logit_bias.iter().filter(|(token, _)| *token == id) {
            logit += bias;
        }
        if let Some(&count) = self.counts.get(&id) {
            logit = self.penalized(logit, count);
        }
        Candidate { id, logit }
    }
}

#[cfg(test)]
mod tests {
    use super::super::filters::by_logit;
    use super::super::{Rng, SamplerConfig};
    use super::*;

    const VOCAB: usize = 700;

    /// The likeliest `k` of `logits`, as a device gives them.
    fn best_of(logits: &[f32], k: usize) -> Vec<Candidate> {
        let all = logits.iter().zip(0..);
        let mut all: Vec<_> = all.map(|(&logit, id)| Candidate { id, logit }).collect();
        all.sort_by(by_logit);
        all.truncate(k);
        all
    }

    /// Two samplers of the same seed on the same logits: one sees all, one the best alone.
    fn agree(config: &SamplerConfig, seed: u64) -> usize {
        let config = SamplerConfig { seed: Some(seed), ..config.clone() };
        let mut all = Sampler::new(config).unwrap();
        let mut few = all.clone();
        let mut random = Rng::new(seed);
        // Few levels, so that there are ties; now and then none but them.
        let levels = [f64::from(1u32 << 20), 60.0, 3.0][seed as usize % 3];
        let mut asked = 0;
        for step in 0..40 {
            let logits: Vec<f32> = (0..VOCAB)
                .map(|_| ((random.uniform() * levels).floor() / levels * 9.0 - 4.0) as f32)
                .collect();
            let want = all.sample(&logits).unwrap();
            all.accept(want);
            let got = match few.best_needed(VOCAB) {
                Some(needed) => {
                    asked += 1;
                    few.choose(Scores::Best(&best_of(&logits, needed))).unwrap()
                }
                None => few.choose(Scores::All(&logits)).unwrap(),
            };
            assert_eq!(got, want, "step {step}: {}", few.describe());
        }
        asked
    }

    #[test]
    fn the_best_decide_as_all_logits_do() {
        let base = SamplerConfig::default;
        let penalties = SamplerConfig {
            repeat_penalty: 1.3,
            presence_penalty: 0.4,
            frequency_penalty: 0.2,
            ..base()
        };
        let bias = vec![(3, -1.5), (5, f32::NEG_INFINITY), (600, -0.0), (3, -0.25)];
        for config in [
            base(),
            SamplerConfig::greedy(),
            SamplerConfig { top_k: 1, ..base() },
            SamplerConfig { top_k: TopK::MAX_K, top_p: 1.0, min_p: 0.0, ..base() },
            SamplerConfig { typical_p: 0.7, ..base() },
            SamplerConfig { temperature: 3.0, top_p: 1.0, min_p: 0.0, ..base() },
            penalties.clone(),
            SamplerConfig { temperature: 0.0, repeat_last_n: None, ..penalties.clone() },
            SamplerConfig { temperature: 2.0, logit_bias: bias.clone(), ..penalties },
            SamplerConfig { logit_bias: bias, ..SamplerConfig::greedy() },
        ] {
            for seed in 0..60 {
                assert_eq!(agree(&config, seed), 40, "{config:?}");
            }
        }
    }

    #[test]
    fn all_logits_are_asked_for_where_the_best_do_not_decide() {
        let base = SamplerConfig::default;
        for config in [
            SamplerConfig { top_k: 0, ..base() },
            SamplerConfig { top_k: TopK::MAX_K + 1, ..base() },
            SamplerConfig { logit_bias: vec![(3, 0.5)], ..base() },
            SamplerConfig { logit_bias: vec![(3, 0.5)], ..SamplerConfig::greedy() },
            SamplerConfig { repeat_penalty: 0.9, ..base() },
            SamplerConfig { presence_penalty: -0.5, ..base() },
            SamplerConfig { frequency_penalty: -0.5, ..SamplerConfig::greedy() },
        ] {
            for seed in 0..6 {
                assert_eq!(agree(&config, seed), 0, "{config:?}");
            }
        }
        let needed = |config, vocab| Sampler::new(config).unwrap().best_needed(vocab);
        assert_eq!(needed(base(), 39), None);
        assert_eq!(needed(base(), 40), Some(40));
        assert_eq!(needed(SamplerConfig { top_k: 0, ..SamplerConfig::greedy() }, 7), Some(1));
        // Penalties that look at no token raise none.
        let idle = SamplerConfig { repeat_penalty: 0.9, repeat_last_n: Some(0), ..base() };
        assert_eq!(needed(idle, VOCAB), Some(40));
    }

    #[test]
    fn many_penalised_tokens_need_all_logits_in_the_end() {
        let config = SamplerConfig {
            repeat_penalty: 1.1,
            repeat_last_n: None,
            top_k: 200,
            ..SamplerConfig::default()
        };
        let mut sampler = Sampler::new(config).unwrap();
        for token in 0..57 {
            let needed = 200 + token as usize;
            assert_eq!(sampler.best_needed(VOCAB), (needed <= 256).then_some(needed));
            sampler.accept(token);
        }
        assert_eq!(sampler.best_needed(VOCAB), None);
    }

    #[test]
    fn what_is_no_distribution_is_reported() {
        let of = |logits: &[f32]| best_of(logits, logits.len());
        let mut greedy = Sampler::new(SamplerConfig::greedy()).unwrap();
        for bad in [f32::NAN, f32::INFINITY] {
            let error = greedy.sample_best(&of(&[0.0, bad])).unwrap_err();
            assert!(matches!(error, Error::LogitsNotFinite { index: 1, .. }), "{error}");
        }
        assert!(greedy.sample_best(&of(&[f32::NEG_INFINITY])).is_err());
        assert!(greedy.sample_best(&[]).is_err());
        let logit_bias = vec![(0, f32::NEG_INFINITY), (1, f32::NEG_INFINITY)];
        let mut banned =
            Sampler::new(SamplerConfig { logit_bias, ..SamplerConfig::default() }).unwrap();
        let nothing = banned.sample_best(&of(&[1.0, 2.0]));
        assert!(matches!(nothing, Err(Error::NothingToSample)));
    }
}
