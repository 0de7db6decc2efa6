//! The one shape through which every quantised format is read.

/// A block format: `LEN` elements in `BYTES` bytes, in groups of `GROUP` elements.
///
/// Element `i` of group `g` has the value `scale[g] * (code[i] - OFFSET)`, plus `min[g]` where
/// `HAS_MIN` (then `OFFSET` is 0). In f32 arithmetic, in this order, that is bit for bit ggml's
/// definition of each format.
pub(crate) trait Block {
    /// Elements per block.
    const LEN: usize;
    /// Bytes per block.
    const BYTES: usize;
    /// Elements that share one scale: 16 or 32.
    const GROUP: usize;
    /// What is taken off each code.
    const OFFSET: u8;
    /// Whether groups have a minimum.
    const HAS_MIN: bool;

    /// Reads one block. `block` has `BYTES` bytes, `codes` has `LEN` elements, `scale` and
    /// `min` at least `LEN / GROUP`; `min` is left alone unless `HAS_MIN`.
    fn unpack(block: &[u8], codes: &mut [u8], scale: &mut [f32], min: &mut [f32]);
}

/// Evaluates `$body` with `$B` naming the [`Block`] of a quantised `DType`; `$plain` otherwise.
macro_rules! with_block {
    ($dtype:expr, $B:ident => $body:expr, $plain:expr) => {{
        use metallic::tensor::DType;
        use $crate::cpu::quant as q;
        macro_rules! arm {
            ($name:ident) => {{
                type $B = q::$name;
                $body
            }};
        }
        match $dtype {
            DType::Q8_0 => arm!(Q8_0),
            DType::Q4_0 => arm!(Q4_0),
            DType::Q4_1 => arm!(Q4_1),
            DType::Q5_0 => arm!(Q5_0),
            DType::Q5_1 => arm!(Q5_1),
            DType::Q2K => arm!(Q2K),
            DType::Q3K => arm!(Q3K),
            DType::Q4K => arm!(Q4K),
            DType::Q5K => arm!(Q5K),
            DType::Q6K => arm!(Q6K),
            DType::Iq4Nl => arm!(Iq4Nl),
            DType::Iq4Xs => arm!(Iq4Xs),
            DType::F32 | DType::F16 | DType::Bf16 | DType::I32 | DType::I64 | DType::Bool => $plain,
        }
    }};
}
pub(crate) use with_block;
