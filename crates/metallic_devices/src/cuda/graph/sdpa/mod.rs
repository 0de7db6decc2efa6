//! Fused attention on a GPU: one pass over keys and values with a running softmax.
//!
//! A plan belongs to one class of calls (types, widths, heads, mask kind); each run picks a kernel
//! by its lengths (`engine`), fills in its parameters (`call`, `tensor_map`) and launches it. Live
//! lengths stay on the device. Rows of NaN and infinity are done again by the kernels themselves.
//!
//! f32 queries over f16 or bf16 keys (what models feed) are multiplied in parts that hold 22 to 24
//! bits. f32 and q8_0 keys are decoded to f32, which the matrix units do not multiply.

mod call;
mod engine;
mod tensor_map;

pub(crate) use call::Feeds;
pub(in crate::cuda::graph) use call::{SdpaCall, is_aligned, outer_strides};

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use cudarc::driver::result::{function, memset_d8_async};
use cudarc::driver::sys::CUfunction_attribute_enum as Attribute;
use metallic::Result;
use metallic::dispatch::{Reason, Support};
use metallic::graph::{NodeId, SdpaNode};
use metallic::op::MaskTensorKind;
use metallic::tensor::{Buffer, DType};

use self::engine::{Abilities, Engine, HOPPER_STAGES, Lengths, PACKED_ROWS, choose, packed_tiles};
use self::tensor_map::{Mapped, TensorMap};
use crate::cuda::buffer::CudaBuffer;
use crate::cuda::error::Doing;
use crate::cuda::gpu::Gpu;
use crate::cuda::module::{Function, LaunchShape, Param};

/// Widest head of the fused kernels.
const MAX_WIDTH: usize = 256;
/// Words that kernels count in; they are 0 between launches.
const COUNTERS: usize = 1 << 16;

/// Element types of a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Types {
    /// Of q and out.
    pub q: DType,
    /// Of k and v.
    pub kv: DType,
}

impl Types {
    /// The parts in the keys' type that a query is multiplied in (`PARTS` of `sdpa_common.cuh`).
    fn parts(self) -> usize {
        match (self.q, self.kv) {
            (DType::F32, DType::Bf16) => 3,
            (DType::F32, _) => 2,
            _ => 1,
        }
    }
}

/// How one class of calls runs.
pub(crate) struct Plan {
    node: SdpaNode,
    types: Types,
    abilities: Abilities,
    counters: CudaBuffer,
    functions: Mutex<HashMap<(&'static str, String), Function>>,
}

impl Plan {
    /// Whether there are kernels for the class; `dtype_of` gives the element type of an operand.
    pub(crate) fn supports(node: &SdpaNode, dtype_of: impl Fn(NodeId) -> DType) -> Support {
        let [q, k, v] = [node.q, node.k, node.v].map(dtype_of);
        // Keys of other types are decoded, and meet queries of any.
        let any_query = !matches!(k, DType::F16 | DType::Bf16) || q == DType::F32;
        for (binding, got, fits) in [("v", v, v == k), ("q", q, q == k || any_query)] {
            if !fits {
                let supported = "k's type, and f32 for q";
                return Support::No(Reason::DType { binding, got, supported });
            }
        }
        for (what, got) in [("head_dim", node.head_dim), ("v_dim", node.v_dim)] {
            if got > MAX_WIDTH {
                return Support::No(Reason::Range { what, got, max: MAX_WIDTH });
            }
            if !got.is_multiple_of(16) {
                let feature = "head_dim or v_dim other than multiples of 16";
                return Support::No(Reason::Missing { feature });
            }
        }
        Support::Yes
    }

    /// The plan of a class that [`Plan::supports`] agreed to, its first kernels compiled.
    ///
    /// # Errors
    /// [`metallic::Error::Compile`] when a kernel does not compile.
    pub(crate) fn new(gpu: &Gpu, node: SdpaNode, types: Types) -> Result<Self> {
        let chip = gpu.stream.properties();
        let hopper = chip.capability == (9, 0);
        let no_tensor = node.mask_kind.tensor == MaskTensorKind::None;
        let abilities = Abilities {
            multiprocessors: chip.multiprocessors as usize,
            hopper,
            hopper_prefill: no_tensor
                && types.q == types.kv
                && node.softcap.is_none()
                && node.head_dim == node.v_dim
                && matches!(node.head_dim, 64 | 128),
            shared_bytes: chip.shared_bytes as usize,
            plain: node.scale > 0.0,
            head_dim: node.head_dim,
            v_dim: node.v_dim,
            parts: types.parts(),
            decoded: !matches!(types.kv, DType::F16 | DType::Bf16),
            causal: node.mask_kind.right.is_some(),
        };
        let counters = gpu.workspace(COUNTERS * 4)?;
        gpu.stream.bind()?;
        // SAFETY: the whole buffer, just allocated.
        unsafe { memset_d8_async(counters.start(), 0, counters.bytes(), gpu.stream.raw()) }.doing(
            gpu.id(),
            "zero",
            || "the counters of a plan".to_owned(),
        )?;
        let plan = Self { node, types, abilities, counters, functions: Mutex::default() };
        // What does not compile is to fail here, where another kernel can still be chosen.
        let (q_heads, kv_heads) = (plan.node.q_heads, plan.node.kv_heads);
        for (q_len, kv_len) in [(1, 256), (256, 256), (4096, 4096)] {
            let engine =
                choose(Lengths { batch: 1, q_heads, kv_heads, q_len, kv_len }, plan.abilities);
            plan.function(gpu, engine)?;
        }
        Ok(plan)
    }

    /// Bytes of device memory it holds.
    pub(crate) fn bytes(&self) -> usize {
        self.counters.bytes()
    }

    /// Puts one run on the stream.
    ///
    /// # Errors
    /// [`metallic::Error::OutOfMemory`] without scratch memory; [`metallic::Error::Compile`] when a
    /// kernel for these lengths does not compile; [`metallic::Error::Device`] when the driver
    /// refuses.
    pub(crate) fn run(&self, gpu: &Gpu, feeds: &Feeds<'_>) -> Result<()> {
        let (q, k) = (feeds.q.shape(), feeds.k.shape());
        let lengths =
            Lengths { batch: q[0], q_heads: q[1], kv_heads: k[1], q_len: q[2], kv_len: k[2] };
        if lengths.batch == 0 || lengths.q_len == 0 {
            return Ok(());
        }
        let aligned = [feeds.q, feeds.k, feeds.v, feeds.out].into_iter().all(is_aligned);
        let plain = self.abilities.plain && aligned && lengths.kv_len > 0;
        let engine = choose(lengths, Abilities { plain, ..self.abilities });
        tracing::debug!(%engine, ?lengths, "sdpa");
        let mut call = SdpaCall::new(&self.node, feeds)?;
        call.counters = self.counters.start();
        let function = self.function(gpu, engine)?;
        let Lengths { batch, q_heads, q_len, .. } = lengths;
        let shape = |grid: [usize; 3], threads: usize| LaunchShape {
            grid: grid.map(|blocks| u32::try_from(blocks).unwrap_or(u32::MAX)),
            block: [threads as u32, 1, 1],
            shared_bytes: engine.shared_bytes(&self.abilities) as u32,
        };
        match engine {
            Engine::Decode { warps, cluster, splits, .. } => {
                let heads = lengths.kv_heads * packed_tiles(lengths);
                let clusters = splits / cluster;
                // One cluster keeps its parts to itself.
                let parts = if clusters > 1 { batch * heads * clusters } else { 0 };
                call.splits = splits as i32;
                // Sums and their weights, 6 bytes a value of a packed row.
                let bytes = parts * PACKED_ROWS * self.node.v_dim * 6;
                let partials = gpu.workspace(bytes.max(1))?;
                call.partials = partials.start();
                let shape = shape([splits, heads, batch], warps * 32);
                // SAFETY: the operands are the op's, of the lengths in the call; the scratch has
                // room for every part, and the counters for a word of each slice, since splits are
                // made only for fewer heads than multiprocessors. The kernel waits for the one
                // before it first.
                unsafe { function.launch_early(shape, &[Param::new(&call)]) }
            }
            Engine::Prefill { warps, .. } => {
                let grid = [q_heads, q_len.div_ceil(warps * 16), batch];
                // SAFETY: as above, without scratch.
                unsafe { function.launch(shape(grid, warps * 32), &[Param::new(&call)]) }
            }
            Engine::Hopper { groups, keys, heads_per_wave } => {
                call.heads_per_wave = heads_per_wave as i32;
                let map = |start, strides, heads, length, rows| {
                    let width = self.node.head_dim as i32;
                    let shape = [call.batch, heads, length, width];
                    TensorMap::new(
                        gpu,
                        Mapped { start, shape, strides, dtype: self.types.kv, rows },
                    )
                };
                let maps = [
                    map(call.q, call.q_stride, call.q_heads, call.q_len, 64 * groups)?,
                    map(call.k, call.k_stride, call.kv_heads, call.kv_len, keys)?,
                    map(call.v, call.v_stride, call.kv_heads, call.kv_len, keys)?,
                ];
                let pieces = batch * q_heads * q_len.div_ceil(64 * groups);
                let at_once = self.abilities.multiprocessors * if groups == 1 { 2 } else { 1 };
                let shape = shape([pieces.min(at_once), 1, 1], (groups + 1) * 128);
                let [q, k, v] = &maps;
                let params = [Param::new(&call), Param::new(q), Param::new(k), Param::new(v)];
                // SAFETY: as above; the maps describe the same operands.
                unsafe { function.launch(shape, &params) }
            }
            Engine::Any { splits } => {
                let heads = lengths.kv_heads * packed_tiles(lengths);
                let parts = if splits > 1 { batch * heads * splits * PACKED_ROWS } else { 0 };
                // f32 sums of a packed row, its highest score and its sum of weights.
                let partials = gpu.workspace((parts * (self.node.v_dim + 2) * 4).max(1))?;
                call.partials = partials.start();
                call.splits = splits as i32;
                // SAFETY: the operands are the op's, of the lengths in the call; the scratch has room
                // for every part.
                unsafe {
                    function.launch(shape([splits, heads, batch], 256), &[Param::new(&call)])
                }?;
                if splits == 1 {
                    return Ok(());
                }
                let class = class(&self.node, self.types);
                let merge = gpu.modules.function("sdpa_any", &class, "sdpa_any_merge")?;
                let shape =
                    LaunchShape { shared_bytes: 0, ..shape([1, heads, batch], PACKED_ROWS * 32) };
                // SAFETY: as above; the parts were written by the launch before.
                unsafe { merge.launch(shape, &[Param::new(&call)]) }
            }
            Engine::Exact => {
                let grid = [q_len.div_ceil(4), q_heads, batch];
                // SAFETY: as above.
                unsafe { function.launch(shape(grid, 128), &[Param::new(&call)]) }
            }
        }
    }

    /// The kernel of `engine`, compiled on first use and allowed what it needs.
    fn function(&self, gpu: &Gpu, engine: Engine) -> Result<Function> {
        let (source, tiles) = match engine {
            Engine::Decode { warps, stages, cluster, .. } => {
                ("sdpa_decode", format!(" -DWARPS={warps} -DSTAGES={stages} -DCLUSTER={cluster}"))
            }
            Engine::Prefill { warps, keys } => {
                ("sdpa_prefill", format!(" -DWARPS={warps} -DKEYS={keys}"))
            }
            Engine::Hopper { groups, keys, .. } => (
                "sdpa_prefill_sm90",
                format!(" -DGROUPS={groups} -DKEYS={keys} -DSTAGES={HOPPER_STAGES}"),
            ),
            Engine::Any { .. } => ("sdpa_any", String::new()),
            Engine::Exact => ("sdpa_exact", String::new()),
        };
        let key = (source, class(&self.node, self.types) + &tiles);
        let mut functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(function) = functions.get(&key) {
            return Ok(function.clone());
        }
        let function = gpu.modules.function(source, &key.1, source)?;
        function.allow_shared(engine.shared_bytes(&self.abilities) as u32)?;
        if matches!(engine, Engine::Decode { cluster: 9.., .. }) {
            let attribute = Attribute::CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED;
            // SAFETY: the function's module is loaded.
            unsafe { function::set_function_attribute(function.raw(), attribute, 1) }.doing(
                gpu.id(),
                "allow a wide cluster",
                || source.to_owned(),
            )?;
        }
        functions.insert(key, function.clone());
        Ok(function)
    }
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Plan({})", class(&self.node, self.types))
    }
}

/// The macros of the class, as the kernels' variant lines spell them.
pub(in crate::cuda::graph) fn class(node: &SdpaNode, types: Types) -> String {
    let code = |dtype: DType| match dtype {
        DType::F32 => 0,
        DType::Bf16 => 2,
        DType::Q8_0 => 3,
        _ => 1,
    };
    let SdpaNode { head_dim, v_dim, mask_kind, softcap, .. } = node;
    let Types { q, kv } = types;
    let mut class = format!("-DQT={}", code(q));
    if kv != q {
        class += &format!(" -DKT={0} -DVT={0}", code(kv));
    }
    class += &format!(" -DHEAD_DIM={head_dim} -DV_DIM={v_dim}");
    match mask_kind.tensor {
        MaskTensorKind::None => {}
        MaskTensorKind::Additive(dtype) => {
            class += &format!(" -DMASK_TENSOR=1 -DMASK_T={}", code(dtype));
        }
        MaskTensorKind::Bool => class += " -DMASK_TENSOR=2",
    }
    if softcap.is_some() {
        class += " -DSOFTCAP=1";
    }
    class
}
