//! One attention call to try: shapes, mask, layout, special data. Not: its numbers (see
//! [`crate::problem`]).

mod cost;
mod lists;

pub use cost::{bytes, flops};
pub use lists::{minimum, quick, seed};

use std::fmt;

use metallic::op::Band;
use metallic::tensor::DType;

use crate::place::Placement;

/// Element types of one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SdpaTypes {
    /// Of q and out.
    pub q: DType,
    /// Of k and v.
    pub kv: DType,
}

impl SdpaTypes {
    /// Every combination tried: each float type with itself, and quantised keys and values.
    pub const ALL: [SdpaTypes; 5] = [
        SdpaTypes::same(DType::F32),
        SdpaTypes::same(DType::F16),
        SdpaTypes::same(DType::Bf16),
        SdpaTypes { q: DType::F32, kv: DType::Q8_0 },
        SdpaTypes { q: DType::F16, kv: DType::Q8_0 },
    ];

    /// One type for all.
    pub const fn same(dtype: DType) -> Self {
        Self { q: dtype, kv: dtype }
    }
}

impl fmt::Display for SdpaTypes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.q == self.kv {
            return self.q.fmt(f);
        }
        f.pad(&format!("{}/{}", self.q, self.kv))
    }
}

/// A mask tensor to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CaseMask {
    /// Its meaning.
    pub kind: CaseMaskKind,
    /// Which axes it has.
    pub axes: MaskAxes,
}

/// The meaning of a mask tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaseMaskKind {
    /// Biases, and −inf for a third of the pairs, in this type.
    Additive(DType),
    /// The same with the type's lowest finite number in the place of −inf.
    AdditiveLowest(DType),
    /// Permissions.
    Bool,
}

/// The axes of a mask tensor that are not 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaskAxes {
    /// `[batch, q_heads, q_len, kv_len]`.
    All,
    /// `[1, q_heads, q_len, kv_len]`.
    PerHead,
    /// `[q_len, kv_len]`, rank 2.
    Rows,
    /// `[batch, 1, 1, kv_len]`.
    KeyPadding,
    /// `[1, 1, q_len, 1]`.
    PerQuery,
}

/// Where q, k, v, mask and out lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CaseLayout {
    /// All dense.
    #[default]
    Dense,
    /// All at an offset.
    Offset,
    /// All stored `[batch, len, heads, dim]`.
    Permuted,
    /// q, k and v cut out of one product's rows; out permuted.
    Fused,
    /// All cut out of something larger at odd places.
    Sliced,
    /// k and v in a cache with room to grow.
    Cache,
    /// k and v shared by all sequences through a stride of 0.
    SharedKv,
}

impl CaseLayout {
    /// Every layout.
    pub const ALL: [CaseLayout; 7] = [
        CaseLayout::Dense,
        CaseLayout::Offset,
        CaseLayout::Permuted,
        CaseLayout::Fused,
        CaseLayout::Sliced,
        CaseLayout::Cache,
        CaseLayout::SharedKv,
    ];

    /// The placements of q, of k and v, of the mask, and of out.
    pub fn placements(self) -> [Placement; 4] {
        use Placement::{Broadcast, Cache, Dense, Fused, Offset, Permuted, Sliced};
        match self {
            CaseLayout::Dense => [Dense; 4],
            CaseLayout::Offset => [Offset; 4],
            CaseLayout::Permuted => [Permuted, Permuted, Dense, Permuted],
            CaseLayout::Fused => [Fused, Fused, Dense, Permuted],
            CaseLayout::Sliced => [Sliced; 4],
            CaseLayout::Cache => [Dense, Cache, Dense, Dense],
            CaseLayout::SharedKv => [Dense, Broadcast, Dense, Dense],
        }
    }
}

/// Data that has broken somebody's kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Special {
    /// Normal numbers.
    #[default]
    None,
    /// Every scaled score near this number (pytorch#196678: Qwen2.5-0.5B near −120).
    Logits(i32),
    /// Products of q and k beyond the range of f16 before scaling (llama.cpp#7805: Qwen2).
    BeyondF16,
    /// NaN in every key, and NaN and infinity in every value, that no query sees
    /// (pytorch#103963).
    PoisonBehindMask,
    /// NaN in one key that some queries see.
    NanInKey,
    /// NaN in one value that some queries see.
    NanInValue,
    /// +inf and −inf in one value that some queries see.
    InfInValue,
    /// Some rows hidden from every key (pytorch#156707).
    HiddenRows,
}

/// One attention call to try.
#[derive(Clone, Debug, PartialEq)]
pub struct SdpaCase {
    /// Tells it from all others; the seed of its numbers.
    pub name: String,
    /// Sequences.
    pub batch: usize,
    /// Query heads.
    pub q_heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Queries of each sequence.
    pub q_len: usize,
    /// Keys of each sequence, live or not.
    pub kv_len: usize,
    /// Width of a query and a key.
    pub head_dim: usize,
    /// Width of a value.
    pub v_dim: usize,
    /// The visible band.
    pub band: Band,
    /// The mask tensor.
    pub mask: Option<CaseMask>,
    /// Factor of the scores; `None` for the default.
    pub scale: Option<f32>,
    /// Bound of the scores.
    pub softcap: Option<f32>,
    /// Live keys per sequence.
    pub kv_lens: Option<Vec<i32>>,
    /// Where the tensors lie.
    pub layout: CaseLayout,
    /// What is special about the numbers.
    pub special: Special,
    /// The types to run it with; those that cannot store it are left out.
    pub types: Vec<SdpaTypes>,
}

impl SdpaCase {
    /// A plain dense case with every type; `heads` and `lens` are query's and key's.
    pub fn new(batch: usize, heads: (usize, usize), lens: (usize, usize), dim: usize) -> Self {
        let ((q_heads, kv_heads), (q_len, kv_len)) = (heads, lens);
        Self {
            name: String::new(),
            batch,
            q_heads,
            kv_heads,
            q_len,
            kv_len,
            head_dim: dim,
            v_dim: dim,
            band: Band::OPEN,
            mask: None,
            scale: None,
            softcap: None,
            kv_lens: None,
            layout: CaseLayout::Dense,
            special: Special::None,
            types: SdpaTypes::ALL.to_vec(),
        }
        .named()
    }

    /// The same with queries seeing no later key.
    #[must_use]
    pub fn causal(self) -> Self {
        Self { band: Band { right: Some(0), ..self.band }, ..self }.named()
    }

    /// The same with another band.
    #[must_use]
    pub fn band(self, band: Band) -> Self {
        Self { band, ..self }.named()
    }

    /// The same with a mask tensor.
    #[must_use]
    pub fn mask(self, kind: CaseMaskKind, axes: MaskAxes) -> Self {
        Self { mask: Some(CaseMask { kind, axes }), ..self }.named()
    }

    /// The same with values of another width.
    #[must_use]
    pub fn v_dim(self, v_dim: usize) -> Self {
        Self { v_dim, ..self }.named()
    }

    /// The same with a factor and a bound of the scores.
    #[must_use]
    pub fn scores(self, scale: Option<f32>, softcap: Option<f32>) -> Self {
        Self { scale, softcap, ..self }.named()
    }

    /// The same with live lengths, one per sequence.
    #[must_use]
    pub fn kv_lens(self, lens: &[i32]) -> Self {
        Self { kv_lens: Some(lens.to_vec()), ..self }.named()
    }

    /// The same in another layout.
    #[must_use]
    pub fn layout(self, layout: CaseLayout) -> Self {
        Self { layout, ..self }.named()
    }

    /// The same with special numbers.
    #[must_use]
    pub fn special(self, special: Special) -> Self {
        Self { special, ..self }.named()
    }

    /// The same with these types only.
    #[must_use]
    pub fn types(self, types: &[SdpaTypes]) -> Self {
        Self { types: types.to_vec(), ..self }.named()
    }

    /// Whether the rows of k and v can be stored in `types`.
    pub fn fits(&self, types: SdpaTypes) -> bool {
        self.types.contains(&types)
            && [self.head_dim, self.v_dim]
                .iter()
                .all(|dim| dim.is_multiple_of(types.kv.block_len()))
    }

    /// The shape of the mask tensor, with an axis of 1 where it repeats.
    pub fn mask_shape(&self, axes: MaskAxes) -> [usize; 4] {
        let Self { batch, q_heads, q_len, kv_len, .. } = *self;
        match axes {
            MaskAxes::All => [batch, q_heads, q_len, kv_len],
            MaskAxes::PerHead => [1, q_heads, q_len, kv_len],
            MaskAxes::Rows => [1, 1, q_len, kv_len],
            MaskAxes::KeyPadding => [batch, 1, 1, kv_len],
            MaskAxes::PerQuery => [1, 1, q_len, 1],
        }
    }

    /// The factor of the scores in force.
    pub fn scale_in_force(&self) -> f32 {
        self.scale.unwrap_or_else(|| (1.0 / (self.head_dim as f64).sqrt()) as f32)
    }

    /// Writes the name anew from everything else.
    fn named(self) -> Self {
        let name = self.to_string();
        Self { name, ..self }
    }
}

impl fmt::Display for SdpaCase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { batch, q_heads, kv_heads, q_len, kv_len, head_dim, v_dim, .. } = self;
        write!(f, "b{batch} h{q_heads}/{kv_heads} q{q_len} kv{kv_len} d{head_dim}")?;
        if v_dim != head_dim {
            write!(f, "/{v_dim}")?;
        }
        let bound = |keys: Option<usize>| keys.map_or("*".to_owned(), |keys| keys.to_string());
        match self.band {
            Band { left: None, right: None, .. } => {}
            Band { left: None, right: Some(0), offset: None } => f.write_str(" causal")?,
            Band { left, right, offset } => {
                write!(f, " window[{},{}]", bound(left), bound(right))?;
                if let Some(offset) = offset {
                    write!(f, "@{offset}")?;
                }
            }
        }
        if let Some(CaseMask { kind, axes }) = self.mask {
            write!(f, " {kind}:{axes:?}")?;
        }
        if let Some(scale) = self.scale {
            write!(f, " scale={scale}")?;
        }
        if let Some(softcap) = self.softcap {
            write!(f, " softcap={softcap}")?;
        }
        if let Some(lens) = &self.kv_lens {
            write!(f, " live={lens:?}")?;
        }
        if self.layout != CaseLayout::Dense {
            write!(f, " {:?}", self.layout)?;
        }
        if self.special != Special::None {
            write!(f, " {:?}", self.special)?;
        }
        Ok(())
    }
}

impl fmt::Display for CaseMaskKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CaseMaskKind::Additive(dtype) => write!(f, "additive-{dtype}"),
            CaseMaskKind::AdditiveLowest(dtype) => write!(f, "lowest-{dtype}"),
            CaseMaskKind::Bool => f.write_str("bool"),
        }
    }
}
