//! The attention half of a block as one op: the residual sum and its norm, the projections, the
//! norms of queries and keys, rotation, the KV cache, attention, the output projection.
//!
//! `x ← x + pending`; with `n` the norm of `x`: `q, k, v = Wq n, Wk n, Wv n` (with biases), queries
//! and keys normed per head where the model does, turned by position, keys and values written at
//! `starts`, `out = Wo · attention(q, keys, values)`.

use std::fmt;

use super::blank::blank;
use super::{MakeTensor, Norm, Projection, check_apart, part};
use crate::context::Context;
use crate::error::Result;
use crate::op::{
    Band, KvAppend, KvAppendArgs, KvAppendSpec, LayoutClass, Linear, LinearArgs, LinearSpec, Mask,
    Op, OpArgs, OpSpec, Precision, RmsNorm, RmsNormArgs, RmsNormSpec, Rope, RopeArgs, RopePairing,
    RopeSpec, Sdpa, SdpaArgs, SdpaSpec, check,
};
use crate::tensor::{Shape, Tensor};

/// The op.
#[derive(Debug)]
pub struct AttentionBlock;

/// One call of [`AttentionBlock`].
#[derive(Clone, Debug)]
pub struct AttentionBlockArgs {
    /// The residual stream, f32 `[batch, len, hidden]`, dense; updated in place when something is
    /// pending.
    pub x: Tensor,
    /// f32 `[batch, len, hidden]`, dense; added to `x` first.
    pub pending: Option<Tensor>,
    /// The norm before the projections.
    pub norm: Norm,
    /// `[q_heads · head_dim, hidden]`.
    pub q: Projection,
    /// `[kv_heads · head_dim, hidden]`.
    pub k: Projection,
    /// `[kv_heads · v_dim, hidden]`.
    pub v: Projection,
    /// Norms of queries and keys, per head.
    pub qk_norm: Option<QkNorm>,
    /// The rotation of queries and keys.
    pub rotation: Rotation,
    /// Keys: `[batch, kv_heads, kv_len, head_dim]`, f32, f16, bf16 or q8_0, updated in place. A
    /// view of the cache that holds the new positions.
    pub k_cache: Tensor,
    /// Values: `[batch, kv_heads, kv_len, v_dim]`, likewise.
    pub v_cache: Tensor,
    /// i32 `[batch]`, dense, the first position each sequence writes. The caller guarantees
    /// `starts[b] + len <= kv_len`.
    pub starts: Tensor,
    /// i32 `[batch]`, dense, live keys of each sequence, the new ones among them.
    pub kv_lens: Tensor,
    /// Which keys each query sees.
    pub band: Band,
    /// Factor of the scores; `None` for `1 / sqrt(head_dim)`.
    pub scale: Option<f32>,
    /// `[hidden, q_heads · v_dim]`.
    pub o: Projection,
    /// How activations meet quantised weights.
    pub precision: Precision,
    /// f32 `[batch, len, hidden]`, dense, written in place: pending for what comes next.
    pub out: Tensor,
}

/// Weights of the norms of queries and keys.
#[derive(Clone, Debug)]
pub struct QkNorm {
    /// f32 `[head_dim]`.
    pub q: Tensor,
    /// f32 `[head_dim]`.
    pub k: Tensor,
    /// Added to the mean square.
    pub eps: f32,
}

/// The rotation of one step.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// f32 `[batch, len, pairs]`, dense.
    pub cos: Tensor,
    /// f32 `[batch, len, pairs]`, dense.
    pub sin: Tensor,
    /// Which elements of a head turn together.
    pub pairing: RopePairing,
}

/// The calls that make up an [`AttentionBlock`], in order.
#[derive(Clone, Debug)]
pub struct AttentionCalls {
    /// The residual sum and its norm.
    pub norm: RmsNormArgs,
    /// Projections of queries, keys and values.
    pub qkv: [LinearArgs; 3],
    /// Norms of queries and keys, in place.
    pub qk_norm: Option<[RmsNormArgs; 2]>,
    /// Rotations of queries and keys, in place.
    pub rope: [RopeArgs; 2],
    /// Keys and values into their caches.
    pub append: [KvAppendArgs; 2],
    /// Attention.
    pub sdpa: SdpaArgs,
    /// Back to the width of the stream.
    pub o: LinearArgs,
}

impl AttentionCalls {
    /// Runs the calls in turn, each on the kernel that is best for it.
    ///
    /// # Errors
    /// As [`Context::run`].
    pub fn run(&self, ctx: &Context) -> Result<()> {
        ctx.run::<RmsNorm>(&self.norm)?;
        for call in &self.qkv {
            ctx.run::<Linear>(call)?;
        }
        for call in self.qk_norm.iter().flatten() {
            ctx.run::<RmsNorm>(call)?;
        }
        for call in &self.rope {
            ctx.run::<Rope>(call)?;
        }
        for call in &self.append {
            ctx.run::<KvAppend>(call)?;
        }
        ctx.run::<Sdpa>(&self.sdpa)?;
        ctx.run::<Linear>(&self.o)?;
        Ok(())
    }
}

impl AttentionBlockArgs {
    /// The segment's calls, over intermediates made by `make`.
    ///
    /// # Errors
    /// What `make` reports; [`crate::Error::Shape`] and [`crate::Error::DType`] where a view cannot
    /// be had.
    pub fn calls(&self, make: MakeTensor<'_>) -> Result<AttentionCalls> {
        let op = AttentionBlock::ID;
        let Shapes { batch, len, hidden, q_heads, kv_heads, head_dim, v_dim } = self.shapes()?;
        let rows = batch * len;
        let stream = |tensor: &Tensor| tensor.reshape([rows, hidden]);
        let pending = self.pending.as_ref().map(stream).transpose()?;
        let normed = make(Shape::new(&[rows, hidden]))?;
        let q = make(self.q.out_shape(op, "q_weight", rows)?)?;
        let k = make(self.k.out_shape(op, "k_weight", rows)?)?;
        let v = make(self.v.out_shape(op, "v_weight", rows)?)?;
        let attended = make(Shape::new(&[rows, q_heads * v_dim]))?;
        // [batch · len, heads · dim] seen as [batch, heads, len, dim].
        let heads_first = |x: &Tensor, heads: usize, dim: usize| {
            x.reshape([batch, len, heads, dim])?.permute(&[0, 2, 1, 3])
        };
        let project = |to: &Projection, out| to.call(&normed, self.precision, out);
        let norm_heads = |x: &Tensor, heads: usize, weight: &Tensor, eps: f32| {
            let (x, weight) = (x.reshape([rows * heads, head_dim])?, weight.clone());
            Ok(RmsNormArgs { x: x.clone(), residual: None, weight, eps, out: x })
        };
        let qk_norm = self.qk_norm.as_ref().map(|QkNorm { q: of_q, k: of_k, eps }| {
            let norms =
                [norm_heads(&q, q_heads, of_q, *eps)?, norm_heads(&k, kv_heads, of_k, *eps)?];
            Result::Ok(norms)
        });
        let angles = |tensor: &Tensor| tensor.reshape([rows, tensor.shape()[2]]);
        let (cos, sin) = (angles(&self.rotation.cos)?, angles(&self.rotation.sin)?);
        let turn = |x: &Tensor, heads: usize| {
            let x = x.reshape([rows, heads, head_dim])?;
            let (cos, sin, pairing) = (cos.clone(), sin.clone(), self.rotation.pairing);
            Result::Ok(RopeArgs { x, cos, sin, pairing })
        };
        let append = |new: &Tensor, dim: usize, cache: &Tensor| {
            let new = heads_first(new, kv_heads, dim)?;
            Result::Ok(KvAppendArgs { new, starts: self.starts.clone(), cache: cache.clone() })
        };
        Ok(AttentionCalls {
            norm: self.norm.call(&stream(&self.x)?, pending.as_ref(), &normed),
            qkv: [project(&self.q, &q), project(&self.k, &k), project(&self.v, &v)],
            qk_norm: qk_norm.transpose()?,
            rope: [turn(&q, q_heads)?, turn(&k, kv_heads)?],
            append: [append(&k, head_dim, &self.k_cache)?, append(&v, v_dim, &self.v_cache)?],
            sdpa: SdpaArgs {
                q: heads_first(&q, q_heads, head_dim)?,
                k: self.k_cache.clone(),
                v: self.v_cache.clone(),
                mask: Mask { band: self.band, tensor: None },
                kv_lens: Some(self.kv_lens.clone()),
                scale: self.scale,
                softcap: None,
                out: heads_first(&attended, q_heads, v_dim)?,
            },
            o: self.o.call(&attended, self.precision, &stream(&self.out)?),
        })
    }

    /// What the views of the calls are cut by.
    fn shapes(&self) -> Result<Shapes> {
        let op = AttentionBlock::ID;
        let stream = [("x", Some(&self.x)), ("pending", self.pending.as_ref())];
        for (name, tensor) in stream.into_iter().chain([("out", Some(&self.out))]) {
            let Some(tensor) = tensor else { continue };
            check::dense_f32(op, name, tensor, "batch, len, hidden")?;
            for (axis, what) in
                ["axis 0 (batch)", "axis 1 (len)", "axis 2 (hidden)"].into_iter().enumerate()
            {
                let (got, expected) = (tensor.shape()[axis], self.x.shape()[axis]);
                check::axis(op, &format!("{name} {what}"), got, expected, "x's")?;
            }
        }
        let [batch, len, hidden] = [self.x.shape()[0], self.x.shape()[1], self.x.shape()[2]];
        for (name, tensor) in [("cos", &self.rotation.cos), ("sin", &self.rotation.sin)] {
            check::dense_f32(op, name, tensor, "batch, len, pairs")?;
            check::axis(op, &format!("{name} axis 0 (batch)"), tensor.shape()[0], batch, "x's")?;
            check::axis(op, &format!("{name} axis 1 (len)"), tensor.shape()[1], len, "x's")?;
        }
        check::rank(op, "k_cache", &self.k_cache, "batch, kv_heads, kv_len, head_dim")?;
        check::rank(op, "v_cache", &self.v_cache, "batch, kv_heads, kv_len, v_dim")?;
        let [kv_heads, head_dim] = [self.k_cache.shape()[1], self.k_cache.shape()[3]];
        let v_dim = self.v_cache.shape()[3];
        let widths = |projection: &Projection, name: &str| {
            projection.out_shape(op, name, batch * len).map(|shape| shape[1])
        };
        let (q_width, k_width) = (widths(&self.q, "q_weight")?, widths(&self.k, "k_weight")?);
        let q_heads = q_width.checked_div(head_dim).unwrap_or(0);
        let (whole, cached) =
            ("a whole number of k_cache's heads", "k_cache's kv_heads · head_dim");
        check::axis(op, "q_weight axis 0", q_width, q_heads * head_dim, whole)?;
        check::axis(op, "k_weight axis 0", k_width, kv_heads * head_dim, cached)?;
        let (v_width, cached) = (widths(&self.v, "v_weight")?, "k_cache's kv_heads · v_dim");
        check::axis(op, "v_weight axis 0", v_width, kv_heads * v_dim, cached)?;
        Ok(Shapes { batch, len, hidden, q_heads, kv_heads, head_dim, v_dim })
    }
}

struct Shapes {
    batch: usize,
    len: usize,
    hidden: usize,
    q_heads: usize,
    kv_heads: usize,
    head_dim: usize,
    v_dim: usize,
}

/// What an executable of [`AttentionBlock`] depends on: the specs of its calls. Lengths stand in
/// that of attention alone, and its layout class is always strided, as the caches are views.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AttentionBlockSpec {
    /// The norm.
    pub norm: RmsNormSpec,
    /// Projections of queries, keys and values.
    pub qkv: [LinearSpec; 3],
    /// Norms of queries and keys.
    pub qk_norm: Option<QkNormSpec>,
    /// Rotations of queries and keys.
    pub rope: [RopeSpec; 2],
    /// Keys and values into their caches.
    pub append: [KvAppendSpec; 2],
    /// Attention.
    pub sdpa: SdpaSpec,
    /// Back to the width of the stream.
    pub o: LinearSpec,
}

/// Norms of queries and keys.
pub type QkNormSpec = [RmsNormSpec; 2];

impl OpSpec for AttentionBlockSpec {
    fn without_lengths(&self) -> Self {
        Self { sdpa: self.sdpa.without_lengths(), ..self.clone() }
    }
}

impl fmt::Display for AttentionBlockSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { norm, qkv: [q, k, v], qk_norm, rope: [rope, _], sdpa, o, .. } = self;
        write!(f, "norm({norm}) q({q}) k({k}) v({v})")?;
        if let Some([of_q, _]) = qk_norm {
            write!(f, " qk_norm({of_q})")?;
        }
        write!(f, " rope({rope}) sdpa({sdpa}) o({o})")
    }
}

impl Op for AttentionBlock {
    const ID: &'static str = "attention_block";
    type Spec = AttentionBlockSpec;
    type Args = AttentionBlockArgs;

    fn check(args: &AttentionBlockArgs) -> Result<AttentionBlockSpec> {
        let op = Self::ID;
        let device = args.x.device();
        let calls = args.calls(&|shape: Shape| blank(device, shape))?;
        let linear = |name, call| Ok(part(op, name, Linear::check(call))?.without_lengths());
        let [q, k, v] = &calls.qkv;
        let qkv =
            [linear("q projection", q)?, linear("k projection", k)?, linear("v projection", v)?];
        let norm = |name, call| part(op, name, RmsNorm::check(call));
        let qk_norm = match &calls.qk_norm {
            Some([q, k]) => Some([norm("q norm", q)?, norm("k norm", k)?]),
            None => None,
        };
        let rope = |name, call| part(op, name, Rope::check(call));
        let append = |name, call| part(op, name, KvAppend::check(call));
        let ([q, k], [keys, values]) = (&calls.rope, &calls.append);
        let mut sdpa = part(op, "attention", Sdpa::check(&calls.sdpa))?;
        sdpa.layout = LayoutClass::Strided;
        let spec = AttentionBlockSpec {
            norm: norm("norm", &calls.norm)?,
            qkv,
            qk_norm,
            rope: [rope("rotation of q", q)?, rope("rotation of k", k)?],
            append: [append("k_cache", keys)?, append("v_cache", values)?],
            sdpa,
            o: linear("output projection", &calls.o)?,
        };
        let all = ["k_cache", "v_cache", "out", "x"];
        let written = if args.pending.is_some() { &all[..] } else { &all[..3] };
        check_apart(op, args, written)?;
        Ok(spec)
    }
}

impl OpArgs for AttentionBlockArgs {
    fn each_tensor<'a>(&'a self, visit: &mut dyn FnMut(&'static str, &'a Tensor)) {
        visit("x", &self.x);
        if let Some(pending) = &self.pending {
            visit("pending", pending);
        }
        visit("norm_weight", &self.norm.weight);
        self.q.each_tensor(["q_weight", "q_bias"], visit);
        self.k.each_tensor(["k_weight", "k_bias"], visit);
        self.v.each_tensor(["v_weight", "v_bias"], visit);
        if let Some(QkNorm { q, k, .. }) = &self.qk_norm {
            visit("q_norm", q);
            visit("k_norm", k);
        }
        visit("cos", &self.rotation.cos);
        visit("sin", &self.rotation.sin);
        visit("k_cache", &self.k_cache);
        visit("v_cache", &self.v_cache);
        visit("starts", &self.starts);
        visit("kv_lens", &self.kv_lens);
        self.o.each_tensor(["o_weight", "o_bias"], visit);
        visit("out", &self.out);
    }
}
