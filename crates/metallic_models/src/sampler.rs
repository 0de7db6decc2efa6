//! From logits to a token: llama.cpp's samplers under their names, in their default order.
//!
//! logit bias → penalties → top-k → typical-p → top-p → min-p → temperature → choice by seed; at
//! a temperature of 0 or below the likeliest token after the penalties. Not: when to stop.

mod best;
mod draws;
mod filters;
mod rng;
mod weight;

pub use best::{Choose, Scores};
pub use draws::Draws;
pub use filters::Candidate;

use std::collections::{HashMap, VecDeque};

use crate::error::{Error, Result};
use filters::Candidates;
use rng::Rng;

/// The settings of a [`Sampler`]. The defaults are llama.cpp's.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplerConfig {
    /// 0 or below: always the likeliest token.
    pub temperature: f32,
    /// Keep this many of the likeliest tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the likeliest tokens that have this probability together; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens at least this many times as likely as the likeliest; 0 keeps all.
    pub min_p: f32,
    /// Keep tokens about as surprising as expected, of this probability together; 1 keeps all.
    pub typical_p: f32,
    /// Divides (or, below 0, multiplies) the logits of recent tokens; 1 does nothing.
    pub repeat_penalty: f32,
    /// Recent tokens the penalties look at; `None` for all of them.
    pub repeat_last_n: Option<usize>,
    /// Subtracted from the logits of recent tokens.
    pub presence_penalty: f32,
    /// Subtracted from the logits of recent tokens once per occurrence.
    pub frequency_penalty: f32,
    /// Added to the logits of single tokens; −inf bans a token.
    pub logit_bias: Vec<(u32, f32)>,
    /// `None` for a random one.
    pub seed: Option<u64>,
}

impl Default for SamplerConfig {
    fn default() -> Self {
        Self {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            typical_p: 1.0,
            repeat_penalty: 1.0,
            repeat_last_n: Some(64),
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: None,
        }
    }
}

impl SamplerConfig {
    /// Always the likeliest token.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    /// Whether the likeliest token is chosen, whatever the seed.
    fn is_greedy(&self) -> bool {
        self.temperature <= 0.0 || self.top_k == 1
    }

    fn penalizes(&self) -> bool {
        self.repeat_last_n != Some(0)
            && (self.repeat_penalty != 1.0
                || self.presence_penalty != 0.0
                || self.frequency_penalty != 0.0)
    }

    fn check(&self) -> Result<()> {
        let expect = |holds: bool, setting: &'static str, got: f32, expected: &'static str| {
            if holds { Ok(()) } else { Err(Error::BadSampling { setting, got, expected }) }
        };
        let share = |setting, value: f32| {
            expect((0.0..=1.0).contains(&value), setting, value, "a number from 0 to 1")
        };
        let finite =
            |setting, value: f32| expect(value.is_finite(), setting, value, "a finite number");
        finite("temperature", self.temperature)?;
        share("top-p", self.top_p)?;
        share("min-p", self.min_p)?;
        share("typical-p", self.typical_p)?;
        let repeat = self.repeat_penalty;
        let positive = repeat.is_finite() && repeat > 0.0;
        expect(positive, "repeat penalty", repeat, "a finite number above 0")?;
        finite("presence penalty", self.presence_penalty)?;
        finite("frequency penalty", self.frequency_penalty)?;
        self.logit_bias.iter().try_for_each(|&(_, bias)| {
            expect(bias < f32::INFINITY, "logit bias", bias, "a finite number or -inf")
        })
    }
}

/// Chooses tokens. Keeps the recent ones for the penalties, and the state of its generator.
#[derive(Clone, Debug)]
pub struct Sampler {
    config: SamplerConfig,
    seed: u64,
    rng: Rng,
    /// The last `repeat_last_n` tokens; empty when nothing is penalised.
    recent: VecDeque<u32>,
    /// How often each of them occurs.
    counts: HashMap<u32, u32>,
    adjusted: Vec<f32>,
    candidates: Candidates,
}

impl Sampler {
    /// A sampler with these settings.
    ///
    /// # Errors
    /// [`Error::BadSampling`] for a setting outside its range.
    pub fn new(config: SamplerConfig) -> Result<Self> {
        config.check()?;
        let seed = config.seed.unwrap_or_else(rng::random_seed);
        Ok(Self {
            seed,
            rng: Rng::new(seed),
            recent: VecDeque::new(),
            counts: HashMap::new(),
            adjusted: Vec::new(),
            candidates: Candidates::default(),
            config,
        })
    }

    /// The seed in force, whoever chose it.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The settings.
    pub fn config(&self) -> &SamplerConfig {
        &self.config
    }

    /// Tells the sampler of a token of the text, of the prompt too: the penalties count it.
    pub fn accept(&mut self, token: u32) {
        if !self.config.penalizes() {
            return;
        }
        self.recent.push_back(token);
        *self.counts.entry(token).or_default() += 1;
        if self.config.repeat_last_n.is_some_and(|last_n| self.recent.len() > last_n)
            && let Some(oldest) = self.recent.pop_front()
            && let Some(count) = self.counts.get_mut(&oldest)
        {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&oldest);
            }
        }
    }

    /// Takes `tokens` for the whole text so far, whatever was accepted before.
    pub fn retell(&mut self, tokens: &[u32]) {
        self.recent.clear();
        self.counts.clear();
        for &token in tokens {
            self.accept(token);
        }
    }

    /// Forgets the text so far and begins the random sequence anew.
    pub fn reset(&mut self) {
        self.recent.clear();
        self.counts.clear();
        self.rng = Rng::new(self.seed);
    }

    /// Chooses the next token from `logits: [vocab]`. Does not accept it.
    ///
    /// # Errors
    /// [`Error::LogitsNotFinite`] for NaN, +inf or nothing but −inf; [`Error::NothingToSample`]
    /// when the biases ban every token.
    pub fn sample(&mut self, logits: &[f32]) -> Result<u32> {
        let nan = logits.iter().fold(false, |nan, x| nan | x.is_nan());
        if nan || !max(logits).is_finite() {
            let place = logits.iter().position(|x| x.is_nan() || *x == f32::INFINITY);
            let (index, value) =
                place.map_or((0, f32::NEG_INFINITY), |index| (index, logits[index]));
            return Err(Error::LogitsNotFinite { index, value });
        }
        let adjusted = std::mem::take(&mut self.adjusted);
        let adjusted = self.adjust(logits, adjusted);
        let token = self.decide(if adjusted.is_empty() { logits } else { &adjusted });
        self.adjusted = adjusted;
        token.ok_or(Error::NothingToSample)
    }

    /// The logits with biases and penalties in `buffer`; left empty when there are none.
    fn adjust(&self, logits: &[f32], mut buffer: Vec<f32>) -> Vec<f32> {
        buffer.clear();
        if self.config.logit_bias.is_empty() && self.counts.is_empty() {
            return buffer;
        }
        buffer.extend_from_slice(logits);
        for &(token, bias) in &self.config.logit_bias {
            if let Some(logit) = buffer.get_mut(token as usize) {
                *logit += bias;
            }
        }
        for (&token, &count) in &self.counts {
            if let Some(logit) = buffer.get_mut(token as usize) {
                *logit = self.penalized(*logit, count);
            }
        }
        buffer
    }

    /// `logit` of a token that occurs `count` times among the recent ones.
    fn penalized(&self, logit: f32, count: u32) -> f32 {
        let SamplerConfig { repeat_penalty, presence_penalty, frequency_penalty, .. } = self.config;
        let logit = if logit <= 0.0 { logit * repeat_penalty } else { logit / repeat_penalty };
        logit - (count as f32 * frequency_penalty + presence_penalty)
    }

    fn decide(&mut self, logits: &[f32]) -> Option<u32> {
        let config = &self.config;
        let (best, max) = argmax(logits)?;
        if max == f32::NEG_INFINITY {
            return None;
        }
        if config.is_greedy() {
            return Some(best);
        }
        self.candidates.fill(logits, (config.top_k > 0).then_some(config.top_k));
        self.draw()
    }

    /// Narrows the candidates down and draws one.
    fn draw(&mut self) -> Option<u32> {
        let Self { config, candidates, .. } = self;
        if config.typical_p < 1.0 {
            candidates.typical(config.typical_p);
        }
        if config.top_p < 1.0 {
            candidates.top_p(config.top_p);
        }
        if config.min_p > 0.0 {
            candidates.min_p(config.min_p);
        }
        candidates.temperature(config.temperature);
        candidates.pick(self.rng.uniform())
    }

    /// The chain in words, with what each member does; members that do nothing are left out.
    pub fn describe(&self) -> String {
        let config = &self.config;
        let mut chain = Vec::new();
        if !config.logit_bias.is_empty() {
            chain.push(format!("logit-bias({})", config.logit_bias.len()));
        }
        if config.penalizes() {
            let last_n = config.repeat_last_n.map_or("all".to_owned(), |n| n.to_string());
            chain.push(format!(
                "penalties(last {last_n}, repeat {}, presence {}, frequency {})",
                config.repeat_penalty, config.presence_penalty, config.frequency_penalty
            ));
        }
        if config.temperature <= 0.0 {
            chain.push("greedy".to_owned());
            return chain.join(" -> ");
        }
        if config.top_k > 0 {
            chain.push(format!("top-k({})", config.top_k));
        }
        for (name, value, neutral) in [
            ("typ-p", config.typical_p, 1.0),
            ("top-p", config.top_p, 1.0),
            ("min-p", config.min_p, 0.0),
        ] {
            if value != neutral {
                chain.push(format!("{name}({value})"));
            }
        }
        chain.push(format!("temperature({})", config.temperature));
        chain.push(format!("dist(seed {})", self.seed));
        chain.join(" -> ")
    }
}

/// The largest of numbers that are not NaN; −inf for none.
fn max(logits: &[f32]) -> f32 {
    // Lanes that do not depend on each other, which compilers turn into vector registers.
    let (chunks, rest) = logits.as_chunks::<16>();
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; 16];
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, x);
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |max, &x| larger(max, x))
}

/// The place and the value of the largest; of equals, the first.
fn argmax(logits: &[f32]) -> Option<(u32, f32)> {
    let max = max(logits);
    let first = logits.iter().zip(0u32..).find(|(x, _)| **x == max);
    first.map(|(_, id)| (id, max))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(config: SamplerConfig) -> Sampler {
        Sampler::new(config).unwrap()
    }

    #[test]
    fn greedy_takes_the_first_of_the_largest() {
        let mut greedy = sampler(SamplerConfig::greedy());
        assert_eq!(greedy.sample(&[0.0, 3.0, 3.0, -1.0]).unwrap(), 1);
        assert_eq!(greedy.describe(), "greedy");
        let bias = vec![(1, f32::NEG_INFINITY), (3, 5.0), (99, 1.0)];
        let mut biased = sampler(SamplerConfig { logit_bias: bias, ..SamplerConfig::greedy() });
        assert_eq!(biased.sample(&[0.0, 3.0, 3.0, -1.0]).unwrap(), 3);
    }

    #[test]
    fn penalties_count_recent_tokens() {
        let mut sampler = sampler(SamplerConfig {
            repeat_penalty: 2.0,
            presence_penalty: 0.25,
            frequency_penalty: 0.5,
            repeat_last_n: Some(3),
            ..SamplerConfig::greedy()
        });
        for token in [3, 0, 1, 1] {
            sampler.accept(token);
        }
        // Token 3 has left the last three; 0 occurs once, 1 twice.
        let adjusted = sampler.adjust(&[4.0, -2.0, 1.0, 5.0], Vec::new());
        assert_eq!(adjusted, [4.0 / 2.0 - 0.75, -2.0 * 2.0 - 1.25, 1.0, 5.0]);
        sampler.reset();
        assert!(sampler.adjust(&[4.0], Vec::new()).is_empty());
    }

    #[test]
    fn the_seed_decides() {
        let logits: Vec<f32> = (0..100).map(|i| (i % 7) as f32).collect();
        let draw = |seed| {
            let mut sampler = sampler(SamplerConfig { seed: Some(seed), ..Default::default() });
            (0..20).map(|_| sampler.sample(&logits).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        let mut again = sampler(SamplerConfig::default());
        let first: Vec<_> = (0..20).map(|_| again.sample(&logits).unwrap()).collect();
        again.reset();
        let second: Vec<_> = (0..20).map(|_| again.sample(&logits).unwrap()).collect();
        assert_eq!(first, second);
    }

    #[test]
    fn what_is_no_distribution_is_reported() {
        for (config, nan) in [(SamplerConfig::default(), true), (SamplerConfig::greedy(), false)] {
            let mut sampler = sampler(config);
            let bad = if nan { f32::NAN } else { f32::INFINITY };
            let error = sampler.sample(&[0.0, bad]).unwrap_err();
            assert!(matches!(error, Error::LogitsNotFinite { index: 1, .. }), "{error}");
            assert!(sampler.sample(&[f32::NEG_INFINITY; 3]).is_err());
            assert!(sampler.sample(&[]).is_err());
        }
        let logit_bias = vec![(0, f32::NEG_INFINITY), (1, f32::NEG_INFINITY)];
        let mut banned = sampler(SamplerConfig { logit_bias, ..Default::default() });
        assert!(matches!(banned.sample(&[1.0, 2.0]), Err(Error::NothingToSample)));
    }

    #[test]
    fn settings_outside_their_range_are_refused() {
        let base = SamplerConfig::default;
        for config in [
            SamplerConfig { top_p: 1.5, ..base() },
            SamplerConfig { min_p: -0.1, ..base() },
            SamplerConfig { typical_p: f32::NAN, ..base() },
            SamplerConfig { temperature: f32::INFINITY, ..base() },
            SamplerConfig { repeat_penalty: 0.0, ..base() },
            SamplerConfig { logit_bias: vec![(0, f32::NAN)], ..base() },
        ] {
            let refused = Sampler::new(config.clone());
            assert!(matches!(refused, Err(Error::BadSampling { .. })), "{config:?}");
        }
    }

    #[test]
    fn the_chain_is_described_in_its_order() {
        let config = SamplerConfig {
            seed: Some(7),
            repeat_penalty: 1.1,
            typical_p: 0.9,
            logit_bias: vec![(1, 2.0)],
            ..Default::default()
        };
        assert_eq!(
            sampler(config).describe(),
            "logit-bias(1) -> penalties(last 64, repeat 1.1, presence 0, frequency 0) -> top-k(40) \
             -> typ-p(0.9) -> top-p(0.95) -> min-p(0.05) -> temperature(0.8) -> dist(seed 7)"
        );
    }
}
