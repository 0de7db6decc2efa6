//! Mapped files, and which addresses lie in one: their pages can be lent to the GPU.

use std::ffi::c_void;
use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use block2::RcBlock;
use metallic::tensor::HostBytes;
use metallic::{Error, Result};
use objc2::rc::autoreleasepool;
use objc2::runtime::ProtocolObject;
use objc2_metal::{MTLDevice, MTLResourceOptions};

use super::buffer::{MetalBuffer, RawBuffer};
use super::pool::Pool;

/// The largest vector that kernels load at once, in bytes: where a buffer may begin.
const ALIGNMENT: usize = 16;

/// The address ranges of the files that are mapped now.
#[derive(Debug, Default)]
pub(crate) struct Mappings(Mutex<Vec<Range<usize>>>);

impl Mappings {
    /// Maps `path`.
    ///
    /// # Errors
    /// [`Error::Read`] with the operating system's words.
    pub(crate) fn open(self: &Arc<Self>, path: &Path) -> Result<HostBytes> {
        let failed =
            |error: std::io::Error| Error::Read { path: path.into(), reason: error.to_string() };
        let file = File::open(path).map_err(failed)?;
        if file.metadata().map_err(failed)?.len() == 0 {
            return Ok(HostBytes::new(Vec::new()));
        }
        // SAFETY: a file changed by others while mapped is the known risk of every mapped model;
        // all values are read as plain bytes and checked before use.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(failed)?;
        let start = map.as_ptr().addr();
        self.lock().push(start..start + map.len());
        Ok(HostBytes::new(MappedFile { map, mappings: Arc::clone(self) }))
    }

    /// The pages of `bytes` as a read-only buffer of `device`, without a copy. `None` when they
    /// are not pages of a mapped file, begin where kernels cannot load, or Metal declines.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] when the device cannot hold them.
    pub(crate) fn lend(
        &self,
        bytes: &HostBytes,
        device: &ProtocolObject<dyn MTLDevice>,
        pool: &Arc<Pool>,
    ) -> Result<Option<MetalBuffer>> {
        let (start, end) = (bytes.as_ptr().addr(), bytes.as_ptr().addr() + bytes.len());
        let inside = |mapped: &Range<usize>| mapped.start <= start && end <= mapped.end;
        if bytes.is_empty() || !start.is_multiple_of(ALIGNMENT) || !self.lock().iter().any(inside) {
            return Ok(None);
        }
        let page = page_bytes();
        let base = start % page;
        let length = (base + bytes.len()).next_multiple_of(page);
        let pages = Pages::new(bytes.clone(), length, pool)?;
        let first = NonNull::from(&**bytes).cast::<u8>();
        // SAFETY: `base` bytes lie before the first one in the same page of the mapping.
        let first = unsafe { first.sub(base) }.cast::<c_void>();
        let release = RcBlock::new(move |_: NonNull<c_void>, _: usize| {
            // Metal calls this when nothing uses the buffer any more, and then drops the block.
            let _ = &pages;
        });
        let options = MTLResourceOptions::StorageModeShared;
        let buffer = autoreleasepool(|_| {
            // SAFETY: whole pages of a mapping that the block keeps until Metal is done with
            // them; kernels never write into them. What the block holds may be dropped anywhere.
            unsafe {
                device.newBufferWithBytesNoCopy_length_options_deallocator(
                    first,
                    length,
                    options,
                    Some(&release),
                )
            }
        });
        Ok(buffer.map(|buffer| MetalBuffer::file(RawBuffer::new(buffer), base, bytes.len())))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Range<usize>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A mapped file, listed as long as it is mapped.
struct MappedFile {
    map: memmap2::Mmap,
    mappings: Arc<Mappings>,
}

impl AsRef<[u8]> for MappedFile {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}

impl Drop for MappedFile {
    fn drop(&mut self) {
        let start = self.map.as_ptr().addr();
        let mut ranges = self.mappings.lock();
        if let Some(index) = ranges.iter().position(|range| range.start == start) {
            ranges.swap_remove(index);
        }
    }
}

/// Pages lent to Metal: kept mapped, and counted.
struct Pages {
    _owner: HostBytes,
    bytes: usize,
    pool: Arc<Pool>,
}

impl Pages {
    fn new(owner: HostBytes, bytes: usize, pool: &Arc<Pool>) -> Result<Self> {
        pool.map(bytes)?;
        Ok(Self { _owner: owner, bytes, pool: Arc::clone(pool) })
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        self.pool.unmap(self.bytes);
    }
}

/// Bytes of a page of memory: 16 KiB on Apple silicon.
fn page_bytes() -> usize {
    // SAFETY: no arguments to get wrong.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).unwrap_or(16 * 1024)
}
