//! The transformer: configuration, weights, and one file for each part of a block.

pub mod config;
pub mod rope;

mod attention;
mod block;
mod mlp;
mod model;
mod next;
mod queued;
mod step;
mod weights;
mod whole_step;

pub use model::{Logits, Model, ModelOptions};
pub use next::Next;
pub(crate) use queued::{Ask, QueuedSteps};
pub(crate) use step::StepFeeds;
pub use step::{Batch, MOST_STEPS};
