// Kernels that start while the one before them still runs.
#pragma once

// Lets the next kernel start, which may read what nobody writes, and waits until all before this one
// is written. A kernel launched with `launch_early` calls it before it reads or writes anything else.
__device__ __forceinline__ void wait_for_inputs() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
