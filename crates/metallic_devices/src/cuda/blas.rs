//! cuBLASLt: `out = α · x Wᵀ + bias` with x and W of f32, f16 or bf16, sums and out in f32.
//!
//! The library counts rows downwards: what is `[n, k]` row by row is a k × n matrix to it, so the
//! product it is asked for is `outᵀ = W xᵀ` with W transposed. A plan (descriptor, layouts, the
//! algorithm its heuristic names) is made once per shape and kept.

use std::collections::HashMap;
use std::ffi::c_void;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::cublaslt::result::{self as lt, CublasError};
use cudarc::cublaslt::sys::{self, cublasLtHandle_t};
use metallic::Result;
use metallic::tensor::DType;

use super::buffer::{CudaBuffer, MemoryPool};
use super::error::device_error;
use super::libraries::{Component, library};
use super::stream::Stream;

/// Scratch memory of the library: what NVIDIA advises for Hopper, and enough for older chips.
const WORKSPACE: usize = 32 << 20;
/// Plans kept; beyond this they are made anew.
const MAX_PLANS: usize = 512;

/// One product. Addresses are the device's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Product {
    /// `[m, k]` of `dtype`, dense.
    pub x: u64,
    /// `[n, k]` of `dtype`, dense.
    pub weight: u64,
    /// f32 `[n]`, or 0.
    pub bias: u64,
    /// f32 `[m, n]`, dense.
    pub out: u64,
    /// Two f32: α, then 0.
    pub alpha: u64,
    /// Rows of x.
    pub m: usize,
    /// Rows of W.
    pub n: usize,
    /// Columns of both.
    pub k: usize,
    /// f32, f16 or bf16.
    pub dtype: DType,
}

/// What a plan depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    m: usize,
    n: usize,
    k: usize,
    dtype: DType,
    bias: bool,
    /// Alignments of x, W and out, in bytes.
    alignment: [u32; 3],
}

/// The library's handle on one device.
pub(crate) struct Blas {
    stream: Arc<Stream>,
    memory: Arc<MemoryPool>,
    state: Mutex<State>,
}

struct State {
    handle: cublasLtHandle_t,
    plans: HashMap<Key, Plan>,
    workspace: Option<CudaBuffer>,
}

// SAFETY: the handle and the plans are reached under the lock alone.
unsafe impl Send for State {}

/// A product the library knows how to do.
struct Plan {
    description: sys::cublasLtMatmulDesc_t,
    weight: sys::cublasLtMatrixLayout_t,
    x: sys::cublasLtMatrixLayout_t,
    out: sys::cublasLtMatrixLayout_t,
    algorithm: Option<sys::cublasLtMatmulAlgo_t>,
}

impl Drop for Plan {
    fn drop(&mut self) {
        let destroy = |layout: sys::cublasLtMatrixLayout_t| {
            if !layout.is_null() {
                // SAFETY: made by this plan, destroyed once.
                let _ = unsafe { lt::destroy_matrix_layout(layout) };
            }
        };
        [self.weight, self.x, self.out].into_iter().for_each(destroy);
        if !self.description.is_null() {
            // SAFETY: as above.
            let _ = unsafe { lt::destroy_matmul_desc(self.description) };
        }
    }
}

impl Blas {
    /// A handle, or what is missing.
    ///
    /// # Errors
    /// In words, when the library is not here or refuses.
    pub(crate) fn open(stream: &Arc<Stream>, memory: &Arc<MemoryPool>) -> Result<Self, String> {
        library(Component::CublasLt).state.clone()?;
        stream.bind().map_err(|error| error.to_string())?;
        let handle = lt::create_handle().map_err(|error| format!("cublasLtCreate: {error:?}"))?;
        let state = Mutex::new(State { handle, plans: HashMap::new(), workspace: None });
        Ok(Self { stream: Arc::clone(stream), memory: Arc::clone(memory), state })
    }

    /// Puts a product on the stream.
    ///
    /// # Safety
    /// All addresses lead to live memory of the device, of the sizes that [`Product`] names.
    ///
    /// # Errors
    /// [`metallic::Error::Device`] when the library knows no way, or refuses.
    pub(crate) unsafe fn multiply(&self, product: &Product) -> Result<()> {
        self.stream.bind()?;
        let failed = |error: CublasError| {
            let Product { m, n, k, dtype, .. } = product;
            let reason = format!("{dtype} {m}x{n}x{k}: {error:?}");
            device_error(self.stream.id(), "multiply with cuBLASLt", reason)
        };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { handle, plans, workspace } = &mut *state;
        let scratch = match workspace {
            Some(scratch) => scratch.start(),
            none => none.insert(self.memory.allocate(WORKSPACE)?).start(),
        };
        let key = product.key();
        if plans.len() >= MAX_PLANS && !plans.contains_key(&key) {
            plans.clear();
        }
        let plan = match plans.entry(key) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(Plan::new(*handle, key).map_err(failed)?)
            }
        };
        if key.bias {
            let attribute = sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_BIAS_POINTER;
            plan.describe(attribute, &product.bias).map_err(failed)?;
        }
        let algorithm = plan.algorithm.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        let address =
            |address: u64| std::ptr::with_exposed_provenance_mut::<c_void>(address as usize);
        // SAFETY: the plan's descriptors are alive; the rest is the caller's promise. α and β lie
        // on the device, as the descriptor says.
        let matmul = || unsafe {
            lt::matmul(
                *handle,
                plan.description,
                address(product.alpha),
                address(product.alpha + 4),
                address(product.weight),
                plan.weight,
                address(product.x),
                plan.x,
                address(product.out),
                plan.out,
                address(product.out),
                plan.out,
                algorithm,
                address(scratch),
                WORKSPACE,
                self.stream.raw().cast(),
            )
        };
        self.stream.timed("linear", "cublasLtMatmul", || matmul().map_err(failed))
    }
}

impl Drop for Blas {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        state.plans.clear();
        if self.stream.synchronize().is_ok() {
            // SAFETY: made in `open`, destroyed once, after all work.
            let _ = unsafe { lt::destroy_handle(state.handle) };
        }
    }
}

impl fmt::Debug for Blas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Blas")
    }
}

impl Product {
    fn key(&self) -> Key {
        // More than 256 bytes make no difference to the library.
        let alignment = |address: u64| 1 << address.trailing_zeros().min(8);
        Key {
            m: self.m,
            n: self.n,
            k: self.k,
            dtype: self.dtype,
            bias: self.bias != 0,
            alignment: [self.x, self.weight, self.out].map(alignment),
        }
    }
}

impl Plan {
    fn new(handle: cublasLtHandle_t, key: Key) -> Result<Self, CublasError> {
        use sys::cublasLtMatmulDescAttributes_t as Description;
        use sys::cublasLtMatmulPreferenceAttributes_t as Preference;
        let dtype = match key.dtype {
            DType::F16 => sys::cudaDataType::CUDA_R_16F,
            DType::Bf16 => sys::cudaDataType::CUDA_R_16BF,
            _ => sys::cudaDataType::CUDA_R_32F,
        };
        let f32 = sys::cudaDataType::CUDA_R_32F;
        let (m, n, k) = (key.m as u64, key.n as u64, key.k as u64);
        // f32 sums; f32 operands are not rounded to fewer bits.
        let compute = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let mut plan = Self {
            description: lt::create_matmul_desc(compute, f32)?,
            weight: std::ptr::null_mut(),
            x: std::ptr::null_mut(),
            out: std::ptr::null_mut(),
            algorithm: None,
        };
        plan.weight = lt::create_matrix_layout(dtype, k, n, k as i64)?;
        plan.x = lt::create_matrix_layout(dtype, k, m, k as i64)?;
        plan.out = lt::create_matrix_layout(f32, n, m, n as i64)?;
        // `CUBLAS_OP_T` of `cublas_api.h`.
        let transposed = 1i32;
        plan.describe(Description::CUBLASLT_MATMUL_DESC_TRANSA, &transposed)?;
        let device = sys::cublasLtPointerMode_t::CUBLASLT_POINTER_MODE_DEVICE;
        plan.describe(Description::CUBLASLT_MATMUL_DESC_POINTER_MODE, &device)?;
        if key.bias {
            let epilogue = sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS;
            plan.describe(Description::CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue)?;
            plan.describe(Description::CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &f32)?;
        }
        let preference = Preferences(lt::create_matmul_pref()?);
        preference.set(Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &WORKSPACE)?;
        let [x, weight, out] = key.alignment;
        preference.set(Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &weight)?;
        preference.set(Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &x)?;
        preference.set(Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &out)?;
        preference.set(Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &out)?;
        // SAFETY: everything was made above and is alive.
        let found = unsafe {
            lt::get_matmul_algo_heuristic(
                handle,
                plan.description,
                plan.weight,
                plan.x,
                plan.out,
                plan.out,
                preference.0,
            )
        }?;
        plan.algorithm = Some(found.algo);
        Ok(plan)
    }

    fn describe<T>(
        &self,
        attribute: sys::cublasLtMatmulDescAttributes_t,
        value: &T,
    ) -> Result<(), CublasError> {
        // SAFETY: the description is alive, and every attribute used here has the type of `value`.
        unsafe {
            lt::set_matmul_desc_attribute(
                self.description,
                attribute,
                std::ptr::from_ref(value).cast(),
                size_of::<T>(),
            )
        }
    }
}

/// What the heuristic must respect.
struct Preferences(sys::cublasLtMatmulPreference_t);

impl Preferences {
    fn set<T>(
        &self,
        attribute: sys::cublasLtMatmulPreferenceAttributes_t,
        value: &T,
    ) -> Result<(), CublasError> {
        // SAFETY: alive, and every attribute used here has the type of `value`.
        unsafe {
            lt::set_matmul_pref_attribute(
                self.0,
                attribute,
                std::ptr::from_ref(value).cast(),
                size_of::<T>(),
            )
        }
    }
}

impl Drop for Preferences {
    fn drop(&mut self) {
        // SAFETY: made by `create_matmul_pref`, destroyed once.
        let _ = unsafe { lt::destroy_matmul_pref(self.0) };
    }
}
