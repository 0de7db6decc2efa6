// Fibers: one stack per thread of a threadgroup, and the switch between them.
// With MSL_ASAN or MSL_TSAN the sanitizer is told of every switch; this code itself is never instrumented.
#pragma once
#include <sys/mman.h>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include "abi.h"

#if defined(MSL_TSAN)
extern "C" {
void* __tsan_create_fiber(unsigned);
void __tsan_switch_to_fiber(void*, unsigned);
void* __tsan_get_current_fiber();
void __tsan_acquire(void*);
void __tsan_release(void*);
}
#define MSL_ACQUIRE(address) __tsan_acquire(address)
#define MSL_RELEASE(address) __tsan_release(address)
#else
#define MSL_ACQUIRE(address) ((void)(address))
#define MSL_RELEASE(address) ((void)(address))
#endif
#if defined(MSL_ASAN)
extern "C" {
void __sanitizer_start_switch_fiber(void**, const void*, size_t);
void __sanitizer_finish_switch_fiber(void*, const void**, size_t*);
void __asan_poison_memory_region(const volatile void*, size_t);
void __asan_unpoison_memory_region(const volatile void*, size_t);
}
#endif

// Saves the callee-saved registers and the stack pointer in *save, and takes up those at `to`.
extern "C" void softmetal_switch(void** save, void* to);
#if defined(__x86_64__)
asm(R"(.text
.globl softmetal_switch
.hidden softmetal_switch
.type softmetal_switch,@function
softmetal_switch:
 pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
 movq %rsp,(%rdi)
 movq %rsi,%rsp
 popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
 ret
.size softmetal_switch,.-softmetal_switch
)");
#elif defined(__aarch64__)
asm(R"(.text
.globl softmetal_switch
.hidden softmetal_switch
.type softmetal_switch,%function
softmetal_switch:
 sub sp,sp,#160
 stp x19,x20,[sp,#0]
 stp x21,x22,[sp,#16]
 stp x23,x24,[sp,#32]
 stp x25,x26,[sp,#48]
 stp x27,x28,[sp,#64]
 stp x29,x30,[sp,#80]
 stp d8,d9,[sp,#96]
 stp d10,d11,[sp,#112]
 stp d12,d13,[sp,#128]
 stp d14,d15,[sp,#144]
 mov x9,sp
 str x9,[x0]
 mov sp,x1
 ldp x19,x20,[sp,#0]
 ldp x21,x22,[sp,#16]
 ldp x23,x24,[sp,#32]
 ldp x25,x26,[sp,#48]
 ldp x27,x28,[sp,#64]
 ldp x29,x30,[sp,#80]
 ldp d8,d9,[sp,#96]
 ldp d10,d11,[sp,#112]
 ldp d12,d13,[sp,#128]
 ldp d14,d15,[sp,#144]
 add sp,sp,#160
 ret
.size softmetal_switch,.-softmetal_switch
)");
#else
#error "the emulator's fibers know x86-64 and aarch64"
#endif

// A context of execution: a fiber, or the thread that runs them (stack = null).
struct Strand {
    void* stack_pointer = nullptr;
    const char* stack_bottom = nullptr;
    size_t stack_size = 0;
    void* fake_stack = nullptr;
    void* tsan = nullptr;
};

// Called first on a strand that has just been switched to.
inline void arrive(Strand* self) {
#if defined(MSL_ASAN)
    const void* bottom;
    size_t size;
    __sanitizer_finish_switch_fiber(self->fake_stack, &bottom, &size);
#else
    (void)self;
#endif
}

inline void switch_strand(Strand* from, Strand* to) {
#if defined(MSL_TSAN)
    __tsan_switch_to_fiber(to->tsan, 1);  // 1: the switch itself orders nothing
#endif
#if defined(MSL_ASAN)
    __sanitizer_start_switch_fiber(&from->fake_stack, to->stack_bottom, to->stack_size);
#endif
    softmetal_switch(&from->stack_pointer, to->stack_pointer);
    arrive(from);
}

// Usable bytes of one stack; the page below it is never mapped, so that an overflow faults.
constexpr size_t STACK_BYTES = MSL_STACK_STRIDE - 4096;

inline char* stack_of(char* region, unsigned index) { return region + MSL_STACKS_OFFSET + index * MSL_STACK_STRIDE + 4096; }

// Makes the strand start at `entry` when it is next switched to.
inline void prepare_strand(Strand* strand, char* region, unsigned index, void (*entry)()) {
    char* bottom = stack_of(region, index);
    // Stacks begin at different cache sets: the lanes of a simdgroup touch the same depth in turn.
    void** top = (void**)(bottom + STACK_BYTES - (index * 5 % 64) * 64);
#if defined(__x86_64__)
    *--top = nullptr;
    *--top = (void*)entry;
    for (int i = 0; i < 6; i++) *--top = nullptr;
#else
    top -= 20;
    memset(top, 0, 160);
    top[11] = (void*)entry;
#endif
    strand->stack_pointer = top;
    strand->stack_bottom = bottom;
    strand->stack_size = STACK_BYTES;
    strand->fake_stack = nullptr;
}
