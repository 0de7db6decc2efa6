//! What `auto` runs on the GPU: hand-written kernels, until graphs are certified on this system
//! build and GPU.
//!
//! Nothing here was ever run on Apple's hardware by this project, so what `auto` trusts must come
//! from the machine it runs on.

use metallic::dispatch::{Backend, Preference};
use metallic::op::SdpaSpec;
use metallic::segment::AttentionBlockSpec;

const UNCERTIFIED: Preference = Preference {
    backend: Backend::Legacy,
    reason: "MPSGraph has no certificate for this system build and GPU (`metallic parity --device \
             metal --certify` makes one)",
};

const CERTIFIED: Preference = Preference {
    backend: Backend::Graph,
    reason: "MPSGraph is certified on this system build and GPU",
};

/// Attention without a certificate.
pub(super) fn uncertified(_: &SdpaSpec) -> Preference {
    UNCERTIFIED
}

/// Attention with one.
pub(super) fn certified(_: &SdpaSpec) -> Preference {
    CERTIFIED
}

/// The attention half of a block without a certificate.
pub(super) fn uncertified_block(_: &AttentionBlockSpec) -> Preference {
    UNCERTIFIED
}

/// The attention half of a block with one.
pub(super) fn certified_block(_: &AttentionBlockSpec) -> Preference {
    CERTIFIED
}
