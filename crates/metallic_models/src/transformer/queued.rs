//! Steps of one sequence that the device makes in one call, each on the token that it chose after the one
//! before: queued now, read later, so that the device goes on meanwhile. Not: whether the text takes them.

use std::sync::Arc;
use std::time::Instant;

use metallic::Context;
use metallic::device::PendingRead;

use super::model::Model;
use super::next::Next;
use super::step::{Call, MOST_STEPS, StepFeeds};
use crate::error::{Error, Result};
use crate::kv_cache::KvCache;
use crate::sampler::Draws;

/// What is asked of a call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask<'a> {
    /// The first token; `None` for the last that the call before chose, which is on its way.
    pub(crate) token: Option<u32>,
    /// Steps on their way, which the cache does not count as live.
    pub(crate) ahead: usize,
    /// Steps that are of use, at least one.
    pub(crate) steps: usize,
    /// As many of the likeliest tokens will do, where the device chooses none.
    pub(crate) best: Option<usize>,
    /// How tokens are drawn; `None` for the likeliest.
    pub(crate) draws: Option<&'a Draws>,
}

/// Steps that were queued. The cache does not count their positions as live.
#[derive(Debug)]
pub(crate) struct QueuedSteps {
    /// How many.
    pub(crate) steps: usize,
    /// When they were queued.
    pub(crate) since: Instant,
    given: Given,
}

#[derive(Debug)]
enum Given {
    /// What the device chooses.
    Later { chosen: Box<dyn PendingRead>, drawn: bool, feeds: Arc<StepFeeds>, kv_len: usize },
    /// What came of a step that ran in parts, which choose nothing.
    Now(Next),
}

impl QueuedSteps {
    /// Whether a call after it can go on with the token that it leaves.
    pub(crate) fn leaves_token(&self) -> bool {
        matches!(self.given, Given::Later { .. })
    }

    /// What is known after each step; nothing where the device chose nothing.
    ///
    /// # Errors
    /// What the device reports of these steps.
    pub(crate) fn wait(self) -> Result<Vec<Next>> {
        match self.given {
            Given::Later { chosen, drawn, feeds, kv_len } => {
                let given = Next::chosen_by_device(&chosen.wait()?, drawn);
                if given.is_empty() {
                    feeds.set_whole(kv_len, false);
                }
                Ok(given)
            }
            Given::Now(next) => Ok(vec![next]),
        }
    }
}

impl Model {
    /// Queues a call of one step or several; `None`, with nothing done, where the device makes no such
    /// calls, or steps that are ahead do not fit what is in view.
    ///
    /// # Errors
    /// As [`Model::forward`].
    pub(crate) fn queue_steps(
        &self,
        ctx: &Context,
        cache: &mut KvCache,
        ask: Ask<'_>,
    ) -> Result<Option<QueuedSteps>> {
        let Ask { token, ahead, steps, best, draws } = ask;
        if cache.lens().len() != 1 || !ctx.registry().whole_steps_for(1) {
            return Ok(None);
        }
        let vocab = self.config.vocab;
        if let Some(id) = token.filter(|&id| id as usize >= vocab) {
            return Err(Error::BadToken { id, vocab });
        }
        if ahead == 0 {
            cache.reserve(ctx, 1)?;
        }
        let (since, kv_len) = (Instant::now(), cache.view_class(ahead));
        let count = steps.min(MOST_STEPS).min(cache.steps_in_view(ahead));
        let feeds = self.step_feeds(ctx, cache)?;
        if count == 0 || !feeds.is_whole(kv_len) {
            return Ok(None);
        }
        let tokens = token.as_slice();
        let tokens = token.is_some().then_some(tokens);
        self.run_step(ctx, cache, &Call { tokens, ahead, count, draws }, true)?;
        let given = match &feeds.following {
            Some(following) if feeds.is_whole(kv_len) => {
                let (chosen, drawn) = (ctx.download_later(&following.chosen)?, draws.is_some());
                Given::Later { chosen, drawn, feeds, kv_len }
            }
            _ => Given::Now(Next::read(ctx, &feeds.logits, best)?),
        };
        let steps = if matches!(given, Given::Now(_)) { 1 } else { count };
        Ok(Some(QueuedSteps { steps, since, given }))
    }
}
