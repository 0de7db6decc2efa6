//! Bars of progress on standard error, where that is a terminal.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How long bytes may take before a bar is shown: weights that are mapped, not copied, take less.
const PATIENCE: Duration = Duration::from_millis(300);

/// How a bar of bytes looks.
pub(crate) fn style() -> ProgressStyle {
    let template = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// Bytes on their way to a device. The bar appears when they take long, and goes with this value.
pub(crate) struct Upload {
    bar: ProgressBar,
    start: Instant,
}

impl Upload {
    /// `total` bytes to `device`.
    pub(crate) fn new(total: u64, device: String) -> Self {
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden());
        bar.set_style(style());
        bar.set_message(format!("weights to {device}"));
        Self { bar, start: Instant::now() }
    }

    /// `bytes` more are there.
    pub(crate) fn add(&self, bytes: usize) {
        if self.bar.is_hidden() && self.start.elapsed() > PATIENCE {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        self.bar.inc(bytes as u64);
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
