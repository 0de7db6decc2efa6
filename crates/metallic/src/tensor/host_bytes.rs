//! Shared, immutable bytes in host memory: a mapped file, a slice of one, or a vector.

use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

/// A cheaply cloned view of immutable host bytes that keeps its owner alive.
///
/// A memory-mapped model file is one owner; each tensor in it is a slice of that owner, so
/// weights reach a CPU kernel without a copy.
#[derive(Clone)]
pub struct HostBytes {
    owner: Arc<dyn AsRef<[u8]> + Send + Sync>,
    range: Range<usize>,
}

impl HostBytes {
    /// Wraps an owner of bytes: a `Vec<u8>`, a `&'static [u8]`, a mapped file.
    pub fn new(owner: impl AsRef<[u8]> + Send + Sync + 'static) -> Self {
        let range = 0..owner.as_ref().len();
        Self { owner: Arc::new(owner), range }
    }

    /// The bytes `range` of this view, sharing its owner; `None` past the end.
    pub fn slice(&self, range: Range<usize>) -> Option<Self> {
        if range.start > range.end || range.end > self.len() {
            return None;
        }
        let start = self.range.start + range.start;
        Some(Self { owner: Arc::clone(&self.owner), range: start..start + range.len() })
    }
}

impl Deref for HostBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &(*self.owner).as_ref()[self.range.clone()]
    }
}

impl fmt::Debug for HostBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostBytes({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_nest_and_are_checked() {
        let bytes = HostBytes::new(vec![0u8, 1, 2, 3, 4]);
        let tail = bytes.slice(1..5).unwrap().slice(1..3).unwrap();
        assert_eq!(&*tail, [2, 3]);
        assert!(bytes.slice(3..6).is_none());
        #[expect(clippy::reversed_empty_ranges)]
        let reversed = 3..2;
        assert!(bytes.slice(reversed).is_none());
    }
}
