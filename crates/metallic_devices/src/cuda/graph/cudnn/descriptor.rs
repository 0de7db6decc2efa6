//! One object of cuDNN's backend: made, filled attribute by attribute, finalized, destroyed.
//!
//! Numbers and names are those of `cudnn_graph.h`, which keeps them from version to version.

use std::ffi::c_void;
use std::fmt;

use super::library::{Handle, Library, Raw};

/// A kind of object.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind(i32, &'static str);

/// A field of an object: its number, the type of its values, its name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attribute(i32, i32, &'static str);

macro_rules! kinds {
    ($($name:ident = $number:literal),* $(,)?) => {
        impl Kind { $(pub(super) const $name: Kind = Kind($number, stringify!($name));)* }
    };
}

macro_rules! attributes {
    ($($name:ident = $number:literal, $kind:ident);* $(;)?) => {
        impl Attribute {
            $(pub(super) const $name: Attribute = Attribute($number, $kind, stringify!($name));)*
        }
    };
}

kinds! {
    POINTWISE = 0,
    ENGINE_CONFIG = 3,
    HEURISTICS = 4,
    PLAN = 5,
    OPERATION_POINTWISE = 13,
    OPERATION_GRAPH = 15,
    VARIANT_PACK = 16,
    TENSOR = 17,
    MATMUL = 18,
    OPERATION_MATMUL = 19,
    REDUCTION = 21,
    OPERATION_REDUCTION = 22,
}

// `cudnnBackendAttributeType_t`.
const HANDLE: i32 = 0;
const DATA_TYPE: i32 = 1;
const BOOLEAN: i32 = 2;
const INT64: i32 = 3;
const POINTER: i32 = 6;
const HEURISTICS_MODE: i32 = 8;
const POINTWISE_MODE: i32 = 14;
const DESCRIPTOR: i32 = 15;
const REDUCTION_OPERATOR: i32 = 18;
const CHAR: i32 = 24;

attributes! {
    POINTWISE_MODE = 0, POINTWISE_MODE;
    POINTWISE_MATH_PREC = 1, DATA_TYPE;
    POINTWISE_AXIS = 9, INT64;
    ENGINEHEUR_MODE = 200, HEURISTICS_MODE;
    ENGINEHEUR_OPERATION_GRAPH = 201, DESCRIPTOR;
    ENGINEHEUR_RESULTS = 202, DESCRIPTOR;
    EXECUTION_PLAN_HANDLE = 400, HANDLE;
    EXECUTION_PLAN_ENGINE_CONFIG = 401, DESCRIPTOR;
    EXECUTION_PLAN_WORKSPACE_SIZE = 402, INT64;
    EXECUTION_PLAN_JSON_REPRESENTATION = 405, CHAR;
    OPERATION_POINTWISE_PW_DESCRIPTOR = 750, DESCRIPTOR;
    OPERATION_POINTWISE_XDESC = 751, DESCRIPTOR;
    OPERATION_POINTWISE_BDESC = 752, DESCRIPTOR;
    OPERATION_POINTWISE_YDESC = 753, DESCRIPTOR;
    OPERATION_POINTWISE_TDESC = 758, DESCRIPTOR;
    OPERATIONGRAPH_HANDLE = 800, HANDLE;
    OPERATIONGRAPH_OPS = 801, DESCRIPTOR;
    TENSOR_BYTE_ALIGNMENT = 900, INT64;
    TENSOR_DATA_TYPE = 901, DATA_TYPE;
    TENSOR_DIMENSIONS = 902, INT64;
    TENSOR_STRIDES = 903, INT64;
    TENSOR_UNIQUE_ID = 906, INT64;
    TENSOR_IS_VIRTUAL = 907, BOOLEAN;
    TENSOR_IS_BY_VALUE = 908, BOOLEAN;
    VARIANT_PACK_UNIQUE_IDS = 1000, INT64;
    VARIANT_PACK_DATA_POINTERS = 1001, POINTER;
    VARIANT_PACK_WORKSPACE = 1003, POINTER;
    MATMUL_COMP_TYPE = 1500, DATA_TYPE;
    OPERATION_MATMUL_ADESC = 1520, DESCRIPTOR;
    OPERATION_MATMUL_BDESC = 1521, DESCRIPTOR;
    OPERATION_MATMUL_CDESC = 1522, DESCRIPTOR;
    OPERATION_MATMUL_DESC = 1523, DESCRIPTOR;
    OPERATION_MATMUL_GEMM_M_OVERRIDE_DESC = 1525, DESCRIPTOR;
    OPERATION_MATMUL_GEMM_N_OVERRIDE_DESC = 1526, DESCRIPTOR;
    OPERATION_MATMUL_GEMM_K_OVERRIDE_DESC = 1527, DESCRIPTOR;
    REDUCTION_OPERATOR = 1600, REDUCTION_OPERATOR;
    REDUCTION_COMP_TYPE = 1601, DATA_TYPE;
    OPERATION_REDUCTION_XDESC = 1610, DESCRIPTOR;
    OPERATION_REDUCTION_YDESC = 1611, DESCRIPTOR;
    OPERATION_REDUCTION_DESC = 1612, DESCRIPTOR;
}

/// An object, destroyed when dropped. Errors name the object or the attribute.
pub(super) struct Descriptor {
    raw: Raw,
    kind: Kind,
    library: &'static Library,
}

// SAFETY: an object belongs to no thread; its users hold a lock.
unsafe impl Send for Descriptor {}
// SAFETY: as above.
unsafe impl Sync for Descriptor {}

type Outcome<T> = std::result::Result<T, String>;

impl Descriptor {
    /// An empty object.
    ///
    /// # Errors
    /// In words, as all below.
    pub(super) fn new(library: &'static Library, kind: Kind) -> Outcome<Self> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: the pointer is to one object's place.
        let status = unsafe { (library.create_descriptor)(kind.0, &mut raw) };
        library.check(status, || format!("making of {}", kind.1))?;
        Ok(Self { raw, kind, library })
    }

    /// The library's own pointer.
    pub(super) fn raw(&self) -> Raw {
        self.raw
    }

    /// # Safety
    /// `values` are `count` values of the attribute's type.
    unsafe fn set(&self, attribute: Attribute, count: usize, values: *const c_void) -> Outcome<()> {
        let Attribute(number, kind, name) = attribute;
        // SAFETY: the caller's promise; the object is alive, and copies the values.
        let status =
            unsafe { (self.library.set_attribute)(self.raw, number, kind, count as i64, values) };
        self.library.check(status, || format!("CUDNN_ATTR_{name}"))
    }

    /// Sets numbers.
    pub(super) fn numbers(self, attribute: Attribute, values: &[i64]) -> Outcome<Self> {
        debug_assert_eq!(attribute.1, INT64);
        // SAFETY: attributes of that type take 64-bit numbers.
        unsafe { self.set(attribute, values.len(), values.as_ptr().cast()) }?;
        Ok(self)
    }

    /// Sets a value of one of the library's enumerations.
    pub(super) fn choice(self, attribute: Attribute, value: i32) -> Outcome<Self> {
        // SAFETY: attributes that are given choices here have types of 32 bits.
        unsafe { self.set(attribute, 1, std::ptr::from_ref(&value).cast()) }?;
        Ok(self)
    }

    /// Sets a flag.
    pub(super) fn flag(self, attribute: Attribute, value: bool) -> Outcome<Self> {
        debug_assert_eq!(attribute.1, BOOLEAN);
        // SAFETY: attributes of that type take a C++ bool, one byte of 0 or 1.
        unsafe { self.set(attribute, 1, std::ptr::from_ref(&value).cast()) }?;
        Ok(self)
    }

    /// Refers to other objects, which must outlive this one's use.
    pub(super) fn objects(self, attribute: Attribute, values: &[&Descriptor]) -> Outcome<Self> {
        debug_assert_eq!(attribute.1, DESCRIPTOR);
        let raw: Vec<Raw> = values.iter().map(|value| value.raw).collect();
        // SAFETY: attributes of that type take pointers to objects.
        unsafe { self.set(attribute, raw.len(), raw.as_ptr().cast()) }?;
        Ok(self)
    }

    /// Refers to the handle.
    pub(super) fn handle(self, attribute: Attribute, handle: &Handle) -> Outcome<Self> {
        debug_assert_eq!(attribute.1, HANDLE);
        let raw = handle.raw();
        // SAFETY: attributes of that type take a handle.
        unsafe { self.set(attribute, 1, std::ptr::from_ref(&raw).cast()) }?;
        Ok(self)
    }

    /// Sets addresses, of the device or of the host as each tensor says.
    pub(super) fn pointers(self, attribute: Attribute, values: &[u64]) -> Outcome<Self> {
        debug_assert_eq!(attribute.1, POINTER);
        // SAFETY: addresses have 64 bits wherever there is an NVIDIA GPU.
        unsafe { self.set(attribute, values.len(), values.as_ptr().cast()) }?;
        Ok(self)
    }

    /// Sets a text.
    pub(super) fn text(self, attribute: Attribute, value: &[u8]) -> Outcome<Self> {
        debug_assert_eq!(attribute.1, CHAR);
        // SAFETY: attributes of that type take bytes.
        unsafe { self.set(attribute, value.len(), value.as_ptr().cast()) }?;
        Ok(self)
    }

    /// Ends the filling; the library checks the whole.
    pub(super) fn finish(self) -> Outcome<Self> {
        // SAFETY: the object is alive.
        let status = unsafe { (self.library.finalize)(self.raw) };
        self.library.check(status, || format!("finalizing of {}", self.kind.1))?;
        Ok(self)
    }

    /// # Safety
    /// `values` has room for `room` values of the attribute's type.
    unsafe fn get(&self, attribute: Attribute, room: usize, values: *mut c_void) -> Outcome<usize> {
        let Attribute(number, kind, name) = attribute;
        let mut count = 0i64;
        // SAFETY: the caller's promise; `count` is one 64-bit number.
        let status = unsafe {
            (self.library.get_attribute)(self.raw, number, kind, room as i64, &mut count, values)
        };
        self.library.check(status, || format!("reading of CUDNN_ATTR_{name}"))?;
        Ok(usize::try_from(count).unwrap_or(0))
    }

    /// One number.
    pub(super) fn number(&self, attribute: Attribute) -> Outcome<i64> {
        let mut value = 0i64;
        // SAFETY: room for one number.
        unsafe { self.get(attribute, 1, std::ptr::from_mut(&mut value).cast()) }?;
        Ok(value)
    }

    /// A text, without its length known.
    pub(super) fn read_text(&self, attribute: Attribute) -> Outcome<Vec<u8>> {
        // SAFETY: no room and no values: the library gives the length alone.
        let length = unsafe { self.get(attribute, 0, std::ptr::null_mut()) }?;
        let mut text = vec![0u8; length];
        // SAFETY: room for that many bytes.
        let length = unsafe { self.get(attribute, length, text.as_mut_ptr().cast()) }?;
        text.truncate(length);
        Ok(text)
    }

    /// Every object the library made for an attribute.
    pub(super) fn read_objects(&self, attribute: Attribute, kind: Kind) -> Outcome<Vec<Self>> {
        // SAFETY: no room and no values: the library gives the count alone.
        let count = unsafe { self.get(attribute, 0, std::ptr::null_mut()) }?;
        let made = (0..count).map(|_| Self::new(self.library, kind));
        let mut made = made.collect::<Outcome<Vec<_>>>()?;
        let mut raw: Vec<Raw> = made.iter().map(|object| object.raw).collect();
        // SAFETY: the objects are there; the library fills each.
        let filled = unsafe { self.get(attribute, count, raw.as_mut_ptr().cast()) }?;
        made.truncate(filled);
        Ok(made)
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: made in `new`, destroyed once.
        let _ = unsafe { (self.library.destroy_descriptor)(self.raw) };
    }
}

impl fmt::Debug for Descriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.1)
    }
}
