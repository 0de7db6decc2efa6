//! Writes new keys or values into a cache: `cache[b, h, starts[b] + i] = new[b, h, i]`, converted
//! to the cache's element type. The write position is a feed, never part of a key.

use std::fmt;

use super::{Op, OpArgs, OpSpec, check};
use crate::error::Result;
use crate::tensor::{DType, Tensor};

/// The op.
#[derive(Debug)]
pub struct KvAppend;

/// One call of [`KvAppend`].
#[derive(Clone, Debug)]
pub struct KvAppendArgs {
    /// f32 `[batch, kv_heads, new_len, dim]`, last axis contiguous.
    pub new: Tensor,
    /// i32 `[batch]`, dense, the first position each sequence writes. The caller guarantees
    /// `starts[b] + new_len <= capacity`.
    pub starts: Tensor,
    /// `[batch, kv_heads, capacity, dim]`, f32, f16, bf16 or q8_0, updated in place.
    pub cache: Tensor,
}

/// What a kernel of [`KvAppend`] depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KvAppendSpec {
    /// Element type of the cache.
    pub cache: DType,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a row.
    pub dim: usize,
}

impl OpSpec for KvAppendSpec {}

impl fmt::Display for KvAppendSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} heads={} dim={}", self.cache, self.kv_heads, self.dim)
    }
}

impl Op for KvAppend {
    const ID: &'static str = "kv_append";
    type Spec = KvAppendSpec;
    type Args = KvAppendArgs;

    fn check(args: &KvAppendArgs) -> Result<KvAppendSpec> {
        let KvAppendArgs { new, starts, cache } = args;
        let op = Self::ID;
        check::rank(op, "new", new, "batch, kv_heads, new_len, dim")?;
        check::dtype(op, "new", new, &[DType::F32], "f32")?;
        check::rows(op, "new", new)?;
        check::rank(op, "cache", cache, "batch, kv_heads, capacity, dim")?;
        check::rows(op, "cache", cache)?;
        let accepted = &[DType::F32, DType::F16, DType::Bf16, DType::Q8_0];
        check::dtype(op, "cache", cache, accepted, "f32, f16, bf16 or q8_0")?;
        check::no_overlap(op, "cache", cache)?;
        check::rank(op, "starts", starts, "batch")?;
        check::dtype(op, "starts", starts, &[DType::I32], "i32")?;
        check::dense(op, "starts", starts)?;
        let (ns, cs) = (new.shape(), cache.shape());
        check::axis(op, "cache axis 0 (batch)", cs[0], ns[0], "new's batch")?;
        check::axis(op, "cache axis 1 (kv_heads)", cs[1], ns[1], "new's kv_heads")?;
        check::axis(op, "cache axis 3 (dim)", cs[3], ns[3], "new's dim")?;
        check::axis(op, "starts axis 0 (batch)", starts.shape()[0], ns[0], "new's batch")?;
        check::apart(op, ("cache", cache), ("new", new))?;
        check::apart(op, ("cache", cache), ("starts", starts))?;
        Ok(KvAppendSpec { cache: cache.dtype(), kv_heads: ns[1], dim: ns[3] })
    }
}

impl OpArgs for KvAppendArgs {
    fn each_tensor<'a>(&'a self, visit: &mut dyn FnMut(&'static str, &'a Tensor)) {
        visit("new", &self.new);
        visit("starts", &self.starts);
        visit("cache", &self.cache);
    }
}
