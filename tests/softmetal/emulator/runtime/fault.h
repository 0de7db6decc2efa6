// A fault in a kernel ends the dispatch with an error and not the process: the handler leaves the fiber
// for the scheduler. Faults of any other code go to the handler that was there before.
#pragma once
#include <dlfcn.h>
#include <signal.h>
#include <ucontext.h>
#include <mutex>
#include "launch.h"
#include "worker.h"

namespace {
thread_local Worker* running_worker = nullptr;
struct sigaction previous_segv, previous_bus;

void on_fault(int signal, siginfo_t* info, void* raw) {
    const ucontext_t* context = (const ucontext_t*)raw;
#if defined(__x86_64__)
    const uintptr_t stack = context->uc_mcontext.gregs[REG_RSP], code = context->uc_mcontext.gregs[REG_RIP];
    const bool write = context->uc_mcontext.gregs[REG_ERR] & 2;
#else
    const uintptr_t stack = context->uc_mcontext.sp, code = context->uc_mcontext.pc;
    const bool write = false;
#endif
    Worker* worker = running_worker;
    if (!worker || stack - uintptr_t(worker->region) >= MSL_REGION_BYTES) {
        // Not a kernel's: the instruction runs again, under the old handler.
        sigaction(SIGSEGV, &previous_segv, nullptr);
        sigaction(SIGBUS, &previous_bus, nullptr);
        return;
    }
    worker->fault.address = uintptr_t(info->si_addr);
    worker->fault.code = code;
    worker->fault.write = write;
    worker->faulted = true;
    (void)signal;
    Strand abandoned;
    softmetal_switch(&abandoned.stack_pointer, worker->scheduler.stack_pointer);
}

void catch_faults() {
    static std::once_flag once;
    std::call_once(once, [] {
        struct sigaction action = {};
        action.sa_sigaction = on_fault;
        // Left by a switch of stacks, the handler must not leave the signal blocked.
        action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
        sigaction(SIGSEGV, &action, &previous_segv);
        sigaction(SIGBUS, &action, &previous_bus);
    });
}
}  // namespace
