//! What `auto` runs on the GPU: hand-written kernels, until graphs are certified on this system
//! build and GPU.
//!
//! Nothing here was ever run on Apple's hardware by this project, so what `auto` trusts must come
//! from the machine it runs on.

use metallic::dispatch::{Backend, Preference};

const UNCERTIFIED: Preference = Preference {
    backend: Backend::Legacy,
    reason: "MPSGraph has no certificate for this system build and GPU (`metallic parity --device \
             metal --certify` makes one)",
};

const CERTIFIED: Preference = Preference {
    backend: Backend::Graph,
    reason: "MPSGraph is certified on this system build and GPU",
};

/// Attention and halves of blocks without a certificate.
pub(super) fn uncertified<S>(_: &S) -> Preference {
    UNCERTIFIED
}

/// Attention and halves of blocks with one.
pub(super) fn certified<S>(_: &S) -> Preference {
    CERTIFIED
}
