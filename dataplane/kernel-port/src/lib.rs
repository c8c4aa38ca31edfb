//! Ports that the kernel holds: packet sockets on veth ends, UDP sockets on the tunnel port, and the
//! host's TAP.
//!
//! An ethdev per container would end at DPDK's compiled-in number of ports, and the `af_packet` PMD
//! loses checksum and segmentation state. These ports fill mbufs from the same mempools, carry that
//! state as [`dpdk::Offload`], and have file descriptors, so that any number of them can wait in one
//! [`Waiter`] and cost nothing while idle. What crosses by one system call is a burst.
//!
//! Nothing here looks above `virtio_net_hdr`, apart from the two bytes of a TCP header that the
//! kernel's own description leaves out (its length and its CWR bit).
//!
//! | module | its one idea |
//! |---|---|
//! | [`access`] | all containers of a worker behind one unbound packet socket |
//! | [`tunnel`] | the contract's datagrams, many to a system call |
//! | [`tap`] | the way between containers and the node itself |
//! | [`tun`] | packets one by one, for comparison |
//! | [`vnet`] | `virtio_net_hdr` to [`dpdk::Offload`] and back |
//! | [`filter`] | interface index to worker, as a classic BPF program |
//! | [`waiter`] | sleeping on descriptors, and being woken |
//! | [`namespace`] | a name for the network namespace that is never used again |
//! | [`words`] | memory that outlives the process |
//! | [`xdp`] | what an AF_XDP uplink takes from an interface that the kernel shares |

#![deny(unsafe_code)]

pub mod access;
mod error;
pub mod filter;
mod landing;
pub mod namespace;
mod outbox;
mod path;
mod ring;
mod stats;
mod syscall;
pub mod tap;
pub mod tun;
pub mod tunnel;
pub mod vnet;
pub mod waiter;
pub mod words;
pub mod xdp;

pub use access::{AccessGroup, AccessPort, AccessStats};
pub use error::KernelPortError;
pub use path::path_mtu;
pub use stats::Named;
pub use tap::{NicTap, TapPort, TapStats};
pub use tunnel::{PathMtu, TunnelOptions, TunnelPort, TunnelStats};
pub use waiter::{Waiter, Waker, Woken};
pub use words::SharedWords;

/// The mempools that ports receive into.
///
/// A received packet is one small mbuf and, when it does not fit, a large one chained behind it, so
/// that its headers are contiguous and writable.
#[derive(Clone)]
pub struct Pools {
    /// Data room of at least 2048 bytes and the headroom.
    pub small: dpdk::Mempool,
    /// Data room of 65535 bytes. A few dozen mbufs per worker suffice when the pipeline returns them
    /// within a burst; every port keeps up to [`Pools::LARGE_PER_PORT`] of them as landing places.
    pub large: dpdk::Mempool,
}

impl Pools {
    /// Large mbufs that one port may keep allocated for what arrives next.
    pub const LARGE_PER_PORT: usize = landing::LANDINGS;
}

/// What became of the packets pushed since the previous flush: `sent + dropped` is their number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sent {
    /// Packets that the kernel took.
    pub sent: usize,
    /// Packets that it did not; the port's statistics say why.
    pub dropped: usize,
}

impl std::ops::AddAssign for Sent {
    fn add_assign(&mut self, other: Self) {
        self.sent += other.sent;
        self.dropped += other.dropped;
    }
}
