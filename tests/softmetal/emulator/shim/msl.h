// The MSL standard library for execution on the CPU, and the words of MSL that C++ does not know.
#pragma once
#include "entry.h"

#define kernel
#define device MSL_DEVICE
#define threadgroup MSL_THREADGROUP
#define thread MSL_THREAD
#define constant MSL_CONSTANT
#define METAL_FUNC inline __attribute__((always_inline))
