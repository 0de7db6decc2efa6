// Limits, constants and the mathematical functions. half and bfloat are computed in float and rounded.
#pragma once
#include "vec.h"

namespace metal {
template <class T> struct numeric_limits;
#define MSL_FLOAT_LIMITS(t, largest, smallest, eps) \
    template <> struct numeric_limits<t> { \
        static constexpr bool has_infinity = true; \
        static constexpr t infinity() { return t(MSL_INF); } \
        static constexpr t quiet_NaN() { return t(MSL_NAN); } \
        static constexpr t max() { return t(largest); } \
        static constexpr t lowest() { return t(-largest); } \
        static constexpr t min() { return t(smallest); } \
        static constexpr t epsilon() { return t(eps); } \
    };
MSL_FLOAT_LIMITS(float, 3.402823466e38f, 1.175494351e-38f, 1.19209290e-7f)
MSL_FLOAT_LIMITS(half, 65504.0f, 6.103515625e-05f, 9.765625e-4f)
MSL_FLOAT_LIMITS(bfloat, 3.38953139e38f, 1.175494351e-38f, 7.8125e-3f)
#undef MSL_FLOAT_LIMITS
#define MSL_INT_LIMITS(t, low, high) \
    template <> struct numeric_limits<t> { \
        static constexpr bool has_infinity = false; \
        static constexpr t max() { return high; } \
        static constexpr t min() { return low; } \
        static constexpr t lowest() { return low; } \
    };
MSL_INT_LIMITS(bool, false, true)
MSL_INT_LIMITS(char, -128, 127)
MSL_INT_LIMITS(signed char, -128, 127)
MSL_INT_LIMITS(uchar, 0, 255)
MSL_INT_LIMITS(short, -32768, 32767)
MSL_INT_LIMITS(ushort, 0, 65535)
MSL_INT_LIMITS(int, -2147483647 - 1, 2147483647)
MSL_INT_LIMITS(uint, 0, 4294967295u)
MSL_INT_LIMITS(long, -9223372036854775807L - 1, 9223372036854775807L)
MSL_INT_LIMITS(ulong, 0, 18446744073709551615UL)
#undef MSL_INT_LIMITS

// One argument.
#define MSL_MATH_1(name, expression) \
    MSL_INLINE float name(float x) { return expression; } \
    MSL_INLINE half name(half x) { return half(metal::name(float(x))); } \
    MSL_INLINE bfloat name(bfloat x) { return bfloat(metal::name(float(x))); } \
    template <class I, class = enable_if_t<is_integral_v<I>>, class = void> MSL_INLINE float name(I x) { return metal::name(float(x)); } \
    MSL_IF_VECTOR MSL_INLINE plain_vector<A> name(const A& a) { \
        plain_vector<A> v(a); \
        for (int i = 0; i < vector_count<A>; i++) v.d[i] = metal::name(v.d[i]); \
        return v; \
    }
#define MSL_MATH_1_LIST(F) \
    F(exp, __builtin_expf(x)) F(exp2, __builtin_exp2f(x)) F(exp10, __builtin_powf(10.0f, x)) \
    F(log, __builtin_logf(x)) F(log2, __builtin_log2f(x)) F(log10, __builtin_log10f(x)) \
    F(sin, __builtin_sinf(x)) F(cos, __builtin_cosf(x)) F(tan, __builtin_tanf(x)) \
    F(asin, __builtin_asinf(x)) F(acos, __builtin_acosf(x)) F(atan, __builtin_atanf(x)) \
    F(sinh, __builtin_sinhf(x)) F(cosh, __builtin_coshf(x)) F(tanh, __builtin_tanhf(x)) \
    F(asinh, __builtin_asinhf(x)) F(acosh, __builtin_acoshf(x)) F(atanh, __builtin_atanhf(x)) \
    F(sqrt, __builtin_sqrtf(x)) F(rsqrt, 1.0f / __builtin_sqrtf(x)) F(fabs, __builtin_fabsf(x)) \
    F(floor, __builtin_floorf(x)) F(ceil, __builtin_ceilf(x)) F(trunc, __builtin_truncf(x)) \
    F(rint, __builtin_rintf(x)) F(round, __builtin_roundf(x)) F(fract, x - __builtin_floorf(x)) \
    F(cospi, __builtin_cosf(x * 3.14159265358979f)) F(sinpi, __builtin_sinf(x * 3.14159265358979f))
MSL_MATH_1_LIST(MSL_MATH_1)
// Two arguments.
#define MSL_MATH_2(name, expression) \
    MSL_INLINE float name(float x, float y) { return expression; } \
    MSL_INLINE half name(half x, half y) { return half(metal::name(float(x), float(y))); } \
    MSL_INLINE bfloat name(bfloat x, bfloat y) { return bfloat(metal::name(float(x), float(y))); } \
    MSL_IF_VECTORS MSL_INLINE typename O::V name(const A& a, const B& b) { \
        typename O::V x(a), y(b); \
        for (int i = 0; i < O::count; i++) x.d[i] = metal::name(x.d[i], y.d[i]); \
        return x; \
    }
#define MSL_MATH_2_LIST(F) \
    F(pow, __builtin_powf(x, y)) F(powr, __builtin_powf(x, y)) F(fmod, __builtin_fmodf(x, y)) \
    F(atan2, __builtin_atan2f(x, y)) F(copysign, __builtin_copysignf(x, y)) F(fdim, x > y ? x - y : 0.0f) \
    F(fmin, (x < y || y != y) ? x : y) F(fmax, (x > y || y != y) ? x : y) F(step, y < x ? 0.0f : 1.0f)
MSL_MATH_2_LIST(MSL_MATH_2)

MSL_INLINE float ldexp(float x, int e) { return __builtin_ldexpf(x, e); }
MSL_INLINE float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
MSL_INLINE half fma(half a, half b, half c) { return half(metal::fma(float(a), float(b), float(c))); }
MSL_INLINE bfloat fma(bfloat a, bfloat b, bfloat c) { return bfloat(metal::fma(float(a), float(b), float(c))); }
template <class T, int N> MSL_INLINE vec<T, N> fma(vec<T, N> a, vec<T, N> b, vec<T, N> c) {
    for (int i = 0; i < N; i++) a.d[i] = metal::fma(a.d[i], b.d[i], c.d[i]);
    return a;
}
template <class A, class B> MSL_INLINE auto divide(A a, B b) -> decltype(a / b) { return a / b; }
MSL_INLINE float sincos(float x, MSL_THREAD float& c) { c = metal::cos(x); return metal::sin(x); }

// Integers, and functions of both kinds of numbers. The float versions of min and max pass NaN over.
template <class A, class B> using common_scalar = conditional_t<is_same_v<A, B>, A, decltype(A() + B())>;
#define MSL_IF_SCALARS template <class A, class B, class = enable_if_t<is_arithmetic_v<A> && is_arithmetic_v<B>>>
#define MSL_MIN_MAX(name, op) \
    MSL_IF_SCALARS MSL_INLINE constexpr common_scalar<A, B> name(A a, B b) { \
        typedef common_scalar<A, B> R; \
        R x = R(a), y = R(b); \
        if constexpr (is_floating_point_v<R>) return (x op y || !(y == y)) ? x : y; \
        else return y op x ? y : x; \
    } \
    template <class A, class B, class O = vector_op<A, B>, class = enable_if_t<O::ok>, class = void> \
    MSL_INLINE typename O::V name(const A& a, const B& b) { \
        typename O::V x(a), y(b); \
        for (int i = 0; i < O::count; i++) x.d[i] = metal::name(x.d[i], y.d[i]); \
        return x; \
    } \
    template <class A> MSL_INLINE A name##3(A a, A b, A c) { return metal::name(metal::name(a, b), c); }
MSL_MIN_MAX(max, >) MSL_MIN_MAX(min, <)
template <class A, class B, class C> MSL_INLINE auto clamp(A x, B low, C high) -> decltype(metal::min(metal::max(x, low), high)) { return metal::min(metal::max(x, low), high); }
template <class A> MSL_INLINE A saturate(A x) { return A(metal::clamp(x, A(0.0f), A(1.0f))); }
template <class T, class = enable_if_t<is_arithmetic_v<T>>> MSL_INLINE T abs(T x) {
    if constexpr (is_floating_point_v<T>) return T(__builtin_fabsf(float(x)));
    else if constexpr (is_unsigned_v<T>) return x;
    else return x < T(0) ? T(-x) : x;
}
template <class T, int N> MSL_INLINE vec<T, N> abs(vec<T, N> a) { for (int i = 0; i < N; i++) a.d[i] = metal::abs(a.d[i]); return a; }
template <class T, class = enable_if_t<is_arithmetic_v<T>>> MSL_INLINE T sign(T x) { return x > T(0) ? T(1) : (x < T(0) ? T(-1) : T(0)); }
template <class T, class = enable_if_t<is_arithmetic_v<T>>> MSL_INLINE T select(T a, T b, bool c) { return c ? b : a; }
template <class T, int N> MSL_INLINE vec<T, N> select(vec<T, N> a, vec<T, N> b, vec<bool, N> c) { for (int i = 0; i < N; i++) if (c.d[i]) a.d[i] = b.d[i]; return a; }
template <class T, int N> MSL_INLINE vec<T, N> select(vec<T, N> a, vec<T, N> b, bool c) { return c ? b : a; }
template <class A, class B> MSL_INLINE A mix(A a, A b, B t) { return a + (b - a) * t; }
template <class A> MSL_INLINE A smoothstep(A low, A high, A x) { A t = metal::saturate((x - low) / (high - low)); return t * t * (A(3.0f) - A(2.0f) * t); }
MSL_IF_VECTORS MSL_INLINE typename O::T dot(const A& a, const B& b) {
    typename O::V x(a), y(b);
    typename O::T s = x.d[0] * y.d[0];
    for (int i = 1; i < O::count; i++) s = typename O::T(s + x.d[i] * y.d[i]);
    return s;
}
template <class T, int N> MSL_INLINE T length_squared(vec<T, N> a) { return metal::dot(a, a); }
template <class T, int N> MSL_INLINE T length(vec<T, N> a) { return metal::sqrt(metal::dot(a, a)); }
template <class T, int N> MSL_INLINE T distance(vec<T, N> a, vec<T, N> b) { return metal::length(a - b); }
template <class T, int N> MSL_INLINE vec<T, N> normalize(vec<T, N> a) { return a * metal::rsqrt(metal::dot(a, a)); }
template <int N> MSL_INLINE bool all(vec<bool, N> a) { bool r = true; for (int i = 0; i < N; i++) r = r && a.d[i]; return r; }
template <int N> MSL_INLINE bool any(vec<bool, N> a) { bool r = false; for (int i = 0; i < N; i++) r = r || a.d[i]; return r; }
MSL_INLINE bool all(bool a) { return a; }
MSL_INLINE bool any(bool a) { return a; }

#define MSL_CLASSIFY(name, expression) \
    MSL_INLINE bool name(float x) { return expression; } \
    MSL_INLINE bool name(half h) { float x = float(h); return expression; } \
    MSL_INLINE bool name(bfloat b) { float x = float(b); return expression; } \
    template <class T, int N> MSL_INLINE vec<bool, N> name(vec<T, N> v) { vec<bool, N> r; for (int i = 0; i < N; i++) r.d[i] = metal::name(v.d[i]); return r; }
MSL_CLASSIFY(isnan, x != x)
MSL_CLASSIFY(isinf, x == MSL_INF || x == -MSL_INF)
MSL_CLASSIFY(isfinite, x == x && x != MSL_INF && x != -MSL_INF)
MSL_CLASSIFY(signbit, (as_type<uint>(x) >> 31) != 0)

#define MSL_BITS(name, result) \
    template <class T, class = enable_if_t<is_integral_v<T>>> MSL_INLINE T name(T x) { \
        typedef make_unsigned_t<T> U; \
        constexpr uint bits = sizeof(T) * 8; \
        const U u = U(x); \
        return T(result); \
    } \
    template <class T, int N> MSL_INLINE vec<T, N> name(vec<T, N> v) { for (int i = 0; i < N; i++) v.d[i] = metal::name(v.d[i]); return v; }
MSL_BITS(popcount, __builtin_popcountl(ulong(u)))
MSL_BITS(clz, u ? uint(__builtin_clzl(ulong(u))) - (64 - bits) : bits)
MSL_BITS(ctz, u ? uint(__builtin_ctzl(ulong(u))) : bits)
MSL_BITS(reverse_bits, __builtin_bitreverse64(ulong(u)) >> (64 - bits))
template <class T> MSL_INLINE T rotate(T v, T i) {
    typedef make_unsigned_t<T> U;
    constexpr uint bits = sizeof(T) * 8;
    const uint s = uint(i) % bits;
    return s ? T(U(U(v) << s) | U(U(v) >> (bits - s))) : v;
}
MSL_INLINE uint mulhi(uint a, uint b) { return uint((ulong(a) * b) >> 32); }
MSL_INLINE int mulhi(int a, int b) { return int((long(a) * b) >> 32); }
template <class T> MSL_INLINE T extract_bits(T x, uint offset, uint count) {
    constexpr uint bits = sizeof(T) * 8;
    return count == 0 ? T(0) : T(T(make_unsigned_t<T>(x) << (bits - offset - count)) >> (bits - count));
}
template <class T> MSL_INLINE T insert_bits(T base, T insert, uint offset, uint count) {
    typedef make_unsigned_t<T> U;
    const U mask = count >= sizeof(T) * 8 ? U(~U(0)) : U(U((U(1) << count) - 1) << offset);
    return T((U(base) & U(~mask)) | (U(U(insert) << offset) & mask));
}
template <class T> MSL_INLINE T absdiff(T a, T b) { return a > b ? T(a - b) : T(b - a); }
template <class T> MSL_INLINE T addsat(T a, T b) {
    T r;
    if (!__builtin_add_overflow(a, b, &r)) return r;
    return is_unsigned_v<T> || a > T(0) ? numeric_limits<T>::max() : numeric_limits<T>::min();
}
template <class T> MSL_INLINE T subsat(T a, T b) {
    T r;
    if (!__builtin_sub_overflow(a, b, &r)) return r;
    return is_unsigned_v<T> || a < T(0) ? numeric_limits<T>::min() : numeric_limits<T>::max();
}

namespace precise {
#define MSL_USE(name, expression) using metal::name;
MSL_MATH_1_LIST(MSL_USE) MSL_MATH_2_LIST(MSL_USE)
using metal::abs; using metal::clamp; using metal::divide; using metal::fma; using metal::ldexp;
using metal::max; using metal::min; using metal::sincos;
}  // namespace precise
namespace fast {
MSL_MATH_1_LIST(MSL_USE) MSL_MATH_2_LIST(MSL_USE)
#undef MSL_USE
using metal::abs; using metal::clamp; using metal::divide; using metal::fma; using metal::ldexp;
using metal::max; using metal::min; using metal::sincos;
}  // namespace fast
}  // namespace metal

#define M_E_F 2.71828182845904523536f
#define M_LOG2E_F 1.44269504088896340736f
#define M_LOG10E_F 0.43429448190325182765f
#define M_LN2_F 0.69314718055994530942f
#define M_LN10_F 2.30258509299404568402f
#define M_PI_F 3.14159265358979323846f
#define M_PI_2_F 1.57079632679489661923f
#define M_PI_4_F 0.78539816339744830962f
#define M_1_PI_F 0.31830988618379067154f
#define M_2_PI_F 0.63661977236758134308f
#define M_2_SQRTPI_F 1.12837916709551257390f
#define M_SQRT2_F 1.41421356237309504880f
#define M_SQRT1_2_F 0.70710678118654752440f
#define M_PI_H half(3.14159265f)
#define INFINITY MSL_INF
#define NAN MSL_NAN
#define HUGE_VALF MSL_INF
#define MAXFLOAT 3.402823466e38f
#define MAXHALF half(65504.0f)
#define FLT_MAX 3.402823466e38f
#define FLT_MIN 1.175494351e-38f
#define FLT_EPSILON 1.19209290e-7f
#define HALF_MAX half(65504.0f)
#define HALF_MIN half(6.103515625e-05f)
#define CHAR_BIT 8
#define INT_MAX 2147483647
#define INT_MIN (-2147483647 - 1)
#define UINT_MAX 4294967295u
#define UCHAR_MAX 255
#define CHAR_MAX 127
#define SHRT_MAX 32767
#define USHRT_MAX 65535
