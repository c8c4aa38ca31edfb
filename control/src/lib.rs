//! The Net Manager of a worker node: attaches containers to the data plane and keeps its routes true.
//!
//! An unmodified NodeEngine calls it over HTTP on a unix socket (`http`), the cluster service manager talks to it over
//! MQTT (`cluster_link`), and packets are the data plane's business alone, behind one trait ([`forwarding`]).
#![forbid(unsafe_code)]

mod addresses;
mod attach;
pub mod cli;
mod cluster_link;
pub mod config;
pub mod cpu_latency;
pub mod dataplane;
mod dns;
mod firewall;
pub mod forwarding;
mod host;
mod host_firewall;
pub mod http;
pub mod instance;
mod log;
mod netlink;
mod next_hop;
pub mod node;
mod pcapng;
pub mod reload;
pub mod socket;
mod state;
pub mod uplink;

pub use attach::{Fault, MACHINE_STEPS, STEPS, UNIKERNEL_STEPS};
pub use cluster_link::LinkStatus;
pub use dns::DnsStatus;
