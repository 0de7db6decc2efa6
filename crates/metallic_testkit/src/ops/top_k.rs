//! The k largest of rows, exactly, against the oracle: ties, NaN, infinities, rows of a vocabulary,
//! rows cut out of something wider.

use metallic::op::{TopK, TopKArgs};
use metallic::tensor::DType;

use super::weights::normals;
use super::{Duel, exactly, poisoned, run_op};
use crate::oracle;
use crate::random::Random;

/// Rows, width and k: around the size of a chunk, of a vector, and of real vocabularies.
const SHAPES: [(usize, usize, usize); 11] = [
    (1, 1, 1),
    (3, 7, 7),
    (5, 100, 1),
    (2, 63, 5),
    (2, 2047, 40),
    (1, 2048, 64),
    (2, 2049, 65),
    (3, 4500, 256),
    (1, 151_936, 1),
    (2, 151_936, 40),
    (1, 128_256, 104),
];

/// What rows hold.
const FORMS: [&str; 6] = ["", " ties", " nan", " nan alone", " infinities", " strided"];

/// Every form in every shape.
pub(super) fn top_k(duel: &mut Duel<'_>) {
    for (rows, width, k) in SHAPES {
        for form in FORMS {
            one(duel, [rows, width, k], form);
        }
    }
}

fn one(duel: &mut Duel<'_>, [rows, width, k]: [usize; 3], form: &str) {
    let case = format!("top_k {rows}x{width} k={k}{form}");
    let mut random = Random::named(&case);
    // Columns before and behind a row that are larger than all of it.
    let (before, behind) = if form == " strided" { (3, 6) } else { (0, 0) };
    let stride = before + width + behind;
    let mut all: Vec<f32> = normals(&mut random, rows * stride);
    for (index, value) in all.iter_mut().enumerate() {
        let outside = !(before..before + width).contains(&(index % stride));
        *value = match (form, random.below(4)) {
            (" strided", _) if outside => 1e9,
            (" ties", _) => (*value * 1.5).round() * 0.5,
            (" nan", 0) | (" nan alone", _) => f32::NAN,
            (" infinities", 0) => f32::NEG_INFINITY,
            (" infinities", 1) if index % 97 == 0 => f32::INFINITY,
            (" infinities", 2) => -0.0,
            (" infinities", 3) => 0.0,
            _ => *value,
        };
    }
    duel.compare(
        case,
        &|ctx, on_target| {
            if !on_target {
                let row = |row: &[f32]| oracle::top_k(&row[before..before + width], k);
                let rows: Vec<_> = all.chunks_exact(stride).map(row).collect();
                let values = rows.iter().flat_map(|best| best.values.iter().copied());
                let ids = rows.iter().flat_map(|best| best.ids.iter().map(|id| *id as f32));
                let not_finite = rows.iter().map(|best| best.not_finite as f32);
                return Ok((values.chain(ids).chain(not_finite).collect(), String::new()));
            }
            let x = ctx.upload_f32([rows, stride], &all)?.narrow(1, before, width)?;
            let values = poisoned(ctx, [rows, k])?;
            let ids = ctx.upload_i32([rows, k], &vec![-7; rows * k])?;
            let not_finite = ctx.upload_i32([rows], &vec![-7; rows])?;
            let (values, ids, not_finite) = (&values, &ids, &not_finite);
            let args = TopKArgs {
                x,
                values: values.clone(),
                ids: ids.clone(),
                not_finite: not_finite.clone(),
            };
            let kernel = run_op::<TopK>(ctx, &args)?;
            let mut got = ctx.download_f32(values)?;
            for tensor in [ids, not_finite] {
                debug_assert_eq!(tensor.dtype(), DType::I32);
                let bytes = ctx.download(tensor)?;
                let words = bytes.as_chunks().0.iter().map(|word| i32::from_le_bytes(*word));
                // Columns are below 2^24, which f32 holds exactly.
                got.extend(words.map(|word| word as f32));
            }
            Ok((got, kernel))
        },
        &exactly,
    );
}
