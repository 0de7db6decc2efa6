//! Where each element of a tensor lies in its buffer: shape, strides, offset.

use super::shape::{MAX_RANK, Shape};

/// A strided view of a buffer, in elements. A stride of 0 broadcasts its axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Layout {
    shape: Shape,
    strides: [usize; MAX_RANK],
    offset: usize,
}

impl Layout {
    /// The dense row-major layout of `shape`, at offset 0.
    pub fn contiguous(shape: Shape) -> Self {
        let mut strides = [0; MAX_RANK];
        let mut stride = 1usize;
        for axis in (0..shape.len()).rev() {
            strides[axis] = stride;
            stride = stride.saturating_mul(shape[axis]);
        }
        Self { shape, strides, offset: 0 }
    }

    /// A layout from its parts; `None` when the ranks differ.
    pub fn strided(shape: Shape, strides: &[usize], offset: usize) -> Option<Self> {
        if strides.len() != shape.len() {
            return None;
        }
        let mut padded = [0; MAX_RANK];
        padded[..strides.len()].copy_from_slice(strides);
        Some(Self { shape, strides: padded, offset })
    }

    /// Axis lengths.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Elements from one index of each axis to the next.
    pub fn strides(&self) -> &[usize] {
        &self.strides[..self.shape.len()]
    }

    /// Elements before the first one of this view.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// True when the elements lie densely in row-major order (the offset may be anything).
    pub fn is_contiguous(&self) -> bool {
        let dense = Self::contiguous(self.shape);
        self.shape.contains(&0)
            || (0..self.shape.len())
                .all(|axis| self.shape[axis] == 1 || self.strides[axis] == dense.strides[axis])
    }

    /// True when the elements of the last axis are neighbours: what every kernel asks for.
    pub fn rows_are_contiguous(&self) -> bool {
        match self.shape.len().checked_sub(1) {
            Some(last) => self.shape[last] <= 1 || self.strides[last] == 1,
            None => true,
        }
    }

    /// True when no two indices lie at one place: sorted by stride, each axis steps over
    /// everything the smaller ones reach. (Layouts that interleave without sharing are refused
    /// too; no view makes them.)
    pub fn is_injective(&self) -> bool {
        if self.shape.contains(&0) {
            return true;
        }
        let mut axes: [(usize, usize); MAX_RANK] = [(0, 1); MAX_RANK];
        for (axis, slot) in axes.iter_mut().zip(self.strides.iter().zip(self.shape.iter())) {
            *axis = (*slot.0, *slot.1);
        }
        axes.sort_unstable();
        let mut reach = 0usize;
        axes.into_iter().filter(|(_, dim)| *dim > 1).all(|(stride, dim)| {
            let steps_over = stride > reach;
            reach = reach.saturating_add(stride.saturating_mul(dim - 1));
            steps_over
        })
    }

    /// One past the highest element index this view reaches, 0 for an empty view; `None` on
    /// overflow.
    pub fn end(&self) -> Option<usize> {
        if self.shape.contains(&0) {
            return Some(0);
        }
        let mut last = self.offset;
        for axis in 0..self.shape.len() {
            last = last.checked_add((self.shape[axis] - 1).checked_mul(self.strides[axis])?)?;
        }
        last.checked_add(1)
    }

    /// The view with axis `axis` cut to `start .. start + len`; `None` when that is outside.
    pub fn narrow(&self, axis: usize, start: usize, len: usize) -> Option<Self> {
        let dim = *self.shape.get(axis)?;
        if start.checked_add(len)? > dim {
            return None;
        }
        let mut dims = [0; MAX_RANK];
        dims[..self.shape.len()].copy_from_slice(&self.shape);
        dims[axis] = len;
        let offset = self.offset + start * self.strides[axis];
        Some(Self { shape: Shape::new(&dims[..self.shape.len()]), offset, ..*self })
    }

    /// The view with its axes in the order `axes`; `None` when that is no permutation.
    pub fn permute(&self, axes: &[usize]) -> Option<Self> {
        let rank = self.shape.len();
        let mut dims = [0; MAX_RANK];
        let mut strides = [0; MAX_RANK];
        let mut seen = [false; MAX_RANK];
        if axes.len() != rank {
            return None;
        }
        for (to, &from) in axes.iter().enumerate() {
            if from >= rank || std::mem::replace(&mut seen[from], true) {
                return None;
            }
            dims[to] = self.shape[from];
            strides[to] = self.strides[from];
        }
        Some(Self { shape: Shape::new(&dims[..rank]), strides, offset: self.offset })
    }

    /// The same elements under another shape; `None` unless dense with an equal element count.
    pub fn reshape(&self, shape: Shape) -> Option<Self> {
        if !self.is_contiguous() || shape.checked_elements()? != self.shape.checked_elements()? {
            return None;
        }
        Some(Self { offset: self.offset, ..Self::contiguous(shape) })
    }

    /// The view broadcast to `shape` as NumPy does: axes are matched from the last, absent axes
    /// and axes of length 1 repeat. `None` when an axis does not fit.
    pub fn broadcast(&self, shape: Shape) -> Option<Self> {
        let lead = shape.len().checked_sub(self.shape.len())?;
        let mut strides = [0; MAX_RANK];
        for axis in lead..shape.len() {
            let dim = self.shape[axis - lead];
            strides[axis] = match dim {
                _ if dim == shape[axis] => self.strides[axis - lead],
                1 => 0,
                _ => return None,
            };
        }
        Some(Self { shape, strides, offset: self.offset })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dense(dims: &[usize]) -> Layout {
        Layout::contiguous(Shape::new(dims))
    }

    #[test]
    fn views_compose() {
        let layout = dense(&[2, 3, 4, 8]).permute(&[0, 2, 1, 3]).unwrap();
        assert_eq!(*layout.shape(), [2, 4, 3, 8]);
        assert_eq!(layout.strides(), [96, 8, 32, 1]);
        assert!(layout.rows_are_contiguous() && !layout.is_contiguous());
        let cut = layout.narrow(1, 1, 2).unwrap();
        assert_eq!((cut.offset(), cut.end()), (8, Some(8 + 96 + 8 + 64 + 7 + 1)));
        assert!(layout.narrow(1, 3, 2).is_none());
        assert!(layout.permute(&[0, 0, 1, 2]).is_none());
        assert!(layout.reshape(Shape::new(&[192])).is_none());
    }

    #[test]
    fn broadcasting_matches_from_the_last_axis() {
        let mask = dense(&[5, 7]).broadcast(Shape::new(&[2, 3, 5, 7])).unwrap();
        assert_eq!(mask.strides(), [0, 0, 7, 1]);
        let row = dense(&[2, 1, 1, 7]).broadcast(Shape::new(&[2, 3, 5, 7])).unwrap();
        assert_eq!(row.strides(), [7, 0, 0, 1]);
        assert!(dense(&[4, 7]).broadcast(Shape::new(&[2, 3, 5, 7])).is_none());
    }

    #[test]
    fn written_views_share_no_element() {
        let layout = dense(&[2, 3, 4, 8]);
        assert!(layout.is_injective());
        let permuted = layout.permute(&[0, 2, 1, 3]).unwrap().narrow(3, 2, 5).unwrap();
        assert!(permuted.is_injective());
        assert!(!dense(&[1, 8]).broadcast(Shape::new(&[4, 8])).unwrap().is_injective());
        let sliding = |step| Layout::strided(Shape::new(&[4, 8]), &[step, 1], 0).unwrap();
        assert!(!sliding(7).is_injective() && sliding(8).is_injective());
    }

    #[test]
    fn ends_do_not_overflow() {
        let huge = Layout::strided(Shape::new(&[usize::MAX, 2]), &[usize::MAX, 1], 0).unwrap();
        assert_eq!(huge.end(), None);
        assert_eq!(dense(&[0, 4]).end(), Some(0));
    }
}
