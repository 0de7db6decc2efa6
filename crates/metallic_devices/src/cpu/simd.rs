//! Which vector instructions the machine has, and how a kernel is compiled for each of them.
//!
//! Not: the settings that lower the level (the configuration reads them and passes the level down).

use std::str::FromStr;
use std::sync::OnceLock;

use metallic::Error;

/// A class of vector instructions, from least to most.
///
/// Every public kernel takes a level and lowers it to what the machine has, so any value is
/// safe to pass anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Plain Rust, whatever the compiler's baseline makes of it.
    Scalar,
    /// 128-bit vectors of aarch64.
    Neon,
    /// [`Level::Neon`] with 8-bit dot products.
    NeonDot,
    /// x86-64 AVX2 with FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// [`Level::Avx512`] with 8-bit dot products (VNNI) and byte permutes (VBMI).
    Avx512Vnni,
}

impl Level {
    /// Every level, least first.
    pub const ALL: [Level; 6] =
        [Level::Scalar, Level::Neon, Level::NeonDot, Level::Avx2, Level::Avx512, Level::Avx512Vnni];

    /// The best level of this machine, looked up once.
    pub fn detect() -> Level {
        static DETECTED: OnceLock<Level> = OnceLock::new();
        *DETECTED.get_or_init(probe)
    }

    /// This level where the machine has it, otherwise the best lower one it has.
    #[inline]
    pub fn usable(self) -> Level {
        let best = Level::detect().min(self);
        let foreign =
            matches!(best, Level::Neon | Level::NeonDot) && !cfg!(target_arch = "aarch64");
        if foreign { Level::Scalar } else { best }
    }

    /// The levels this machine has, least first: what a test runs through.
    pub fn available() -> impl Iterator<Item = Level> {
        Level::ALL.into_iter().filter(|level| level.usable() == *level)
    }

    /// The lower-case name used in flags and tables.
    pub const fn name(self) -> &'static str {
        match self {
            Level::Scalar => "scalar",
            Level::Neon => "neon",
            Level::NeonDot => "neondot",
            Level::Avx2 => "avx2",
            Level::Avx512 => "avx512",
            Level::Avx512Vnni => "avx512vnni",
        }
    }
}

impl FromStr for Level {
    type Err = Error;

    /// A level by its [`Level::name`].
    fn from_str(name: &str) -> Result<Self, Error> {
        Level::ALL.into_iter().find(|level| level.name() == name).ok_or_else(|| {
            Error::UnknownValue {
                setting: "the level of the cpu".to_owned(),
                value: name.to_owned(),
                accepted: format!("auto, {}", Level::ALL.map(Level::name).join(", ")).into(),
            }
        })
    }
}

#[cfg(target_arch = "x86_64")]
fn probe() -> Level {
    use std::arch::is_x86_feature_detected as has;
    if !(has!("avx2") && has!("fma") && has!("f16c")) {
        return Level::Scalar;
    }
    if !(has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl")) {
        return Level::Avx2;
    }
    if has!("avx512vnni") && has!("avx512vbmi") { Level::Avx512Vnni } else { Level::Avx512 }
}

#[cfg(target_arch = "aarch64")]
fn probe() -> Level {
    if std::arch::is_aarch64_feature_detected!("dotprod") { Level::NeonDot } else { Level::Neon }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn probe() -> Level {
    Level::Scalar
}

/// Asks for the cache line at `at`, which need not be readable; does nothing where no instruction for
/// it is known.
#[inline(always)]
pub(crate) fn prefetch(at: *const u8) {
    // SAFETY: a hint; every x86-64 machine has it, and it never faults.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }
    // SAFETY: as above; the intrinsic is not stable yet.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{0}]", in(reg) at.addr(), options(nomem, nostack, preserves_flags));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = at;
}

/// Runs `f` compiled for `level`: its body, and what it inlines, may use that level's
/// instructions. The work inside must be `#[inline(always)]` for this to have an effect.
#[inline(always)]
pub(crate) fn with_level<R>(level: Level, f: impl FnOnce() -> R) -> R {
    match level.usable() {
        // SAFETY: `usable` only returns levels that the machine has.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 | Level::Avx512Vnni => unsafe { run_avx512(f) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { run_avx2(f) },
        _ => f(),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
fn run_avx512<R>(f: impl FnOnce() -> R) -> R {
    f()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn run_avx2<R>(f: impl FnOnce() -> R) -> R {
    f()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_lowered_to_the_machine() {
        assert!(Level::available().any(|level| level == Level::Scalar));
        for level in Level::ALL {
            assert!(level.usable() <= Level::detect());
            assert_eq!(level.usable().usable(), level.usable());
            assert_eq!(with_level(level, || 7), 7);
            assert_eq!(level.name().parse::<Level>().unwrap(), level);
        }
        let error = "sse9".parse::<Level>().unwrap_err().to_string();
        assert!(error.contains("sse9") && error.contains("auto, scalar, neon"), "{error}");
    }
}
