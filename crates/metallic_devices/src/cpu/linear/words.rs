//! What the kernels that unpack weights in registers have in common: rows of x are rounded to words
//! laid out for them, and columns are shared out, for few rows of x or for many.
//!
//! Versions: `vnni/` for AVX-512 with VNNI, `blocks/` for AVX2 and NEON. Not: `quantized.rs`, plain
//! loops over rows that were unpacked to memory.

use std::ops::Range;

use super::products::{Task, each_rows};
use super::scratch::Scratch;
use super::{blocks, split};
use crate::cpu::pool::ThreadPool;
use crate::cpu::quant::{Block, with_block};
use crate::cpu::simd::Level;

/// From this many rows of x on, W is unpacked into tiles.
const MANY: usize = 12;
/// Bytes of unpacked W that one task holds: half of a second-level cache.
const TILE_BYTES: usize = 512 << 10;

/// The kernels of a level.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kernels {
    #[cfg(target_arch = "x86_64")]
    Vnni,
    Blocks(blocks::Set),
}

impl Kernels {
    /// Those of a level; `None` where only plain loops serve.
    pub(super) fn of(level: Level) -> Option<Self> {
        match level.usable() {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Vnni => Some(Kernels::Vnni),
            level => blocks::Set::of(level).map(Kernels::Blocks),
        }
    }

    fn row_words(self, k: usize, many: bool) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Kernels::Vnni => super::vnni::row_words(k, many),
            Kernels::Blocks(_) => blocks::row_words(k, many),
        }
    }

    /// # Safety
    /// `x` has `k` floats, `out` the words of a row.
    unsafe fn round_row<B: Block>(self, x: *const f32, k: usize, out: *mut i32, many: bool) {
        // SAFETY: the caller's promise; `of` gave kernels that the machine can run.
        unsafe {
            match self {
                #[cfg(target_arch = "x86_64")]
                Kernels::Vnni => super::vnni::round_row::<B>(x, k, out, many),
                Kernels::Blocks(set) => {
                    let x = std::slice::from_raw_parts(x, k);
                    let out = std::slice::from_raw_parts_mut(out, blocks::row_words(k, many));
                    set.round_row::<B>(x, out, many);
                }
            }
        }
    }

    /// Rows of W in a panel, and 32-bit words of one.
    fn panel(self, task: &Task) -> (usize, usize) {
        match self {
            #[cfg(target_arch = "x86_64")]
            Kernels::Vnni => (super::vnni::PANEL, super::vnni::panel_words(task)),
            Kernels::Blocks(_) => (blocks::PANEL, blocks::panel_words(task)),
        }
    }

    fn decode(self, task: &Task, x: &[i32], columns: Range<usize>) {
        match self {
            #[cfg(target_arch = "x86_64")]
            Kernels::Vnni => super::vnni::decode(task, x, columns),
            Kernels::Blocks(set) => set.decode(task, x, columns),
        }
    }

    fn prefill(self, task: &Task, x: &[i32], part: Range<usize>, tile: (usize, usize)) {
        match self {
            #[cfg(target_arch = "x86_64")]
            Kernels::Vnni => super::vnni::prefill(task, x, part, tile),
            Kernels::Blocks(set) => set.prefill(task, x, part, tile),
        }
    }
}

/// What rows of x are rounded for: formats that agree in this share the rounded rows.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Form {
    /// Whether corrections are sums times scales; otherwise sums times the offset.
    has_min: bool,
    offset: u8,
    /// Elements of a group, where corrections are kept by group; 0 where they are by lane.
    group: usize,
}

impl Form {
    fn of(task: &Task) -> Self {
        let group = |group| if task.m() >= MANY { group } else { 0 };
        with_block!(
            task.dtype(),
            B => Form { has_min: B::HAS_MIN, offset: B::OFFSET, group: group(B::GROUP) },
            unreachable!("only quantised weights come here")
        )
    }
}

/// Rows that tasks write one by one.
#[derive(Clone, Copy)]
struct Rows(*mut i32);

// SAFETY: each task writes its own rows.
unsafe impl Sync for Rows {}

/// Makes the rows of x ready and rounds them, on all threads where there are many, once for each
/// form among the products; gives each product its rows.
pub(super) fn round<'a, const N: usize>(
    kernels: Kernels,
    pool: &ThreadPool,
    tasks: &[Task; N],
    scratch: &'a mut Scratch,
) -> [&'a [i32]; N] {
    let input = tasks[0].input;
    let forms = tasks.each_ref().map(|task| task.is_integer().then(|| Form::of(task)));
    // The first product of each form stands for all of it.
    let first = |number: usize| forms[..number].iter().all(|form| *form != forms[number]);
    let row_words = kernels.row_words(input.k, input.m >= MANY);
    // Each form starts on a cache line, as kernels load whole ones.
    let words = |form: Option<Form>| form.map_or(0, |_| (input.m * row_words).next_multiple_of(16));
    let owners = (0..N).filter(|number| first(*number));
    let out =
        Rows(scratch.a.take::<i32>(owners.map(|number| words(forms[number])).sum()).as_mut_ptr());
    let mut starts = [0; N];
    let mut end = 0;
    for number in 0..N {
        let owner = forms[..number].iter().position(|form| *form == forms[number]);
        starts[number] = owner.map_or(end, |owner| starts[owner]);
        end += if owner.is_none() { words(forms[number]) } else { 0 };
    }
    each_rows(pool, input, &|rows: Range<usize>| {
        let out = &out;
        if let Some(prepare) = input.prepare {
            prepare(rows.clone());
        }
        for (number, task) in tasks.iter().enumerate().filter(|(number, _)| first(*number)) {
            let Some(form) = forms[number] else { continue };
            for row in rows.clone() {
                // SAFETY: `row` is this task's own, inside x and `out`.
                unsafe {
                    let x = input.x.add(row * input.k);
                    let out = out.0.add(starts[number] + row * row_words);
                    with_block!(
                        task.dtype(),
                        B => kernels.round_row::<B>(x, input.k, out, form.group > 0),
                        unreachable!("only quantised weights have a form")
                    );
                }
            }
        }
    });
    std::array::from_fn(|number| {
        // SAFETY: inside what was taken, which stays borrowed; nothing writes it from here on.
        unsafe { std::slice::from_raw_parts(out.0.add(starts[number]), words(forms[number])) }
    })
}

/// How columns are shared out.
pub(super) struct Shares {
    pub(super) count: usize,
    kernels: Kernels,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    /// Few rows of x.
    Decode { columns: usize },
    /// Many: tiles of so many panels of so many columns, by parts of so many rows.
    Prefill { panels: usize, width: usize, parts: usize, rows: usize },
}

impl Shares {
    pub(super) fn new(kernels: Kernels, task: &Task, threads: usize) -> Self {
        if task.m() < MANY {
            let least = (16 << 10) / task.row_bytes;
            // One thread has nobody to share with, and starts on one stream of memory only once.
            let (columns, count) =
                if threads == 1 { (task.n(), 1) } else { split(task.n(), 4, least, threads) };
            return Self { count, kernels, kind: Kind::Decode { columns } };
        }
        let (width, words) = kernels.panel(task);
        let most = (TILE_BYTES / (4 * words)).clamp(2, 128 / width) & !1;
        let (columns, _) = split(task.n(), 2 * width, 1, threads);
        let panels = most.min(columns / width);
        let tiles = task.n().div_ceil(panels * width);
        // Few tiles: the rows of x are split too, at the price of unpacking a tile more than once.
        let parts = (2 * threads).div_ceil(tiles).min(task.m().div_ceil(96)).max(1);
        let rows = task.m().div_ceil(parts);
        let kind = Kind::Prefill { panels, width, parts, rows };
        Self { count: tiles * parts, kernels, kind }
    }

    /// One of `count` shares; `x`: the rounded rows of this product.
    pub(super) fn run(&self, task: &Task, x: &[i32], index: usize) {
        match self.kind {
            Kind::Decode { columns } => {
                let end = task.n().min((index + 1) * columns);
                self.kernels.decode(task, x, index * columns..end);
            }
            Kind::Prefill { panels, width, parts, rows } => {
                let start = index / parts * panels * width;
                let panels = panels.min((task.n() - start).div_ceil(width));
                let part = (index % parts * rows).min(task.m());
                let part = part..task.m().min(part + rows);
                self.kernels.prefill(task, x, part, (start, panels));
            }
        }
    }
}
