//! Element types, plain and block-quantised. Not: how a block is decoded (devices do that).

use std::fmt;
use std::str::FromStr;

/// The element type of a tensor.
///
/// Quantised types store rows in blocks of [`DType::block_len`] elements, each block
/// [`DType::block_bytes`] bytes long, laid out as GGUF (ggml) files store them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// bfloat16.
    Bf16,
    /// Signed 32-bit integers: token ids, positions, live lengths.
    I32,
    /// Signed 64-bit integers, in files only.
    I64,
    /// One byte per element, 0 or 1.
    Bool,
    /// 32 elements: f16 scale, 32 × i8.
    Q8_0,
    /// 32 elements: f16 scale, 32 × 4 bit, offset −8.
    Q4_0,
    /// 32 elements: f16 scale, f16 minimum, 32 × 4 bit.
    Q4_1,
    /// 32 elements: f16 scale, 32 × 5 bit, offset −16.
    Q5_0,
    /// 32 elements: f16 scale, f16 minimum, 32 × 5 bit.
    Q5_1,
    /// 256 elements in 16 sub-blocks, 2 bit.
    Q2K,
    /// 256 elements in 16 sub-blocks, 3 bit.
    Q3K,
    /// 256 elements in 8 sub-blocks, 4 bit.
    Q4K,
    /// 256 elements in 8 sub-blocks, 5 bit.
    Q5K,
    /// 256 elements in 16 sub-blocks, 6 bit.
    Q6K,
    /// 32 elements: f16 scale, 32 × 4-bit index into a non-linear table.
    Iq4Nl,
    /// 256 elements in 8 sub-blocks, 4-bit index into a non-linear table.
    Iq4Xs,
}

impl DType {
    /// Every element type, plain ones first.
    pub const ALL: [DType; 18] = [
        DType::F32,
        DType::F16,
        DType::Bf16,
        DType::I32,
        DType::I64,
        DType::Bool,
        DType::Q8_0,
        DType::Q4_0,
        DType::Q4_1,
        DType::Q5_0,
        DType::Q5_1,
        DType::Q2K,
        DType::Q3K,
        DType::Q4K,
        DType::Q5K,
        DType::Q6K,
        DType::Iq4Nl,
        DType::Iq4Xs,
    ];

    /// Elements per storage block: 1 for plain types, 32 or 256 for quantised ones.
    pub const fn block_len(self) -> usize {
        match self {
            DType::F32 | DType::F16 | DType::Bf16 | DType::I32 | DType::I64 | DType::Bool => 1,
            DType::Q8_0 | DType::Q4_0 | DType::Q4_1 | DType::Q5_0 | DType::Q5_1 | DType::Iq4Nl => {
                32
            }
            DType::Q2K | DType::Q3K | DType::Q4K | DType::Q5K | DType::Q6K | DType::Iq4Xs => 256,
        }
    }

    /// Bytes per storage block (of one element for plain types).
    pub const fn block_bytes(self) -> usize {
        match self {
            DType::F32 | DType::I32 => 4,
            DType::F16 | DType::Bf16 => 2,
            DType::I64 => 8,
            DType::Bool => 1,
            DType::Q8_0 => 34,
            DType::Q4_0 => 18,
            DType::Q4_1 => 20,
            DType::Q5_0 => 22,
            DType::Q5_1 => 24,
            DType::Q2K => 84,
            DType::Q3K => 110,
            DType::Q4K => 144,
            DType::Q5K => 176,
            DType::Q6K => 210,
            DType::Iq4Nl => 18,
            DType::Iq4Xs => 136,
        }
    }

    /// Bytes that `elements` elements of one row take; `None` when the count is not a whole
    /// number of blocks or the product overflows.
    pub fn row_bytes(self, elements: usize) -> Option<usize> {
        if !elements.is_multiple_of(self.block_len()) {
            return None;
        }
        (elements / self.block_len()).checked_mul(self.block_bytes())
    }

    /// True for block-quantised types.
    pub const fn is_quantized(self) -> bool {
        self.block_len() > 1
    }

    /// True for f32, f16 and bf16.
    pub const fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::F16 | DType::Bf16)
    }

    /// The lower-case name used in flags, tables and JSON: `f16`, `q4_k`, `iq4_nl`.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::Bf16 => "bf16",
            DType::I32 => "i32",
            DType::I64 => "i64",
            DType::Bool => "bool",
            DType::Q8_0 => "q8_0",
            DType::Q4_0 => "q4_0",
            DType::Q4_1 => "q4_1",
            DType::Q5_0 => "q5_0",
            DType::Q5_1 => "q5_1",
            DType::Q2K => "q2_k",
            DType::Q3K => "q3_k",
            DType::Q4K => "q4_k",
            DType::Q5K => "q5_k",
            DType::Q6K => "q6_k",
            DType::Iq4Nl => "iq4_nl",
            DType::Iq4Xs => "iq4_xs",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that is no element type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown element type `{name}`; known: {}", DType::ALL.map(DType::name).join(", "))]
pub struct UnknownDType {
    /// The name as given.
    pub name: String,
}

impl FromStr for DType {
    type Err = UnknownDType;

    fn from_str(name: &str) -> Result<Self, UnknownDType> {
        let lower = name.to_ascii_lowercase();
        DType::ALL
            .into_iter()
            .find(|dtype| dtype.name() == lower)
            .ok_or_else(|| UnknownDType { name: name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for dtype in DType::ALL {
            assert_eq!(dtype.name().parse::<DType>(), Ok(dtype));
        }
        let error = "q9".parse::<DType>().unwrap_err();
        assert!(error.to_string().contains("known: f32, f16"));
    }

    #[test]
    fn rows_are_whole_blocks() {
        assert_eq!(DType::Q4K.row_bytes(512), Some(288));
        assert_eq!(DType::Q4K.row_bytes(500), None);
        assert_eq!(DType::F32.row_bytes(usize::MAX), None);
    }
}
