//! Steps that a device made, or makes, before they were asked for: several in one call, each on the token
//! that it chose after the one before, and one more call behind that while this one's tokens are handed out.
//! What they give is handed out while the text goes on with those tokens, and forgotten when it does not.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::sampler::Draws;
use crate::transformer::{Next, QueuedSteps};

/// The longest time that one call is meant to take: text comes in pieces of that length, and at most two such
/// calls are made in vain when it ends.
const LONGEST: Duration = Duration::from_millis(8);

/// The steps of one sequence, ahead of its live tokens.
#[derive(Debug)]
pub(crate) struct StepsAhead {
    /// What comes after each of the next tokens.
    foreseen: VecDeque<Next>,
    /// The token that was fed to the first of those steps, and how tokens are drawn from it on.
    fed: Option<(u32, Option<Draws>)>,
    /// The call after them.
    queued: Option<QueuedSteps>,
    /// Steps of the next call.
    steps: usize,
    /// What the caller said instead.
    fixed: Option<usize>,
    /// When the last call was read.
    read: Option<Instant>,
}

impl StepsAhead {
    /// None so far. The first call makes one step, which may have to be prepared.
    pub(crate) fn new() -> Self {
        let (foreseen, fed, queued) = (VecDeque::new(), None, None);
        Self { foreseen, fed, queued, steps: 1, fixed: None, read: None }
    }

    /// Each call makes so many steps, however long they take; `None` for as many as are short.
    pub(crate) fn fix(&mut self, steps: Option<usize>) {
        self.fixed = steps;
    }

    /// Forgets what was made, and what is being made: the sequence goes on in another way.
    pub(crate) fn clear(&mut self) {
        self.foreseen.clear();
        (self.fed, self.queued) = (None, None);
    }

    /// What comes after `token`, if it was foreseen as the next one, with tokens drawn in this way. If another
    /// was, everything is forgotten.
    pub(crate) fn take(&mut self, token: u32, draws: Option<&Draws>) -> Option<Next> {
        let follows =
            |(fed, drawn): &(u32, Option<Draws>)| *fed == token && drawn.as_ref() == draws;
        if !self.fed.as_ref().is_some_and(follows) {
            self.clear();
        }
        let next = self.foreseen.pop_front()?;
        self.fed = next.chosen().map(|id| (id, draws.map(|draws| draws.clone().after(1))));
        Some(next)
    }

    /// The call that was queued on the token which [`StepsAhead::take`] was asked for last.
    pub(crate) fn take_queued(&mut self) -> Option<QueuedSteps> {
        self.queued.take()
    }

    /// Keeps the call after the one that is read next.
    pub(crate) fn queue(&mut self, queued: Option<QueuedSteps>) {
        self.queued = queued;
    }

    /// Steps of the next call, where `useful` are of use.
    pub(crate) fn at_once(&self, useful: usize) -> usize {
        useful.min(self.fixed.unwrap_or(self.steps)).max(1)
    }

    /// Keeps what the steps of one call gave, which was fed with `token`, drew as `draws` and was queued at
    /// `since`; gives that of the first.
    pub(crate) fn keep(
        &mut self,
        given: Vec<Next>,
        (token, draws): (u32, Option<&Draws>),
        since: Instant,
    ) -> Option<Next> {
        // It began when the call before it was over.
        let took = self.read.map_or(since, |read| read.max(since)).elapsed();
        self.read = Some(Instant::now());
        self.learn(given.len().max(1), took);
        self.foreseen = given.into();
        self.fed = Some((token, draws.cloned()));
        self.take(token, draws)
    }

    /// Chooses how many steps the next call makes after one of `made` steps took that long.
    fn learn(&mut self, made: usize, took: Duration) {
        let each = (took.as_nanos() / made as u128).max(1);
        let fitting = usize::try_from(LONGEST.as_nanos() / each).unwrap_or(usize::MAX);
        self.steps = fitting.clamp(1, self.steps.max(2 * made));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::{Candidate, Choose, Sampler, SamplerConfig};

    fn next(id: u32) -> Next {
        Next::Best { candidates: vec![Candidate { id, logit: 0.0 }], not_finite: 0 }
    }

    fn keep(ahead: &mut StepsAhead, given: &[u32]) -> Option<Next> {
        let given = given.iter().map(|id| next(*id)).collect();
        ahead.keep(given, (9, None), Instant::now())
    }

    const SHORT: Duration = Duration::from_micros(400);

    #[test]
    fn what_was_foreseen_is_given_in_order() {
        let mut ahead = StepsAhead::new();
        assert_eq!(keep(&mut ahead, &[3, 1, 4]), Some(next(3)));
        assert_eq!(ahead.take(3, None), Some(next(1)));
        assert_eq!(ahead.take(1, None), Some(next(4)));
        // The queued call was fed with 4.
        assert_eq!(ahead.take(4, None), None);
        assert_eq!(ahead.fed, Some((4, None)));
        assert_eq!(keep(&mut ahead, &[]), None);
    }

    #[test]
    fn another_token_forgets_all() {
        let mut ahead = StepsAhead::new();
        keep(&mut ahead, &[3, 3, 3]);
        assert_eq!(ahead.take(5, None), None);
        assert_eq!(ahead.take(3, None), None);
        keep(&mut ahead, &[3, 3]);
        ahead.clear();
        assert_eq!(ahead.take(3, None), None);
    }

    #[test]
    fn other_random_numbers_forget_all() {
        let config = SamplerConfig { seed: Some(1), ..SamplerConfig::default() };
        let sampler = Sampler::new(config).unwrap();
        let draws = sampler.draws(100).unwrap();
        let drawn = |id| Next::Drawn { id, not_finite: 0 };
        let mut ahead = StepsAhead::new();
        let keep = |ahead: &mut StepsAhead| {
            ahead.keep(vec![drawn(3), drawn(4), drawn(5)], (9, Some(&draws)), Instant::now())
        };
        assert_eq!(keep(&mut ahead), Some(drawn(3)));
        let second = draws.clone().after(1);
        assert_eq!(ahead.take(3, Some(&second)), Some(drawn(4)));
        // The same token, but the text began anew meanwhile.
        assert_eq!(ahead.take(4, Some(&draws)), None);
        keep(&mut ahead);
        assert_eq!(ahead.take(3, None), None);
        keep(&mut ahead);
        assert_eq!(ahead.take(3, Some(&second)), Some(drawn(4)));
        assert_eq!(ahead.take(4, Some(&second.clone().after(1))), Some(drawn(5)));
    }

    #[test]
    fn calls_grow_while_they_are_short() {
        let mut ahead = StepsAhead::new();
        let mut lengths = Vec::new();
        for _ in 0..6 {
            let made = ahead.at_once(100);
            lengths.push(made);
            ahead.learn(made, SHORT * made as u32);
        }
        assert_eq!(lengths, [1, 2, 4, 8, 16, 20]);
        assert_eq!([100, 4, 1, 0].map(|useful| ahead.at_once(useful)), [20, 4, 1, 1]);
        // The end of a text makes the next one's calls no shorter, a slow one does.
        ahead.learn(1, SHORT);
        assert_eq!(ahead.at_once(100), 20);
        ahead.learn(2, LONGEST);
        assert_eq!(ahead.at_once(100), 2);
        ahead.learn(1, Duration::from_secs(1));
        assert_eq!(ahead.at_once(100), 1);
        ahead.fix(Some(5));
        assert_eq!([ahead.at_once(100), ahead.at_once(4)], [5, 4]);
    }
}
