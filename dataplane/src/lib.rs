//! The data plane of a worker node: packets in, packets out.
//!
//! Containers dial Service IPs; poll-mode workers pick an instance, rewrite both addresses and deliver, or tunnel the
//! packet to the node that runs the instance. The control plane sees [`Handle`] and the plain types of [`api`]; it
//! never touches what a worker reads.
//!
//! | module | its one idea |
//! |---|---|
//! | [`api`] | what the Net Manager says and hears |
//! | [`pipeline`] | one packet's way |
//! | [`tunnel`] | large packets are cut and joined at the tunnel |
//! | `access` | two kinds of port towards containers and VMs |
//! | [`uplink`] | two kinds of port towards other nodes |
//! | [`policy`] | how a Service IP picks |
//! | [`tables`] | routes and flows, read without waiting |
//! | [`observe`] | seeing what packets do, on request |
//! | [`counters`] | what happened to every packet |
//! | [`tally`] | the same per service, policy and container |
//! | [`control`] | the single writer |
//! | [`worker`] | a worker lcore's loop |
//! | [`asleep`] | whom to wake |
//! | [`runtime`] | start and stop |
//! | [`writer`] | the single writer without its thread |

#![forbid(unsafe_code)]

mod access;
pub mod api;
pub mod asleep;
mod clock;
mod control;
pub mod counters;
mod handle;
mod host;
pub mod mapping;
mod memory;
pub mod observe;
pub mod offload;
pub mod pipeline;
pub mod plan;
mod plugged;
pub mod policy;
mod port_stats;
pub mod runtime;
mod sync;
pub mod tables;
pub mod tally;
pub mod tunnel;
pub mod uplink;
mod worker;
pub mod writer;

pub use api::*;
pub use dpdk::PortStats as DriverCounts;
pub use handle::Handle;
pub use host::VHOST_NET;
pub use kernel_port::xdp::PROGRAM as XDP_PROGRAM;
pub use observe::capture::{Capture, CaptureOptions, CapturePort, Captured, SNAPLEN_MAX};
pub use observe::trace::{Ends, Place, Step, Target, Trace, TraceFilter, TraceRecord};
pub use runtime::Dataplane;

/// The cookie of the calling thread's network namespace, unique within a boot; 0 where the kernel has none (before
/// 5.14).
#[must_use]
pub fn namespace_cookie() -> u64 {
    kernel_port::namespace::cookie().unwrap_or(0)
}
