//! The engine `cudnn`: graphs of one attention node, run by plans of the library's.
//!
//! A plan is tied to lengths and strides. Where live lengths are data, as in a KV cache, it is made for
//! a class of lengths within the cache's capacity, so a growing sequence builds one at each power of
//! two; elsewhere for the call's own. Plans are kept in memory and on disk.

use std::any::Any;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytemuck::{Pod, Zeroable};
use metallic::dispatch::{Reason, Support};
use metallic::graph::{Executable, Feed, Graph, GraphExecutor, LengthPolicy, NodeId, SdpaNode};
use metallic::op::{Op, Sdpa};
use metallic::tensor::{Buffer, DType, Tensor};
use metallic::{Error, Result};

use super::attention::{Geometry, id};
use super::call;
use super::library::{Handle, Library};
use super::plan::CudnnPlan;
use super::store::Store;
use crate::cuda::buffer::{CudaBuffer, device_ptr};
use crate::cuda::error::device_error;
use crate::cuda::gpu::{Gpu, Kernel};
use crate::cuda::graph::sdpa::{Feeds, SdpaCall, Types, class};
use crate::cuda::module::{Function, LaunchShape, Param};
use crate::sdpa_graph::{SdpaFeeds, only_sdpa, tensor};

/// Plans of one class of calls that are kept; beyond this the longest unused goes.
const MAX_PLANS: usize = 64;
/// Oldest chip of the library's attention kernels.
const OLDEST_CHIP: (u32, u32) = (8, 0);
/// Query rows of a block of `sdpa_repair.cu`.
const REPAIRED_ROWS: usize = 64;

/// One GPU's executor.
pub(crate) struct CudnnGraphExecutor {
    gpu: Arc<Gpu>,
    build_id: String,
    /// Made when first asked for: a handle takes device memory.
    engine: OnceLock<std::result::Result<Engine, String>>,
}

/// A handle, and where its plans are kept.
struct Engine {
    /// Whoever works with the handle holds this.
    handle: Mutex<Arc<Handle>>,
    store: Option<Store>,
}

impl CudnnGraphExecutor {
    /// An executor on `gpu`. Looks for the library, but does not begin to use it.
    pub(crate) fn new(gpu: Arc<Gpu>) -> Self {
        let version = Library::get().map_or("absent", |library| library.version.as_str());
        let build_id = format!("cudnn {version} {}", gpu.modules.arch());
        Self { gpu, build_id, engine: OnceLock::new() }
    }

    fn engine(&self) -> std::result::Result<&Engine, String> {
        let made = self.engine.get_or_init(|| {
            let library = Library::get()?;
            let handle = Arc::new(Handle::new(library, &self.gpu.stream)?);
            let multiprocessors = self.gpu.stream.properties().multiprocessors;
            let store = Store::new(&library.version, self.gpu.modules.arch(), multiprocessors);
            Ok(Engine { handle: Mutex::new(handle), store })
        });
        made.as_ref().map_err(Clone::clone)
    }

    fn error(&self, what: &'static str, reason: String) -> Error {
        device_error(self.gpu.id(), what, reason)
    }

    /// The plan of `geometry`, made on first use.
    fn plan(&self, plans: &mut Plans, geometry: &Geometry) -> Result<Arc<Planned>> {
        if let Some(outcome) = plans.get(geometry) {
            return outcome.map_err(declined);
        }
        let make = || {
            let engine = self.engine()?;
            let handle = lock(&engine.handle);
            let store = engine.store.as_ref();
            let plan = CudnnPlan::new(&handle, &self.gpu.memory, store, geometry)?;
            let bytes = 2 * geometry.batch * size_of::<i32>();
            let lengths = match geometry.lengths {
                true => Some(self.gpu.workspace(bytes).map_err(|error| error.to_string())?),
                false => None,
            };
            Ok(Arc::new(Planned { plan, lengths }))
        };
        let outcome: std::result::Result<_, String> = make();
        plans.insert(geometry.clone(), outcome.clone());
        outcome.map_err(declined)
    }
}

/// What a call is told that no plan fits.
fn declined(reason: String) -> Error {
    let reason = Reason::Library { name: "cuDNN", reason };
    Error::Declined { op: Sdpa::ID, kernel: "cudnn", reason }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A plan and what it is fed besides the operands.
struct Planned {
    plan: CudnnPlan,
    /// i32 `[2, batch]`: queries and keys of each sequence.
    lengths: Option<CudaBuffer>,
}

/// Plans by geometry, the last used first; a failure is kept like a plan.
#[derive(Default)]
struct Plans(Vec<(Geometry, std::result::Result<Arc<Planned>, String>)>);

impl Plans {
    fn get(&mut self, geometry: &Geometry) -> Option<std::result::Result<Arc<Planned>, String>> {
        let at = self.0.iter().position(|(known, _)| known == geometry)?;
        self.0[..=at].rotate_right(1);
        self.0.first().map(|(_, outcome)| outcome.clone())
    }

    fn insert(&mut self, geometry: Geometry, outcome: std::result::Result<Arc<Planned>, String>) {
        self.0.truncate(MAX_PLANS - 1);
        self.0.insert(0, (geometry, outcome));
    }
}

/// A compiled graph: which feed is what, and the plans made so far.
struct CudnnExecutable {
    node: SdpaNode,
    feeds: SdpaFeeds,
    /// Does rows again that the library may have left wrong.
    repair: Function,
    plans: Mutex<Plans>,
}

impl Executable for CudnnExecutable {
    fn bytes(&self) -> usize {
        let plans = lock(&self.plans);
        let plans = plans.0.iter().filter_map(|(_, outcome)| outcome.as_ref().ok());
        plans.map(|made| made.plan.bytes() + made.lengths.as_ref().map_or(0, Buffer::bytes)).sum()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl GraphExecutor for CudnnGraphExecutor {
    fn build_id(&self) -> &str {
        &self.build_id
    }

    fn lengths(&self) -> LengthPolicy {
        LengthPolicy::Dynamic
    }

    fn supports(&self, graph: &Graph) -> Support {
        let Some((node, _)) = only_sdpa(graph) else {
            return Support::No(Reason::Missing {
                feature: "graphs other than one sdpa node over inputs",
            });
        };
        let (types, v) = types(graph, node);
        let support = call::supports(node, types, v);
        if support != Support::Yes {
            return support;
        }
        if self.gpu.stream.properties().capability < OLDEST_CHIP {
            return Support::No(Reason::Missing { feature: "chips before sm_80" });
        }
        // A handle takes device memory, so one is made only when a call comes.
        match Library::get() {
            Ok(_) => Support::Yes,
            Err(reason) => Support::No(Reason::Library { name: "cuDNN", reason }),
        }
    }

    fn compile(&self, graph: &Graph) -> Result<Arc<dyn Executable>> {
        let (node, feeds) = only_sdpa(graph).ok_or_else(|| {
            self.error("compile", "the graph is not one sdpa node over inputs".to_owned())
        })?;
        self.engine().map_err(declined)?;
        let (types, _) = types(graph, node);
        let repair =
            self.gpu.modules.function("sdpa_repair", &class(node, types), "sdpa_repair")?;
        let (node, plans) = (node.clone(), Mutex::default());
        Ok(Arc::new(CudnnExecutable { node, feeds, repair, plans }))
    }

    fn run(&self, executable: &dyn Executable, feeds: &[Feed], out: &Tensor) -> Result<()> {
        let executable: &CudnnExecutable = executable
            .as_any()
            .downcast_ref()
            .ok_or_else(|| self.error("run", "the executable is another device's".to_owned()))?;
        let places = &executable.feeds;
        let at = |place| tensor(feeds, place).map_err(|reason| self.error("run", reason));
        let optional = |place: Option<usize>| place.map(at).transpose();
        let feeds = Feeds {
            q: at(places.q)?,
            k: at(places.k)?,
            v: at(places.v)?,
            out,
            mask: optional(places.mask)?,
            kv_lens: optional(places.kv_lens)?,
            offset: None,
        };
        let (batch, q_len) = (feeds.q.shape()[0], feeds.q.shape()[2]);
        if batch == 0 || q_len == 0 {
            return Ok(());
        }
        // Without keys there is nothing but zeros to write, which is the repair's work.
        if feeds.k.shape()[2] > 0 {
            let geometry = call::geometry(&executable.node, &feeds).map_err(declined)?;
            let planned = self.plan(&mut lock(&executable.plans), &geometry)?;
            self.attend(&executable.node, &feeds, &geometry, &planned)?;
            let banded = geometry.causal || geometry.left.is_some();
            if !geometry.lengths && !banded && geometry.bias.is_none() {
                // Every query sees every key: what is not finite is so by right.
                return Ok(());
            }
        }
        self.repair(executable, &feeds)
    }
}

/// Element types of queries and keys, and of values.
fn types(graph: &Graph, node: &SdpaNode) -> (Types, DType) {
    let dtype = |id: NodeId| {
        graph.inputs().find(|(input, _)| *input == id).map_or(DType::F32, |(_, i)| i.dtype)
    };
    (Types { q: dtype(node.q), kv: dtype(node.k) }, dtype(node.v))
}

/// `struct Lengths` of `sdpa_lengths.cu`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Lengths {
    live: u64,
    q: u64,
    kv: u64,
    batch: i32,
    q_len: i32,
    kv_len: i32,
    unused: i32,
}

impl CudnnGraphExecutor {
    /// Puts the plan's run on the stream, after the lengths it reads.
    fn attend(
        &self,
        node: &SdpaNode,
        feeds: &Feeds<'_>,
        geometry: &Geometry,
        planned: &Planned,
    ) -> Result<()> {
        let mut tensors = vec![
            (id::Q, device_ptr(feeds.q)),
            (id::K, device_ptr(feeds.k)),
            (id::V, device_ptr(feeds.v)),
            (id::OUT, device_ptr(feeds.out)),
        ];
        if let Some(mask) = feeds.mask {
            tensors.push((id::BIAS, device_ptr(mask)));
        }
        if let Some(lengths) = &planned.lengths {
            let (q, batch) = (lengths.start(), geometry.batch);
            let kv = q + (batch * size_of::<i32>()) as u64;
            let params = Lengths {
                live: feeds.kv_lens.map_or(0, device_ptr),
                q,
                kv,
                batch: batch as i32,
                q_len: geometry.q_len as i32,
                kv_len: feeds.k.shape()[2] as i32,
                unused: 0,
            };
            let shape = LaunchShape::linear(batch.div_ceil(128), 128);
            let kernel = Kernel::plain("sdpa_lengths", "sdpa_lengths");
            // SAFETY: the buffer has room for both lengths of each sequence; live lengths are the
            // op's, one for each.
            unsafe { self.gpu.launch(kernel, shape, &params) }?;
            tensors.extend([(id::Q_LENS, q), (id::KV_LENS, kv)]);
        }
        let engine = self.engine().map_err(declined)?;
        let _handle = lock(&engine.handle);
        // SAFETY: the operands are the op's and have the plan's geometry; lengths are bounded by what
        // the operands hold; the handle is locked.
        let done = unsafe { planned.plan.run(&tensors, node.scale) };
        done.map_err(|reason| self.error("run", reason))
    }

    /// Does rows again that see no key, or came out with NaN or infinity.
    fn repair(&self, executable: &CudnnExecutable, feeds: &Feeds<'_>) -> Result<()> {
        let call = SdpaCall::new(&executable.node, feeds)?;
        let [rows, heads, batch] =
            [(call.q_len as usize).div_ceil(REPAIRED_ROWS) as i32, call.q_heads, call.batch];
        let grid = [rows, heads, batch].map(i32::unsigned_abs);
        let shape = LaunchShape { grid, block: [128, 1, 1], shared_bytes: 0 };
        // SAFETY: the operands are the op's, of the lengths in the call.
        unsafe { executable.repair.launch(shape, &[Param::new(&call)]) }
    }
}

impl fmt::Debug for CudnnGraphExecutor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CudnnGraphExecutor").field("build", &self.build_id).finish()
    }
}
