//! `flash_prefill`: fused attention in tiles of matrices, for any number of queries.

use metallic::Result;
use metallic::dispatch::{ExecCx, KernelInvocable, Support};
use metallic::op::{Op, Sdpa, SdpaArgs, SdpaSpec};
use metallic::tensor::DType;

use super::call::{Call, Step, widths_up_to};
use super::decode::smallest;
use crate::metal::library::{Source, kernel_source};
use crate::metal::stream::Metal;

const SOURCE: Source = kernel_source!("sdpa_prefill");
/// Widths that the kernel exists for. Wider ones need more registers than a thread has.
const WIDTHS: [usize; 3] = [64, 96, 128];
/// Rows of a threadgroup, and its simdgroups.
const ROWS: usize = 32;
const SIMDGROUPS: usize = 4;

pub(crate) struct FlashPrefillSdpa(pub(crate) Metal);

impl KernelInvocable<Sdpa> for FlashPrefillSdpa {
    fn supports(&self, spec: &SdpaSpec) -> Support {
        widths_up_to(WIDTHS[WIDTHS.len() - 1], spec)
    }

    fn run(&self, _: &ExecCx<'_>, spec: &SdpaSpec, args: &SdpaArgs) -> Result<()> {
        let Some(call) = Call::new(spec, args)? else { return Ok(()) };
        let halves = [spec.q_dtype, spec.k_dtype, spec.v_dtype].iter().all(|t| *t == DType::F16);
        let tile = if halves { "half" } else { "float" };
        let width = smallest(&WIDTHS, spec.head_dim.max(spec.v_dim));
        let function = format!("sdpa_prefill_{tile}_d{width}");
        self.0.encode(Sdpa::ID, |encoder| {
            call.dispatch(
                encoder,
                &Step {
                    source: SOURCE,
                    function: &function,
                    args: &[call.q(), call.k(), call.v(), call.mask(), call.kv_lens(), call.out()],
                    params: &call.params,
                    groups: [call.rows.div_ceil(ROWS), call.heads, 1],
                    simdgroups: SIMDGROUPS,
                },
            )
        })
    }
}
