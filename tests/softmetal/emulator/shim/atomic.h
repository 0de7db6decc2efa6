// Atomic operations, relaxed as in MSL.
#pragma once
#include "simd.h"

#if MSL_CHECK
// OpenCL has built-in types of these names.
#define atomic_int msl_atomic_int
#define atomic_uint msl_atomic_uint
#define atomic_bool msl_atomic_bool
#define atomic_float msl_atomic_float
#define atomic_ulong msl_atomic_ulong
#endif

namespace metal {
template <class T> struct _atomic { T value; };
template <class T> using atomic = _atomic<T>;
typedef _atomic<int> atomic_int;
typedef _atomic<uint> atomic_uint;
typedef _atomic<bool> atomic_bool;
typedef _atomic<float> atomic_float;
typedef _atomic<ulong> atomic_ulong;

template <class T> struct same_type { typedef T type; };
struct op_second { template <class T> static T apply(T, T b) { return b; } };
struct op_difference { template <class T> static T apply(T a, T b) { return T(a - b); } };

#if MSL_RUN
template <class F, class T> inline T atomic_update(volatile _atomic<T>* p, T operand) {
    T old, next;
    __atomic_load(&p->value, &old, __ATOMIC_RELAXED);
    do next = F::apply(old, operand);
    while (!__atomic_compare_exchange(&p->value, &old, &next, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return old;
}
#define MSL_BODY(...) { __VA_ARGS__ }
#define MSL_ATOMICS(space) MSL_ATOMIC_FUNCTIONS(space)
#else
template <class F, class T, class P> T atomic_update(P p, T operand);
#define MSL_BODY(...) ;
#define MSL_ATOMICS(space) MSL_ATOMIC_FUNCTIONS(space)
#endif
#define MSL_ATOMIC_UPDATE(space, name, op) \
    template <class T> inline T atomic_##name##_explicit(volatile space _atomic<T>* p, typename same_type<T>::type operand, memory_order) MSL_BODY(return atomic_update<op>(p, operand);)
#define MSL_ATOMIC_FUNCTIONS(space) \
    template <class T> inline T atomic_load_explicit(const volatile space _atomic<T>* p, memory_order) MSL_BODY(T r; __atomic_load(&p->value, &r, __ATOMIC_RELAXED); return r;) \
    template <class T> inline void atomic_store_explicit(volatile space _atomic<T>* p, typename same_type<T>::type v, memory_order) MSL_BODY(__atomic_store(&p->value, &v, __ATOMIC_RELAXED);) \
    template <class T> inline bool atomic_compare_exchange_weak_explicit(volatile space _atomic<T>* p, MSL_THREAD T* expected, typename same_type<T>::type desired, memory_order, memory_order) \
        MSL_BODY(return __atomic_compare_exchange(&p->value, expected, &desired, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);) \
    MSL_ATOMIC_UPDATE(space, exchange, op_second) \
    MSL_ATOMIC_UPDATE(space, fetch_add, op_sum) MSL_ATOMIC_UPDATE(space, fetch_sub, op_difference) \
    MSL_ATOMIC_UPDATE(space, fetch_max, op_max) MSL_ATOMIC_UPDATE(space, fetch_min, op_min) \
    MSL_ATOMIC_UPDATE(space, fetch_or, op_or) MSL_ATOMIC_UPDATE(space, fetch_and, op_and) MSL_ATOMIC_UPDATE(space, fetch_xor, op_xor)
MSL_ATOMICS(MSL_DEVICE)
#if MSL_CHECK
MSL_ATOMICS(MSL_THREADGROUP)
#endif
#undef MSL_BODY
#undef MSL_ATOMICS
}  // namespace metal
