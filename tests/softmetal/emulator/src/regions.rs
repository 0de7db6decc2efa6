//! The memory behind a dispatch's buffers, each byte once: bindings can share a buffer or overlap.

/// A buffer argument.
#[derive(Clone, Debug)]
pub(crate) struct Buffer {
    pub(crate) index: u32,
    /// The parameter's name.
    pub(crate) name: String,
    pub(crate) start: *mut u8,
    /// In bytes.
    pub(crate) length: usize,
    /// Whether the kernel can write to it.
    pub(crate) writable: bool,
}

/// A stretch of memory that no other region overlaps.
#[derive(Clone, Debug)]
pub(crate) struct Region {
    /// `buffer 1 (weights)`, of all its buffers.
    pub(crate) name: String,
    pub(crate) start: *mut u8,
    pub(crate) length: usize,
    /// Whether one of its buffers is writable.
    pub(crate) writable: bool,
}

/// A buffer argument as a place in a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) index: u32,
    pub(crate) region: usize,
    pub(crate) offset: usize,
}

/// Merges buffers that overlap.
pub(crate) fn regions(buffers: &[Buffer]) -> (Vec<Region>, Vec<Place>) {
    let mut sorted: Vec<&Buffer> = buffers.iter().collect();
    sorted.sort_by_key(|buffer| buffer.start.addr());
    let mut regions: Vec<Region> = Vec::new();
    let mut places = Vec::new();
    for buffer in sorted {
        let Buffer { index, start, length, writable, .. } = *buffer;
        let end = start.addr() + length;
        let name = format!("buffer {index} ({})", buffer.name);
        match regions.last_mut() {
            Some(last) if start.addr() < last.start.addr() + last.length => {
                last.length = last.length.max(end - last.start.addr());
                last.writable |= writable;
                last.name += &format!(" / {name}");
            }
            _ => regions.push(Region { name, start, length, writable }),
        }
        let region = regions.len() - 1;
        places.push(Place { index, region, offset: start.addr() - regions[region].start.addr() });
    }
    (regions, places)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_buffers_share_a_region() {
        let mut memory = [0u8; 100];
        let first = memory.as_mut_ptr();
        let buffers =
            [(5, 50, 10, false), (0, 10, 20, false), (1, 20, 30, true), (2, 10, 5, false)];
        let buffers = buffers.map(|(index, offset, length, writable)| Buffer {
            index,
            name: "b".to_owned(),
            start: first.wrapping_add(offset),
            length,
            writable,
        });
        let (regions, places) = regions(&buffers);
        let found: Vec<_> =
            regions.iter().map(|r| (r.start.addr() - first.addr(), r.length, r.writable)).collect();
        assert_eq!(found, [(10, 40, true), (50, 10, false)]);
        assert_eq!(regions[0].name, "buffer 0 (b) / buffer 2 (b) / buffer 1 (b)");
        let place = |index| {
            let found = places.iter().find(|place| place.index == index);
            found.map(|place| (place.region, place.offset))
        };
        let expected = [Some((0, 0)), Some((0, 10)), Some((0, 0)), Some((1, 0))];
        assert_eq!([place(0), place(1), place(2), place(5)], expected);
    }
}
