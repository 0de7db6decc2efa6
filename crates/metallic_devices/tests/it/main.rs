//! The CPU's kernels on the testkit's cases, each backend at every instruction level; and what
//! kernels that write must refuse. What needs a GPU.

mod cpu_blocks;
mod cpu_memory;
mod cpu_ops;
mod cpu_sdpa;
mod cuda;
