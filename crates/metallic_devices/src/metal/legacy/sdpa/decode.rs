//! `flash_decode`: fused attention for up to 8 queries, split over the keys.

use metallic::Result;
use metallic::dispatch::{ExecCx, KernelInvocable, Reason, Support};
use metallic::op::{Op, Sdpa, SdpaArgs, SdpaSpec};

use super::call::{Call, Step, widths_up_to};
use crate::metal::encoder::Arg;
use crate::metal::legacy::count;
use crate::metal::library::{Source, kernel_source};
use crate::metal::stream::Metal;

const SOURCE: Source = kernel_source!("sdpa_decode");
/// Widths that the kernel exists for.
const WIDTHS: [usize; 3] = [64, 128, 256];
/// Stacked rows of a threadgroup that the kernel exists for.
const ROWS: [usize; 3] = [1, 4, 8];
/// Simdgroups of a threadgroup.
const SIMDGROUPS: usize = 4;
/// Queries beyond which tiles of matrices pay.
const MAX_QUERIES: usize = 8;
/// Keys of a part at least: two blocks for each simdgroup, else merging costs more than it brings.
const PART_KEYS: usize = 256;
/// Parts of a row at most, since one simdgroup merges them.
const MAX_PARTS: usize = 64;
/// Threadgroups that keep a GPU busy: a few for each of 10 to 40 cores. Not measured.
const ENOUGH_GROUPS: usize = 128;

pub(crate) struct FlashDecodeSdpa(pub(crate) Metal);

impl KernelInvocable<Sdpa> for FlashDecodeSdpa {
    fn supports(&self, spec: &SdpaSpec) -> Support {
        let (what, got, max) = ("q_len, as a power of two", spec.lengths.q_bucket, MAX_QUERIES);
        if got > max {
            return Support::No(Reason::Range { what, got, max });
        }
        widths_up_to(WIDTHS[WIDTHS.len() - 1], spec)
    }

    fn run(&self, _: &ExecCx<'_>, spec: &SdpaSpec, args: &SdpaArgs) -> Result<()> {
        let Some(call) = Call::new(spec, args)? else { return Ok(()) };
        let at_once = smallest(&ROWS, call.rows);
        let width = smallest(&WIDTHS, spec.head_dim.max(spec.v_dim));
        let function = format!("sdpa_decode_d{width}_r{at_once}");
        let tiles = call.rows.div_ceil(at_once);
        let splits = splits(call.kv_len, call.heads * tiles);
        let mut params = call.params;
        params.splits = count(Sdpa::ID, splits)?;
        self.0.encode(Sdpa::ID, |encoder| {
            let parts = if splits == 1 { 1 } else { call.heads * call.rows * splits };
            let sums = encoder.scratch(parts * call.v_dim * size_of::<f32>())?;
            let stats = encoder.scratch(parts * size_of::<[f32; 2]>())?;
            let (sums, stats) = (Arg::Scratch(&sums, 0), Arg::Scratch(&stats, 0));
            let [q, k, v, mask, lens, out] =
                [call.q(), call.k(), call.v(), call.mask(), call.kv_lens(), call.out()];
            call.dispatch(
                encoder,
                &Step {
                    source: SOURCE,
                    function: &function,
                    args: &[q, k, v, mask, lens, out, sums, stats],
                    params: &params,
                    groups: [splits, tiles, call.heads],
                    simdgroups: SIMDGROUPS,
                },
            )?;
            if splits == 1 {
                return Ok(());
            }
            call.dispatch(
                encoder,
                &Step {
                    source: SOURCE,
                    function: "sdpa_decode_merge",
                    args: &[sums, stats, out],
                    params: &params,
                    groups: [call.rows, call.heads, 1],
                    simdgroups: 1,
                },
            )
        })
    }
}

/// The smallest of `sizes` that holds `value`, or the largest.
pub(super) fn smallest(sizes: &[usize], value: usize) -> usize {
    let largest = sizes[sizes.len() - 1];
    sizes.iter().copied().find(|size| *size >= value).unwrap_or(largest)
}

/// Into how many parts `kv_len` keys are cut when there are `groups` threadgroups without that.
fn splits(kv_len: usize, groups: usize) -> usize {
    let wanted = ENOUGH_GROUPS.div_ceil(groups.max(1));
    wanted.min(kv_len.div_ceil(PART_KEYS)).clamp(1, MAX_PARTS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_long_caches_of_few_heads_are_split() {
        assert_eq!(splits(0, 2), 1);
        assert_eq!(splits(256, 2), 1);
        assert_eq!(splits(257, 2), 2);
        assert_eq!(splits(4096, 2), 16);
        assert_eq!(splits(1 << 20, 2), 64);
        assert_eq!(splits(1 << 20, 200), 1);
    }

    #[test]
    fn kernels_are_chosen_by_size() {
        assert_eq!([1, 2, 4, 5, 56].map(|rows| smallest(&ROWS, rows)), [1, 4, 4, 8, 8]);
        assert_eq!([32, 64, 80, 192].map(|width| smallest(&WIDTHS, width)), [64, 64, 128, 256]);
    }
}
