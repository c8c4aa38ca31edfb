//! TAPs: the host port, by which containers and the node itself meet, and what the kernel has of a NIC that is wholly in
//! DPDK.
//!
//! Frames carry `virtio_net_hdr`, and the interface takes unfinished checksums and segments of TCP (and of
//! UDP, from kernel 6.2 on), so that a stream to a host process crosses in pieces of 64 KB. A TAP has no
//! call for bursts: each frame costs one. Addresses, MTU and the way up are control's work.
//!
//! The TAP of a NIC stays when its process ends, and with it addresses, routes and the connections that rest on them; its
//! frames are complete, as the NIC takes them.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use dpdk::{Burst, Mbuf};
use libc::c_int;

use crate::access::{MAX_WORKERS, header_for, offload_of};
use crate::landing::{Landed, Landings};
use crate::outbox::{Full, Label, Outbox};
use crate::syscall::{self, Name, TapNumber};
use crate::vnet::{self, BadVnetHeader};
use crate::{KernelPortError, Pools, Sent};

/// Frames that wait for [`TapPort::flush`]; pushing one more flushes.
pub const QUEUE: usize = 64;

/// Further tries in one flush when the kernel has no room.
const RETRIES: usize = 4;

const TCP: u32 = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
const UDP: u32 = libc::TUN_F_USO4 | libc::TUN_F_USO6;

/// What happened to frames; sums as in [`crate::AccessStats`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TapStats {
    /// Handed to the sink.
    pub received: u64,
    /// Longer than the mbufs, or shorter than an Ethernet header.
    pub truncated: u64,
    /// Times that a mempool was empty; the frame still waits.
    pub no_mbuf: u64,
    /// With a description that no [`dpdk::Offload`] can keep.
    pub bad_vnet_header: u64,
    /// UDP fragmentation offload, gone from the kernel since 4.14.
    pub udp_fragment: u64,
    /// Times that reading failed: the interface was deleted.
    pub read_failed: u64,
    /// Taken by the kernel.
    pub sent: u64,
    /// The kernel had no room, also not after some tries.
    pub tx_would_block: u64,
    /// The interface is down or deleted.
    pub tx_interface_down: u64,
    /// Offload or header that contradict themselves: a defect of the pipeline.
    pub tx_invalid: u64,
    /// Refused for another reason.
    pub tx_rejected: u64,
}

type Reason = fn(&mut TapStats) -> &mut u64;

/// The TAP of a NIC.
#[derive(Clone, Copy, Debug)]
pub struct NicTap<'a> {
    /// Its name.
    pub name: &'a str,
    /// The NIC's Ethernet address, which it takes on.
    pub mac: [u8; 6],
}

/// What a TAP is for.
enum Purpose {
    /// The host's, with so many queues.
    Host(usize),
    /// A NIC's.
    Nic([u8; 6]),
}

/// One queue of the TAP.
pub struct TapPort {
    queue_fd: OwnedFd,
    landings: Landings,
    mac: [u8; 6],
    interface: u32,
    segments_udp: bool,
    queue: Burst<QUEUE>,
    outbox: Outbox,
    stats: TapStats,
    flushed: Sent,
}

impl TapPort {
    /// Makes the interface in the calling thread's network namespace, with `queues` queues. It lives as
    /// long as its ports.
    ///
    /// # Errors
    /// [`KernelPortError`]: a bad or taken name, no `/dev/net/tun`, missing capabilities.
    pub fn open(name: &str, queues: usize, pools: &Pools) -> Result<Vec<TapPort>, KernelPortError> {
        TapPort::open_queues(name, queues, &Purpose::Host(queues), pools)
    }

    /// Makes the TAP of a NIC, or takes over the one that an earlier process left.
    ///
    /// # Errors
    /// As [`TapPort::open`].
    pub fn open_nic(
        nic: NicTap<'_>,
        queues: usize,
        pools: &Pools,
    ) -> Result<Vec<TapPort>, KernelPortError> {
        TapPort::open_queues(nic.name, queues, &Purpose::Nic(nic.mac), pools)
    }

    fn open_queues(
        name: &str,
        queues: usize,
        purpose: &Purpose,
        pools: &Pools,
    ) -> Result<Vec<TapPort>, KernelPortError> {
        if queues == 0 || queues > MAX_WORKERS {
            return Err(KernelPortError::BadWorkerCount(queues));
        }
        let bad = |c: char| matches!(c, '/' | ':' | '%' | '\0') || c.is_whitespace();
        if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.contains(bad) {
            return Err(KernelPortError::BadInterfaceName(name.to_owned()));
        }
        (0..queues)
            .map(|_| TapPort::open_queue(name, purpose, pools))
            .collect()
    }

    fn open_queue(
        name: &str,
        purpose: &Purpose,
        pools: &Pools,
    ) -> Result<TapPort, KernelPortError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open("/dev/net/tun")
            .map_err(|error| match error.raw_os_error() {
                Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => KernelPortError::TunMissing,
                _ => KernelPortError::io("opening /dev/net/tun", error),
            })?;
        let queue_fd = OwnedFd::from(file);
        let fd = queue_fd.as_fd();
        let failed = |what| move |error| KernelPortError::io(what, error);
        let mut flags: c_int = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        // The next process may have another number of workers.
        if matches!(purpose, Purpose::Nic(_) | Purpose::Host(2..)) {
            flags |= libc::IFF_MULTI_QUEUE;
        }
        syscall::attach_tap(fd, name, flags).map_err(|error| match error.raw_os_error() {
            // EINVAL: the name belongs to an interface of another kind.
            Some(libc::EBUSY | libc::EINVAL | libc::EEXIST) => {
                KernelPortError::InterfaceTaken(name.to_owned())
            }
            _ => KernelPortError::io("making the TAP", error),
        })?;
        // First of all: who names and addresses new interfaces (udev) leaves one alone whose address was set.
        if let Purpose::Nic(mac) = purpose
            && syscall::tap_mac(fd, name).ok() != Some(*mac)
        {
            syscall::set_tap_mac(fd, name, *mac).map_err(failed("setting the TAP's address"))?;
        }
        syscall::set_number(fd, TapNumber::HeaderLen)
            .map_err(failed("setting the TAP's header length"))?;
        let offload = |bits| syscall::set_number(fd, TapNumber::Offload(bits));
        let mut segments_udp = false;
        match purpose {
            Purpose::Host(_) => {
                segments_udp = offload(TCP | UDP).is_ok();
                if !segments_udp {
                    offload(TCP).map_err(failed("setting the TAP's offloads"))?;
                }
            }
            Purpose::Nic(_) => {
                offload(0).map_err(failed("setting the TAP's offloads"))?;
                syscall::set_number(fd, TapNumber::Persistent)
                    .map_err(failed("making the TAP stay"))?;
            }
        }
        let mac = syscall::tap_mac(fd, name).map_err(failed("reading the TAP's address"))?;
        let interface = syscall::interface_index(name)
            .ok_or_else(|| KernelPortError::NoInterface(name.to_owned()))?;
        Ok(TapPort {
            landings: Landings::new(pools)?,
            queue_fd,
            mac,
            interface,
            segments_udp,
            queue: Burst::new(),
            outbox: Outbox::new(QUEUE),
            stats: TapStats::default(),
            flushed: Sent::default(),
        })
    }

    /// Hands at most `limit` waiting frames, from the Ethernet header on and with their
    /// [`dpdk::Offload`] set, to `sink`. How many these were.
    pub fn receive(&mut self, limit: usize, sink: &mut impl FnMut(Mbuf)) -> usize {
        let mut delivered = 0;
        for _ in 0..limit {
            match self.landings.read(self.queue_fd.as_fd()) {
                Landed::Packets(_) => {}
                Landed::Nothing => break,
                Landed::NoMbuf => {
                    self.stats.no_mbuf += 1;
                    break;
                }
                Landed::Failed => {
                    self.stats.read_failed += 1;
                    break;
                }
            }
            match self.landed() {
                Ok(mbuf) => {
                    self.stats.received += 1;
                    delivered += 1;
                    sink(mbuf);
                }
                Err(reason) => *reason(&mut self.stats) += 1,
            }
        }
        delivered
    }

    fn landed(&mut self) -> Result<Mbuf, Reason> {
        let truncated: Reason = |stats| &mut stats.truncated;
        let length = self
            .landings
            .length(0)
            .checked_sub(vnet::LEN)
            .filter(|&length| length >= vnet::ETHERNET)
            .ok_or(truncated)?;
        let header = self.landings.header(0);
        let mut mbuf = self.landings.take(0, length).ok_or(truncated)?;
        let offload = offload_of(header, &mbuf).map_err(|bad| -> Reason {
            match bad {
                BadVnetHeader::UdpFragment => |stats| &mut stats.udp_fragment,
                _ => |stats| &mut stats.bad_vnet_header,
            }
        })?;
        mbuf.set_offload(offload);
        Ok(mbuf)
    }

    /// Queues a frame, from its Ethernet header on. Flushes when the queue is full.
    pub fn push(&mut self, mbuf: Mbuf) {
        if self.queue.is_full() {
            self.send_queue();
        }
        if self.queue.push(mbuf).is_err() {
            self.drop_packet(|stats| &mut stats.tx_would_block);
        }
    }

    /// Writes what is queued. What became of all frames pushed since the previous flush.
    pub fn flush(&mut self) -> Sent {
        self.send_queue();
        std::mem::take(&mut self.flushed)
    }

    fn send_queue(&mut self) {
        let mut tries = RETRIES;
        for index in 0..self.queue.len() {
            self.outbox.clear();
            let mbuf = &self.queue[index];
            let added = header_for(mbuf)
                .map_err(|_| Full::Message)
                .and_then(|header| {
                    self.outbox.header(header)?;
                    self.outbox.packet(mbuf.segments())
                });
            if added.is_err() {
                self.drop_packet(|stats| &mut stats.tx_invalid);
                continue;
            }
            let label = Label {
                tag: 0,
                packets: 1,
                segmented: false,
            };
            self.outbox.finish(Name::EMPTY, label, &[]);
            loop {
                // SAFETY: the outbox holds segments of an mbuf in `queue`, which is cleared after it.
                #[allow(unsafe_code)]
                let written = unsafe { self.outbox.write(self.queue_fd.as_fd(), 0) };
                match written.map_err(|error| (error.raw_os_error(), error.kind())) {
                    Ok(()) => {
                        self.stats.sent += 1;
                        self.flushed.sent += 1;
                    }
                    Err((_, io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted))
                        if tries > 0 =>
                    {
                        tries -= 1;
                        continue;
                    }
                    Err((_, io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)) => {
                        self.drop_packet(|stats| &mut stats.tx_would_block);
                    }
                    Err((Some(libc::EIO | libc::EBADFD | libc::ENETDOWN), _)) => {
                        self.drop_packet(|stats| &mut stats.tx_interface_down);
                    }
                    Err((Some(libc::EINVAL), _)) => {
                        self.drop_packet(|stats| &mut stats.tx_invalid);
                    }
                    Err(_) => self.drop_packet(|stats| &mut stats.tx_rejected),
                }
                break;
            }
        }
        self.outbox.clear();
        self.queue.clear();
    }

    fn drop_packet(&mut self, reason: Reason) {
        *reason(&mut self.stats) += 1;
        self.flushed.dropped += 1;
    }

    /// The descriptor to wait for.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.queue_fd.as_fd()
    }

    /// The interface's Ethernet address when it was made.
    #[must_use]
    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// The interface's index.
    #[must_use]
    pub fn ifindex(&self) -> u32 {
        self.interface
    }

    /// Whether the kernel cuts and sends large UDP packets too (6.2).
    #[must_use]
    pub fn segments_udp(&self) -> bool {
        self.segments_udp
    }

    /// Counters since the port was opened.
    #[must_use]
    pub fn stats(&self) -> TapStats {
        self.stats
    }
}
