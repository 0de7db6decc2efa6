//! Shapes of up to four axes, outermost first. Not: strides (see `layout`).

use std::fmt;
use std::ops::Deref;

/// The highest rank any tensor has here.
pub const MAX_RANK: usize = 4;

/// Up to [`MAX_RANK`] axis lengths, outermost first. Copied freely; never on the heap.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    dims: [usize; MAX_RANK],
    rank: u8,
}

impl Shape {
    /// A shape from its axis lengths.
    ///
    /// # Panics
    /// When there are more than [`MAX_RANK`] axes: ranks are fixed by the program, so files are
    /// checked with [`Shape::checked`] instead.
    pub fn new(dims: &[usize]) -> Self {
        Self::checked(dims).expect("a tensor has at most four axes")
    }

    /// A shape from axis lengths that came from outside; `None` past [`MAX_RANK`] axes.
    pub fn checked(dims: &[usize]) -> Option<Self> {
        let mut padded = [0; MAX_RANK];
        padded.get_mut(..dims.len())?.copy_from_slice(dims);
        Some(Self { dims: padded, rank: dims.len() as u8 })
    }

    /// The axis lengths, outermost first.
    pub fn dims(&self) -> &[usize] {
        &self.dims[..self.rank as usize]
    }

    /// The product of the axis lengths; `None` on overflow.
    pub fn checked_elements(&self) -> Option<usize> {
        self.dims().iter().try_fold(1usize, |product, &dim| product.checked_mul(dim))
    }

    /// The product of the axis lengths.
    ///
    /// # Panics
    /// On overflow; a shape from outside is checked with [`Shape::checked_elements`] first.
    pub fn elements(&self) -> usize {
        self.checked_elements().expect("the element count was checked when the tensor was made")
    }
}

impl Deref for Shape {
    type Target = [usize];

    fn deref(&self) -> &[usize] {
        self.dims()
    }
}

impl<const N: usize> From<[usize; N]> for Shape {
    fn from(dims: [usize; N]) -> Self {
        Self::new(&dims)
    }
}

impl From<&[usize]> for Shape {
    fn from(dims: &[usize]) -> Self {
        Self::new(dims)
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (axis, dim) in self.dims().iter().enumerate() {
            if axis > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{dim}")?;
        }
        f.write_str("]")
    }
}
