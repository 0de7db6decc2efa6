//! `softmax_mps`: the composed attention by Apple's `MPSMatrixMultiplication` and
//! `MPSMatrixSoftMax`, with our own kernels for what they lack (masks, types, places).
//!
//! Scores and weights are f32. Products of f16 matrices with an f32 result are tested by Metal.jl on
//! Apple GPUs (its table of MPS types); the header names no types. Two matrices of a product must be
//! of one type, so weights are rounded to f16 for values of f16.

use metallic::Result;
use metallic::dispatch::{ExecCx, KernelInvocable, Reason, Support};
use metallic::op::{LayoutClass, Op, Sdpa, SdpaArgs, SdpaSpec};
use metallic::tensor::DType;
use objc2::Message;

use super::call::{Call, Step};
use super::composed::Chunk;
use super::matrix::{Part, Product, encode_softmax};
use crate::metal::buffer::{Bound, MetalBuffer};
use crate::metal::encoder::{Arg, Encoder};
use crate::metal::legacy::count;
use crate::metal::library::{Source, kernel_source};
use crate::metal::stream::Metal;

const SOURCE: Source = kernel_source!("sdpa_mps");
/// What halves are weights times; `WEIGHT_SCALE` in sdpa_mps.metal.
const WEIGHT_SCALE: f64 = 1024.0;
/// Bytes of scores in memory at once; weights take as much again.
const SCORE_BYTES: usize = 32 << 20;
/// Metal.jl#381: a product writes a band of NaN when `(rows + 2 · inner) · columns · 4` reaches
/// about this. At most half of it is asked for.
const PRODUCT_LIMIT: usize = 1 << 30;
/// On Apple7 and Apple8, products over 32767 elements and more read past their operands
/// (pytorch#183535); this is the last step of 256 keys below.
const MAX_KEYS: usize = 32_512;
/// So that a tile of rows stays below the limit of a product.
const MAX_WIDTH: usize = 256;

pub(crate) struct SoftmaxMpsSdpa(pub(crate) Metal);

impl KernelInvocable<Sdpa> for SoftmaxMpsSdpa {
    fn supports(&self, spec: &SdpaSpec) -> Support {
        let got = spec.q_dtype;
        if !matches!(got, DType::F32 | DType::F16) {
            return Support::No(Reason::DType { binding: "q", got, supported: "f32, f16" });
        }
        for (binding, got) in [("k", spec.k_dtype), ("v", spec.v_dtype)] {
            if got != spec.q_dtype {
                return Support::No(Reason::DType { binding, got, supported: "the type of q" });
            }
        }
        if spec.layout != LayoutClass::Dense {
            return Support::No(Reason::Missing { feature: "strided tensors in MPSMatrix" });
        }
        if spec.lengths.kv_bucket == 0 {
            return Support::No(Reason::Missing { feature: "matrices without elements" });
        }
        let ranges = [
            ("kv_len, in steps of 256", spec.lengths.kv_bucket, MAX_KEYS),
            ("head_dim", spec.head_dim, MAX_WIDTH),
            ("v_dim", spec.v_dim, MAX_WIDTH),
        ];
        match ranges.into_iter().find(|(_, got, max)| got > max) {
            Some((what, got, max)) => Support::No(Reason::Range { what, got, max }),
            None => Support::Yes,
        }
    }

    fn run(&self, _: &ExecCx<'_>, spec: &SdpaSpec, args: &SdpaArgs) -> Result<()> {
        let Some(call) = Call::new(spec, args)? else { return Ok(()) };
        let mut chunk = Chunk::new(&call, SCORE_BYTES);
        let most_rows = PRODUCT_LIMIT / (4 * chunk.score_stride) - 2 * MAX_WIDTH;
        chunk.rows = chunk.rows.min(most_rows);
        let tensors = Tensors {
            q: Bound::of(&args.q)?,
            k: Bound::of(&args.k)?,
            v: Bound::of(&args.v)?,
            wide: spec.q_dtype == DType::F32,
            head_dim: spec.head_dim,
        };
        self.0.encode(Sdpa::ID, |encoder| {
            let rows = chunk.heads * chunk.rows;
            let row_bytes = chunk.score_stride * size_of::<f32>();
            let scratch = Scratch {
                scores: &encoder.scratch(rows * row_bytes)?,
                weights: &encoder.scratch(rows * row_bytes)?,
                sums: &encoder.scratch(rows * call.v_dim * size_of::<f32>())?,
            };
            for head in (0..call.heads).step_by(chunk.heads) {
                for row in (0..call.rows).step_by(chunk.rows) {
                    let piece = Piece {
                        call: &call,
                        tensors,
                        scratch,
                        chunk,
                        first: [head, row],
                        heads: chunk.heads.min(call.heads - head),
                        rows: chunk.rows.min(call.rows - row),
                    };
                    piece.encode(encoder)?;
                }
            }
            Ok(())
        })
    }
}

/// The inputs, dense.
#[derive(Clone, Copy)]
struct Tensors<'a> {
    q: Bound<'a>,
    k: Bound<'a>,
    v: Bound<'a>,
    /// f32, or else f16.
    wide: bool,
    head_dim: usize,
}

#[derive(Clone, Copy)]
struct Scratch<'a> {
    /// `[heads, chunk rows, score_stride]`, f32; later the weights as halves.
    scores: &'a MetalBuffer,
    /// As long, f32.
    weights: &'a MetalBuffer,
    /// `[heads, chunk rows, v_dim]`, f32.
    sums: &'a MetalBuffer,
}

/// The heads and rows of one chunk.
struct Piece<'a> {
    call: &'a Call<'a>,
    tensors: Tensors<'a>,
    scratch: Scratch<'a>,
    chunk: Chunk,
    /// First key head and first stacked row.
    first: [usize; 2],
    heads: usize,
    rows: usize,
}

impl Piece<'_> {
    fn encode(&self, encoder: &mut Encoder<'_>) -> Result<()> {
        let Scratch { scores, weights, sums } = self.scratch;
        let (call, wide) = (self.call, self.tensors.wide);
        let [scores_arg, weights_arg, sums_arg] =
            [scores, weights, sums].map(|b| Arg::Scratch(b, 0));
        self.products(encoder, "MPSMatrixMultiplication qk", &[scores], |head| self.scores(head))?;
        self.rows(encoder, "sdpa_mps_mask", &[scores_arg, call.mask(), call.kv_lens()])?;
        let all =
            |buffer| Part { rows: self.heads * self.chunk.rows, ..self.tile(buffer, 0, true) };
        encoder.with_command_buffer("MPSMatrixSoftMax", &[scores, weights], |commands| {
            encode_softmax(commands, &all(scores), &all(weights));
            Ok(commands.retain())
        })?;
        if !wide {
            self.rows(encoder, "sdpa_mps_halves", &[weights_arg, scores_arg])?;
        }
        self.products(encoder, "MPSMatrixMultiplication pv", &[scores, weights, sums], |head| {
            self.sums(head)
        })?;
        let args = [sums_arg, weights_arg, call.v(), call.mask(), call.kv_lens(), call.out()];
        self.rows(encoder, "sdpa_mps_finish", &args)
    }

    /// One product for each key head.
    fn products<'b>(
        &'b self,
        encoder: &mut Encoder<'_>,
        label: &str,
        scratch: &[&MetalBuffer],
        product: impl Fn(usize) -> Product<'b>,
    ) -> Result<()> {
        let Tensors { q, k, v, .. } = self.tensors;
        let touched = [&[q.buffer, k.buffer, v.buffer], scratch].concat();
        encoder.with_command_buffer(label, &touched, |commands| {
            (0..self.heads).for_each(|head| product(head).encode(commands));
            Ok(commands.retain())
        })
    }

    /// A kernel of ours, one threadgroup a row.
    fn rows(&self, encoder: &mut Encoder<'_>, function: &str, args: &[Arg<'_>]) -> Result<()> {
        let mut params = self.call.params;
        let op = Sdpa::ID;
        params.first_head = count(op, self.first[0])?;
        params.first_row = count(op, self.first[1])?;
        params.chunk_rows = count(op, self.chunk.rows)?;
        params.score_stride = count(op, self.chunk.score_stride)?;
        let groups = [self.rows, self.heads, 1];
        let step = Step { source: SOURCE, function, args, params: &params, groups, simdgroups: 2 };
        self.call.dispatch(encoder, &step)
    }

    /// The rows of one key head in a buffer laid out as the scores.
    fn tile<'b>(&self, buffer: &'b MetalBuffer, head: usize, wide: bool) -> Part<'b> {
        let (stride, bytes) = (self.chunk.score_stride, if wide { 4 } else { 2 });
        let offset = buffer.base() + head * self.chunk.rows * stride * bytes;
        let at = Bound { buffer, offset };
        Part { at, wide, rows: self.rows, columns: self.call.kv_len, stride }
    }

    /// A dense matrix of a tensor that begins `first` rows after the tensor's first.
    fn dense<'b>(&self, at: Bound<'b>, first: usize, [rows, columns]: [usize; 2]) -> Part<'b> {
        let wide = self.tensors.wide;
        let offset = at.offset + first * columns * if wide { 4 } else { 2 };
        Part { at: Bound { offset, ..at }, wide, rows, columns, stride: columns }
    }

    fn scores(&self, head: usize) -> Product<'_> {
        let Tensors { q, k, head_dim, .. } = self.tensors;
        let (kv_head, kv_len) = (self.first[0] + head, self.call.kv_len);
        Product {
            left: self.dense(q, kv_head * self.call.rows + self.first[1], [self.rows, head_dim]),
            right: self.dense(k, kv_head * kv_len, [kv_len, head_dim]),
            transpose_right: true,
            factor: 1.0,
            result: self.tile(self.scratch.scores, head, true),
        }
    }

    fn sums(&self, head: usize) -> Product<'_> {
        let Scratch { scores, weights, sums } = self.scratch;
        let (wide, columns) = (self.tensors.wide, self.call.v_dim);
        let (kv_head, kv_len) = (self.first[0] + head, self.call.kv_len);
        let offset = sums.base() + head * self.chunk.rows * columns * size_of::<f32>();
        let at = Bound { buffer: sums, offset };
        Product {
            left: self.tile(if wide { weights } else { scores }, head, wide),
            right: self.dense(self.tensors.v, kv_head * kv_len, [kv_len, columns]),
            transpose_right: false,
            factor: if wide { 1.0 } else { 1.0 / WEIGHT_SCALE },
            result: Part { at, wide: true, rows: self.rows, columns, stride: columns },
        }
    }
}
