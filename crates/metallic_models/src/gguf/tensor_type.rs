//! ggml's numbers for element types. Not: what a block holds (see [`DType`]).

use metallic::tensor::DType;

/// Types that can be computed with: ggml's number and ours.
const SUPPORTED: [(u32, DType); 17] = [
    (0, DType::F32),
    (1, DType::F16),
    (2, DType::Q4_0),
    (3, DType::Q4_1),
    (6, DType::Q5_0),
    (7, DType::Q5_1),
    (8, DType::Q8_0),
    (10, DType::Q2K),
    (11, DType::Q3K),
    (12, DType::Q4K),
    (13, DType::Q5K),
    (14, DType::Q6K),
    (20, DType::Iq4Nl),
    (23, DType::Iq4Xs),
    (26, DType::I32),
    (27, DType::I64),
    (30, DType::Bf16),
];

/// Types that exist and cannot be computed with, for messages.
const OTHERS: [(u32, &str); 16] = [
    (9, "q8_1"),
    (15, "q8_k"),
    (16, "iq2_xxs"),
    (17, "iq2_xs"),
    (18, "iq3_xxs"),
    (19, "iq1_s"),
    (21, "iq3_s"),
    (22, "iq2_s"),
    (24, "i8"),
    (25, "i16"),
    (28, "f64"),
    (29, "iq1_m"),
    (34, "tq1_0"),
    (35, "tq2_0"),
    (39, "mxfp4"),
    (40, "nvfp4"),
];

/// The element type that ggml numbers `type_id`; `None` when it cannot be computed with.
pub fn dtype_of_type_id(type_id: u32) -> Option<DType> {
    SUPPORTED.iter().find(|&&(id, _)| id == type_id).map(|&(_, dtype)| dtype)
}

/// ggml's number of an element type; `None` for types that files do not hold.
pub fn type_id_of_dtype(dtype: DType) -> Option<u32> {
    SUPPORTED.iter().find(|&&(_, known)| known == dtype).map(|&(id, _)| id)
}

/// The name of a type that cannot be computed with.
pub(super) fn name_of_type_id(type_id: u32) -> &'static str {
    OTHERS.iter().find(|&&(id, _)| id == type_id).map_or("unknown", |&(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stored_type_has_a_number() {
        for dtype in DType::ALL {
            let back = type_id_of_dtype(dtype).and_then(dtype_of_type_id);
            assert!(back == Some(dtype) || dtype == DType::Bool, "{dtype}");
        }
        assert_eq!(dtype_of_type_id(4), None);
        assert_eq!(name_of_type_id(16), "iq2_xxs");
    }
}
