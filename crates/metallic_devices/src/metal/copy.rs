//! Copies between buffers, as Metal's blit encoder does them, and byte by byte where it does not.

use metallic::Result;
use metallic::tensor::Buffer;
use objc2_metal::MTLBlitCommandEncoder;

use super::buffer::Bound;
use super::encoder::{Arg, Dispatch, Encoder, Grid};
use super::layout::shader_struct;
use super::library::{Source, kernel_source};
use super::pipeline::Kernel;

const SOURCE: Source = kernel_source!("copy");
/// On macOS, offsets and sizes of a blit are multiples of this.
const BLIT_UNIT: usize = 4;
/// Threads of a threadgroup.
const THREADS: usize = 256;
/// Bytes of one dispatch of the kernel, whose threads count in 32 bits.
const BYTES_AT_ONCE: usize = 1 << 30;

shader_struct! {
    [SOURCE]
    pub(super) struct CopyParams {
        from: u64,
        to: u64,
        bytes: u64,
    }
}

impl Encoder<'_> {
    /// Appends a copy of `bytes` bytes from one buffer to another. Both ranges lie in their
    /// buffers, and apart.
    ///
    /// # Errors
    /// [`metallic::Error::Device`] when Metal gives no encoder.
    pub(crate) fn copy(&mut self, from: Bound<'_>, to: Bound<'_>, bytes: usize) -> Result<()> {
        debug_assert!(from.offset + bytes <= from.buffer.base() + from.buffer.bytes());
        debug_assert!(to.offset + bytes <= to.buffer.base() + to.buffer.bytes());
        let words = [from.offset, to.offset, bytes].iter().all(|n| n.is_multiple_of(BLIT_UNIT));
        match (bytes, words) {
            (0, _) => Ok(()),
            (_, true) => self.copy_words(from, to, bytes),
            (_, false) => (0..bytes).step_by(BYTES_AT_ONCE).try_for_each(|start| {
                let skip = |bound: Bound<'_>| (bound.offset - bound.buffer.base() + start) as u64;
                let bytes = BYTES_AT_ONCE.min(bytes - start);
                let params = CopyParams { from: skip(from), to: skip(to), bytes: bytes as u64 };
                self.dispatch(&Dispatch {
                    kernel: Kernel { source: SOURCE, function: "copy_bytes", constants: &[] },
                    args: &[Arg::Scratch(from.buffer, 0), Arg::Scratch(to.buffer, 0)],
                    params: bytemuck::bytes_of(&params),
                    threadgroup: &[],
                    grid: Grid::Threads([bytes, 1, 1]),
                    threads: [THREADS, 1, 1],
                })
            }),
        }
    }

    fn copy_words(&mut self, from: Bound<'_>, to: Bound<'_>, bytes: usize) -> Result<()> {
        let encoder = self.blit("copy", &[from.buffer, to.buffer])?;
        let (source, target) = (from.buffer.raw(), to.buffer.raw());
        // SAFETY: both ranges lie in their buffers, as the caller promised.
        unsafe {
            encoder.copyFromBuffer_sourceOffset_toBuffer_destinationOffset_size(
                source,
                from.offset,
                target,
                to.offset,
                bytes,
            );
        }
        Ok(())
    }
}
