//! The time that a test takes at least, by the limits of the device.

use metallic::device::Device;
use metallic::tensor::DType;
use metallic_devices::cuda::limits::LayerProducts;

use super::{Setting, Test};
use crate::commands::bench_limits::DeviceLimits;
use crate::error::Result;
use crate::model::Loaded;

/// The seconds that `test` takes at least, and the limit that most of them come from.
///
/// Generation reads every weight once for each token (an embedding table that is not also the
/// output only row by row, which counts as nothing) and every live key and value. A prompt reads
/// the weights once and multiplies each of them with every token; on a GPU its floor is the
/// measured time of the products of its layers alone.
///
/// # Errors
/// When a GPU cannot run the products.
pub(super) fn of(
    setting: &Setting<'_>,
    test: Test,
    limits: &DeviceLimits,
) -> Result<(f64, &'static str)> {
    let Setting { context, loaded, .. } = *setting;
    let (weight_bytes, weights) = read_weights(loaded);
    let prompt = match limits {
        _ if test.n_prompt == 0 => (0.0, "memory"),
        DeviceLimits::Cuda(gpu, _) => {
            let step = context.step(gpu.id().kind);
            let (whole, rest) = (test.n_prompt / step, test.n_prompt % step);
            let mut seconds = 0.0;
            for (times, rows) in [(whole, step), (1, rest)] {
                if times * rows > 0 {
                    seconds += times as f64 * gpu.seconds_of(&layer_products(loaded, rows))?;
                }
            }
            (seconds, "products")
        }
        DeviceLimits::Cpu(limits) => {
            let rounded = !context.exact && loaded.files.quantization().starts_with('Q');
            let (rate, name) = match limits.int8_gops {
                Some(gops) if rounded => (gops, "int8"),
                _ => (limits.f32_gflops, "f32"),
            };
            let arithmetic = 2.0 * weights * test.n_prompt as f64 / rate / 1e9;
            let memory = weight_bytes / limits.read_gbytes / 1e9;
            if arithmetic > memory { (arithmetic, name) } else { (memory, "memory") }
        }
    };
    let halfway = test.n_depth + test.n_prompt + test.n_gen / 2;
    let kv_bytes = context.cache(halfway, halfway).bytes(loaded.model.config(), halfway);
    let read = weight_bytes + kv_bytes.unwrap_or_default() as f64;
    let generation = limits.floor(0.0, read * test.n_gen as f64);
    let bound_by = if prompt.0 > generation.0 { prompt.1 } else { generation.1 };
    Ok((prompt.0 + generation.0, bound_by))
}

/// Bytes and number of the weights that a step reads.
fn read_weights(loaded: &Loaded) -> (f64, f64) {
    let tensors = loaded.files.tensors();
    let separate_output = tensors.find("output.weight").is_some();
    tensors.iter().filter(|tensor| !(separate_output && tensor.name == "token_embd.weight")).fold(
        (0.0, 0.0),
        |(bytes, count), tensor| {
            (bytes + tensor.bytes.len() as f64, count + tensor.elements() as f64)
        },
    )
}

/// The products of one layer of a model, in the type that its activations are rounded to.
fn layer_products(loaded: &Loaded, rows: usize) -> LayerProducts {
    let config = loaded.model.config();
    let (hidden, ffn) = (config.hidden, config.ffn);
    let (q, kv) = (config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim);
    let bias = config.qkv_bias;
    let weight = loaded.files.tensors().find("blk.0.ffn_gate.weight");
    let bf16 = weight.is_some_and(|weight| weight.dtype == DType::Bf16);
    LayerProducts {
        rows,
        weights: vec![
            (hidden, q, bias),
            (hidden, kv, bias),
            (hidden, kv, bias),
            (q, hidden, false),
            (hidden, ffn, false),
            (hidden, ffn, false),
            (ffn, hidden, false),
        ],
        dtype: if bf16 { DType::Bf16 } else { DType::F16 },
        layers: config.n_layers,
    }
}
