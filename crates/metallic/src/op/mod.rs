//! The operations a transformer is made of: formula, shapes, arguments, validation.
//!
//! An op says what is computed and refuses what does not fit. Not how: kernels do that, on a
//! device, chosen by `dispatch`.

mod add;
pub(crate) mod check;
mod embedding;
mod kv_append;
mod linear;
mod mask;
mod rms_norm;
mod rope;
mod sdpa;
mod swiglu;
mod top_k;

pub use add::{Add, AddArgs, AddSpec};
pub use embedding::{Embedding, EmbeddingArgs, EmbeddingSpec};
pub use kv_append::{KvAppend, KvAppendArgs, KvAppendSpec};
pub use linear::{Linear, LinearArgs, LinearSpec, Precision};
pub use mask::{Band, Mask, MaskKind, MaskTensor, MaskTensorKind};
pub use rms_norm::{RmsNorm, RmsNormArgs, RmsNormSpec};
pub use rope::{Rope, RopeArgs, RopePairing, RopeSpec};
pub use sdpa::{KV_BUCKET, LayoutClass, Phase, Sdpa, SdpaArgs, SdpaLengths, SdpaSpec};
pub use swiglu::{SwiGlu, SwiGluArgs, SwiGluSpec};
pub use top_k::{TopK, TopKArgs, TopKSpec};

use std::fmt::{Debug, Display};
use std::hash::Hash;

use crate::device::DeviceId;
use crate::error::Result;
use crate::tensor::Tensor;

/// One operation. All validation happens in [`Op::check`], before any device sees the call.
pub trait Op: Sized + 'static {
    /// The name used in flags, events and cache keys, as `sdpa`.
    const ID: &'static str;

    /// Exactly what a compiled executable depends on.
    type Spec: OpSpec;

    /// Tensors and parameters of one call, the preallocated output among them.
    type Args: OpArgs;

    /// Validates a call.
    ///
    /// # Errors
    /// [`crate::Error::Shape`], [`crate::Error::DType`] or [`crate::Error::Parameter`], with the
    /// offending axis, type or number.
    fn check(args: &Self::Args) -> Result<Self::Spec>;
}

/// The part of a call that a compiled executable depends on. Printed in cache keys.
pub trait OpSpec: Clone + Eq + Hash + Debug + Display + Send + Sync + 'static {
    /// The same spec for an executable that takes any length, so that growing sequences share it.
    #[must_use]
    fn without_lengths(&self) -> Self {
        self.clone()
    }
}

/// The tensors of one call.
pub trait OpArgs {
    /// Calls `visit` with the name of each tensor of the call and the tensor.
    fn each_tensor<'a>(&'a self, visit: &mut dyn FnMut(&'static str, &'a Tensor));

    /// The first tensor that lies on another device than `device`.
    fn misplaced(&self, device: DeviceId) -> Option<(&'static str, DeviceId)> {
        let mut found = None;
        self.each_tensor(&mut |name, tensor| {
            if tensor.device() != device && found.is_none() {
                found = Some((name, tensor.device()));
            }
        });
        found
    }
}
