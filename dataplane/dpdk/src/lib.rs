//! Safe DPDK: EAL, mempools, mbufs, ports, worker lcores.
//!
//! DPDK gives out memory that several threads, devices and processes share, by pointer. This crate turns
//! its rules into types, so that the pipeline needs no `unsafe`: a packet has one owner ([`Mbuf`]), a
//! queue is polled through the one [`RxQueue`] there is of it, and nothing of EAL's memory goes away
//! while anything refers to it.
//!
//! ```
//! use dpdk::{Eal, EalOptions, Mempool};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let eal = Eal::init(EalOptions::default())?;
//! let pool = Mempool::create("packets", 1023, 0, 2048 + dpdk::HEADROOM, None)?;
//! let mut packet = pool.alloc().ok_or("the pool is empty")?;
//! packet.extend_from_slice(b"payload");
//! if let Some(header) = packet.prepend(4) {
//!     header.copy_from_slice(b"head");
//! }
//! assert_eq!(packet.data(), b"headpayload");
//! drop(packet);
//! assert_eq!(pool.in_use(), 0);
//! # drop((pool, eal));
//! # Ok(())
//! # }
//! ```

mod burst;
mod devargs;
mod eal;
mod errno;
mod launch;
mod lease;
mod mbuf;
mod memory;
mod mempool;
mod offload;
mod port;
mod prefetch;
mod ring;
mod sole;
mod tag;

pub use burst::{Burst, Drain};
pub use eal::{Eal, EalError, EalOptions, LogLevel};
pub use launch::{LaunchError, Worker, WorkerError};
pub use mbuf::{Mbuf, Segments};
pub use memory::Memory;
pub use mempool::{Mempool, MempoolError};
pub use offload::{L4Checksum, Landed, Offload, Segment};
pub use port::{Link, Port, PortConfig, PortError, PortStats, RxQueue, TxQueue};
pub use prefetch::prefetch;
pub use ring::{Ring, RingError, RingFlags, RingItem, RingReceiver, RingSender};
pub use sole::Sole;

/// Bytes in front of the data of a new mbuf, part of a pool's data room.
pub const HEADROOM: u16 = 128;
// DPDK's build decides it, and it is written down for those who size pools.
const _: () = assert!(HEADROOM as u32 == dpdk_sys::dpdk_limit::DPDK_MBUF_HEADROOM as u32);

/// The time stamp counter of this CPU; [`cycles_hz`] ticks a second.
#[inline]
#[must_use]
pub fn cycles() -> u64 {
    // SAFETY: reads a register.
    unsafe { dpdk_sys::dpdk_rdtsc() }
}

/// Ticks of [`cycles`] per second; 0 before [`Eal::init`].
#[inline]
#[must_use]
pub fn cycles_hz() -> u64 {
    // SAFETY: reads a number that EAL measured at init.
    unsafe { dpdk_sys::rte_get_tsc_hz() }
}
