// simdgroup_matrix: 8x8 matrices spread over the 32 lanes of a simdgroup, two elements a lane.
#pragma once
#include "simd.h"

namespace metal {
// The lane layout that is seen on Apple's devices. It is undocumented: kernels hide it behind one helper.
MSL_INLINE uint matrix_row(uint lane) { return ((lane >> 4) & 1) * 4 + ((lane >> 1) & 3); }
MSL_INLINE uint matrix_column(uint lane) { return ((lane >> 3) & 1) * 4 + (lane & 1) * 2; }

template <class T, int Columns = 8, int Rows = 8> struct simdgroup_matrix {
    static_assert(Columns == 8 && Rows == 8, "simdgroup_matrix is 8x8");
    typedef vec<T, 2> storage_type;
    vec<T, 2> elements;

    simdgroup_matrix() = default;
    MSL_INLINE explicit simdgroup_matrix(T diagonal) {
        const uint lane = this_lane();
        for (uint i = 0; i < 2; i++) elements.d[i] = matrix_row(lane) == matrix_column(lane) + i ? diagonal : T(0);
    }
    MSL_INLINE vec<T, 2>& thread_elements() { return elements; }
    MSL_INLINE const vec<T, 2>& thread_elements() const { return elements; }
};
typedef simdgroup_matrix<float, 8, 8> simdgroup_float8x8;
typedef simdgroup_matrix<half, 8, 8> simdgroup_half8x8;
typedef simdgroup_matrix<bfloat, 8, 8> simdgroup_bfloat8x8;

template <class T, int Columns = 8, int Rows = 8, class U = float> MSL_INLINE simdgroup_matrix<T, Columns, Rows> make_filled_simdgroup_matrix(U value) {
    simdgroup_matrix<T, Columns, Rows> m;
    m.elements = vec<T, 2>(T(value));
    return m;
}
template <class T, int Columns = 8, int Rows = 8, class U = float> MSL_INLINE simdgroup_matrix<T, Columns, Rows> make_diagonal_simdgroup_matrix(U value) {
    return simdgroup_matrix<T, Columns, Rows>(T(value));
}

// Where this lane's element i lies in memory.
MSL_INLINE ulong matrix_offset(uint i, ulong stride, ulong2 origin, bool transpose) {
    const uint lane = this_lane();
    const ulong row = matrix_row(lane), column = matrix_column(lane) + i;
    return transpose ? (origin.d[1] + column) * stride + origin.d[0] + row : (origin.d[1] + row) * stride + origin.d[0] + column;
}
#define MSL_MATRIX_MEMORY(space) \
    template <class T> MSL_INLINE void simdgroup_load(MSL_THREAD simdgroup_matrix<T, 8, 8>& m, const space T* from, ulong stride = 8, ulong2 origin = ulong2(0), bool transpose = false) { \
        for (uint i = 0; i < 2; i++) m.elements.d[i] = from[matrix_offset(i, stride, origin, transpose)]; \
    } \
    template <class T> MSL_INLINE void simdgroup_store(simdgroup_matrix<T, 8, 8> m, space T* to, ulong stride = 8, ulong2 origin = ulong2(0), bool transpose = false) { \
        for (uint i = 0; i < 2; i++) to[matrix_offset(i, stride, origin, transpose)] = m.elements.d[i]; \
    }
MSL_MATRIX_MEMORY(MSL_DEVICE)
#if MSL_CHECK
MSL_MATRIX_MEMORY(MSL_THREADGROUP)
#endif
#undef MSL_MATRIX_MEMORY

#if MSL_RUN
template <class D, class A, class B, class C> struct multiply_lanes {
    simdgroup_matrix<D>* d;
    const simdgroup_matrix<A>* a;
    const simdgroup_matrix<B>* b;
    const simdgroup_matrix<C>* c;

    MSL_UNSANITIZED static bool run(void* const* lanes, uint mask) {
        if (mask != ~0u) return false;
        float left[8][8], right[8][8], sum[8][8];
        for (uint lane = 0; lane < 32; lane++) {
            const multiply_lanes* q = (const multiply_lanes*)lanes[lane];
            const uint row = matrix_row(lane), column = matrix_column(lane);
            for (uint i = 0; i < 2; i++) {
                left[row][column + i] = float(q->a->elements.d[i]);
                right[row][column + i] = float(q->b->elements.d[i]);
                sum[row][column + i] = float(q->c->elements.d[i]);
            }
        }
        for (uint i = 0; i < 8; i++)
            for (uint k = 0; k < 8; k++)
                for (uint j = 0; j < 8; j++) sum[i][j] += left[i][k] * right[k][j];
        for (uint lane = 0; lane < 32; lane++) {
            const multiply_lanes* q = (const multiply_lanes*)lanes[lane];
            for (uint i = 0; i < 2; i++) q->d->elements.d[i] = D(sum[matrix_row(lane)][matrix_column(lane) + i]);
        }
        return true;
    }
};
template <class D, class A, class B, class C>
inline void simdgroup_multiply_accumulate(simdgroup_matrix<D>& d, const simdgroup_matrix<A>& a, const simdgroup_matrix<B>& b, const simdgroup_matrix<C>& c MSL_SITE_PARAMETER) {
    multiply_lanes<D, A, B, C> q{&d, &a, &b, &c};
    this_thread().runtime->collective(&multiply_lanes<D, A, B, C>::run, &q, site);
}
#else
template <class D, class A, class B, class C>
void simdgroup_multiply_accumulate(MSL_THREAD simdgroup_matrix<D>& d, simdgroup_matrix<A> a, simdgroup_matrix<B> b, simdgroup_matrix<C> c);
#endif
template <class D, class A, class B>
MSL_INLINE void simdgroup_multiply(MSL_THREAD simdgroup_matrix<D>& d, simdgroup_matrix<A> a, simdgroup_matrix<B> b MSL_SITE_PARAMETER) {
    simdgroup_multiply_accumulate(d, a, b, make_filled_simdgroup_matrix<D>(0) MSL_SITE);
}
template <class A, class B> MSL_INLINE simdgroup_matrix<A> operator*(const simdgroup_matrix<A>& a, const simdgroup_matrix<B>& b) {
    simdgroup_matrix<A> d;
    simdgroup_multiply(d, a, b);
    return d;
}

// Small matrices of one thread, in columns.
template <class T, int C, int R> struct matrix {
    vec<T, R> columns[C];
    matrix() = default;
    MSL_INLINE explicit matrix(T diagonal) { for (int i = 0; i < C; i++) for (int j = 0; j < R; j++) columns[i].d[j] = i == j ? diagonal : T(0); }
    template <class... A, class = enable_if_t<sizeof...(A) == C>> MSL_INLINE matrix(A... a) : columns{a...} {}
    MSL_INLINE vec<T, R>& operator[](int i) { return columns[i]; }
    MSL_INLINE const vec<T, R>& operator[](int i) const { return columns[i]; }
};
template <class T, int C, int R> MSL_INLINE vec<T, R> operator*(const matrix<T, C, R>& m, const vec<T, C>& v) {
    vec<T, R> r = m.columns[0] * v.d[0];
    for (int i = 1; i < C; i++) r = r + m.columns[i] * v.d[i];
    return r;
}
#define MSL_EACH(t) typedef matrix<t, 2, 2> t##2x2; typedef matrix<t, 3, 3> t##3x3; typedef matrix<t, 4, 4> t##4x4; typedef matrix<t, 2, 4> t##2x4;
MSL_EACH(half) MSL_EACH(float)
#undef MSL_EACH
}  // namespace metal
