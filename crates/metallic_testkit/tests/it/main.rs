//! The test kit tested: right kernels pass its cases, and every known mistake is caught.

mod judged;
mod plain;
