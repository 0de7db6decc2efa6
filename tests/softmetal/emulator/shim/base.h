// The ground of the MSL shim: scalar types, address spaces, type traits.
// MSL_RUN: plain C++ for execution. MSL_CHECK: clang's "C++ for OpenCL", which knows address spaces;
// there the library is declared only as far as the rules of the language need it.
#pragma once

#if defined(__OPENCL_CPP_VERSION__)
#define MSL_CHECK 1
#pragma OPENCL EXTENSION cl_khr_fp16 : enable
// Two spaces that both convert to __global and to none of each other.
#define MSL_DEVICE __attribute__((opencl_global_device))
#define MSL_THREADGROUP __local
#define MSL_THREAD __private
#define MSL_EACH_SPACE \
    MSL_SPACE(__private) MSL_SPACE(__local) MSL_SPACE(__generic) MSL_SPACE(__global) \
    MSL_SPACE(__attribute__((opencl_global_device))) MSL_SPACE(__attribute__((opencl_global_host)))
#define MSL_CONSTANT const __attribute__((opencl_global_host))
#else
#define MSL_RUN 1
#define MSL_DEVICE
#define MSL_THREADGROUP
#define MSL_THREAD
#define MSL_CONSTANT const
typedef _Float16 half;
#endif
#define MSL_INLINE inline __attribute__((always_inline))

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;
typedef signed char int8_t;
typedef short int16_t;
typedef int int32_t;
typedef long int64_t;
typedef uchar uint8_t;
typedef ushort uint16_t;
typedef uint uint32_t;
typedef ulong uint64_t;
typedef ulong size_t;
typedef long ptrdiff_t;
typedef long intptr_t;
typedef ulong uintptr_t;

#define MSL_INF __builtin_inff()
#define MSL_NAN __builtin_nanf("")

namespace metal {
#if MSL_RUN
using ::half;  // a keyword in OpenCL
#endif
using ::uchar; using ::ushort; using ::uint; using ::ulong;
using ::int8_t; using ::int16_t; using ::int32_t; using ::int64_t;
using ::uint8_t; using ::uint16_t; using ::uint32_t; using ::uint64_t;
using ::size_t; using ::ptrdiff_t; using ::intptr_t; using ::uintptr_t;

template <class T, T V> struct integral_constant {
    static constexpr T value = V;
    typedef T value_type;
    typedef integral_constant type;
    constexpr operator T() const { return V; }
    constexpr T operator()() const { return V; }
};
template <bool B> using bool_constant = integral_constant<bool, B>;
typedef bool_constant<true> true_type;
typedef bool_constant<false> false_type;

template <bool B, class T = void> struct enable_if {};
template <class T> struct enable_if<true, T> { typedef T type; };
template <bool B, class T = void> using enable_if_t = typename enable_if<B, T>::type;
template <bool B, class A, class C> struct conditional { typedef A type; };
template <class A, class C> struct conditional<false, A, C> { typedef C type; };
template <bool B, class A, class C> using conditional_t = typename conditional<B, A, C>::type;
template <class A, class B> struct is_same : false_type {};
template <class A> struct is_same<A, A> : true_type {};
template <class A, class B> constexpr bool is_same_v = is_same<A, B>::value;

template <class T> struct remove_reference { typedef T type; };
template <class T> struct remove_reference<T&> { typedef T type; };
template <class T> struct remove_reference<T&&> { typedef T type; };
template <class T> using remove_reference_t = typename remove_reference<T>::type;
template <class T> struct remove_cv { typedef T type; };
template <class T> struct remove_cv<const T> { typedef T type; };
template <class T> struct remove_cv<volatile T> { typedef T type; };
template <class T> struct remove_cv<const volatile T> { typedef T type; };
#if MSL_CHECK
// Template arguments are deduced with their address space.
#define MSL_SPACE(space) \
    template <class T> struct remove_cv<space T> { typedef typename remove_cv<T>::type type; };
MSL_EACH_SPACE
#undef MSL_SPACE
#endif
template <class T> using remove_cv_t = typename remove_cv<T>::type;
template <class T> using remove_const_t = remove_cv_t<T>;
template <class T> using decay_t = remove_cv_t<remove_reference_t<T>>;

template <class T> struct is_const : false_type {};
template <class T> struct is_const<const T> : true_type {};
template <class T> struct is_pointer : false_type {};
template <class T> struct is_pointer<T*> : true_type {};
template <class T> constexpr bool is_pointer_v = is_pointer<T>::value;
template <class T> struct remove_pointer { typedef T type; };
template <class T> struct remove_pointer<T*> { typedef T type; };
template <class T> using remove_pointer_t = typename remove_pointer<T>::type;
template <class T> struct is_reference : false_type {};
template <class T> struct is_reference<T&> : true_type {};

template <class T> struct is_integral_type : false_type {};
template <class T> struct is_float_type : false_type {};
#define MSL_EACH(t) template <> struct is_integral_type<t> : true_type {};
MSL_EACH(bool) MSL_EACH(char) MSL_EACH(signed char) MSL_EACH(uchar) MSL_EACH(short) MSL_EACH(ushort)
MSL_EACH(int) MSL_EACH(uint) MSL_EACH(long) MSL_EACH(ulong)
#undef MSL_EACH
template <> struct is_float_type<float> : true_type {};
template <> struct is_float_type<half> : true_type {};
template <class T> struct is_integral : is_integral_type<remove_cv_t<T>> {};
template <class T> struct is_floating_point : is_float_type<remove_cv_t<T>> {};
template <class T> constexpr bool is_integral_v = is_integral<T>::value;
template <class T> constexpr bool is_floating_point_v = is_floating_point<T>::value;
template <class T> constexpr bool is_arithmetic_v = is_integral_v<T> || is_floating_point_v<T>;
template <class T> struct is_arithmetic : bool_constant<is_arithmetic_v<T>> {};
template <class T, bool = is_integral_v<T>> struct is_unsigned : false_type {};
template <class T> struct is_unsigned<T, true> : bool_constant<(T(-1) > T(0))> {};
template <class T> constexpr bool is_unsigned_v = is_unsigned<T>::value;
template <class T> struct is_signed : bool_constant<is_arithmetic_v<T> && !is_unsigned_v<T>> {};
template <class T> constexpr bool is_signed_v = is_signed<T>::value;

template <class T> struct make_unsigned { typedef T type; };
template <> struct make_unsigned<int> { typedef uint type; };
template <> struct make_unsigned<short> { typedef ushort type; };
template <> struct make_unsigned<long> { typedef ulong type; };
template <> struct make_unsigned<signed char> { typedef uchar type; };
template <> struct make_unsigned<char> { typedef uchar type; };
template <class T> using make_unsigned_t = typename make_unsigned<T>::type;
}  // namespace metal
