//! Tensors without memory, which stand for intermediates while a segment's calls are checked.

use std::any::Any;
use std::sync::Arc;

use crate::device::DeviceId;
use crate::error::Result;
use crate::tensor::{Buffer, DType, Layout, Shape, Tensor};

/// A buffer that is nowhere: no kernel ever sees it.
#[derive(Debug)]
struct Blank(DeviceId);

impl Buffer for Blank {
    fn device(&self) -> DeviceId {
        self.0
    }

    fn bytes(&self) -> usize {
        usize::MAX
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A dense f32 tensor of `shape` that lies apart from every other.
pub(super) fn blank(device: DeviceId, shape: Shape) -> Result<Tensor> {
    Tensor::new(Arc::new(Blank(device)), DType::F32, Layout::contiguous(shape))
}
