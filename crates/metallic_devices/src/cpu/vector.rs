//! A vector of f32 lanes: what a matrix micro-kernel needs, once per instruction set.
//!
//! A generic kernel over [`F32Lanes`] is instantiated inside a function that enables the
//! instructions; every method is inlined there. Not: a general SIMD library.

/// Some number of f32 lanes in one register.
///
/// # Safety
/// Methods may only run where the implementing type's instructions exist.
pub(crate) unsafe trait F32Lanes: Copy {
    /// Lanes in one vector.
    const LANES: usize;

    /// All lanes `value`.
    unsafe fn splat(value: f32) -> Self;
    /// `LANES` floats from any alignment.
    unsafe fn load(from: *const f32) -> Self;
    /// The first `count < LANES` floats, then zeros. Reads no further than `count`.
    unsafe fn load_first(from: *const f32, count: usize) -> Self;
    /// Writes `LANES` floats.
    unsafe fn store(self, to: *mut f32);
    /// Writes the first `count < LANES` floats.
    unsafe fn store_first(self, to: *mut f32, count: usize);
    /// `self * b + c`.
    unsafe fn fma(self, b: Self, c: Self) -> Self;
    /// The sum over the lanes of each of four vectors.
    unsafe fn sum4(vectors: [Self; 4]) -> [f32; 4];

    /// Lane i is the sum over the lanes of vector i, of as many vectors as a vector has lanes.
    #[inline(always)]
    unsafe fn sum_each(from: *const f32) -> Self {
        let mut sums = [0.0; 16];
        // SAFETY: the caller gives LANES vectors; at most 16 lanes are written.
        unsafe {
            for (i, sums) in sums.chunks_exact_mut(4).enumerate().take(Self::LANES / 4) {
                let vector = |j: usize| Self::load(from.add((4 * i + j) * Self::LANES));
                sums.copy_from_slice(&Self::sum4([vector(0), vector(1), vector(2), vector(3)]));
            }
            Self::load(sums.as_ptr())
        }
    }
}

/// Four plain floats.
#[derive(Clone, Copy)]
pub(crate) struct Plain([f32; 4]);

impl Plain {
    /// `f` of each pair of lanes.
    #[inline(always)]
    pub(crate) fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

// SAFETY: plain Rust.
unsafe impl F32Lanes for Plain {
    const LANES: usize = 4;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self([value; 4])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller gives four readable floats.
        Self(unsafe { from.cast::<[f32; 4]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        let mut lanes = [0.0; 4];
        for (i, lane) in lanes.iter_mut().enumerate().take(count) {
            // SAFETY: the caller gives `count` readable floats.
            *lane = unsafe { *from.add(i) };
        }
        Self(lanes)
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller gives four writable floats.
        unsafe { to.cast::<[f32; 4]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        for (i, lane) in self.0.into_iter().enumerate().take(count) {
            // SAFETY: the caller gives `count` writable floats.
            unsafe { *to.add(i) = lane };
        }
    }
    #[inline(always)]
    unsafe fn fma(self, b: Self, c: Self) -> Self {
        // Without the instruction, a fused product would be a library call.
        Self(std::array::from_fn(|i| self.0[i] * b.0[i] + c.0[i]))
    }
    #[inline(always)]
    unsafe fn sum4(vectors: [Self; 4]) -> [f32; 4] {
        vectors.map(|v| (v.0[0] + v.0[2]) + (v.0[1] + v.0[3]))
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::sums_of_16;

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::F32Lanes;
    use std::arch::x86_64::*;

    // SAFETY: the methods need AVX-512 F, BW, DQ and VL, as the trait says.
    unsafe impl F32Lanes for __m512 {
        const LANES: usize = 16;

        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            // SAFETY: the caller has AVX-512.
            unsafe { _mm512_set1_ps(value) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: the caller has AVX-512 and gives 16 readable floats.
            unsafe { _mm512_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn load_first(from: *const f32, count: usize) -> Self {
            // SAFETY: as above; the mask leaves the first `count` floats.
            unsafe { _mm512_maskz_loadu_ps((1u16 << count) - 1, from) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: the caller has AVX-512 and gives 16 writable floats.
            unsafe { _mm512_storeu_ps(to, self) }
        }
        #[inline(always)]
        unsafe fn store_first(self, to: *mut f32, count: usize) {
            // SAFETY: as above; the mask leaves the first `count` floats.
            unsafe { _mm512_mask_storeu_ps(to, (1u16 << count) - 1, self) }
        }
        #[inline(always)]
        unsafe fn fma(self, b: Self, c: Self) -> Self {
            // SAFETY: the caller has AVX-512.
            unsafe { _mm512_fmadd_ps(self, b, c) }
        }
        #[inline(always)]
        unsafe fn sum4([a, b, c, d]: [Self; 4]) -> [f32; 4] {
            // SAFETY: the caller has AVX-512; the store writes the array.
            unsafe {
                let ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
                let cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
                let low = _mm512_shuffle_ps::<0b01_00_01_00>(ab, cd);
                let high = _mm512_shuffle_ps::<0b11_10_11_10>(ab, cd);
                let sums = _mm512_add_ps(low, high);
                let half =
                    _mm256_add_ps(_mm512_castps512_ps256(sums), _mm512_extractf32x8_ps::<1>(sums));
                let quarter =
                    _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps::<1>(half));
                let mut out = [0.0; 4];
                _mm_storeu_ps(out.as_mut_ptr(), quarter);
                out
            }
        }
        #[inline(always)]
        unsafe fn sum_each(from: *const f32) -> Self {
            // SAFETY: the caller has AVX-512 and gives 16 vectors of 16 floats.
            unsafe {
                let mut vectors = [Self::splat(0.0); 16];
                for (i, vector) in vectors.iter_mut().enumerate() {
                    *vector = Self::load(from.add(16 * i));
                }
                sums_of_16(vectors)
            }
        }
    }

    /// Lane i is the sum over the lanes of vector i.
    ///
    /// # Safety
    /// The machine has AVX-512.
    #[inline(always)]
    pub(crate) unsafe fn sums_of_16(v: [__m512; 16]) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe {
            let low =
                quarters(four_sums([v[0], v[1], v[2], v[3]]), four_sums([v[4], v[5], v[6], v[7]]));
            let high = quarters(
                four_sums([v[8], v[9], v[10], v[11]]),
                four_sums([v[12], v[13], v[14], v[15]]),
            );
            quarters(low, high)
        }
    }

    // Functions and not closures: a closure that is not inlined has no vector instructions.

    /// Of four vectors: in each quarter, the sums over that quarter's lanes.
    #[inline(always)]
    unsafe fn four_sums([a, b, c, d]: [__m512; 4]) -> __m512 {
        // SAFETY: the caller has AVX-512.
        unsafe {
            let ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
            let cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
            let low = _mm512_shuffle_ps::<0b01_00_01_00>(ab, cd);
            let high = _mm512_shuffle_ps::<0b11_10_11_10>(ab, cd);
            _mm512_add_ps(low, high)
        }
    }

    /// Sums of neighbouring quarters: of `a` in the lower half, of `b` in the upper.
    #[inline(always)]
    unsafe fn quarters(a: __m512, b: __m512) -> __m512 {
        // SAFETY: the caller has AVX-512.
        unsafe {
            let even = _mm512_shuffle_f32x4::<0b10_00_10_00>(a, b);
            let odd = _mm512_shuffle_f32x4::<0b11_01_11_01>(a, b);
            _mm512_add_ps(even, odd)
        }
    }

    #[inline(always)]
    unsafe fn first_mask(count: usize) -> __m256i {
        // SAFETY: the caller has AVX2.
        unsafe {
            let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            _mm256_cmpgt_epi32(_mm256_set1_epi32(count as i32), lanes)
        }
    }

    // SAFETY: the methods need AVX2 and FMA, as the trait says.
    unsafe impl F32Lanes for __m256 {
        const LANES: usize = 8;

        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            // SAFETY: the caller has AVX2.
            unsafe { _mm256_set1_ps(value) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: the caller has AVX2 and gives 8 readable floats.
            unsafe { _mm256_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn load_first(from: *const f32, count: usize) -> Self {
            // SAFETY: as above; the mask leaves the first `count` floats.
            unsafe { _mm256_maskload_ps(from, first_mask(count)) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: the caller has AVX2 and gives 8 writable floats.
            unsafe { _mm256_storeu_ps(to, self) }
        }
        #[inline(always)]
        unsafe fn store_first(self, to: *mut f32, count: usize) {
            // SAFETY: as above; the mask leaves the first `count` floats.
            unsafe { _mm256_maskstore_ps(to, first_mask(count), self) }
        }
        #[inline(always)]
        unsafe fn fma(self, b: Self, c: Self) -> Self {
            // SAFETY: the caller has FMA.
            unsafe { _mm256_fmadd_ps(self, b, c) }
        }
        #[inline(always)]
        unsafe fn sum4([a, b, c, d]: [Self; 4]) -> [f32; 4] {
            // SAFETY: the caller has AVX2; the store writes the array.
            unsafe {
                let sums = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
                let quarter =
                    _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps::<1>(sums));
                let mut out = [0.0; 4];
                _mm_storeu_ps(out.as_mut_ptr(), quarter);
                out
            }
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod aarch64 {
    use super::F32Lanes;
    use std::arch::aarch64::*;

    // SAFETY: every aarch64 machine has NEON.
    unsafe impl F32Lanes for float32x4_t {
        const LANES: usize = 4;

        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            // SAFETY: NEON is always there.
            unsafe { vdupq_n_f32(value) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: the caller gives four readable floats.
            unsafe { vld1q_f32(from) }
        }
        #[inline(always)]
        unsafe fn load_first(from: *const f32, count: usize) -> Self {
            let mut lanes = [0.0f32; 4];
            for (i, lane) in lanes.iter_mut().enumerate().take(count) {
                // SAFETY: the caller gives `count` readable floats.
                *lane = unsafe { *from.add(i) };
            }
            // SAFETY: the array has four floats.
            unsafe { vld1q_f32(lanes.as_ptr()) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: the caller gives four writable floats.
            unsafe { vst1q_f32(to, self) }
        }
        #[inline(always)]
        unsafe fn store_first(self, to: *mut f32, count: usize) {
            let mut lanes = [0.0f32; 4];
            // SAFETY: the array has four floats.
            unsafe { vst1q_f32(lanes.as_mut_ptr(), self) };
            for (i, lane) in lanes.into_iter().enumerate().take(count) {
                // SAFETY: the caller gives `count` writable floats.
                unsafe { *to.add(i) = lane };
            }
        }
        #[inline(always)]
        unsafe fn fma(self, b: Self, c: Self) -> Self {
            // SAFETY: NEON is always there.
            unsafe { vfmaq_f32(c, self, b) }
        }
        #[inline(always)]
        unsafe fn sum4(vectors: [Self; 4]) -> [f32; 4] {
            // SAFETY: NEON is always there.
            vectors.map(|v| unsafe { vaddvq_f32(v) })
        }
    }
}
