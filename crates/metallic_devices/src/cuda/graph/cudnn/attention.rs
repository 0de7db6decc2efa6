//! Attention as the operations that cuDNN knows as attention.
//!
//! The library looks for a pattern and has kernels for it alone, so order and types of the operations
//! are not free: the logarithm of the sums must be there though nobody reads it. Without it no kernel
//! is found for some shapes, and for others a plan whose run reads outside its operands.

use super::graph::{Element, NUMBER, Operands, Operations, Pointwise, Reduce, Value};
use super::library::Library;

/// Everything a plan depends on besides the handle. Shapes and strides are in elements, the order of
/// axes is batch, head, row, column.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Geometry {
    /// Of queries, keys, values and the output.
    pub(super) element: Element,
    pub(super) batch: usize,
    pub(super) q_heads: usize,
    pub(super) kv_heads: usize,
    pub(super) q_len: usize,
    /// Keys the operands have room for.
    pub(super) kv_len: usize,
    pub(super) head_dim: usize,
    pub(super) v_dim: usize,
    /// Strides of batch, head and row.
    pub(super) q: [i64; 3],
    pub(super) k: [i64; 3],
    pub(super) v: [i64; 3],
    pub(super) out: [i64; 3],
    /// Whether a query sees no key after the diagonal, which ends in the lower right corner.
    pub(super) causal: bool,
    /// Keys that a query sees before the diagonal.
    pub(super) left: Option<usize>,
    /// Whether sequences have live lengths of their own.
    pub(super) lengths: bool,
    pub(super) bias: Option<Bias>,
}

/// An additive mask.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Bias {
    pub(super) element: Element,
    /// 1 along an axis that it repeats along.
    pub(super) shape: [i64; 4],
    pub(super) strides: [i64; 4],
}

/// What the fed tensors are called.
pub(super) mod id {
    pub(in super::super) const Q: i64 = 1;
    pub(in super::super) const K: i64 = 2;
    pub(in super::super) const V: i64 = 3;
    pub(in super::super) const OUT: i64 = 4;
    pub(in super::super) const BIAS: i64 = 5;
    /// i32 `[batch, 1, 1, 1]` in device memory.
    pub(in super::super) const Q_LENS: i64 = 6;
    /// As `Q_LENS`.
    pub(in super::super) const KV_LENS: i64 = 7;
    /// f32 in host memory, as the next.
    pub(in super::super) const SCALE: i64 = 8;
    /// −infinity, under as many names as there are masks.
    pub(in super::super) const HIDDEN: [i64; 3] = [9, 10, 11];
    /// i32 in host memory, as the next: lengths where all sequences have the same.
    pub(in super::super) const Q_LEN: i64 = 12;
    pub(in super::super) const KV_LEN: i64 = 13;
    /// f32 or i32 in host memory: the width of the window.
    pub(in super::super) const WINDOW: i64 = 14;
}

/// A number in host memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Number {
    F32(f32),
    I32(i32),
}

impl Number {
    /// Its four bytes.
    pub(super) fn bits(self) -> u32 {
        match self {
            Number::F32(value) => value.to_bits(),
            Number::I32(value) => value as u32,
        }
    }
}

/// The operations of a call, and the numbers to feed besides tensors and the scale.
pub(super) struct Lowered {
    pub(super) operations: Operations,
    pub(super) numbers: Vec<(i64, Number)>,
}

/// A graph under construction.
struct Lowering<'a> {
    geometry: &'a Geometry,
    ops: Operations,
    numbers: Vec<(i64, Number)>,
    /// Shape of the scores.
    scores: [i64; 4],
    q_lens: Option<Value>,
    kv_lens: Option<Value>,
}

type Outcome<T> = Result<T, String>;

/// The operations of attention over operands of `geometry`.
///
/// # Errors
/// In words, when the library takes no such tensor or operation.
pub(super) fn lower(geometry: &Geometry, library: &'static Library) -> Outcome<Lowered> {
    let Geometry { batch, q_heads, q_len, kv_len, .. } = *geometry;
    let scores = [batch, q_heads, q_len, kv_len].map(|axis| axis as i64);
    let ops = Operations::new(library);
    let mut lowering =
        Lowering { geometry, ops, numbers: Vec::new(), scores, q_lens: None, kv_lens: None };
    lowering.run()?;
    Ok(Lowered { operations: lowering.ops, numbers: lowering.numbers })
}

impl Lowering<'_> {
    fn run(&mut self) -> Outcome<()> {
        let Geometry { element, batch, q_heads, kv_heads, q_len, kv_len, .. } = *self.geometry;
        let Geometry { head_dim, v_dim, q, k, v, out, .. } = *self.geometry;
        let shape =
            |heads: usize, rows: usize, width: usize| [batch, heads, rows, width].map(|n| n as i64);
        let fed = |ops: &mut Operations, id, shape, [batch, head, row]: [i64; 3]| {
            ops.fed(id, element, shape, [batch, head, row, 1])
        };
        let ops = &mut self.ops;
        let queries = fed(ops, id::Q, shape(q_heads, q_len, head_dim), q)?;
        // Keys as columns.
        let [batch_stride, head, row] = k;
        let columns = [batch_stride, head, 1, row];
        let keys = ops.fed(id::K, element, shape(kv_heads, head_dim, kv_len), columns)?;
        let values = fed(ops, id::V, shape(kv_heads, kv_len, v_dim), v)?;
        let result = fed(ops, id::OUT, shape(q_heads, q_len, v_dim), out)?;
        if self.geometry.lengths {
            let per_batch = [batch as i64, 1, 1, 1];
            self.q_lens = Some(ops.fed(id::Q_LENS, Element::I32, per_batch, NUMBER)?);
            self.kv_lens = Some(ops.fed(id::KV_LENS, Element::I32, per_batch, NUMBER)?);
        }
        let products = ops.virtual_tensor(Element::F32, self.scores)?;
        ops.matmul([queries, keys, products], [self.q_lens, self.kv_lens, None])?;
        let scale = ops.host_number(id::SCALE, Element::F32)?;
        let mut scores = self.on_scores(Pointwise::Mul, Element::F32, products, scale)?;
        if let Some(Bias { element, shape, strides }) = self.geometry.bias.clone() {
            let bias = self.ops.fed(id::BIAS, element, shape, strides)?;
            scores = self.on_scores(Pointwise::Add, Element::F32, scores, bias)?;
        }
        if let (Some(q_lens), Some(kv_lens)) = (self.q_lens, self.kv_lens) {
            scores = self.hide_dead(scores, q_lens, kv_lens)?;
        }
        if self.geometry.causal {
            scores = self.hide_after(scores)?;
        }
        if let Some(left) = self.geometry.left {
            scores = self.hide_before(scores, left)?;
        }
        let weights = self.softmax(scores)?;
        self.ops.matmul([weights, values, result], [self.q_lens, None, self.kv_lens])
    }

    /// An operation on two operands with a result of the scores' shape.
    fn on_scores(
        &mut self,
        mode: Pointwise,
        element: Element,
        x: Value,
        b: Value,
    ) -> Outcome<Value> {
        self.ops.pointwise(mode, element, Operands::two(x, b), self.scores)
    }

    /// Rows and columns of the scores, as numbers.
    fn indices(&mut self, scores: Value) -> Outcome<[Value; 2]> {
        let mut index = |axis| {
            let operands = Operands { axis: Some(axis), ..Operands::one(scores) };
            self.ops.pointwise(Pointwise::Index, Element::I32, operands, self.scores)
        };
        Ok([index(2)?, index(3)?])
    }

    /// The scores where `seen` holds, else −infinity, which is fed under `hidden`.
    fn keep(&mut self, scores: Value, seen: Value, hidden: i64) -> Outcome<Value> {
        let nothing = self.number(hidden, Number::F32(f32::NEG_INFINITY))?;
        let operands = Operands { t: Some(seen), ..Operands::two(scores, nothing) };
        self.ops.pointwise(Pointwise::Select, Element::F32, operands, self.scores)
    }

    fn number(&mut self, id: i64, number: Number) -> Outcome<Value> {
        let element = match number {
            Number::F32(_) => Element::F32,
            Number::I32(_) => Element::I32,
        };
        self.numbers.push((id, number));
        self.ops.host_number(id, element)
    }

    /// Hides what lies past a sequence's live length.
    fn hide_dead(&mut self, scores: Value, q_lens: Value, kv_lens: Value) -> Outcome<Value> {
        let [row, column] = self.indices(scores)?;
        let rows = self.on_scores(Pointwise::Less, Element::Bool, row, q_lens)?;
        let columns = self.on_scores(Pointwise::Less, Element::Bool, column, kv_lens)?;
        let both = self.on_scores(Pointwise::And, Element::Bool, rows, columns)?;
        self.keep(scores, both, id::HIDDEN[0])
    }

    /// Keeps `row + kv_len − q_len ≥ column`.
    fn hide_after(&mut self, scores: Value) -> Outcome<Value> {
        let [row, column] = self.indices(scores)?;
        let Geometry { q_len, kv_len, .. } = *self.geometry;
        let diagonal = match (self.q_lens, self.kv_lens) {
            (None, None) if q_len == kv_len => row,
            (q_lens, kv_lens) => {
                let kv = match kv_lens {
                    Some(lens) => lens,
                    None => self.number(id::KV_LEN, Number::I32(kv_len as i32))?,
                };
                let q = match q_lens {
                    Some(lens) => lens,
                    None => self.number(id::Q_LEN, Number::I32(q_len as i32))?,
                };
                let shifted = self.on_scores(Pointwise::Add, Element::I32, row, kv)?;
                self.on_scores(Pointwise::Sub, Element::I32, shifted, q)?
            }
        };
        let seen = self.on_scores(Pointwise::GreaterOrEqual, Element::Bool, diagonal, column)?;
        self.keep(scores, seen, id::HIDDEN[1])
    }

    /// Keeps `column + window − kv_len + q_len > row` for a window of `left + 1` keys.
    fn hide_before(&mut self, scores: Value, left: usize) -> Outcome<Value> {
        let [row, column] = self.indices(scores)?;
        let window = left as i64 + 1;
        let shifted = match (self.q_lens, self.kv_lens) {
            (Some(q_lens), Some(kv_lens)) => {
                let window = self.number(id::WINDOW, Number::I32(window as i32))?;
                let wide = self.on_scores(Pointwise::Add, Element::I32, column, window)?;
                let less = self.on_scores(Pointwise::Sub, Element::I32, wide, kv_lens)?;
                self.on_scores(Pointwise::Add, Element::I32, less, q_lens)?
            }
            _ => {
                let Geometry { q_len, kv_len, .. } = *self.geometry;
                let shift = (window - kv_len as i64 + q_len as i64) as f32;
                let shift = self.number(id::WINDOW, Number::F32(shift))?;
                self.on_scores(Pointwise::Add, Element::F32, column, shift)?
            }
        };
        let seen = self.on_scores(Pointwise::Greater, Element::Bool, shifted, row)?;
        self.keep(scores, seen, id::HIDDEN[2])
    }

    /// Weights in the operands' type, from scores in f32.
    fn softmax(&mut self, scores: Value) -> Outcome<Value> {
        let [batch, heads, rows, _] = self.scores;
        let per_row = [batch, heads, rows, 1];
        let highest = self.ops.reduce(Reduce::Max, scores, per_row)?;
        let below = self.on_scores(Pointwise::Sub, Element::F32, scores, highest)?;
        let ops = &mut self.ops;
        let exp = ops.pointwise(Pointwise::Exp, Element::F32, Operands::one(below), self.scores)?;
        let sum = ops.reduce(Reduce::Sum, exp, per_row)?;
        let log = ops.pointwise(Pointwise::Log, Element::F32, Operands::one(sum), per_row)?;
        ops.pointwise(Pointwise::Add, Element::F32, Operands::two(highest, log), per_row)?;
        let weights = ops.virtual_tensor(self.geometry.element, self.scores)?;
        ops.pointwise_into(Pointwise::Div, Element::F32, Operands::two(exp, sum), weights)?;
        Ok(weights)
    }
}
