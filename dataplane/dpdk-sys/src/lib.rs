//! Raw bindings to the installed libdpdk: one header, one C file, this module. The safe API is the crate `dpdk`.
//!
//! The published bindings are bound to DPDK releases that no distribution ships any more, so these are
//! generated at build time against the libdpdk that pkg-config finds. Every function here is unsafe to
//! call and documented by DPDK itself; `dpdk_*` are the symbols that `ffi/shim.c` gives to static inlines.

#![allow(
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals
)]
#![allow(clippy::all, clippy::pedantic, clippy::undocumented_unsafe_blocks)]
#![allow(unsafe_op_in_unsafe_fn, rust_2018_idioms, unnecessary_transmutes)]

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
