//! A packet generator on DPDK, and what a benchmark needs around one.
//!
//! [`search`] finds the highest rate that a system passes without loss, or with little; it knows nothing of packets, so
//! that any benchmark can use it.

#![forbid(unsafe_code)]

pub mod search;
