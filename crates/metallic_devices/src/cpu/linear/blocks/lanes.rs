//! What the kernels of this folder need of an instruction set: 32 bytes, eight integers, eight floats.
//!
//! Lane `l` of the eight stands for bytes 4l … 4l + 3. Not: a general SIMD library.

/// An instruction set with vectors of 32 bytes, in one register or two.
///
/// # Safety
/// Functions may only run where the instructions exist, and pointers must hold what they are read for.
pub(super) unsafe trait Lanes {
    /// 32 bytes.
    type Bytes: Copy;
    /// Eight 32-bit integers.
    type Ints: Copy;
    /// Eight f32.
    type Floats: Copy;

    /// 32 bytes from any alignment.
    unsafe fn load(from: *const u8) -> Self::Bytes;
    /// The low halves of 16 bytes, then their high halves.
    unsafe fn nibbles(from: *const u8) -> Self::Bytes;
    /// Every byte shifted right by `SHIFT`, and `mask` of that.
    unsafe fn field<const SHIFT: i32>(bytes: Self::Bytes, mask: u8) -> Self::Bytes;
    /// Each bit of both.
    unsafe fn or(a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    /// Bytes below 16, times 16.
    unsafe fn times_16(bytes: Self::Bytes) -> Self::Bytes;
    /// `value` in each byte where a bit of `bit` is set, else 0.
    unsafe fn where_set(bytes: Self::Bytes, bit: u8, value: u8) -> Self::Bytes;
    /// `value` in byte `i` where bit `i` of the 32 bits at `from` is set, else 0.
    unsafe fn where_bit(from: *const u8, value: u8) -> Self::Bytes;
    /// What each byte, which is below 16, stands for in a table of 16 signed bytes.
    unsafe fn look_up(table: &[i8; 16], bytes: Self::Bytes) -> Self::Bytes;
    /// Writes 32 bytes.
    unsafe fn store(bytes: Self::Bytes, to: *mut u8);

    /// Sums of four products each. `x`: −127 to 127; `w`: signed where `SIGNED`, else 0 to 63.
    unsafe fn dot<const SIGNED: bool>(w: Self::Bytes, x: Self::Bytes) -> Self::Ints;
    /// For M rows of x and P panels: sums over `quads` quads of the products of each panel's 32 bytes
    /// with 4 codes of x. Vectors of a panel lie one after another, panels `w_panel` bytes apart, and
    /// rows of x `x_row` words. `MAX`: the largest magnitude of a byte of w.
    unsafe fn quads<const SIGNED: bool, const MAX: i32, const M: usize, const P: usize>(
        w: (*const u8, usize),
        x: (*const i32, usize),
        quads: usize,
    ) -> [[Self::Ints; P]; M];

    /// Eight integers from any alignment.
    unsafe fn load_ints(from: *const i32) -> Self::Ints;
    /// `a + b`.
    unsafe fn add_ints(a: Self::Ints, b: Self::Ints) -> Self::Ints;
    /// All lanes `value`.
    unsafe fn splat_int(value: i32) -> Self::Ints;
    /// As floats.
    unsafe fn to_floats(ints: Self::Ints) -> Self::Floats;

    /// Eight floats from any alignment.
    unsafe fn load_floats(from: *const f32) -> Self::Floats;
    /// Writes eight floats.
    unsafe fn store_floats(floats: Self::Floats, to: *mut f32);
    /// All lanes `value`.
    unsafe fn splat(value: f32) -> Self::Floats;
    /// The f16 at `from` in all lanes.
    unsafe fn splat_half(from: *const u8) -> Self::Floats;
    /// The first float in the first four lanes, the second in the others.
    unsafe fn pair(from: *const f32) -> Self::Floats;
    /// Eight unsigned bytes.
    unsafe fn bytes_to_floats(from: u64) -> Self::Floats;
    /// Eight signed bytes.
    unsafe fn signed_to_floats(from: u64) -> Self::Floats;
    /// `a * b`.
    unsafe fn mul(a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a * b + c`.
    unsafe fn fma(a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    /// The sum over the lanes.
    unsafe fn sum(floats: Self::Floats) -> f32;
}
