//! Which vector instructions the machine has, and how a kernel is compiled for each of them.
//!
//! Not: the environment variable that lowers the level (the configuration reads that and passes
//! the level down).

use std::sync::OnceLock;

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
    /// x86-64 AVX2 with FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// [`Level::Avx512`] with 8-bit dot products (VNNI) and byte permutes (VBMI).
    Avx512Vnni,
}

impl Level {
    /// Every level, least first.
    pub const ALL: [Level; 5] =
        [Level::Scalar, Level::Neon, Level::Avx2, Level::Avx512, Level::Avx512Vnni];

    /// The best level of this machine, looked up once.
    pub fn detect() -> Level {
        static DETECTED: OnceLock<Level> = OnceLock::new();
        *DETECTED.get_or_init(probe)
    }

    /// This level where the machine has it, otherwise the best lower one it has.
    #[inline]
    pub fn usable(self) -> Level {
        let best = Level::detect().min(self);
        if best == Level::Neon && !cfg!(target_arch = "aarch64") { Level::Scalar } else { best }
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
            Level::Avx2 => "avx2",
            Level::Avx512 => "avx512",
            Level::Avx512Vnni => "avx512vnni",
        }
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
    Level::Neon
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn probe() -> Level {
    Level::Scalar
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
        }
    }
}
