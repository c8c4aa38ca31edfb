//! Everything against everything: the head-to-heads of perf/README.md in one run, with plots, targets and a gate.
#![forbid(unsafe_code)]
#![allow(dead_code)]

mod facts;
mod gate;
mod page;
mod plots;
mod print;
mod progress;
mod results;
mod targets;

fn main() {}
