//! Scaled dot-product attention: `out = softmax(cap(scale · q kᵀ) + mask) v`.
//!
//! Shapes, precision and mask semantics are decided here, once, for every device:
//!
//! - `q: [batch, q_heads, q_len, head_dim]`, `k: [batch, kv_heads, kv_len, head_dim]`,
//!   `v: [batch, kv_heads, kv_len, v_dim]`, `out: [batch, q_heads, q_len, v_dim]`. Query head `h`
//!   reads key head `h / (q_heads / kv_heads)`; keys and values are never expanded.
//! - Any strides with a contiguous last axis, any offset.
//! - Scores, softmax and the sum over values are accumulated in f32 (Qwen2 overflows f16 scores).
//! - A kernel may sum values by weights of at most 1 and divide by the sum of the weights last, as every
//!   kernel of one pass does. So a result is finite where the number of visible keys times the largest
//!   |v| is below 3.4e38, the end of f32; beyond that it may be infinite on one backend and not on another.
//! - `softcap c` replaces a score `s` by `c · tanh(s / c)` after scaling and before the mask.
//! - A row that sees no key gives zeros. NaN or infinity behind a mask, or past a sequence's live
//!   length, never reaches the output; NaN in attended data does.

use std::fmt;

use super::mask::{Mask, MaskKind, MaskTensor, MaskTensorKind};
use super::{Op, OpArgs, OpSpec, check};
use crate::error::{Error, Result};
use crate::tensor::{DType, Shape, Tensor};

/// Key lengths enter a cache key rounded up to this many positions.
pub const KV_BUCKET: usize = 256;

/// The op.
#[derive(Debug)]
pub struct Sdpa;

/// One call of [`Sdpa`].
#[derive(Clone, Debug)]
pub struct SdpaArgs {
    /// `[batch, q_heads, q_len, head_dim]`, f32, f16 or bf16.
    pub q: Tensor,
    /// `[batch, kv_heads, kv_len, head_dim]`, f32, f16, bf16 or q8_0.
    pub k: Tensor,
    /// `[batch, kv_heads, kv_len, v_dim]`, f32, f16, bf16 or q8_0.
    pub v: Tensor,
    /// Which keys each query sees.
    pub mask: Mask,
    /// Live keys of each sequence, i32 `[batch]`, dense; `None` when all `kv_len` are live. Values are
    /// clamped to `0 ..= kv_len`.
    pub kv_lens: Option<Tensor>,
    /// Factor of the scores; `None` for `1 / sqrt(head_dim)`.
    pub scale: Option<f32>,
    /// Bound of the scores; `None` for no bound.
    pub softcap: Option<f32>,
    /// `[batch, q_heads, q_len, v_dim]` in q's element type, written in place.
    pub out: Tensor,
}

/// One new token, or many: they want different kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// `q_len == 1`.
    Decode,
    /// `q_len != 1`.
    Prefill,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Phase::Decode => "decode",
            Phase::Prefill => "prefill",
        })
    }
}

/// Whether q, k, v and out are all dense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LayoutClass {
    /// All dense row-major.
    Dense,
    /// At least one is a strided view.
    Strided,
}

/// Length classes; all zero for an executable that takes any length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SdpaLengths {
    /// Sequences.
    pub batch: usize,
    /// `q_len` rounded up to a power of two.
    pub q_bucket: usize,
    /// `kv_len` rounded up to a multiple of [`KV_BUCKET`].
    pub kv_bucket: usize,
    /// Sequences of the mask tensor: 1 when all share it, 0 without one.
    pub mask_batch: usize,
    /// Heads of the mask tensor: 1 when all share it, 0 without one.
    pub mask_heads: usize,
}

/// What an executable of [`Sdpa`] depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SdpaSpec {
    /// Element type of q and out.
    pub q_dtype: DType,
    /// Element type of k.
    pub k_dtype: DType,
    /// Element type of v.
    pub v_dtype: DType,
    /// Query heads.
    pub q_heads: usize,
    /// Key and value heads; divides `q_heads`.
    pub kv_heads: usize,
    /// Width of a query and a key.
    pub head_dim: usize,
    /// Width of a value.
    pub v_dim: usize,
    /// Band and tensor kind.
    pub mask: MaskKind,
    /// Whether live lengths are given.
    pub kv_lens: bool,
    /// Bits of the f32 scale.
    scale: u32,
    /// Bits of the f32 softcap.
    softcap: Option<u32>,
    /// Dense or strided.
    pub layout: LayoutClass,
    /// Decode or prefill.
    pub phase: Phase,
    /// Length classes.
    pub lengths: SdpaLengths,
}

impl SdpaSpec {
    /// The factor of the scores.
    pub fn scale(&self) -> f32 {
        f32::from_bits(self.scale)
    }

    /// The bound of the scores.
    pub fn softcap(&self) -> Option<f32> {
        self.softcap.map(f32::from_bits)
    }

    /// Query heads per key head.
    pub fn group(&self) -> usize {
        self.q_heads / self.kv_heads
    }
}

impl OpSpec for SdpaSpec {
    fn without_lengths(&self) -> Self {
        Self { lengths: SdpaLengths::default(), ..self.clone() }
    }
}

impl fmt::Display for SdpaSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { q_dtype, k_dtype, v_dtype, q_heads, kv_heads, head_dim, v_dim, .. } = self;
        write!(f, "{} {q_dtype}/{k_dtype}/{v_dtype}", self.phase)?;
        write!(f, " heads={q_heads}/{kv_heads} dim={head_dim}/{v_dim} mask={}", self.mask)?;
        write!(f, " scale={}", self.scale())?;
        if let Some(softcap) = self.softcap() {
            write!(f, " softcap={softcap}")?;
        }
        if self.kv_lens {
            f.write_str(" kv_lens")?;
        }
        if self.layout == LayoutClass::Strided {
            f.write_str(" strided")?;
        }
        let SdpaLengths { batch, q_bucket, kv_bucket, mask_batch, mask_heads } = self.lengths;
        if self.lengths != SdpaLengths::default() {
            write!(f, " batch={batch} q<={q_bucket} kv<={kv_bucket}")?;
        }
        if mask_batch > 0 {
            write!(f, " mask_shape={mask_batch}x{mask_heads}")?;
        }
        Ok(())
    }
}

impl fmt::Display for MaskKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.left, self.right) {
            (None, None) => f.write_str("none")?,
            (None, Some(0)) => f.write_str("causal")?,
            (left, right) => {
                let bound = |keys: Option<usize>| keys.map_or("*".to_owned(), |n| n.to_string());
                write!(f, "window[{},{}]", bound(left), bound(right))?;
            }
        }
        if self.fixed_offset {
            f.write_str("@offset")?;
        }
        match self.tensor {
            MaskTensorKind::None => Ok(()),
            MaskTensorKind::Additive(dtype) => write!(f, "+additive {dtype}"),
            MaskTensorKind::Bool => f.write_str("+bool"),
        }
    }
}

const STORAGE: &[DType] = &[DType::F32, DType::F16, DType::Bf16];
const KV_STORAGE: &[DType] = &[DType::F32, DType::F16, DType::Bf16, DType::Q8_0];

impl Op for Sdpa {
    const ID: &'static str = "sdpa";
    type Spec = SdpaSpec;
    type Args = SdpaArgs;

    fn check(args: &SdpaArgs) -> Result<SdpaSpec> {
        let SdpaArgs { q, k, v, mask, kv_lens, scale, softcap, out } = args;
        let op = Self::ID;
        check::rank(op, "q", q, "batch, q_heads, q_len, head_dim")?;
        check::rank(op, "k", k, "batch, kv_heads, kv_len, head_dim")?;
        check::rank(op, "v", v, "batch, kv_heads, kv_len, v_dim")?;
        check::rank(op, "out", out, "batch, q_heads, q_len, v_dim")?;
        check::dtype(op, "q", q, STORAGE, "f32, f16 or bf16")?;
        check::dtype(op, "k", k, KV_STORAGE, "f32, f16, bf16 or q8_0")?;
        check::dtype(op, "v", v, KV_STORAGE, "f32, f16, bf16 or q8_0")?;
        check::dtype(op, "out", out, &[q.dtype()], "q's element type")?;
        for (name, tensor) in [("q", q), ("k", k), ("v", v), ("out", out)] {
            check::rows(op, name, tensor)?;
        }
        check::no_overlap(op, "out", out)?;
        let (qs, ks, vs, os) = (q.shape(), k.shape(), v.shape(), out.shape());
        let [batch, q_heads, q_len, head_dim] = [qs[0], qs[1], qs[2], qs[3]];
        let [kv_heads, kv_len, v_dim] = [ks[1], ks[2], vs[3]];
        check::axis(op, "k axis 0 (batch)", ks[0], batch, "q's batch")?;
        check::axis(op, "v axis 0 (batch)", vs[0], batch, "q's batch")?;
        check::axis(op, "k axis 3 (head_dim)", ks[3], head_dim, "q's head_dim")?;
        check::axis(op, "v axis 1 (kv_heads)", vs[1], kv_heads, "k's kv_heads")?;
        check::axis(op, "v axis 2 (kv_len)", vs[2], kv_len, "k's kv_len")?;
        check::axis(op, "out axis 0 (batch)", os[0], batch, "batch")?;
        check::axis(op, "out axis 1 (q_heads)", os[1], q_heads, "q_heads")?;
        check::axis(op, "out axis 2 (q_len)", os[2], q_len, "q_len")?;
        check::axis(op, "out axis 3 (v_dim)", os[3], v_dim, "v_dim")?;
        for (what, dim) in [("q axis 3 (head_dim)", head_dim), ("v axis 3 (v_dim)", v_dim)] {
            if dim == 0 {
                return Err(shape_error(what, "at least 1", dim));
            }
        }
        if kv_heads == 0 || q_heads == 0 || !q_heads.is_multiple_of(kv_heads) {
            let expected = format!("a multiple of k's kv_heads = {kv_heads}, both at least 1");
            return Err(shape_error("q axis 1 (q_heads)", &expected, q_heads));
        }
        let (mut mask_batch, mut mask_heads) = (0, 0);
        if let Some(tensor) = &mask.tensor {
            check_mask(tensor, Shape::new(&[batch, q_heads, q_len, kv_len]))?;
            (mask_batch, mask_heads) = tensor.batch_and_heads();
            let (MaskTensor::Additive(mask) | MaskTensor::Bool(mask)) = tensor;
            check::apart(op, ("out", out), ("mask", mask))?;
        }
        if let Some(lens) = kv_lens {
            check::rank(op, "kv_lens", lens, "batch")?;
            check::dtype(op, "kv_lens", lens, &[DType::I32], "i32")?;
            check::dense(op, "kv_lens", lens)?;
            check::axis(op, "kv_lens axis 0 (batch)", lens.shape()[0], batch, "q's batch")?;
            check::apart(op, ("out", out), ("kv_lens", lens))?;
        }
        for (name, input) in [("q", q), ("k", k), ("v", v)] {
            check::apart(op, ("out", out), (name, input))?;
        }
        let scale = scale.unwrap_or_else(|| (1.0 / (head_dim as f64).sqrt()) as f32);
        if !scale.is_finite() {
            return Err(parameter("scale", "a finite number", scale));
        }
        if let Some(cap) = softcap.filter(|cap| !(cap.is_finite() && *cap > 0.0)) {
            return Err(parameter("softcap", "a finite number above 0", cap));
        }
        let dense = [q, k, v, out].iter().all(|tensor| tensor.layout().is_contiguous());
        Ok(SdpaSpec {
            q_dtype: q.dtype(),
            k_dtype: k.dtype(),
            v_dtype: v.dtype(),
            q_heads,
            kv_heads,
            head_dim,
            v_dim,
            mask: mask.kind(),
            kv_lens: kv_lens.is_some(),
            scale: scale.to_bits(),
            softcap: softcap.map(f32::to_bits),
            layout: if dense { LayoutClass::Dense } else { LayoutClass::Strided },
            phase: if q_len == 1 { Phase::Decode } else { Phase::Prefill },
            lengths: SdpaLengths {
                batch,
                q_bucket: q_len.next_power_of_two(),
                kv_bucket: kv_len.next_multiple_of(KV_BUCKET),
                mask_batch,
                mask_heads,
            },
        })
    }
}

fn check_mask(mask: &MaskTensor, scores: Shape) -> Result<()> {
    let tensor = match mask {
        MaskTensor::Additive(tensor) => {
            check::dtype(Sdpa::ID, "mask", tensor, STORAGE, "f32, f16 or bf16 (additive)")?;
            tensor
        }
        MaskTensor::Bool(tensor) => {
            check::dtype(Sdpa::ID, "mask", tensor, &[DType::Bool], "bool")?;
            tensor
        }
    };
    check::rows(Sdpa::ID, "mask", tensor)?;
    tensor.layout().broadcast(scores).map(|_| ()).ok_or_else(|| Error::Shape {
        op: Sdpa::ID,
        what: "mask shape".to_owned(),
        expected: format!(
            "something that broadcasts to [batch, q_heads, q_len, kv_len] = {scores}"
        ),
        got: tensor.shape().to_string(),
    })
}

fn shape_error(what: &str, expected: &str, got: usize) -> Error {
    Error::Shape {
        op: Sdpa::ID,
        what: what.to_owned(),
        expected: expected.to_owned(),
        got: got.to_string(),
    }
}

fn parameter(what: &'static str, expected: &'static str, got: f32) -> Error {
    Error::Parameter { op: Sdpa::ID, what, expected, got: f64::from(got) }
}

impl OpArgs for SdpaArgs {
    fn each_tensor<'a>(&'a self, visit: &mut dyn FnMut(&'static str, &'a Tensor)) {
        visit("q", &self.q);
        visit("k", &self.k);
        visit("v", &self.v);
        visit("out", &self.out);
        if let Some(MaskTensor::Additive(mask) | MaskTensor::Bool(mask)) = &self.mask.tensor {
            visit("mask", mask);
        }
        if let Some(lens) = &self.kv_lens {
            visit("kv_lens", lens);
        }
    }
}
