//! A packet generator on DPDK, and what a benchmark needs around one.
//!
//! [`search`] finds the highest rate that a system passes without loss, or with little; it knows nothing of packets, so
//! that any benchmark can use it.

#![forbid(unsafe_code)]

pub mod clock;
pub mod draw;
pub mod export;
pub mod frame;
pub mod generator;
pub mod neighbour;
pub mod pace;
pub mod plan;
pub mod profile;
pub mod report;
pub mod run;
pub mod search;
pub mod sink;
pub mod tally;
pub mod wire;
