//! The CPU's kernels on the testkit's cases, each backend at every instruction level.

mod cpu_sdpa;
