//! The two ways attention is put into a graph, and which of them may be taken.

use std::fmt;

use metallic::dispatch::{Reason, Support};
use metallic::graph::{NodeId, SdpaNode};
use metallic::op::MaskTensorKind;
use metallic::tensor::DType;

use super::infer::Type;
use super::platform::Platform;
use super::quirks::{Fault, has};
use crate::{HiddenKeys, Operands, Terms};

/// How attention is lowered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Form {
    /// MPSGraph's own attention op: no score matrix in memory on Apple's GPUs.
    Native,
    /// Products, softmax and selects, in f32.
    Decomposed,
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Form::Native => "native",
            Form::Decomposed => "decomposed",
        })
    }
}

/// Types of the operands of an attention node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OperandTypes {
    pub(crate) q: DType,
    pub(crate) k: DType,
    pub(crate) v: DType,
}

impl OperandTypes {
    /// The types of `node`'s operands among those of its graph's nodes.
    pub(crate) fn of(types: &[Type], node: &SdpaNode) -> Self {
        let dtype = |id: NodeId| types[id.index()].dtype;
        Self { q: dtype(node.q), k: dtype(node.k), v: dtype(node.v) }
    }

    /// The one type the native op may be given, if there is one under `terms`.
    pub(crate) fn native(self, terms: Terms) -> Option<DType> {
        let Self { q, k, v } = self;
        let rounds = terms.operands == Operands::KeyType && q == DType::F32;
        (k == v && (q == k || rounds)).then_some(k)
    }
}

/// The types of caches that graphs take, and what to do about another.
pub(super) const CACHE_TYPES: &str = "f32, f16 and bf16 in MPSGraph; choose one of them for the KV cache \
    (--cache-type-k, --cache-type-v), or --sdpa-backend legacy, which reads q8_0 too";

/// Whether `node` may be lowered in `form`.
pub(crate) fn supports(
    form: Form,
    node: &SdpaNode,
    types: OperandTypes,
    terms: Terms,
    platform: &Platform,
) -> Support {
    let missing = |feature: &'static str| Support::No(Reason::Missing { feature });
    for (binding, got) in [("q", types.q), ("k", types.k), ("v", types.v)] {
        if got.is_quantized() {
            return Support::No(Reason::DType { binding, got, supported: CACHE_TYPES });
        }
        if got == DType::Bf16
            && let Some(what) = has(platform, Fault::NoBf16)
        {
            return missing(what);
        }
    }
    if form == Form::Decomposed {
        return Support::Yes;
    }
    if let Some(what) = has(platform, Fault::NoNativeSdpa) {
        return missing(what);
    }
    let Some(dtype) = types.native(terms) else {
        return missing("operands of different types in MPSGraph's attention op");
    };
    if dtype == DType::F32
        && let Some(what) = has(platform, Fault::NativeSdpaLeaksF32)
    {
        return missing(what);
    }
    if node.softcap.is_some() {
        return missing("a bound of the scores in MPSGraph's attention op");
    }
    if node.v_dim != node.head_dim {
        return missing("values of another width than keys in MPSGraph's attention op");
    }
    match node.mask_kind.tensor {
        MaskTensorKind::Additive(mask) if mask != dtype && dtype != DType::F32 => {
            return missing("a mask of another type than keys in MPSGraph's attention op");
        }
        _ => {}
    }
    if terms.hidden_keys == HiddenKeys::Any && hides_keys(node) {
        return missing(
            "hidden keys that may hold NaN in MPSGraph's attention op, which multiplies them by 0",
        );
    }
    Support::Yes
}

/// Whether some query may not see some key. (Keys that fill up a length class are zeros that
/// the executor wrote.)
pub(crate) fn hides_keys(node: &SdpaNode) -> bool {
    let kind = &node.mask_kind;
    let band = kind.left.is_some() || kind.right.is_some();
    band || node.kv_lens.is_some() || kind.tensor != MaskTensorKind::None
}
