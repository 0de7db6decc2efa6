//! Which engine goes first where nothing was measured on this machine.

use metallic::dispatch::EnginePreference;
use metallic::op::{MaskTensorKind, Phase, SdpaSpec};

/// The engines for attention.
pub(crate) const ENGINES: &[&str] = &["fused", "cudnn"];

/// Positions from which full attention was faster through cuDNN at both widths.
const LONG: usize = 1024;

/// The guess for a Hopper chip, from one NVIDIA H200 (`docs/cuda.md`): full attention over long
/// prompts is faster through cuDNN's plans, everything else as fast or faster through the fused
/// kernels. Other chips were not measured, and take the fused kernels.
pub(crate) fn guess(capability: (u32, u32), spec: &SdpaSpec) -> Option<EnginePreference> {
    let mask = &spec.mask;
    let full = mask.left.is_none() && mask.right.is_none() && mask.tensor == MaskTensorKind::None;
    let plain = full && !spec.kv_lens && spec.softcap().is_none();
    let long = spec.phase == Phase::Prefill && spec.lengths.q_bucket >= LONG;
    let known = matches!(spec.head_dim, 64 | 128) && spec.v_dim == spec.head_dim;
    (capability == (9, 0) && plain && long && known).then(|| EnginePreference {
        engine: "cudnn",
        reason: format!("full attention of {LONG} positions or more"),
    })
}
