//! Attention in f32 out of MPSGraph's plain ops: products, softmax, selects.
//!
//! - Scores are products of f32 operands: in f16 those of Qwen2 overflow (pytorch#160841).
//! - Hidden scores are replaced, not added to, so that NaN in a hidden key is dropped. The select
//!   stands between product and softmax in every graph; it also keeps MPSGraph on macOS 15 from
//!   recognising attention and running the op that leaks (pytorch#152344).
//! - A weight of 0 times NaN in a hidden value would be NaN. Where hidden keys may hold anything,
//!   the product is taken over values with zeros for everything that is not finite, and a second
//!   product, of permissions and of flags, tells which elements a row does see one of.

use metallic::Result;
use metallic::graph::SdpaNode;
use objc2_metal_performance_shaders::MPSDataType;

use super::Lowering;
use super::sdpa::Operands;
use crate::HiddenKeys;
use crate::metal::graph::emit::{Binary, Emitter, Unary};
use crate::metal::graph::value::{ANY, Value, bad};

const F32: MPSDataType = MPSDataType::Float32;

/// Keys of one product on GPUs that err from 32767 on (pytorch#195012).
const LONGEST_SUM: isize = 32_512;

/// `[b, kv_heads, rows, v_dim]` in f32; rows that see no key are NaN.
pub(super) fn lower(
    lowering: &Lowering<'_>,
    node: &SdpaNode,
    operands: &Operands,
) -> Result<Value> {
    let emitter = &lowering.emitter;
    let Operands { q, k, v, visible } = operands;
    let scores = scores(emitter, node, q, k)?;
    let scores = match &visible.bias {
        Some(bias) => emitter.binary(Binary::Add, &scores, bias)?,
        None => scores,
    };
    let hidden = emitter.scalar(f64::NEG_INFINITY, F32)?;
    let scores = emitter.select(&visible.allowed, &scores, &hidden)?;
    let weights = emitter.softmax(&scores, 3)?;
    let values = emitter.cast(v, F32)?;
    let cut = lowering.target.cut_long_sums;
    if lowering.target.terms.hidden_keys == HiddenKeys::Finite {
        return product(emitter, &weights, &values, cut);
    }
    let zero = emitter.scalar(0.0, F32)?;
    let finite = emitter.unary(Unary::IsFinite, &values)?;
    let clean = emitter.select(&finite, &values, &zero)?;
    let sums = product(emitter, &weights, &clean, cut)?;
    let seen = Seen { allowed: &visible.allowed, values: &values, cut };
    with_infinities(emitter, &sums, &seen)
}

/// `cap(scale · q kᵀ)`, `[b, kv_heads, rows, kv]` in f32.
fn scores(emitter: &Emitter, node: &SdpaNode, q: &Value, k: &Value) -> Result<Value> {
    let (q, k) = (emitter.cast(q, F32)?, emitter.cast(k, F32)?);
    let keys = emitter.transpose(&k, &[0, 1, 3, 2])?;
    let products = emitter.matmul(&q, &keys)?;
    let scale = emitter.scalar(node.scale.into(), F32)?;
    let scores = emitter.binary(Binary::Multiply, &products, &scale)?;
    let Some(cap) = node.softcap else { return Ok(scores) };
    let cap = emitter.scalar(cap.into(), F32)?;
    let ratio = emitter.binary(Binary::Divide, &scores, &cap)?;
    let bounded = emitter.unary(Unary::Tanh, &ratio)?;
    emitter.binary(Binary::Multiply, &bounded, &cap)
}

/// `a b` over a long inner axis, in pieces where the GPU needs it.
fn product(emitter: &Emitter, a: &Value, b: &Value, cut: bool) -> Result<Value> {
    let keys = b.dim(2);
    if !cut || (keys != ANY && keys <= LONGEST_SUM) {
        return emitter.matmul(a, b);
    }
    if keys == ANY {
        return Err(bad("sdpa", "sums of unknown length on a GPU where long ones are wrong"));
    }
    let mut sum: Option<Value> = None;
    let mut start = 0;
    while start < keys {
        let len = LONGEST_SUM.min(keys - start);
        let (a, b) = (emitter.slice(a, 3, start, len)?, emitter.slice(b, 2, start, len)?);
        let part = emitter.matmul(&a, &b)?;
        sum = Some(match sum {
            Some(sum) => emitter.binary(Binary::Add, &sum, &part)?,
            None => part,
        });
        start += len;
    }
    sum.ok_or_else(|| bad("sdpa", "no keys"))
}

/// Where infinities and NaN of `values` are seen.
struct Seen<'a> {
    allowed: &'a Value,
    values: &'a Value,
    cut: bool,
}

/// `sums` with infinity or NaN wherever a row sees one: a visible key has a weight above 0.
fn with_infinities(emitter: &Emitter, sums: &Value, seen: &Seen<'_>) -> Result<Value> {
    let Seen { allowed, values, cut } = seen;
    let (plus, minus) =
        (emitter.scalar(f64::INFINITY, F32)?, emitter.scalar(f64::NEG_INFINITY, F32)?);
    // NaN counts as both infinities, whose sum it is.
    let nan = emitter.unary(Unary::IsNan, values)?;
    let flag = |infinity: &Value| {
        let equal = emitter.binary(Binary::Equal, values, infinity)?;
        emitter.cast(&emitter.binary(Binary::Or, &equal, &nan)?, F32)
    };
    let flags = emitter.concat(&flag(&plus)?, &flag(&minus)?, 3)?;
    let permits = emitter.cast(allowed, F32)?;
    let mut dims = sums.dims.clone();
    dims[3] = values.dim(2);
    let permits = emitter.broadcast_to(&permits, &dims)?;
    let counts = product(emitter, &permits, &flags, *cut)?;
    let (width, zero) = (values.dim(3), emitter.scalar(0.0, F32)?);
    let sees = |start: isize| {
        let counts = emitter.slice(&counts, 3, start, width)?;
        emitter.binary(Binary::Greater, &counts, &zero)
    };
    let (sees_plus, sees_minus) = (sees(0)?, sees(width)?);
    let nan = emitter.scalar(f64::NAN, F32)?;
    let with_plus = emitter.select(&sees_minus, &nan, &plus)?;
    let without = emitter.select(&sees_minus, &minus, sums)?;
    emitter.select(&sees_plus, &with_plus, &without)
}
