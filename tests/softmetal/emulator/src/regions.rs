//! The memory behind a dispatch's buffers, each byte once: bindings can share a buffer or overlap.

/// A stretch of memory that no other region overlaps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Region {
    pub(crate) start: *mut u8,
    pub(crate) length: usize,
}

/// A buffer argument as a place in a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) index: u32,
    pub(crate) region: usize,
    pub(crate) offset: usize,
}

/// Merges buffers (index, start, length) that overlap.
pub(crate) fn regions(buffers: &[(u32, *mut u8, usize)]) -> (Vec<Region>, Vec<Place>) {
    let mut sorted = buffers.to_vec();
    sorted.sort_by_key(|(_, start, _)| start.addr());
    let mut regions: Vec<Region> = Vec::new();
    let mut places = Vec::new();
    for (index, start, length) in sorted {
        let end = start.addr() + length;
        match regions.last_mut() {
            Some(last) if start.addr() < last.start.addr() + last.length => {
                last.length = last.length.max(end - last.start.addr());
            }
            _ => regions.push(Region { start, length }),
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
        let start = memory.as_mut_ptr();
        let at = |offset: usize| start.wrapping_add(offset);
        let (regions, places) =
            regions(&[(5, at(50), 10), (0, at(10), 20), (1, at(20), 30), (2, at(10), 5)]);
        let found: Vec<(usize, usize)> =
            regions.iter().map(|r| (r.start.addr() - start.addr(), r.length)).collect();
        assert_eq!(found, [(10, 40), (50, 10)]);
        let place = |index| places.iter().find(|p| p.index == index).map(|p| (p.region, p.offset));
        assert_eq!(
            [place(0), place(1), place(2), place(5)],
            [Some((0, 0)), Some((0, 10)), Some((0, 0)), Some((1, 0))]
        );
    }
}
