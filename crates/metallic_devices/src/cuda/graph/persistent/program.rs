//! One call: its tables in device memory, and the launch.

use bytemuck::cast_slice;
use cudarc::driver::result::{memcpy_htod_async, memset_d8_async};
use metallic::Result;
use metallic::op::RopePairing;
use metallic::segment::{DecoderStepArgs, DecoderStepSpec};
use metallic::tensor::{Buffer, DType};

use super::Shape;
use super::layout::{Layout, WARPS, layer_words, lists_bytes, picks_bytes, splits};
use super::table::{Layer, Matrix, Step};
use crate::cuda::buffer::{CudaBuffer, device_ptr};
use crate::cuda::error::Doing;
use crate::cuda::gpu::Gpu;
use crate::cuda::module::{LaunchShape, Param};
use crate::cuda::view::dtype_code;

/// What one call needs.
pub(super) struct Program<'a> {
    pub gpu: &'a Gpu,
    pub shape: &'a Shape,
    pub layout: Layout,
    pub spec: &'a DecoderStepSpec,
    pub args: &'a DecoderStepArgs,
}

/// The definitions that `persistent.cu` is compiled with.
fn variant(types: &[DType], table: DType, cache: DType, head_dim: usize) -> String {
    let weights = types.iter().fold(0, |bits, dtype| bits | 1 << dtype_code(*dtype));
    let [table, cache] = [table, cache].map(dtype_code);
    format!("-DWEIGHTS={weights:#x} -DTABLE={table} -DKV={cache} -DHEAD_DIM={head_dim}")
}

impl Program<'_> {
    /// The table of layers, that of the output last.
    fn layers(&self) -> Vec<Layer> {
        let DecoderStepArgs { layers, norm, output, .. } = self.args;
        let last = Layer::output(output, &norm.weight);
        layers.iter().map(Layer::new).chain([last]).collect()
    }

    /// Whether pieces of plain weights can be read 16 bytes at a time.
    pub(super) fn is_aligned(&self) -> bool {
        let layers = self.layers();
        let mut matrices = layers.iter().flat_map(|layer| &layer.matrices);
        matrices.all(|matrix| matrix.start.is_multiple_of(16))
    }

    /// Memory that holds `words` for as long as the call may be replayed.
    fn table<T: bytemuck::NoUninit>(&self, words: &[T]) -> Result<CudaBuffer> {
        let bytes: &[u8] = cast_slice(words);
        let table = self.gpu.workspace(bytes.len())?;
        // SAFETY: room for all bytes, just allocated; nothing that runs uses it yet. Bytes that are
        // not pinned are copied before the call returns.
        unsafe { memcpy_htod_async(table.start(), bytes, self.gpu.stream.immediate()?) }.doing(
            self.gpu.id(),
            "write",
            || "the table of a decode step".to_owned(),
        )?;
        Ok(table)
    }

    /// Memory of `bytes` bytes, each `value`, as it is before the first replay.
    fn filled(&self, bytes: usize, value: u8) -> Result<CudaBuffer> {
        let memory = self.gpu.workspace(bytes)?;
        let stream = self.gpu.stream.immediate()?;
        // SAFETY: the whole buffer, just allocated; nothing that runs uses it yet.
        unsafe { memset_d8_async(memory.start(), value, memory.bytes(), stream) }.doing(
            self.gpu.id(),
            "fill",
            || "the published words of a decode step".to_owned(),
        )?;
        Ok(memory)
    }

    /// # Errors
    /// [`metallic::Error::Compile`] when the kernel does not compile; no memory; what the driver
    /// refuses.
    pub(super) fn run(&self) -> Result<()> {
        let Self { gpu, shape, layout, spec, args } = self;
        let variant = variant(&shape.types, shape.table, shape.cache, shape.sizes.head_dim);
        let function = gpu.modules.function("persistent", &variant, "decode_step")?;
        function.allow_shared(layout.shared_bytes as u32)?;
        let blocks = gpu.stream.properties().multiprocessors as usize;
        let first = &args.layers[0].attention;
        let kv_len = first.k_cache.shape()[2];
        let sizes = &shape.sizes;
        let [q_heads, kv_heads] = sizes.heads;
        let splits = splits(kv_len, q_heads, blocks);
        let words = layer_words(sizes, splits);
        let layers = self.table(&self.layers())?;
        let published = self.filled(2 * sizes.layers * words * size_of::<u32>(), 0xff)?;
        let epoch = self.filled(size_of::<u32>(), 0)?;
        let picks = self.filled(picks_bytes(blocks), 0xff)?;
        let lists = self.filled(lists_bytes(blocks), 0xff)?;
        let following = args.following.as_ref();
        let step = Step {
            layers: layers.start(),
            table: Matrix::new(&args.embedding.table, None),
            ids: device_ptr(&args.embedding.ids),
            starts: device_ptr(&first.starts),
            kv_lens: device_ptr(&first.kv_lens),
            cos: device_ptr(&first.rotation.cos),
            sin: device_ptr(&first.rotation.sin),
            logits: device_ptr(&args.output.out),
            published: published.start(),
            epoch: epoch.start(),
            count: following.map_or(0, |steps| device_ptr(&steps.count)),
            draw: following.map_or(0, |steps| device_ptr(&steps.draw)),
            chosen: following.map_or(0, |steps| device_ptr(&steps.chosen)),
            picks: picks.start(),
            lists: lists.start(),
            fault: gpu.fault(),
            layer_count: sizes.layers as u32,
            layer_words: words as u32,
            hidden: sizes.hidden as u32,
            ffn: sizes.ffn as u32,
            q_heads: q_heads as u32,
            kv_heads: kv_heads as u32,
            kv_len: kv_len as u32,
            splits: splits as u32,
            interleaved: u32::from(first.rotation.pairing == RopePairing::Interleaved),
            eps: args.norm.eps,
            scale: spec.layers[0].0.sdpa.scale() * std::f32::consts::LOG2_E,
            vocab: sizes.vocab as u32,
            stream_at: layout.stream_at as u32,
            input_at: layout.input_at as u32,
            sums_at: layout.sums_at as u32,
            ring_at: layout.ring_at as u32,
            slots: layout.slots as u32,
            slot_bytes: layout.slot_bytes as u32,
            most: spec.following.unwrap_or(0) as u32,
            unused: 0,
        };
        let shape = LaunchShape {
            shared_bytes: layout.shared_bytes as u32,
            ..LaunchShape::linear(blocks, 32 * WARPS as u32)
        };
        // SAFETY: the op checked every shape; tables and published words have the sizes that the kernel
        // counts on, and stay as they are while the call may be replayed.
        unsafe { function.launch_together(shape, &[Param::new(&step)]) }?;
        for memory in [layers, published, epoch, picks, lists] {
            memory.keep();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::sources::Source;

    #[test]
    fn a_variant_names_every_type() {
        let named = variant(&[DType::F16], DType::F16, DType::F16, 64);
        assert_eq!(named, "-DWEIGHTS=0x2 -DTABLE=1 -DKV=1 -DHEAD_DIM=64");
        assert!(Source::named("persistent").variants().any(|line| line == named));
        let mixed = [DType::Q8_0, DType::Q5_0, DType::Q4K, DType::Q6K];
        let named = variant(&mixed, DType::Q8_0, DType::F16, 64);
        assert_eq!(named, "-DWEIGHTS=0x5120 -DTABLE=5 -DKV=1 -DHEAD_DIM=64");
        assert!(Source::named("persistent").takes(&named));
    }
}
