//! Whole systems on one machine, and what to measure in them.
//!
//! Only real processes, real network namespaces and the contract's own interfaces can show that
//! root, cluster, nodes and packets fit together, so a [`topology::Topology`] is exactly that:
//! Redis, Mosquitto, both managers and any number of nodes, each in a network namespace of its
//! own, and containers that are real processes. The demo and the journeys stand on it.
//!
//! Whatever is made is written down first in a [`run::Run`], and goes away with it: at the end, on
//! a panic, on a signal, and, after a `kill -9`, at the start of the next run.
#![forbid(unsafe_code)]

pub mod container;
pub mod deadline;
pub mod demo;
pub mod http;
pub mod measure;
pub mod namespace;
pub mod node;
pub mod orchestrator;
pub mod process;
pub mod run;
pub mod services;
pub mod signals;
pub mod topology;
pub mod underlay;
pub mod watch;
