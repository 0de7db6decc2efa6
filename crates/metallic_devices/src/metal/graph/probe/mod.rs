//! Questions about MPSGraph that no document answers. Each is asked in a process of its own,
//! since some answers are the end of the process.

mod attention;
mod memory;
mod rig;
mod running;

use metallic::Result;

use super::super::failure;
use crate::probe::{Finding, Probe};
use rig::Rig;

/// A question and how it is asked.
struct Asked {
    probe: Probe,
    ask: fn(&Rig) -> Result<Finding>,
}

const fn asked(
    name: &'static str,
    question: &'static str,
    ask: fn(&Rig) -> Result<Finding>,
) -> Asked {
    Asked { probe: Probe { name, question }, ask }
}

const ASKED: [Asked; 14] = [
    asked(
        "masked-rows",
        "what the attention op makes of a row that sees nothing (assumed: undefined, so it is \
         replaced)",
        attention::masked_rows,
    ),
    asked(
        "gqa-broadcast",
        "whether the attention op broadcasts one key head over several query heads (assumed: no)",
        attention::gqa_broadcast,
    ),
    asked(
        "mask-type",
        "whether an f32 mask may stand beside f16 queries (assumed: the process ends)",
        attention::mask_type,
    ),
    asked(
        "value-width",
        "whether values may be wider than keys (assumed: no)",
        attention::value_width,
    ),
    asked(
        "any-length",
        "whether executables of unknown lengths are right, and what each new length costs \
         (assumed: too much)",
        running::any_length,
    ),
    asked(
        "offsets",
        "which byte offsets an array may have (assumed: every multiple of its element)",
        memory::offsets,
    ),
    asked(
        "small-buffers",
        "whether rows of 8 bytes need buffers for rows of 16 (assumed: yes, the process ends)",
        memory::small_buffers,
    ),
    asked(
        "placed-results",
        "whether results land at an offset and in a strided view (assumed: both)",
        memory::placed_results,
    ),
    asked(
        "continuation",
        "how many ops it takes until the command buffer is committed on the way (assumed: any \
         number may)",
        running::continuation,
    ),
    asked(
        "f32-leak",
        "whether the f32 attention op grows the process (assumed: on macOS 15)",
        attention::f32_leak,
    ),
    asked(
        "levels",
        "how far optimisation level 1 is from level 0 in f16 (assumed: far enough to avoid it)",
        running::levels,
    ),
    asked(
        "score-count",
        "whether the attention op is right beyond 2^31 scores (assumed: no, calls are cut below)",
        attention::score_count,
    ),
    asked(
        "packages",
        "whether a package takes its feeds in the order it was saved with (assumed: yes)",
        memory::packages,
    ),
    asked(
        "threads",
        "whether two threads may encode one executable (assumed: no, one at a time)",
        running::threads,
    ),
];

/// All questions, in the order in which they are worth asking.
pub const PROBES: &[Probe] = &{
    let mut probes = [ASKED[0].probe; ASKED.len()];
    let mut index = 0;
    while index < probes.len() {
        probes[index] = ASKED[index].probe;
        index += 1;
    }
    probes
};

/// Asks the question of that name, here and now: the process may end.
///
/// # Errors
/// [`metallic::Error::Device`] for a name nobody knows; what MPSGraph refuses.
pub fn run(name: &str) -> Result<Finding> {
    let asked = ASKED.iter().find(|asked| asked.probe.name == name);
    let asked = asked.ok_or_else(|| failure("probe", format!("there is no probe {name}")))?;
    (asked.ask)(&Rig::open()?)
}
