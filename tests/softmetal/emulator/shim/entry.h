// The glue between a kernel and the module table: arguments, threadgroup variables, function constants.
#pragma once
#include "matrix.h"
#include "atomic.h"

#define is_function_constant_defined(name) (name##_is_defined)

#if MSL_RUN
namespace metal {
template <int I, class F> struct argument_type;
template <class R, class H, class... A> struct argument_type<0, R(H, A...)> { typedef H type; };
template <int I, class R, class H, class... A> struct argument_type<I, R(H, A...)> : argument_type<I - 1, R(A...)> {};
// Parameter I of a kernel with the type F.
template <int I, class F> using argument = typename argument_type<I, F>::type;
template <class P> struct pointee { typedef P type; static constexpr bool pointer = false, reference = false; };
template <class P> struct pointee<P*> { typedef P type; static constexpr bool pointer = true, reference = false; };
template <class P> struct pointee<P&> { typedef P type; static constexpr bool pointer = false, reference = true; };

template <class P> MSL_INLINE P memory_argument(void* p) {
    static_assert(pointee<P>::pointer || pointee<P>::reference, "a buffer or threadgroup argument is a pointer or a reference");
    if constexpr (pointee<P>::reference) return *(typename pointee<P>::type*)p;
    else return (P)p;
}
template <class T> MSL_INLINE remove_cv_t<T> position_argument(msl_triple t) {
    if constexpr (vector_count<T> == 3) return remove_cv_t<T>(t.x, t.y, t.z);
    else if constexpr (vector_count<T> == 2) return remove_cv_t<T>(t.x, t.y);
    else { static_assert(is_integral_v<T>, "a position is an integer, or a vector of them"); return T(t.x); }
}
template <class T> MSL_INLINE remove_cv_t<T> position_argument(unsigned n) {
    static_assert(is_integral_v<T>, "this builtin is one integer");
    return T(n);
}
template <class P> constexpr msl_parameter describe(const char* name, unsigned kind, unsigned index, bool (*exists)()) {
    typedef typename pointee<P>::type T;
    return msl_parameter{name, kind, index, sizeof(T), alignof(T), is_const<T>::value, pointee<P>::reference, exists};
}

inline msl_variable*& all_variables() { static msl_variable* first = nullptr; return first; }
struct registered_variable : msl_variable {
    registered_variable(const void* function, unsigned id, unsigned size, unsigned alignment) : msl_variable{function, id, size, alignment, 0, all_variables()} { all_variables() = this; }
};
// A variable in threadgroup memory of the kernel F: it enters itself when the module is opened.
template <auto F, unsigned Id, unsigned Size, unsigned Align> struct threadgroup_variable { static registered_variable variable; };
template <auto F, unsigned Id, unsigned Size, unsigned Align>
registered_variable threadgroup_variable<F, Id, Size, Align>::variable((const void*)F, Id, Size, Align);
MSL_INLINE void* threadgroup_address(const msl_variable& variable) { return this_thread().threadgroup_memory + variable.offset; }

// The types a function constant can have, as Rust numbers them.
template <class T> constexpr unsigned constant_type = 0;
template <> constexpr unsigned constant_type<bool> = 1;
template <> constexpr unsigned constant_type<short> = 2;
template <> constexpr unsigned constant_type<ushort> = 3;
template <> constexpr unsigned constant_type<int> = 4;
template <> constexpr unsigned constant_type<uint> = 5;
template <> constexpr unsigned constant_type<long> = 6;
template <> constexpr unsigned constant_type<ulong> = 7;
template <> constexpr unsigned constant_type<half> = 8;
template <> constexpr unsigned constant_type<float> = 9;
template <class T> msl_function_constant describe_constant(const char* name, unsigned index, T& value, bool& defined, bool optional) {
    static_assert(constant_type<T> != 0, "a function constant is a bool, a 16, 32 or 64 bit integer, a half or a float");
    return msl_function_constant{name, index, constant_type<T>, sizeof(T), optional, &value, &defined};
}
}  // namespace metal
#endif
