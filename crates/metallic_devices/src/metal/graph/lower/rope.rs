//! Rotary embedding out of slices: MPSGraph has no such op.

use metallic::Result;
use metallic::graph::RopeNode;
use metallic::op::RopePairing;

use super::Lowering;
use crate::metal::graph::emit::{Binary, Emitter};
use crate::metal::graph::value::Value;

/// Each pair `(a, b)` becomes `(a·cos − b·sin, a·sin + b·cos)`; what lies past the pairs stays.
pub(super) fn lower(lowering: &Lowering<'_>, node: &RopeNode) -> Result<Value> {
    let x = lowering.value(node.x)?;
    let emitter = &lowering.emitter;
    let pairs = node.pairs as isize;
    let turned = match node.pairing {
        RopePairing::Half => {
            let [cos, sin] = shaped(lowering, node, &[x.dim(0), 1, x.dim(2), pairs])?;
            let a = emitter.slice(&x, 3, 0, pairs)?;
            let b = emitter.slice(&x, 3, pairs, pairs)?;
            let (a, b) = turn(emitter, [&a, &b], [&cos, &sin])?;
            emitter.concat(&a, &b, 3)?
        }
        RopePairing::Interleaved => {
            let [cos, sin] = shaped(lowering, node, &[x.dim(0), 1, x.dim(2), pairs, 1])?;
            let paired = emitter.slice(&x, 3, 0, 2 * pairs)?;
            let paired = emitter.reshape(&paired, &[x.dim(0), x.dim(1), x.dim(2), pairs, 2])?;
            let (a, b) = (emitter.slice(&paired, 4, 0, 1)?, emitter.slice(&paired, 4, 1, 1)?);
            let (a, b) = turn(emitter, [&a, &b], [&cos, &sin])?;
            let both = emitter.concat(&a, &b, 4)?;
            emitter.reshape(&both, &[x.dim(0), x.dim(1), x.dim(2), 2 * pairs])?
        }
    };
    let rest = node.dim as isize - 2 * pairs;
    if rest == 0 {
        return Ok(turned);
    }
    emitter.concat(&turned, &emitter.slice(&x, 3, 2 * pairs, rest)?, 3)
}

/// Cosines and sines `[batch, len, pairs]` in a shape that broadcasts over heads.
fn shaped(lowering: &Lowering<'_>, node: &RopeNode, dims: &[isize]) -> Result<[Value; 2]> {
    let (cos, sin) = (lowering.value(node.cos)?, lowering.value(node.sin)?);
    Ok([lowering.emitter.reshape(&cos, dims)?, lowering.emitter.reshape(&sin, dims)?])
}

fn turn(emitter: &Emitter, [a, b]: [&Value; 2], [cos, sin]: [&Value; 2]) -> Result<(Value, Value)> {
    let product = |x, y| emitter.binary(Binary::Multiply, x, y);
    let first = emitter.binary(Binary::Subtract, &product(a, cos)?, &product(b, sin)?)?;
    let second = emitter.binary(Binary::Add, &product(a, sin)?, &product(b, cos)?)?;
    Ok((first, second))
}
