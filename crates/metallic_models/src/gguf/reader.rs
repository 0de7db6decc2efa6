//! A cursor over untrusted bytes: every read is checked and knows where it is.

use crate::error::{Error, Result};

/// Reads little-endian values from a byte slice, front to back.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
    /// The part of the file being read, for error messages.
    pub(super) section: &'static str,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0, section: "header" }
    }

    /// Byte offset of the next read.
    pub(super) fn offset(&self) -> u64 {
        self.position as u64
    }

    /// Bytes not read yet.
    pub(super) fn left(&self) -> u64 {
        (self.bytes.len() - self.position) as u64
    }

    /// Fails unless `count` items of at least `item_bytes` each can still follow. This bounds
    /// every allocation by the size of the file.
    pub(super) fn expect_items(&self, count: u64, item_bytes: u64) -> Result<()> {
        match count.checked_mul(item_bytes) {
            Some(needed) if needed <= self.left() => Ok(()),
            needed => Err(self.truncated(needed.unwrap_or(u64::MAX))),
        }
    }

    /// The next `length` bytes.
    pub(super) fn bytes(&mut self, length: u64) -> Result<&'a [u8]> {
        let taken = usize::try_from(length)
            .ok()
            .and_then(|length| self.position.checked_add(length))
            .and_then(|end| Some((end, self.bytes.get(self.position..end)?)));
        let Some((end, taken)) = taken else {
            return Err(self.truncated(length));
        };
        self.position = end;
        Ok(taken)
    }

    /// The next `N` bytes as an array, for `from_le_bytes`.
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N as u64)?);
        Ok(array)
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A string: length in bytes as u64, then UTF-8.
    pub(super) fn string(&mut self) -> Result<&'a str> {
        let length = self.u64()?;
        let offset = self.offset();
        std::str::from_utf8(self.bytes(length)?)
            .map_err(|_| Error::NotUtf8 { section: self.section, offset })
    }

    fn truncated(&self, needed: u64) -> Error {
        Error::Truncated { section: self.section, offset: self.offset(), needed, left: self.left() }
    }
}
