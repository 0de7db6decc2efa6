// What a compiled kernel module, the fiber runtime and the Rust side agree on.
// Rust mirrors the plain structs in src/module.rs; MSL_ABI changes whenever one of them does.
#pragma once

#define MSL_ABI 2u

// The stacks of one worker lie in one region, aligned to its size, so that a thread finds its own
// context from its stack pointer: region = address & ~(size - 1), fiber = offset / stride.
#define MSL_REGION_BYTES (1ul << 28)
#define MSL_STACKS_OFFSET (4ul << 20)
#define MSL_STACK_STRIDE (244ul << 10)
#define MSL_CONTEXTS_OFFSET (64ul << 10)
#define MSL_MAX_THREADS 1024u

struct msl_triple {
    unsigned x, y, z;
};

// Where in the .metal source a synchronising call stands.
struct msl_site {
    const char* file;
    unsigned line;
};

// Runs once for a whole simdgroup; `arguments[lane]` is set where bit `lane` of `mask` is.
// False: the operation needs lanes that are not there.
typedef bool (*msl_collective_fn)(void* const* arguments, unsigned mask);

struct msl_runtime {
    void (*collective)(msl_collective_fn run, void* argument, msl_site site);
    void (*simdgroup_barrier)(unsigned flags, msl_site site);
    void (*threadgroup_barrier)(unsigned flags, msl_site site);
};

// What one thread of the grid knows. The names are those of MSL's attributes.
struct msl_context {
    msl_triple thread_position_in_grid;
    msl_triple threadgroup_position_in_grid;
    msl_triple thread_position_in_threadgroup;
    msl_triple threads_per_threadgroup;
    msl_triple threads_per_grid;
    msl_triple threadgroups_per_grid;
    msl_triple dispatch_threads_per_threadgroup;
    unsigned thread_index_in_threadgroup;
    unsigned thread_index_in_simdgroup;
    unsigned simdgroup_index_in_threadgroup;
    unsigned simdgroups_per_threadgroup;
    unsigned threads_per_simdgroup;
    unsigned dispatch_simdgroups_per_threadgroup;
    unsigned quadgroup_index_in_threadgroup;
    unsigned thread_index_in_quadgroup;
    unsigned quadgroups_per_threadgroup;
    const msl_runtime* runtime;
    void* const* buffers;
    char* const* threadgroup_arguments;
    char* threadgroup_memory;
};

enum msl_parameter_kind { MSL_IN_DEVICE = 0, MSL_IN_CONSTANT = 1, MSL_IN_THREADGROUP = 2 };

struct msl_parameter {
    const char* name;
    unsigned kind;
    unsigned index;
    unsigned size;
    unsigned alignment;
    bool read_only;
    bool reference;
    // Whether the argument exists, for `[[buffer(n), function_constant(c)]]`; null: always.
    bool (*exists)();
};

struct msl_kernel {
    const char* name;
    void (*entry)(const msl_context*);
    const void* function;
    const msl_parameter* parameters;
    unsigned parameter_count;
    unsigned max_threads;
    // Indices into the module's constants of those that the kernel can reach.
    const unsigned* constants;
    unsigned constant_count;
    // Bytes of the threadgroup variables; filled in when the module is opened.
    unsigned threadgroup_bytes;
};

struct msl_function_constant {
    const char* name;
    unsigned index;
    unsigned type;
    unsigned size;
    bool optional;
    void* value;
    bool* defined;
};

struct msl_field {
    const char* name;
    unsigned offset;
    unsigned size;
};

struct msl_layout {
    const char* name;
    unsigned size;
    unsigned alignment;
    const msl_field* fields;
    unsigned field_count;
};

// One variable in threadgroup memory.
struct msl_variable {
    const void* function;
    unsigned id;
    unsigned size;
    unsigned alignment;
    unsigned offset;
    msl_variable* next;
};

struct msl_module {
    unsigned abi;
    unsigned kernel_count;
    unsigned constant_count;
    unsigned layout_count;
    msl_kernel* kernels;
    const msl_function_constant* constants;
    const msl_layout* layouts;
    msl_variable* variables;
    // Computes the constants that are derived from function constants.
    void (*derive)();
};
