//! `Sdpa` by hand-written kernels, in four variants. The first that takes a call runs, so they are
//! registered in this order:
//!
//! 1. `flash_decode` for up to 8 queries: scores never leave the chip, every key is read once for
//!    all heads that share it, and long caches are split so that the whole GPU reads.
//! 2. `flash_prefill` for widths up to 128: nothing of size `q_len · kv_len` is stored, and blocks
//!    that a band hides are skipped.
//! 3. `composed` for everything: it writes the scores to memory, which costs bandwidth.
//! 4. `softmax_mps`, dense f32 and f16 only: the same by Apple's matrix kernels, to compare with.
//!
//! The order is reasoned, not measured: no run on a GPU stands behind it yet.
//! `sdpa_variant_benchmark` times all of them.

mod call;
mod composed;
mod decode;
mod matrix;
mod prefill;
mod softmax_mps;

pub(crate) use composed::ComposedSdpa;
pub(crate) use decode::FlashDecodeSdpa;
pub(crate) use prefill::FlashPrefillSdpa;
pub(crate) use softmax_mps::SoftmaxMpsSdpa;

use crate::metal::layout::HostStruct;

/// The struct that all of them read.
pub(super) const LAYOUT: HostStruct = call::SdpaParams::LAYOUT;
