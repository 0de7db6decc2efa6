//! The MPSGraph executor under the stand-ins: attention and halves of blocks against the oracle,
//! memory that is bound and copied, splits of command buffers, packages, decoding.

// Linked in place of Apple's frameworks.
use softmetal_objc as _;

mod decode;
mod memory;
mod packages;
mod parity;
mod segments;
mod support;
mod tiny_model;
