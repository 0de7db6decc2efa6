//! Host values laid into device tensors in every way a caller might, with poison in the bytes
//! that belong to no element and a guard pattern around results.

use metallic::tensor::{DType, Layout, MAX_RANK, Shape, Tensor};
use metallic::{Context, Result};

use crate::storage::{decode, encode, poison};

/// How a tensor `[a, b, c, d]` lies in its buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Placement {
    /// Row-major from the buffer's first byte.
    #[default]
    Dense,
    /// Row-major behind a few rows of something else, with more behind it.
    Offset,
    /// Stored `[a, c, b, d]`, as a projection writes heads.
    Permuted,
    /// A slice of the third axis of `[a, c, b + 2, d]`, as one product writes q, k and v.
    Fused,
    /// Rows and columns cut out of something larger; rows start at odd places.
    Sliced,
    /// The first rows of a cache with room for a multiple of 256.
    Cache,
    /// The first of `a` repeated by a stride of 0.
    Broadcast,
}

/// A tensor on a device and the bytes its buffer was given.
#[derive(Debug)]
pub struct Placed {
    tensor: Tensor,
    image: Vec<u8>,
}

impl Placed {
    /// A tensor `[a, b, c, d]` of `values` (row-major), NaN around it.
    ///
    /// # Errors
    /// When the device has no memory.
    ///
    /// # Panics
    /// When the values do not fill the shape.
    pub fn input(
        ctx: &Context,
        dtype: DType,
        shape: [usize; 4],
        values: &[f64],
        placement: Placement,
    ) -> Result<Self> {
        let (layout, elements) = place(dtype, shape, placement);
        let mut image = poison(dtype).repeat(elements / dtype.block_len());
        let bytes = encode(dtype, values);
        let row = row_bytes(dtype, layout);
        assert_eq!(
            bytes.len(),
            shape[..3].iter().product::<usize>() * row,
            "values fill the shape"
        );
        for (index, start) in row_starts(dtype, layout).into_iter().enumerate() {
            image[start..start + row].copy_from_slice(&bytes[index * row..][..row]);
        }
        Self::upload(ctx, dtype, layout, image)
    }

    /// A tensor `[a, b, c, d]` to be written, in a buffer full of a pattern.
    ///
    /// # Errors
    /// When the device has no memory.
    pub fn output(
        ctx: &Context,
        dtype: DType,
        shape: [usize; 4],
        placement: Placement,
    ) -> Result<Self> {
        let (layout, elements) = place(dtype, shape, placement);
        let bytes = elements / dtype.block_len() * dtype.block_bytes();
        let image = (0..bytes).map(|index| (index * 31 + 7) as u8).collect();
        Self::upload(ctx, dtype, layout, image)
    }

    fn upload(ctx: &Context, dtype: DType, layout: Layout, image: Vec<u8>) -> Result<Self> {
        let buffer = ctx.device().allocate(image.len())?;
        ctx.device().write(&*buffer, 0, &image)?;
        Ok(Self { tensor: Tensor::new(buffer, dtype, layout)?, image })
    }

    /// The tensor.
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    /// Writes the first contents again.
    ///
    /// # Errors
    /// When the device fails.
    pub fn restore(&self, ctx: &Context) -> Result<()> {
        ctx.device().write(&**self.tensor.buffer(), 0, &self.image)
    }

    /// The values now, row-major.
    ///
    /// # Errors
    /// When the device fails.
    pub fn values(&self, ctx: &Context) -> Result<Vec<f64>> {
        let now = self.bytes(ctx)?;
        let (dtype, layout) = (self.tensor.dtype(), *self.tensor.layout());
        let row = row_bytes(dtype, layout);
        let starts = row_starts(dtype, layout).into_iter();
        Ok(starts.flat_map(|start| decode(dtype, &now[start..start + row])).collect())
    }

    /// The first byte of the buffer that is not what it was.
    ///
    /// # Errors
    /// When the device fails.
    pub fn first_change(&self, ctx: &Context) -> Result<Option<usize>> {
        let now = self.bytes(ctx)?;
        Ok(now.iter().zip(&self.image).position(|(now, then)| now != then))
    }

    /// The first byte outside the tensor's elements that is not what it was.
    ///
    /// # Errors
    /// When the device fails.
    pub fn first_damage(&self, ctx: &Context) -> Result<Option<usize>> {
        let now = self.bytes(ctx)?;
        let (dtype, layout) = (self.tensor.dtype(), *self.tensor.layout());
        let mut then = self.image.clone();
        let row = row_bytes(dtype, layout);
        for start in row_starts(dtype, layout) {
            then[start..start + row].copy_from_slice(&now[start..start + row]);
        }
        Ok(now.iter().zip(&then).position(|(now, then)| now != then))
    }

    fn bytes(&self, ctx: &Context) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.image.len()];
        ctx.device().read(&**self.tensor.buffer(), 0, &mut bytes)?;
        Ok(bytes)
    }
}

/// The layout of `shape` and the elements its buffer needs.
fn place(dtype: DType, shape: [usize; 4], placement: Placement) -> (Layout, usize) {
    let [a, b, c, d] = shape;
    let dense = |dims: [usize; 4]| Layout::contiguous(Shape::from(dims));
    let elements = |dims: [usize; 4]| dims.iter().product::<usize>();
    let view = |layout: Option<Layout>| layout.expect("the view lies inside its storage");
    match placement {
        Placement::Dense => (dense(shape), elements(shape)),
        Placement::Offset => {
            let layout = dense(shape);
            let moved = Layout::strided(layout.shape(), layout.strides(), 5 * d);
            (view(moved), elements(shape) + 8 * d)
        }
        Placement::Permuted => {
            let stored = [a, c, b, d];
            (view(dense(stored).permute(&[0, 2, 1, 3])), elements(stored))
        }
        Placement::Fused => {
            let stored = [a, c, b + 2, d];
            let cut = dense(stored).narrow(2, 1, b).and_then(|cut| cut.permute(&[0, 2, 1, 3]));
            (view(cut), elements(stored))
        }
        Placement::Sliced => {
            // Whole blocks for quantised types, odd counts for the others.
            let pad = if dtype.is_quantized() { dtype.block_len() } else { 3 };
            let stored = [a, b, c + 3, d + 2 * pad];
            let cut = dense(stored).narrow(2, 2, c).and_then(|cut| cut.narrow(3, pad, d));
            (view(cut), elements(stored))
        }
        Placement::Cache => {
            let stored = [a, b, (c + 1).next_multiple_of(256), d];
            (view(dense(stored).narrow(2, 0, c)), elements(stored))
        }
        Placement::Broadcast => {
            let stored = [1, b, c, d];
            (view(dense(stored).broadcast(Shape::from(shape))), elements(stored))
        }
    }
}

fn row_bytes(dtype: DType, layout: Layout) -> usize {
    layout.shape().last().map_or(0, |row| row / dtype.block_len() * dtype.block_bytes())
}

/// The byte at which each row of the last axis starts, in row-major order.
fn row_starts(dtype: DType, layout: Layout) -> Vec<usize> {
    let shape = layout.shape();
    let rank = shape.len();
    debug_assert!((1..=MAX_RANK).contains(&rank) && layout.rows_are_contiguous());
    let rows: usize = shape[..rank - 1].iter().product();
    (0..rows)
        .map(|row| {
            let (mut rest, mut element) = (row, layout.offset());
            for axis in (0..rank - 1).rev() {
                element += rest % shape[axis] * layout.strides()[axis];
                rest /= shape[axis];
            }
            element / dtype.block_len() * dtype.block_bytes()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::null_device::{NullOptions, null_context};

    const ALL: [Placement; 7] = [
        Placement::Dense,
        Placement::Offset,
        Placement::Permuted,
        Placement::Fused,
        Placement::Sliced,
        Placement::Cache,
        Placement::Broadcast,
    ];

    #[test]
    fn values_come_back_from_every_placement() {
        let ctx = null_context(NullOptions::default());
        let shape = [2, 3, 4, 32];
        let one: Vec<f64> = (0..3 * 4 * 32).map(|value| f64::from(value % 127)).collect();
        let values = [one.clone(), one].concat();
        for placement in ALL {
            for dtype in [DType::F32, DType::F16, DType::Q8_0] {
                let placed = Placed::input(&ctx, dtype, shape, &values, placement).unwrap();
                assert_eq!(*placed.tensor().shape(), shape);
                let want = crate::storage::rounded(dtype, &values);
                assert_eq!(placed.values(&ctx).unwrap(), want, "{placement:?} {dtype}");
                assert_eq!(placed.first_change(&ctx).unwrap(), None);
            }
        }
    }

    #[test]
    fn gaps_are_poisoned_and_watched() {
        let ctx = null_context(NullOptions::default());
        for placement in [Placement::Offset, Placement::Fused, Placement::Sliced, Placement::Cache]
        {
            let ones = vec![1.0; 2 * 3 * 4 * 8];
            let placed = Placed::input(&ctx, DType::F32, [2, 3, 4, 8], &ones, placement).unwrap();
            let stored = decode(DType::F32, &placed.bytes(&ctx).unwrap());
            assert_eq!(stored.iter().filter(|value| **value == 1.0).count(), ones.len());
            let gaps = stored.iter().filter(|value| value.is_nan()).count();
            assert!(gaps > 0 && gaps + ones.len() == stored.len(), "{placement:?}");
        }
        let out = Placed::output(&ctx, DType::F32, [1, 1, 2, 4], Placement::Offset).unwrap();
        let buffer = out.tensor().buffer();
        // Inside the view: a change, no damage.
        ctx.device().write(&**buffer, 5 * 16, &[9; 32]).unwrap();
        assert_eq!(out.first_damage(&ctx).unwrap(), None);
        assert_eq!(out.first_change(&ctx).unwrap(), Some(80));
        // One byte past it.
        ctx.device().write(&**buffer, 5 * 16 + 32, &[9]).unwrap();
        assert_eq!(out.first_damage(&ctx).unwrap(), Some(112));
        out.restore(&ctx).unwrap();
        assert_eq!(out.first_change(&ctx).unwrap(), None);
    }
}
