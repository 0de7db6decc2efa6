//! What `metallic probe` takes.

use std::path::PathBuf;

use clap::{Args, ValueHint};

/// Ask a device what no document says, for a report
///
/// Each question runs in a process of its own, since some answers are the end of the process. The
/// report says what was seen and how it compares with what the program assumes; docs/apple.md
/// says what each answer changes.
#[derive(Debug, Args)]
pub(crate) struct ProbeArgs {
    /// The device
    #[arg(long, value_name = "DEVICE", default_value = "metal")]
    pub(crate) device: String,
    /// Where the report goes [default: metallic-probe-BUILD-CHIP.json, here]
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) output: Option<PathBuf>,
    /// Print the report too
    #[arg(long)]
    pub(crate) json: bool,
    /// Seconds each question may take
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub(crate) timeout: u64,
    /// Ask this one question in this process and print the answer as JSON
    #[arg(long, value_name = "NAME", hide = true)]
    pub(crate) only: Option<String>,
}
