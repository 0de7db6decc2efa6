//! Greedy steps that a device made before they were asked for: several in one call, each on the
//! likeliest token after the one before it. What they gave is handed out while the text goes on with
//! those tokens, and forgotten when it does not.

use std::collections::VecDeque;
use std::time::Duration;

use crate::transformer::Next;

/// The longest time that one call is meant to take: text comes in pieces of that length, and so much is
/// made in vain at most when it ends.
const LONGEST: Duration = Duration::from_millis(8);

/// The steps of one sequence, ahead of its live tokens.
#[derive(Debug)]
pub(crate) struct StepsAhead {
    /// Tokens in the order in which they were fed, and what comes after each.
    foreseen: VecDeque<(u32, Next)>,
    /// Steps of the next call.
    steps: usize,
    /// What the caller said instead.
    fixed: Option<usize>,
}

impl StepsAhead {
    /// None so far. The first call makes one step, which may have to be prepared.
    pub(crate) fn new() -> Self {
        Self { foreseen: VecDeque::new(), steps: 1, fixed: None }
    }

    /// Each call makes so many steps, however long they take; `None` for as many as are short.
    pub(crate) fn fix(&mut self, steps: Option<usize>) {
        self.fixed = steps;
    }

    /// Forgets what was made: the sequence goes on in another way.
    pub(crate) fn clear(&mut self) {
        self.foreseen.clear();
    }

    /// What comes after `token`, if it was foreseen as the next one; else everything is forgotten.
    pub(crate) fn take(&mut self, token: u32) -> Option<Next> {
        match self.foreseen.pop_front() {
            Some((fed, next)) if fed == token => Some(next),
            _ => {
                self.clear();
                None
            }
        }
    }

    /// Steps that are to follow in the next call, where at most `wanted` are of use.
    pub(crate) fn more(&self, wanted: usize) -> usize {
        wanted.min(self.fixed.unwrap_or(self.steps).saturating_sub(1))
    }

    /// Keeps what the steps of one call gave, and gives that of the first.
    pub(crate) fn keep(&mut self, given: Vec<Next>, took: Duration) -> Option<Next> {
        let made = given.len().max(1);
        let each = (took.as_nanos() / made as u128).max(1);
        let fitting = usize::try_from(LONGEST.as_nanos() / each).unwrap_or(usize::MAX);
        self.steps = fitting.clamp(1, self.steps.max(2 * made));
        self.clear();
        let mut given = given.into_iter();
        let first = given.next()?;
        let mut last = first.likeliest();
        for next in given {
            let Some(fed) = last else { break };
            last = next.likeliest();
            self.foreseen.push_back((fed, next));
        }
        Some(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::Candidate;

    fn next(id: u32) -> Next {
        Next::Best { candidates: vec![Candidate { id, logit: 0.0 }], not_finite: 0 }
    }

    const SHORT: Duration = Duration::from_micros(400);

    #[test]
    fn what_was_foreseen_is_given_in_order() {
        let mut ahead = StepsAhead::new();
        assert_eq!(ahead.keep(vec![next(3), next(1), next(4)], SHORT), Some(next(3)));
        assert_eq!(ahead.take(3), Some(next(1)));
        assert_eq!(ahead.take(1), Some(next(4)));
        assert_eq!(ahead.take(4), None);
        assert_eq!(ahead.keep(Vec::new(), SHORT), None);
    }

    #[test]
    fn another_token_forgets_all() {
        let mut ahead = StepsAhead::new();
        ahead.keep(vec![next(3), next(3), next(3)], SHORT);
        assert_eq!(ahead.take(5), None);
        assert_eq!(ahead.take(3), None);
        ahead.keep(vec![next(3), next(3)], SHORT);
        ahead.clear();
        assert_eq!(ahead.take(3), None);
    }

    #[test]
    fn calls_grow_while_they_are_short() {
        let mut ahead = StepsAhead::new();
        let mut lengths = Vec::new();
        for _ in 0..6 {
            let more = ahead.more(100);
            lengths.push(1 + more);
            ahead.keep(vec![next(0); 1 + more], SHORT * (1 + more as u32));
        }
        assert_eq!(lengths, [1, 2, 4, 8, 16, 20]);
        assert_eq!([ahead.more(100), ahead.more(3), ahead.more(0)], [19, 3, 0]);
        // The end of a text makes the next one's calls no shorter, a slow one does.
        ahead.keep(vec![next(0)], SHORT);
        assert_eq!(ahead.more(100), 19);
        ahead.keep(vec![next(0); 2], LONGEST);
        assert_eq!(ahead.more(100), 1);
        ahead.keep(vec![next(0)], Duration::from_secs(1));
        assert_eq!(ahead.more(100), 0);
        ahead.fix(Some(5));
        assert_eq!([ahead.more(100), ahead.more(3)], [4, 3]);
    }
}
