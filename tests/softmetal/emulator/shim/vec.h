// Vectors of 2, 3 and 4 elements with swizzles, packed vectors, as_type, array.
// A vector converts to another element type explicitly only, as in MSL; a scalar spreads implicitly.
#pragma once
#include "bfloat.h"

namespace metal {
template <class T, int N> struct vec;

// A view of some elements of a vector of M elements, such as `v.zx`.
template <class T, int M, int... I> struct swizzle {
    T d[M];
    static constexpr int count = sizeof...(I);
    MSL_INLINE operator vec<T, count>() const { return vec<T, count>(d[I]...); }
    MSL_INLINE swizzle& operator=(const vec<T, count>& v) { int j = 0; ((d[I] = v.d[j++]), ...); return *this; }
    MSL_INLINE swizzle& operator=(const swizzle& other) { vec<T, count> v = other; return *this = v; }
    MSL_INLINE swizzle& operator=(T s) { ((d[I] = s), ...); return *this; }
#define MSL_EACH(op) \
    template <class U> MSL_INLINE swizzle& operator op##=(const U& u) { return *this = vec<T, count>(*this) op u; }
    MSL_EACH(+) MSL_EACH(-) MSL_EACH(*) MSL_EACH(/)
#undef MSL_EACH
    MSL_INLINE T operator[](int i) const { const int at[] = {I...}; return d[at[i]]; }
};

#define MSL_S2(M, a, i, b, j) swizzle<T, M, i, j> a##b;
#define MSL_S3(M, a, i, b, j, c, k) swizzle<T, M, i, j, k> a##b##c;
#define MSL_S4(M, a, i, b, j, c, k, d, l) swizzle<T, M, i, j, k, l> a##b##c##d;
#define MSL_2A(F, M, ...) F(M, __VA_ARGS__, x, 0) F(M, __VA_ARGS__, y, 1)
#define MSL_2B(F, M, ...) MSL_2A(F, M, __VA_ARGS__, x, 0) MSL_2A(F, M, __VA_ARGS__, y, 1)
#define MSL_2C(F, M, ...) MSL_2B(F, M, __VA_ARGS__, x, 0) MSL_2B(F, M, __VA_ARGS__, y, 1)
#define MSL_3A(F, M, ...) MSL_2A(F, M, __VA_ARGS__) F(M, __VA_ARGS__, z, 2)
#define MSL_3B(F, M, ...) MSL_3A(F, M, __VA_ARGS__, x, 0) MSL_3A(F, M, __VA_ARGS__, y, 1) MSL_3A(F, M, __VA_ARGS__, z, 2)
#define MSL_4A(F, M, ...) MSL_3A(F, M, __VA_ARGS__) F(M, __VA_ARGS__, w, 3)
#define MSL_4B(F, M, ...) MSL_4A(F, M, __VA_ARGS__, x, 0) MSL_4A(F, M, __VA_ARGS__, y, 1) MSL_4A(F, M, __VA_ARGS__, z, 2) MSL_4A(F, M, __VA_ARGS__, w, 3)
#define MSL_4C(F, M, ...) MSL_4B(F, M, __VA_ARGS__, x, 0) MSL_4B(F, M, __VA_ARGS__, y, 1) MSL_4B(F, M, __VA_ARGS__, z, 2) MSL_4B(F, M, __VA_ARGS__, w, 3)
// All of two and three letters; of four letters, for vectors of four, all 256.
#define MSL_SWIZZLES_2 MSL_2A(MSL_S2, 2, x, 0) MSL_2A(MSL_S2, 2, y, 1) swizzle<T, 2, 0, 1> rg;
#define MSL_SWIZZLES_3 \
    MSL_3A(MSL_S2, 3, x, 0) MSL_3A(MSL_S2, 3, y, 1) MSL_3A(MSL_S2, 3, z, 2) \
    MSL_3B(MSL_S3, 3, x, 0) MSL_3B(MSL_S3, 3, y, 1) MSL_3B(MSL_S3, 3, z, 2) \
    swizzle<T, 3, 0, 1> rg; swizzle<T, 3, 0, 1, 2> rgb;
#define MSL_SWIZZLES_4 \
    MSL_4A(MSL_S2, 4, x, 0) MSL_4A(MSL_S2, 4, y, 1) MSL_4A(MSL_S2, 4, z, 2) MSL_4A(MSL_S2, 4, w, 3) \
    MSL_4B(MSL_S3, 4, x, 0) MSL_4B(MSL_S3, 4, y, 1) MSL_4B(MSL_S3, 4, z, 2) MSL_4B(MSL_S3, 4, w, 3) \
    MSL_4C(MSL_S4, 4, x, 0) MSL_4C(MSL_S4, 4, y, 1) MSL_4C(MSL_S4, 4, z, 2) MSL_4C(MSL_S4, 4, w, 3) \
    swizzle<T, 4, 0, 1> rg; swizzle<T, 4, 2, 3> ba; swizzle<T, 4, 0, 1, 2> rgb; swizzle<T, 4, 0, 1, 2, 3> rgba;

// count = 0: no vector.
template <class T> struct vector_info { static constexpr int count = 0; };
template <class T, int N> struct vector_info<vec<T, N>> { static constexpr int count = N; typedef T element; };
template <class T, int M, int... I> struct vector_info<swizzle<T, M, I...>> { static constexpr int count = sizeof...(I); typedef T element; };
#if MSL_CHECK
#define MSL_SPACE(space) \
    template <class T> struct vector_info<space T> : vector_info<T> {}; \
    template <class T> struct vector_info<space const T> : vector_info<T> {};
MSL_EACH_SPACE
#undef MSL_SPACE
#endif
template <class T> constexpr int vector_count = vector_info<decay_t<T>>::count;
template <class T> constexpr int width = vector_count<T> ? vector_count<T> : 1;

#define MSL_VECTOR_MEMBERS(N) \
    vec() = default; \
    MSL_INLINE constexpr vec(const vec& o) : d{} { for (int i = 0; i < N; i++) d[i] = o.d[i]; } \
    MSL_INLINE vec& operator=(const vec& o) { for (int i = 0; i < N; i++) d[i] = o.d[i]; return *this; } \
    template <class S, class = enable_if_t<is_arithmetic_v<S>>> \
    MSL_INLINE constexpr vec(S s) : d{} { for (int i = 0; i < N; i++) d[i] = T(s); } \
    template <class U> MSL_INLINE constexpr explicit vec(const vec<U, N>& o) : d{} { for (int i = 0; i < N; i++) d[i] = T(o.d[i]); } \
    template <class U, int M, int... I, class = enable_if_t<sizeof...(I) == N && is_same_v<U, T>>> \
    MSL_INLINE vec(const swizzle<U, M, I...>& o) { vec<U, N> t = o.operator vec<U, N>(); for (int i = 0; i < N; i++) d[i] = T(t.d[i]); } \
    template <class U, int M, int... I, class = enable_if_t<sizeof...(I) == N && !is_same_v<U, T>>, class = void> \
    MSL_INLINE explicit vec(const swizzle<U, M, I...>& o) { vec<U, N> t = o.operator vec<U, N>(); for (int i = 0; i < N; i++) d[i] = T(t.d[i]); } \
    template <class A, class B, class... R, class = enable_if_t<(width<A> + width<B> + (width<R> + ... + 0)) == N>> \
    MSL_INLINE constexpr vec(const A& a, const B& b, const R&... r) : d{} { int j = 0; put(j, a); put(j, b); (put(j, r), ...); } \
    MSL_INLINE T& operator[](int i) { return d[i]; } \
    MSL_INLINE constexpr const T& operator[](int i) const { return d[i]; } \
    private: \
    template <class A> MSL_INLINE constexpr void put(int& j, const A& a) { \
        if constexpr (vector_count<A> > 0) { \
            vec<typename vector_info<decay_t<A>>::element, vector_count<A>> t(a); \
            for (int i = 0; i < vector_count<A>; i++) d[j++] = T(t.d[i]); \
        } else d[j++] = T(a); \
    } \
    public:
template <class T> struct alignas(2 * sizeof(T)) vec<T, 2> {
    union { T d[2]; struct { T x, y; }; struct { T r, g; }; MSL_SWIZZLES_2 };
    MSL_VECTOR_MEMBERS(2)
};
template <class T> struct alignas(4 * sizeof(T)) vec<T, 3> {
    union { T d[3]; struct { T x, y, z; }; struct { T r, g, b; }; MSL_SWIZZLES_3 };
    MSL_VECTOR_MEMBERS(3)
};
template <class T> struct alignas(4 * sizeof(T)) vec<T, 4> {
    union { T d[4]; struct { T x, y, z, w; }; struct { T r, g, b, a; }; MSL_SWIZZLES_4 };
    MSL_VECTOR_MEMBERS(4)
};

// The vector type of an operation on two vectors of one type, or a vector and a scalar.
template <class X, class T, int N, int = vector_count<X>> struct fits_vector : bool_constant<is_same_v<typename vector_info<decay_t<X>>::element, T> && vector_count<X> == N> {};
template <class X, class T, int N> struct fits_vector<X, T, N, 0> : bool_constant<is_arithmetic_v<decay_t<X>>> {};
template <class A, class B, bool = ((vector_count<A> > 0) || (vector_count<B> > 0))> struct vector_op { static constexpr bool ok = false; };
template <class A, class B> struct vector_op<A, B, true> {
    static constexpr int count = vector_count<A> ? vector_count<A> : vector_count<B>;
    typedef typename conditional_t<(vector_count<A> > 0), vector_info<decay_t<A>>, vector_info<decay_t<B>>>::element T;
    typedef vec<T, count> V;
    static constexpr bool ok = fits_vector<A, T, count>::value && fits_vector<B, T, count>::value;
};
#define MSL_IF_VECTORS template <class A, class B, class O = vector_op<A, B>, class = enable_if_t<O::ok>>
#define MSL_EACH(op) \
    MSL_IF_VECTORS MSL_INLINE typename O::V operator op(const A& a, const B& b) { \
        typename O::V x(a), y(b), r; \
        for (int i = 0; i < O::count; i++) r.d[i] = typename O::T(x.d[i] op y.d[i]); \
        return r; \
    }
MSL_EACH(+) MSL_EACH(-) MSL_EACH(*) MSL_EACH(/) MSL_EACH(%) MSL_EACH(&) MSL_EACH(|) MSL_EACH(^) MSL_EACH(<<) MSL_EACH(>>)
#undef MSL_EACH
#define MSL_EACH(op) \
    MSL_IF_VECTORS MSL_INLINE vec<bool, O::count> operator op(const A& a, const B& b) { \
        typename O::V x(a), y(b); \
        vec<bool, O::count> r; \
        for (int i = 0; i < O::count; i++) r.d[i] = x.d[i] op y.d[i]; \
        return r; \
    }
MSL_EACH(<) MSL_EACH(>) MSL_EACH(<=) MSL_EACH(>=) MSL_EACH(==) MSL_EACH(!=) MSL_EACH(&&) MSL_EACH(||)
#undef MSL_EACH
#define MSL_EACH(op) \
    template <class T, int N, class B> MSL_INLINE vec<T, N>& operator op##=(vec<T, N>& a, const B& b) { a = a op b; return a; }
MSL_EACH(+) MSL_EACH(-) MSL_EACH(*) MSL_EACH(/) MSL_EACH(%) MSL_EACH(&) MSL_EACH(|) MSL_EACH(^) MSL_EACH(<<) MSL_EACH(>>)
#undef MSL_EACH
// A function of one vector (or swizzle) gives the plain vector type.
#define MSL_IF_VECTOR template <class A, class = enable_if_t<(vector_count<A> > 0)>>
template <class A> using plain_vector = vec<typename vector_info<decay_t<A>>::element, vector_count<A>>;
MSL_IF_VECTOR MSL_INLINE plain_vector<A> operator-(const A& a) {
    plain_vector<A> r(a);
    for (int i = 0; i < vector_count<A>; i++) r.d[i] = -r.d[i];
    return r;
}
template <class T, int N> MSL_INLINE vec<T, N> operator~(vec<T, N> a) { for (int i = 0; i < N; i++) a.d[i] = T(~a.d[i]); return a; }
template <int N> MSL_INLINE vec<bool, N> operator!(vec<bool, N> a) { for (int i = 0; i < N; i++) a.d[i] = !a.d[i]; return a; }

// Aligned like one element.
template <class T, int N> struct packed_members;
template <class T> struct packed_members<T, 2> { union { T d[2]; struct { T x, y; }; }; };
template <class T> struct packed_members<T, 3> { union { T d[3]; struct { T x, y, z; }; }; };
template <class T> struct packed_members<T, 4> { union { T d[4]; struct { T x, y, z, w; }; }; };
template <class T, int N> struct packed_vec : packed_members<T, N> {
    using packed_members<T, N>::d;
    packed_vec() = default;
    MSL_INLINE packed_vec(vec<T, N> v) { for (int i = 0; i < N; i++) d[i] = v.d[i]; }
    template <class... S, class = enable_if_t<sizeof...(S) == N>> MSL_INLINE packed_vec(S... s) { int i = 0; ((d[i++] = T(s)), ...); }
    MSL_INLINE operator vec<T, N>() const { vec<T, N> r; for (int i = 0; i < N; i++) r.d[i] = d[i]; return r; }
    MSL_INLINE T& operator[](int i) { return d[i]; }
    MSL_INLINE const T& operator[](int i) const { return d[i]; }
};

template <class T, size_t N> struct array {
    T elements[N];
    MSL_INLINE constexpr T& operator[](size_t i) { return elements[i]; }
    MSL_INLINE constexpr const T& operator[](size_t i) const { return elements[i]; }
    MSL_INLINE constexpr size_t size() const { return N; }
};

template <class T, class U> MSL_INLINE T as_type(const U& u) {
    static_assert(sizeof(T) == sizeof(U), "as_type: the types differ in size");
    T t;
    __builtin_memcpy((MSL_THREAD void*)&t, &u, sizeof(T));
    return t;
}
}  // namespace metal

#define MSL_EACH(t) \
    typedef metal::vec<t, 2> t##2; typedef metal::vec<t, 3> t##3; typedef metal::vec<t, 4> t##4; \
    typedef metal::packed_vec<t, 2> packed_##t##2; typedef metal::packed_vec<t, 3> packed_##t##3; typedef metal::packed_vec<t, 4> packed_##t##4; \
    namespace metal { \
    using ::t##2; using ::t##3; using ::t##4; \
    using ::packed_##t##2; using ::packed_##t##3; using ::packed_##t##4; \
    }
MSL_EACH(bool) MSL_EACH(char) MSL_EACH(uchar) MSL_EACH(short) MSL_EACH(ushort) MSL_EACH(int) MSL_EACH(uint)
MSL_EACH(long) MSL_EACH(ulong) MSL_EACH(half) MSL_EACH(bfloat) MSL_EACH(float)
#undef MSL_EACH
