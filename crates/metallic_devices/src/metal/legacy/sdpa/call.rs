//! One attention call as the kernels see it: params, types, what is bound where nothing is given.

use metallic::Result;
use metallic::dispatch::{Reason, Support};
use metallic::op::{MaskTensor, Op, Sdpa, SdpaArgs, SdpaSpec};
use metallic::tensor::{DType, Tensor};

use crate::metal::buffer::{Bound, MetalBuffer};
use crate::metal::encoder::{Arg, Dispatch, Encoder, Grid};
use crate::metal::failure;
use crate::metal::layout::shader_struct;
use crate::metal::legacy::{SIMD_WIDTH, count};
use crate::metal::library::{Source, kernel_source};
use crate::metal::pipeline::{Constant, Kernel};

/// Offsets and bounds of a band beyond this hide or show everything; within, 64-bit sums of them
/// do not overflow.
const FAR: i64 = 1 << 40;

shader_struct! {
    [kernel_source!("sdpa_scores")]
    /// `SdpaParams` of `sdpa.h`, which documents the fields.
    pub(super) struct SdpaParams {
        q_strides: [u64; 3],
        k_strides: [u64; 3],
        v_strides: [u64; 3],
        out_strides: [u64; 3],
        mask_strides: [u64; 4],
        offset: i64,
        left: i64,
        right: i64,
        kv_heads: u32,
        group: u32,
        q_len: u32,
        kv_len: u32,
        head_dim: u32,
        v_dim: u32,
        /// Stacked rows of one key head.
        pub(super) rows: u32,
        has_lens: u32,
        has_offset: u32,
        scale: f32,
        softcap: f32,
        pub(super) splits: u32,
        pub(super) first_head: u32,
        pub(super) first_row: u32,
        pub(super) chunk_rows: u32,
        pub(super) score_stride: u32,
    }
}

/// A call that has something to compute.
pub(super) struct Call<'a> {
    args: &'a SdpaArgs,
    /// The whole buffer of the result.
    out_buffer: &'a MetalBuffer,
    /// The mask tensor, broadcast to `[batch, q_heads, q_len, kv_len]`.
    mask: Option<Tensor>,
    /// Function constants 0 to 3: the types of q, k, v and the mask.
    constants: [Constant; 4],
    pub(super) params: SdpaParams,
    /// Key heads of all sequences.
    pub(super) heads: usize,
    /// Stacked rows of one key head.
    pub(super) rows: usize,
    pub(super) kv_len: usize,
    pub(super) v_dim: usize,
}

impl<'a> Call<'a> {
    /// The call, or `None` when its result has no elements.
    ///
    /// # Errors
    /// [`metallic::Error::Device`] for sizes that the kernels do not count to.
    pub(super) fn new(spec: &SdpaSpec, args: &'a SdpaArgs) -> Result<Option<Self>> {
        let SdpaArgs { q, k, v, mask, kv_lens, out, .. } = args;
        let [batch, q_heads, q_len, kv_len] =
            [q.shape()[0], q.shape()[1], q.shape()[2], k.shape()[2]];
        if out.shape().elements() == 0 {
            return Ok(None);
        }
        let tensor =
            mask.tensor.as_ref().map(|(MaskTensor::Additive(mask) | MaskTensor::Bool(mask))| mask);
        let broadcast = tensor.map(|mask| mask.broadcast([batch, q_heads, q_len, kv_len]));
        let broadcast = broadcast.transpose()?;
        let (heads, rows) = (batch * spec.kv_heads, spec.group() * q_len);
        let op = Sdpa::ID;
        // Keys and rows are also counted with a sign, and padded to tiles.
        let positions = |value: usize| -> Result<u32> {
            let fits = i32::try_from(value).is_ok_and(|value| value < i32::MAX - 256);
            let too_many = || failure(op, format!("{value} is more than a kernel counts to"));
            if fits { count(op, value) } else { Err(too_many()) }
        };
        let bound = |keys: Option<usize>| {
            keys.map_or(-1, |keys| i64::try_from(keys).unwrap_or(FAR).min(FAR))
        };
        let params = SdpaParams {
            q_strides: strides(q),
            k_strides: strides(k),
            v_strides: strides(v),
            out_strides: strides(out),
            mask_strides: broadcast.as_ref().map_or([0; 4], strides),
            offset: mask.band.offset.unwrap_or(0).clamp(-FAR, FAR),
            left: bound(mask.band.left),
            right: bound(mask.band.right),
            kv_heads: count(op, spec.kv_heads)?,
            group: count(op, spec.group())?,
            q_len: positions(q_len)?,
            kv_len: positions(kv_len)?,
            head_dim: count(op, spec.head_dim)?,
            v_dim: count(op, spec.v_dim)?,
            rows: positions(rows)?,
            has_lens: u32::from(kv_lens.is_some()),
            has_offset: u32::from(mask.band.offset.is_some()),
            scale: spec.scale(),
            softcap: spec.softcap().unwrap_or(0.0),
            splits: 1,
            first_head: 0,
            first_row: 0,
            chunk_rows: 0,
            score_stride: 0,
        };
        let types = [
            element_type(spec.q_dtype),
            element_type(spec.k_dtype),
            element_type(spec.v_dtype),
            mask_type(mask.tensor.as_ref()),
        ];
        let constants = [0, 1, 2, 3].map(|index| Constant::u32(index, types[index as usize]));
        Ok(Some(Self {
            args,
            out_buffer: Bound::writable(out)?.buffer,
            mask: broadcast,
            constants,
            params,
            heads,
            rows,
            kv_len,
            v_dim: spec.v_dim,
        }))
    }

    pub(super) fn q(&self) -> Arg<'_> {
        Arg::In(&self.args.q)
    }

    pub(super) fn k(&self) -> Arg<'_> {
        Arg::In(&self.args.k)
    }

    pub(super) fn v(&self) -> Arg<'_> {
        Arg::In(&self.args.v)
    }

    pub(super) fn out(&self) -> Arg<'_> {
        Arg::Out(&self.args.out)
    }

    /// The mask; without one, something that nothing reads.
    pub(super) fn mask(&self) -> Arg<'_> {
        Arg::In(self.mask.as_ref().unwrap_or(&self.args.q))
    }

    /// The live lengths; without them, something that nothing reads, as aligned as they are.
    pub(super) fn kv_lens(&self) -> Arg<'_> {
        self.args.kv_lens.as_ref().map_or(Arg::Scratch(self.out_buffer, 0), Arg::In)
    }

    /// Runs one kernel of this call with `params`.
    ///
    /// # Errors
    /// As [`Encoder::dispatch`].
    pub(super) fn dispatch(&self, encoder: &mut Encoder<'_>, step: &Step<'_>) -> Result<()> {
        let Step { source, function, args, params, groups, simdgroups } = *step;
        encoder.dispatch(&Dispatch {
            kernel: Kernel { source, function, constants: &self.constants },
            args,
            params: bytemuck::bytes_of(params),
            threadgroup: &[],
            grid: Grid::Groups(groups),
            threads: [simdgroups * SIMD_WIDTH, 1, 1],
        })
    }
}

/// One kernel of a call.
#[derive(Clone, Copy)]
pub(super) struct Step<'a> {
    pub(super) source: Source,
    pub(super) function: &'a str,
    pub(super) args: &'a [Arg<'a>],
    pub(super) params: &'a SdpaParams,
    pub(super) groups: [usize; 3],
    pub(super) simdgroups: usize,
}

/// Whether queries, keys and values are at most `max` wide.
pub(super) fn widths_up_to(max: usize, spec: &SdpaSpec) -> Support {
    for (what, got) in [("head_dim", spec.head_dim), ("v_dim", spec.v_dim)] {
        if got > max {
            return Support::No(Reason::Range { what, got, max });
        }
    }
    Support::Yes
}

/// Bytes from one index to the next of the first `N` axes.
fn strides<const N: usize>(tensor: &Tensor) -> [u64; N] {
    let dtype = tensor.dtype();
    let elements = tensor.layout().strides();
    // Neighbours in a quantised row share a block, but no kernel asks for that stride.
    std::array::from_fn(|axis| (elements[axis] / dtype.block_len() * dtype.block_bytes()) as u64)
}

/// `TYPE_…` of `sdpa.h`.
fn element_type(dtype: DType) -> u32 {
    match dtype {
        DType::F32 => 0,
        DType::F16 => 1,
        DType::Bf16 => 2,
        DType::Q8_0 => 3,
        other => unreachable!("`Sdpa::check` takes no {other}"),
    }
}

/// `MASK_…` of `sdpa.h`.
fn mask_type(mask: Option<&MaskTensor>) -> u32 {
    match mask {
        Some(MaskTensor::Additive(mask)) => element_type(mask.dtype()),
        Some(MaskTensor::Bool(_)) => 4,
        None => 5,
    }
}
