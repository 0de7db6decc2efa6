//! Rows of a table by index, decoded to f32.

use metallic::tensor::DType;

use crate::cpu::quant::dequantize_row_at;
use crate::cpu::simd::Level;

/// A table of `rows × width` elements of any float or quantised type, as stored.
#[derive(Clone, Copy, Debug)]
pub struct EmbeddingTable<'a> {
    /// Element type.
    pub dtype: DType,
    /// Rows: the vocabulary.
    pub rows: usize,
    /// Elements per row.
    pub width: usize,
    /// `rows` times the bytes of a row.
    pub bytes: &'a [u8],
}

/// `out[i, ..] = table[indices[i], ..]`; `out: [indices.len(), width]`.
///
/// # Panics
/// When lengths disagree or an index is outside the table.
pub fn embedding(level: Level, table: EmbeddingTable, indices: &[u32], out: &mut [f32]) {
    let row_bytes = table.dtype.row_bytes(table.width).expect("whole blocks");
    assert_eq!(table.bytes.len(), table.rows * row_bytes, "bytes of the table");
    assert_eq!(out.len(), indices.len() * table.width, "rows of the output");
    for (out, index) in out.chunks_exact_mut(table.width.max(1)).zip(indices) {
        let start = *index as usize * row_bytes;
        dequantize_row_at(level, table.dtype, &table.bytes[start..start + row_bytes], out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::linear::testing::gaussian;
    use crate::cpu::quant::{dequantize_row, quantize_row_q8_0};

    #[test]
    fn gathers_rows() {
        let values = gaussian(1, 5 * 64);
        let mut stored = vec![0; 5 * 68];
        quantize_row_q8_0(Level::detect(), &values, &mut stored);
        let table = EmbeddingTable { dtype: DType::Q8_0, rows: 5, width: 64, bytes: &stored };
        let mut all = vec![0.0; 5 * 64];
        dequantize_row(DType::Q8_0, &stored, &mut all);
        for level in Level::available() {
            let mut out = vec![0.0; 3 * 64];
            embedding(level, table, &[4, 0, 4], &mut out);
            assert_eq!(out[..64], all[256..]);
            assert_eq!(out[64..128], all[..64]);
            assert_eq!(out[128..], all[256..]);
        }
    }
}
