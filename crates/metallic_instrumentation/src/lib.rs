//! The notebook of Metallic: what happened, who writes it down, where it goes.
//!
//! Nothing here decides anything. With no exporter attached, recording costs one relaxed atomic
//! load.
#![forbid(unsafe_code)]

mod event;
pub mod exporter;
mod recorder;

pub use event::{MetricEvent, Record};
pub use recorder::Recorder;
