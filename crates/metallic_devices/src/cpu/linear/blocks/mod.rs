//! Integer products with weights unpacked in registers, a block of 32 elements at a time: AVX2 and NEON,
//! for every quantised format.
//!
//! The structure is that of `../vnni/`: `decode.rs` for few rows of x reads W once, in the order of
//! memory; `prefill.rs` for many unpacks W into tiles. Both are written once over [`lanes::Lanes`] and
//! [`formats::Format`]; `avx2.rs` and `neon.rs` are the instructions.

mod activations;
#[cfg(target_arch = "x86_64")]
mod avx2;
mod decode;
mod formats;
mod lanes;
#[cfg(target_arch = "aarch64")]
mod neon;
mod prefill;
mod super_formats;

use std::ops::Range;

use metallic::tensor::DType;

use self::activations::{GROUP_WORDS, LANE_WORDS, round_groups, round_lanes};
use self::formats::Format;
pub(super) use self::prefill::PANEL;
use super::products::Task;
use super::scratch::with_task_scratch;
use crate::cpu::quant::Block;
use crate::cpu::simd::{Level, with_level};

/// Instructions that these kernels are compiled for. Made by [`Set::of`] alone, so the machine has them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Set {
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "aarch64")]
    Neon,
    #[cfg(target_arch = "aarch64")]
    NeonDot,
}

/// Evaluates `$body` with `$F` naming the [`Format`] of a quantised `DType`.
macro_rules! with_format {
    ($dtype:expr, $F:ident => $body:expr) => {{
        macro_rules! arm {
            ($name:path) => {{
                type $F = $name;
                $body
            }};
        }
        match $dtype {
            DType::Q8_0 => arm!(formats::Q8_0),
            DType::Q4_0 => arm!(formats::Q4_0),
            DType::Q4_1 => arm!(formats::Q4_1),
            DType::Q5_0 => arm!(formats::Q5_0),
            DType::Q5_1 => arm!(formats::Q5_1),
            DType::Iq4Nl => arm!(formats::Iq4Nl),
            DType::Q2K => arm!(super_formats::Q2K),
            DType::Q3K => arm!(super_formats::Q3K),
            DType::Q4K => arm!(super_formats::Q4K),
            DType::Q5K => arm!(super_formats::Q5K),
            DType::Q6K => arm!(super_formats::Q6K),
            DType::Iq4Xs => arm!(super_formats::Iq4Xs),
            DType::F32 | DType::F16 | DType::Bf16 | DType::I32 | DType::I64 | DType::Bool => {
                unreachable!("only quantised weights come here")
            }
        }
    }};
}

/// 32-bit words of one rounded row of `k` elements, for many rows of x or for few.
pub(super) fn row_words(k: usize, many: bool) -> usize {
    k / 32 * if many { GROUP_WORDS } else { LANE_WORDS }
}

/// 32-bit words of a panel of [`PANEL`] unpacked rows of W.
pub(super) fn panel_words(task: &Task) -> usize {
    with_format!(task.dtype(), F => prefill::panel_words::<<F as Format>::Block>(task.k()))
}

/// A kernel for each set: `$name` enables the instructions and calls the generic function of the same
/// arguments.
macro_rules! entries {
    ($($set:ident $lanes:path, $arch:literal, $features:literal;)*) => {
        impl Set {
            /// Columns `columns` of y for few rows of x.
            pub(super) fn decode(self, task: &Task, x: &[i32], columns: Range<usize>) {
                let (start, end) = (columns.start, columns.end);
                match self {
                    $(
                        #[cfg(target_arch = $arch)]
                        Set::$set => {
                            #[target_feature(enable = $features)]
                            unsafe fn run<F: Format>(task: &Task, x: &[i32], at: (usize, usize)) {
                                // SAFETY: this function enables the instructions.
                                unsafe { decode::columns::<$lanes, F>(task, x, at.0, at.1) }
                            }
                            // SAFETY: the machine has them; the columns are the caller's own.
                            with_format!(task.dtype(), F => unsafe {
                                run::<F>(task, x, (start, end));
                            });
                        }
                    )*
                }
            }

            /// Rows `part` of y and the columns of some panels from column `tile.0` on.
            pub(super) fn prefill(
                self,
                task: &Task,
                x: &[i32],
                part: Range<usize>,
                tile: (usize, usize),
            ) {
                match self {
                    $(
                        #[cfg(target_arch = $arch)]
                        Set::$set => {
                            #[target_feature(enable = $features)]
                            unsafe fn run<F: Format>(
                                task: &Task,
                                (x, w): (&[i32], &mut [i32]),
                                part: Range<usize>,
                                (start, panels): (usize, usize),
                            ) {
                                let words = prefill::panel_words::<F::Block>(task.k());
                                // SAFETY: this function enables the instructions; the part of y is
                                // the caller's.
                                unsafe {
                                    for (panel, out) in w.chunks_exact_mut(words).enumerate() {
                                        let at = start + panel * PANEL;
                                        prefill::pack::<$lanes, F>(task, at, out);
                                    }
                                    let tile = (start, panels);
                                    prefill::multiply::<$lanes, F>(task, x, w, part, tile);
                                }
                            }
                            with_task_scratch(|scratch| {
                                let w = scratch.a.take::<i32>(tile.1 * panel_words(task));
                                // SAFETY: the machine has the instructions.
                                with_format!(task.dtype(), F => unsafe {
                                    run::<F>(task, (x, w), part.clone(), tile);
                                });
                            });
                        }
                    )*
                }
            }
        }
    };
}

entries! {
    Avx2 avx2::Avx2, "x86_64", "avx2,fma,f16c";
    Neon neon::Neon, "aarch64", "neon";
    NeonDot neon::NeonDot, "aarch64", "neon,dotprod";
}

impl Set {
    /// That of a level the machine has; `None` for plain loops.
    pub(super) fn of(level: Level) -> Option<Self> {
        match level {
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 | Level::Avx512 => Some(Set::Avx2),
            #[cfg(target_arch = "aarch64")]
            Level::Neon => Some(Set::Neon),
            #[cfg(target_arch = "aarch64")]
            Level::NeonDot => Some(Set::NeonDot),
            _ => None,
        }
    }

    /// Rounds one row of x to [`row_words`] words, for formats like B.
    pub(super) fn round_row<B: Block>(self, x: &[f32], out: &mut [i32], many: bool) {
        let level = match self {
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => Level::Avx2,
            #[cfg(target_arch = "aarch64")]
            Set::Neon | Set::NeonDot => Level::Neon,
        };
        with_level(level, || match many {
            true => round_groups::<B>(x, out),
            false => round_lanes::<B>(x, out),
        });
    }
}
