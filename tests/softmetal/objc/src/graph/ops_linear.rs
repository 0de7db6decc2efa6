//! Matrix products, attention, softmax, bands, gathering.

use super::ir::Op;
use super::tensor::{GRAPH, answer};
use crate::runtime::Id;
use crate::runtime::class::methods;

methods! { install_methods for GRAPH;
    - "matrixMultiplicationWithPrimaryTensor:secondaryTensor:name:" (this, a: Id, b: Id, _name: Id) -> Id {
        answer(this, Op::MatMul, &[a, b])
    }
    - "scaledDotProductAttentionWithQueryTensor:keyTensor:valueTensor:maskTensor:scale:name:" (
        this, q: Id, k: Id, v: Id, mask: Id, scale: f32, _name: Id,
    ) -> Id {
        if mask.is_nil() {
            return answer(this, Op::Sdpa { scale }, &[q, k, v]);
        }
        answer(this, Op::Sdpa { scale }, &[q, k, v, mask])
    }
    - "scaledDotProductAttentionWithQueryTensor:keyTensor:valueTensor:scale:name:" (
        this, q: Id, k: Id, v: Id, scale: f32, _name: Id,
    ) -> Id {
        answer(this, Op::Sdpa { scale }, &[q, k, v])
    }
    - "softMaxWithTensor:axis:name:" (this, tensor: Id, axis: isize, _name: Id) -> Id {
        answer(this, Op::Softmax { axis: axis as i64 }, &[tensor])
    }
    - "bandPartWithTensor:numLower:numUpper:name:" (this, tensor: Id, lower: isize, upper: isize, _name: Id) -> Id {
        answer(this, Op::Band { lower: lower as i64, upper: upper as i64 }, &[tensor])
    }
    - "gatherWithUpdatesTensor:indicesTensor:axis:batchDimensions:name:" (
        this, data: Id, indices: Id, axis: usize, batch: usize, _name: Id,
    ) -> Id {
        answer(this, Op::Gather { axis, batch }, &[data, indices])
    }
}

pub(super) fn install() {
    install_methods();
}
