//! Blocks: copying, releasing and calling them, by the layout of clang's block ABI
//! (<https://clang.llvm.org/docs/Block-ABI-Apple.html>).

use std::alloc::{Layout, alloc, dealloc};
use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::abort::abort;
use super::class::{Class, Kind};
use super::object::{Id, Ref};
use super::pool;
use crate::foundation::object::NS_OBJECT;

#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)]
static _NSConcreteStackBlock: Class =
    Class::with_kind(c"__NSStackBlock__", Some(&NS_OBJECT), Kind::StackBlock);
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)]
static _NSConcreteGlobalBlock: Class =
    Class::with_kind(c"__NSGlobalBlock__", Some(&NS_OBJECT), Kind::GlobalBlock);
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)]
static _NSConcreteMallocBlock: Class =
    Class::with_kind(c"__NSMallocBlock__", Some(&NS_OBJECT), Kind::HeapBlock);

const HAS_COPY_DISPOSE: c_int = 1 << 25;
const FIELD_IS_OBJECT: c_int = 3;
const FIELD_IS_BLOCK: c_int = 7;

#[repr(C)]
struct Descriptor {
    reserved: usize,
    size: usize,
    copy: Option<unsafe extern "C-unwind" fn(*mut c_void, *const c_void)>,
    dispose: Option<unsafe extern "C-unwind" fn(*mut c_void)>,
}

#[repr(C)]
struct Block {
    isa: *const Class,
    flags: c_int,
    /// The count of a heap block; the ABI leaves this word to the runtime.
    count: c_int,
    invoke: *const c_void,
    descriptor: *const Descriptor,
}

/// A block argument of a method; may be null.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(crate) struct BlockPtr(*mut c_void);

static LIVE: AtomicUsize = AtomicUsize::new(0);

/// Heap blocks alive now.
pub(crate) fn live() -> usize {
    LIVE.load(Ordering::Relaxed)
}

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size.max(size_of::<Block>()), 16).expect("the size of a block is small")
}

/// `_Block_copy`: a heap block with one more reference.
pub(crate) fn copy(block: *mut c_void) -> *mut c_void {
    if block.is_null() {
        return block;
    }
    let source = block.cast::<Block>();
    // SAFETY: the caller passes a block; its class, flags and descriptor follow the ABI.
    unsafe {
        match (*(*source).isa).kind() {
            Kind::HeapBlock => {
                count(source).fetch_add(1, Ordering::Relaxed);
                block
            }
            Kind::StackBlock => {
                let descriptor = &*(*source).descriptor;
                let target = alloc(layout(descriptor.size)).cast::<Block>();
                std::ptr::copy_nonoverlapping(
                    source.cast::<u8>(),
                    target.cast::<u8>(),
                    descriptor.size,
                );
                (*target).isa = &_NSConcreteMallocBlock;
                (*target).count = 1;
                if (*source).flags & HAS_COPY_DISPOSE != 0
                    && let Some(copy) = descriptor.copy
                {
                    copy(target.cast(), source.cast());
                }
                LIVE.fetch_add(1, Ordering::Relaxed);
                target.cast()
            }
            _ => block,
        }
    }
}

/// `_Block_release`: one reference less; the last one disposes of what the block captured.
pub(crate) fn release(block: *mut c_void) {
    let block = block.cast::<Block>();
    // SAFETY: as in `copy`; a block with a count of zero was freed and is not passed here by correct code.
    unsafe {
        if block.is_null() || (*(*block).isa).kind() != Kind::HeapBlock {
            return;
        }
        if count(block).fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        let descriptor = &*(*block).descriptor;
        if (*block).flags & HAS_COPY_DISPOSE != 0
            && let Some(dispose) = descriptor.dispose
        {
            dispose(block.cast());
        }
        dealloc(block.cast(), layout(descriptor.size));
    }
    LIVE.fetch_sub(1, Ordering::Relaxed);
}

/// The count of a heap block.
///
/// # Safety
/// `block` is a heap block.
unsafe fn count<'a>(block: *mut Block) -> &'a std::sync::atomic::AtomicI32 {
    // SAFETY: the field is aligned, and heap blocks reach it through this function alone.
    unsafe { std::sync::atomic::AtomicI32::from_ptr(&raw mut (*block).count) }
}

impl BlockPtr {
    /// A copy that lives as long as the result, or none for null.
    pub(crate) fn copied(self) -> Option<OwnedBlock> {
        (!self.0.is_null()).then(|| OwnedBlock(copy(self.0) as usize))
    }
}

/// A copied block. Blocks may be called on another thread, as Metal does.
pub(crate) struct OwnedBlock(usize);

impl OwnedBlock {
    /// Calls a block that takes one object and returns nothing.
    pub(crate) fn call_with(&self, argument: Id) {
        let block = self.0 as *mut Block;
        // SAFETY: the signature is the caller's, who took the block from a method that documents it.
        let code: extern "C-unwind" fn(*mut Block, Id) =
            unsafe { std::mem::transmute((*block).invoke) };
        pool::scope(|| code(block, argument));
    }

    /// Calls a block that takes two objects.
    pub(crate) fn call_with_two(&self, first: Id, second: Id) {
        let block = self.0 as *mut Block;
        // SAFETY: as in `call_with`.
        let code: extern "C-unwind" fn(*mut Block, Id, Id) =
            unsafe { std::mem::transmute((*block).invoke) };
        pool::scope(|| code(block, first, second));
    }

    /// Calls a block that takes a pointer and a length, as the deallocators of buffers do.
    pub(crate) fn call_with_memory(&self, pointer: *mut c_void, length: usize) {
        let block = self.0 as *mut Block;
        // SAFETY: as in `call_with`.
        let code: extern "C-unwind" fn(*mut Block, *mut c_void, usize) =
            unsafe { std::mem::transmute((*block).invoke) };
        pool::scope(|| code(block, pointer, length));
    }
}

impl Drop for OwnedBlock {
    fn drop(&mut self) {
        release(self.0 as *mut c_void);
    }
}

/// Makes the block classes known.
pub(crate) fn install() {
    _NSConcreteStackBlock.register();
    _NSConcreteGlobalBlock.register();
    _NSConcreteMallocBlock.register();
}

#[unsafe(no_mangle)]
extern "C-unwind" fn _Block_copy(block: *mut c_void) -> *mut c_void {
    copy(block)
}

#[unsafe(no_mangle)]
extern "C-unwind" fn _Block_release(block: *mut c_void) {
    release(block);
}

#[unsafe(no_mangle)]
extern "C-unwind" fn _Block_object_assign(
    target: *mut *mut c_void,
    object: *mut c_void,
    flags: c_int,
) {
    let kept = match flags & 0xf {
        FIELD_IS_OBJECT => Id::from_ptr(object).retained().map_or(Id::NIL, Ref::into_id).as_ptr(),
        FIELD_IS_BLOCK => copy(object),
        other => abort!("a block captured a field of kind {other}, which is not modelled"),
    };
    // SAFETY: the copy helper of a block passes the address of its field.
    unsafe { *target = kept };
}

#[unsafe(no_mangle)]
extern "C-unwind" fn _Block_object_dispose(object: *mut c_void, flags: c_int) {
    match flags & 0xf {
        FIELD_IS_OBJECT => Id::from_ptr(object).release(),
        FIELD_IS_BLOCK => release(object),
        other => abort!("a block captured a field of kind {other}, which is not modelled"),
    }
}
