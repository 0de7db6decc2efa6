//! The MPSGraph executor under the stand-ins: attention against the oracle, feeds, views, splits
//! of command buffers, packages, decoding.

// Linked in place of Apple's frameworks.
use softmetal_objc as _;

mod parity;
mod support;
