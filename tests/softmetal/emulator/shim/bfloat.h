// bfloat: 16 bits, the upper half of a float, rounded to nearest even. A class of its own, because
// clang's __bf16 does not convert from _Float16.
#pragma once
#include "base.h"

namespace metal {
struct bfloat;
template <class T> constexpr bool to_bfloat_v = is_integral_v<T> || is_same_v<T, float> || is_same_v<T, half>;

struct bfloat {
    ushort bits;

    bfloat() = default;
    template <class S, class = enable_if_t<to_bfloat_v<S>>> MSL_INLINE constexpr bfloat(S value) : bits(encode(float(value))) {}
    MSL_INLINE constexpr operator float() const { return __builtin_bit_cast(float, uint(bits) << 16); }

    static constexpr ushort encode(float value) {
        uint word = __builtin_bit_cast(uint, value);
        bool is_nan = (word & 0x7fffffffu) > 0x7f800000u;
        return is_nan ? ushort((word >> 16) | 64u) : ushort((word + 0x7fffu + ((word >> 16) & 1u)) >> 16);
    }

#define MSL_EACH(op) \
    template <class U> MSL_INLINE bfloat& operator op##=(U other) { return *this = bfloat(float(float(*this) op float(other))); }
    MSL_EACH(+) MSL_EACH(-) MSL_EACH(*) MSL_EACH(/)
#undef MSL_EACH
};
template <> struct is_float_type<bfloat> : true_type {};

MSL_INLINE constexpr bfloat operator-(bfloat a) { return bfloat(-float(a)); }
// bfloat with bfloat or an integer stays bfloat; with float it becomes float.
#define MSL_EACH(op) \
    MSL_INLINE constexpr bfloat operator op(bfloat a, bfloat b) { return bfloat(float(a) op float(b)); } \
    MSL_INLINE constexpr float operator op(bfloat a, float b) { return float(a) op b; } \
    MSL_INLINE constexpr float operator op(float a, bfloat b) { return a op float(b); } \
    template <class I, class = enable_if_t<is_integral_v<I>>> MSL_INLINE constexpr bfloat operator op(bfloat a, I b) { return bfloat(float(a) op float(b)); } \
    template <class I, class = enable_if_t<is_integral_v<I>>> MSL_INLINE constexpr bfloat operator op(I a, bfloat b) { return bfloat(float(a) op float(b)); }
MSL_EACH(+) MSL_EACH(-) MSL_EACH(*) MSL_EACH(/)
#undef MSL_EACH
#define MSL_EACH(op) \
    MSL_INLINE constexpr bool operator op(bfloat a, bfloat b) { return float(a) op float(b); } \
    template <class S, class = enable_if_t<is_integral_v<S> || is_same_v<S, float>>> MSL_INLINE constexpr bool operator op(bfloat a, S b) { return float(a) op float(b); } \
    template <class S, class = enable_if_t<is_integral_v<S> || is_same_v<S, float>>> MSL_INLINE constexpr bool operator op(S a, bfloat b) { return float(a) op float(b); }
MSL_EACH(<) MSL_EACH(>) MSL_EACH(<=) MSL_EACH(>=) MSL_EACH(==) MSL_EACH(!=)
#undef MSL_EACH
}  // namespace metal
using metal::bfloat;
