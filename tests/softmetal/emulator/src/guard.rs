//! Guard pages: a dispatch on copies of its buffers that end where no memory is mapped.
//!
//! A read or write past a buffer's end then faults at once; the runtime turns the fault into an error.
//! Between the end of a copy and the page lie up to 15 bytes, since the start keeps its alignment: those,
//! and what lies before the start, hold a pattern that is checked for writes.

use std::ptr;

use crate::regions::{Place, Region};

/// What the bytes around a copy hold.
const PATTERN: u8 = 0xA5;
/// The alignment of a copy's start, modulo which it equals the original's.
const ALIGNMENT: usize = 16;

/// A copy of a region between unmapped pages.
struct Copy {
    region: Region,
    map: *mut u8,
    map_length: usize,
    /// Where the copy begins, from `map`.
    offset: usize,
    writable: bool,
}

/// All regions of a dispatch, copied.
pub(crate) struct Guard {
    copies: Vec<Copy>,
    page: usize,
}

impl Drop for Copy {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own. It fails only for arguments that no mapping has.
        unsafe { libc::munmap(self.map.cast(), self.map_length) };
    }
}

impl Guard {
    /// Copies regions; `writable` says which of them the kernel may write to.
    ///
    /// # Safety
    /// The regions are valid for reads.
    pub(crate) unsafe fn new(
        regions: &[Region],
        writable: impl Fn(usize) -> bool,
    ) -> Result<Self, String> {
        // SAFETY: a plain question to the system.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
        let copy = |(at, region): (usize, &Region)| {
            // SAFETY: as the caller promises.
            unsafe { Copy::new(*region, page, writable(at)) }
        };
        let copies = regions.iter().enumerate().map(copy).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { copies, page })
    }

    /// Where a binding begins in its copy.
    pub(crate) fn pointer(&self, place: &Place) -> *mut u8 {
        let copy = &self.copies[place.region];
        copy.map.wrapping_add(copy.offset + place.offset)
    }

    /// Writes the results back.
    ///
    /// # Errors
    /// Something beside a copy was written to.
    ///
    /// # Safety
    /// The writable regions are valid for writes.
    pub(crate) unsafe fn finish(self, name: impl Fn(usize) -> String) -> Result<(), String> {
        for (at, copy) in self.copies.iter().enumerate() {
            // SAFETY: the mapping between the two outer pages is readable.
            let bytes = unsafe {
                let length = copy.map_length - 2 * self.page;
                std::slice::from_raw_parts(copy.map.add(self.page), length)
            };
            let start = copy.offset - self.page;
            let end = start + copy.region.length;
            if let Some(before) = bytes[..start].iter().rposition(|byte| *byte != PATTERN) {
                return Err(format!("{} bytes before {} were written", start - before, name(at)));
            }
            if let Some(after) = bytes[end..].iter().position(|byte| *byte != PATTERN) {
                return Err(format!("{after} bytes past the end of {} were written", name(at)));
            }
            if copy.writable {
                // SAFETY: the region is valid for writes as the caller promises, and apart from the copy.
                unsafe {
                    let data = bytes[start..end].as_ptr();
                    copy.region.start.copy_from_nonoverlapping(data, copy.region.length);
                }
            }
        }
        Ok(())
    }

    /// Which region an address that faulted belongs to, and where it lies: `(region, offset from its start,
    /// length of the region)`.
    pub(crate) fn locate(&self, address: usize) -> Option<(usize, isize, usize)> {
        self.copies.iter().enumerate().find_map(|(at, copy)| {
            let range = copy.map.addr()..copy.map.addr() + copy.map_length;
            let offset = address.wrapping_sub(copy.map.addr() + copy.offset) as isize;
            range.contains(&address).then_some((at, offset, copy.region.length))
        })
    }
}

impl Copy {
    /// # Safety
    /// The region is valid for reads.
    unsafe fn new(region: Region, page: usize, writable: bool) -> Result<Self, String> {
        let shift = region.start.addr() % ALIGNMENT;
        let data_pages = (region.length + shift).next_multiple_of(ALIGNMENT).next_multiple_of(page);
        let map_length = data_pages + 2 * page;
        // SAFETY: a new private mapping.
        let map = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            libc::mmap(ptr::null_mut(), map_length, libc::PROT_NONE, flags, -1, 0)
        };
        if map == libc::MAP_FAILED {
            return Err(format!("guard pages: {}", std::io::Error::last_os_error()));
        }
        let end = page + data_pages;
        let offset = (end - region.length - shift) / ALIGNMENT * ALIGNMENT + shift;
        let copy = Self { region, map: map.cast(), map_length, offset, writable };
        copy.protect(page, libc::PROT_READ | libc::PROT_WRITE)?;
        // SAFETY: the pages between the outer two are writable now, and the copy lies in them.
        unsafe {
            copy.map.add(page).write_bytes(PATTERN, offset - page);
            copy.map.add(offset).copy_from_nonoverlapping(region.start, region.length);
            copy.map.add(offset + region.length).write_bytes(PATTERN, end - offset - region.length);
        }
        if !writable {
            copy.protect(page, libc::PROT_READ)?;
        }
        Ok(copy)
    }

    fn protect(&self, page: usize, protection: i32) -> Result<(), String> {
        // SAFETY: the pages are part of this value's mapping.
        let status = unsafe {
            libc::mprotect(self.map.add(page).cast(), self.map_length - 2 * page, protection)
        };
        if status == 0 {
            Ok(())
        } else {
            Err(format!("guard pages: {}", std::io::Error::last_os_error()))
        }
    }
}
