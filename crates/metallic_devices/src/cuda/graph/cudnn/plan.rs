//! A plan of cuDNN's: found by its heuristics or read from its own description, with the scratch
//! memory it asked for.

use std::sync::Arc;
use std::time::Instant;

use metallic::tensor::Buffer;

use super::attention::{Geometry, Number, id, lower};
use super::descriptor::{Attribute, Descriptor, Kind};
use super::library::Handle;
use super::store::Store;
use crate::cuda::buffer::{CudaBuffer, MemoryPool};

/// `CUDNN_HEUR_MODE_A`, then `CUDNN_HEUR_MODE_FALLBACK`.
const MODES: [i32; 2] = [3, 2];
/// Scratch memory of a plan at most, in bytes: a larger one is passed over for the next.
const MAX_WORKSPACE: i64 = 1 << 30;

/// A plan that can run. It allocates nothing and waits for nothing while it runs, so it may be
/// captured; whoever captured it keeps the plan.
pub(super) struct CudnnPlan {
    plan: Descriptor,
    workspace: Option<CudaBuffer>,
    numbers: Vec<(i64, Number)>,
    handle: Arc<Handle>,
    /// What the plan was made of and may refer to.
    _kept: Vec<Descriptor>,
}

type Outcome<T> = Result<T, String>;

impl CudnnPlan {
    /// The plan of `geometry`: from `store` when it is there and still fits, else built and put
    /// there.
    ///
    /// # Errors
    /// In words, when cuDNN has no kernel for it or there is no memory.
    pub(super) fn new(
        handle: &Arc<Handle>,
        memory: &Arc<MemoryPool>,
        store: Option<&Store>,
        geometry: &Geometry,
    ) -> Outcome<Self> {
        let start = Instant::now();
        handle.stream().bind().map_err(|error| error.to_string())?;
        let lowered = lower(geometry, handle.library())?;
        let stored = store.and_then(|store| store.read(geometry));
        let restored = stored.and_then(|text| restore(handle, &text).ok());
        let from_disk = restored.is_some();
        let (plan, kept) = match restored {
            Some(plan) => (plan, Vec::new()),
            None => {
                let (graph, kept) = lowered.operations.finish(handle)?;
                build(handle, graph, kept)?
            }
        };
        let bytes = plan.number(Attribute::EXECUTION_PLAN_WORKSPACE_SIZE)?;
        let workspace = match usize::try_from(bytes) {
            Ok(0) => None,
            Ok(bytes) => Some(memory.allocate(bytes).map_err(|error| error.to_string())?),
            Err(_) => return Err(format!("a plan asks for {bytes} bytes of scratch memory")),
        };
        if let (false, Some(store)) = (from_disk, store) {
            let text = plan.read_text(Attribute::EXECUTION_PLAN_JSON_REPRESENTATION)?;
            store.write(geometry, &text);
        }
        let ms = start.elapsed().as_millis();
        tracing::debug!(?geometry, from_disk, bytes, ms, "a plan of cuDNN");
        let handle = Arc::clone(handle);
        Ok(Self { plan, workspace, numbers: lowered.numbers, handle, _kept: kept })
    }

    /// Scratch memory it holds, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.workspace.as_ref().map_or(0, Buffer::bytes)
    }

    /// Puts a run on the stream: `tensors` are device addresses by name.
    ///
    /// # Safety
    /// The addresses lead to operands of the plan's geometry, live until the run is done; nobody
    /// else uses the handle meanwhile.
    ///
    /// # Errors
    /// In words, when the library refuses.
    pub(super) unsafe fn run(&self, tensors: &[(i64, u64)], scale: f32) -> Outcome<()> {
        let handle = &*self.handle;
        handle.stream().bind().map_err(|error| error.to_string())?;
        let scale = (id::SCALE, Number::F32(scale));
        let numbers: Vec<(i64, Place)> = [scale]
            .iter()
            .chain(&self.numbers)
            .map(|(id, number)| (*id, Place(number.bits())))
            .collect();
        let places = numbers.iter().map(|(id, place)| (*id, std::ptr::from_ref(place) as u64));
        let (ids, addresses): (Vec<i64>, Vec<u64>) = tensors.iter().copied().chain(places).unzip();
        let workspace = self.workspace.as_ref().map_or(0, CudaBuffer::start);
        let library = handle.library();
        let pack = Descriptor::new(library, Kind::VARIANT_PACK)?
            .numbers(Attribute::VARIANT_PACK_UNIQUE_IDS, &ids)?
            .pointers(Attribute::VARIANT_PACK_DATA_POINTERS, &addresses)?
            .pointers(Attribute::VARIANT_PACK_WORKSPACE, &[workspace])?
            .finish()?;
        let mut status = 0;
        let execute = || {
            // SAFETY: the caller's promise; numbers in host memory are read before the call returns.
            status = unsafe { (library.execute)(handle.raw(), self.plan.raw(), pack.raw()) };
            Ok(())
        };
        let timed = handle.stream().timed("sdpa", "cudnnBackendExecute", execute);
        timed.map_err(|error| error.to_string())?;
        library.check(status, || "cudnnBackendExecute".to_owned())
    }
}

impl Drop for CudnnPlan {
    fn drop(&mut self) {
        // The plan's code goes with it, so its runs must be done; a failure of theirs is reported by
        // the next wait.
        let _ = self.handle.stream().synchronize();
    }
}

/// Four bytes where the library may expect the alignment of a fed tensor.
#[repr(align(16))]
#[derive(Clone, Copy)]
struct Place(#[allow(dead_code, reason = "read by the library")] u32);

/// The first plan of the heuristics' that can be made within the bound on scratch memory.
fn build(
    handle: &Handle,
    graph: Descriptor,
    mut kept: Vec<Descriptor>,
) -> Outcome<(Descriptor, Vec<Descriptor>)> {
    let library = handle.library();
    let mut refusals = Vec::new();
    for mode in MODES {
        let heuristics = Descriptor::new(library, Kind::HEURISTICS)?
            .objects(Attribute::ENGINEHEUR_OPERATION_GRAPH, &[&graph])?
            .choice(Attribute::ENGINEHEUR_MODE, mode)?
            .finish();
        let configs = heuristics.and_then(|heuristics| {
            heuristics.read_objects(Attribute::ENGINEHEUR_RESULTS, Kind::ENGINE_CONFIG)
        });
        let configs = match configs {
            Ok(configs) => configs,
            Err(refusal) => {
                refusals.push(refusal);
                continue;
            }
        };
        for config in configs {
            let made = Descriptor::new(library, Kind::PLAN)?
                .handle(Attribute::EXECUTION_PLAN_HANDLE, handle)?
                .objects(Attribute::EXECUTION_PLAN_ENGINE_CONFIG, &[&config])?
                .finish()
                .and_then(|plan| match plan.number(Attribute::EXECUTION_PLAN_WORKSPACE_SIZE)? {
                    bytes if bytes <= MAX_WORKSPACE => Ok(plan),
                    bytes => Err(format!("{bytes} bytes of scratch memory are too many")),
                });
            match made {
                Ok(plan) => {
                    kept.extend([config, graph]);
                    return Ok((plan, kept));
                }
                Err(refusal) => refusals.push(refusal),
            }
        }
    }
    refusals.dedup();
    match refusals.is_empty() {
        true => Err("cuDNN has no kernel for it".to_owned()),
        false => Err(format!("cuDNN has no kernel for it: {}", refusals.join("; "))),
    }
}

/// The plan that describes itself as `text`.
fn restore(handle: &Handle, text: &[u8]) -> Outcome<Descriptor> {
    Descriptor::new(handle.library(), Kind::PLAN)?
        .handle(Attribute::EXECUTION_PLAN_HANDLE, handle)?
        .text(Attribute::EXECUTION_PLAN_JSON_REPRESENTATION, text)?
        .finish()
}
