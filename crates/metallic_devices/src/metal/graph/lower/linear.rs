//! A projection: `x Wᵀ + bias` in f32.
//!
//! Weights are fed as they are stored. Those of q8_0 and q4_0 are fed as two views of the same
//! memory, one of the numbers and one of the scales of their blocks, so nothing is copied:
//!
//! ```text
//! q8_0 block, 34 bytes: scale f16, 32 signed bytes
//! q4_0 block, 18 bytes: scale f16, 16 bytes; low halves are elements 0..16, high ones 16..32
//! ```

use metallic::Result;
use metallic::graph::{LinearNode, Node};
use metallic::tensor::DType;
use objc2_metal_performance_shaders::MPSDataType;

use super::{BlockView, Lowering, Slot};
use crate::metal::graph::emit::{Binary, Emitter, Unary};
use crate::metal::graph::value::{Value, bad};

const F32: MPSDataType = MPSDataType::Float32;

/// `[.., out_features]`.
pub(super) fn lower(lowering: &Lowering<'_>, node: &LinearNode) -> Result<Value> {
    let (x, weight) = (lowering.value(node.x)?, lowering.value(node.weight)?);
    let emitter = &lowering.emitter;
    let weight = emitter.cast(&weight, F32)?;
    let columns = emitter.transpose(&weight, &[1, 0])?;
    // One product of two axes, whatever the outer axes are.
    let outer = &x.dims[..x.dims.len() - 1];
    let rows: isize = outer.iter().product();
    let flat = emitter.reshape(&x, &[rows, node.in_features as isize])?;
    let product = emitter.matmul(&flat, &columns)?;
    let out = match node.bias {
        Some(bias) => emitter.binary(Binary::Add, &product, &lowering.value(bias)?)?,
        None => product,
    };
    let mut dims = outer.to_vec();
    dims.push(node.out_features as isize);
    emitter.reshape(&out, &dims)
}

/// The weight in input `number`, of a block format, as f32 `[rows, width]`.
pub(super) fn blocks(
    lowering: &mut Lowering<'_>,
    number: usize,
    dtype: DType,
    [rows, width]: [isize; 2],
) -> Result<Value> {
    let len = dtype.block_len() as isize;
    let groups = [rows, width / len];
    let scales = lowering.feed(
        Slot::Blocks(number, BlockView::Scales),
        "scales",
        &[groups[0], groups[1], 1],
        MPSDataType::Float16,
    )?;
    let numbers = Slot::Blocks(number, BlockView::Numbers);
    let weight = match dtype {
        DType::Q8_0 => {
            let dims = [groups[0], groups[1], len];
            let numbers = lowering.feed(numbers, "numbers", &dims, MPSDataType::Int8)?;
            let scales = lowering.emitter.cast(&scales, F32)?;
            lowering.emitter.dequantize(&numbers, &scales, F32)?
        }
        DType::Q4_0 => {
            let dims = [groups[0], groups[1], len / 2];
            let numbers = lowering.feed(numbers, "numbers", &dims, MPSDataType::UInt8)?;
            let scales = lowering.emitter.cast(&scales, F32)?;
            halves(&lowering.emitter, &numbers, &scales)?
        }
        other => return Err(bad("linear", format!("no views of {other}"))),
    };
    lowering.emitter.reshape(&weight, &[rows, width])
}

/// Two elements a byte, 8 standing for 0.
fn halves(emitter: &Emitter, bytes: &Value, scales: &Value) -> Result<Value> {
    let bytes = emitter.cast(bytes, F32)?;
    let (sixteen, eight) = (emitter.scalar(16.0, F32)?, emitter.scalar(8.0, F32)?);
    let high = emitter.binary(Binary::Divide, &bytes, &sixteen)?;
    let high = emitter.unary(Unary::Floor, &high)?;
    let above = emitter.binary(Binary::Multiply, &high, &sixteen)?;
    let low = emitter.binary(Binary::Subtract, &bytes, &above)?;
    let both = emitter.concat(&low, &high, 2)?;
    let centered = emitter.binary(Binary::Subtract, &both, &eight)?;
    emitter.binary(Binary::Multiply, &centered, scales)
}

/// Whether node `index` is the weight of a projection.
pub(super) fn is_weight(nodes: &[Node], index: usize) -> bool {
    nodes.iter().any(|node| match node {
        Node::Linear(linear) => linear.weight.index() == index,
        _ => false,
    })
}
