//! The tunnel port: the contract's datagrams over UDP sockets, for an uplink that the kernel keeps.
//!
//! An inner packet is one datagram. The kernel routes, resolves and learns the path MTU; what is saved is
//! the number of system calls and walks through its stack: consecutive packets of one length to one host
//! leave as one `UDP_SEGMENT` message, and what the receiving kernel put together (`UDP_GRO`) is cut here.
//! Both need kernel 5.0, are probed, and have a fallback.

mod family;

use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, BorrowedFd};

use dpdk::Mbuf;
use family::Family;

use crate::access::MAX_WORKERS;
use crate::landing::{LANDINGS, LONG_LANDINGS, Landed, Landings};
use crate::syscall::{self, Name};
use crate::{KernelPortError, Pools, Sent};

/// Packets of each address family that wait for [`TunnelPort::flush`]; pushing one more flushes.
pub const QUEUE: usize = 128;

/// Bytes at the start of each packet of a coalesced datagram that lie in a small mbuf of their own,
/// writable: more than any chain of headers that the pipeline edits.
pub const OWN_BYTES: usize = 192;

/// Packets that the kernel puts together into one datagram at most; [`TunnelPort::receive`] may go so far beyond its
/// limit.
pub const COALESCED: usize = 64;

/// Bytes from which on a datagram is a long one.
const LONG: usize = 16 << 10;

/// What the kernel may do to a datagram that is larger than the path.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PathMtu {
    /// Learn what the path carries: DF is set on what fits as far as is known, and what does not is fragmented here.
    /// That something was learned comes by [`TunnelPort::path_errors`].
    #[default]
    Learn,
    /// Fragment it, here or (IPv4) on the way: DF is not set.
    Fragment,
    /// Refuse it here, by what was learned of the path: DF is set.
    Discover,
}

/// How a tunnel port is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TunnelOptions {
    /// Fragmentation of the outer packets.
    pub path_mtu: PathMtu,
    /// Use `UDP_SEGMENT` where the kernel has it.
    pub segmentation: bool,
    /// Use `UDP_GRO` where the kernel has it.
    pub coalescing: bool,
}

impl Default for TunnelOptions {
    fn default() -> Self {
        TunnelOptions {
            path_mtu: PathMtu::default(),
            segmentation: true,
            coalescing: true,
        }
    }
}

/// What happened to packets. Every packet pushed is in exactly one of `sent` and the `tx_` counters.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TunnelStats {
    /// Handed to the sink.
    pub received: u64,
    /// Datagrams without a byte.
    pub empty: u64,
    /// Datagrams longer than the mbufs.
    pub truncated: u64,
    /// A mempool was empty.
    pub no_mbuf: u64,
    /// Times that receiving failed with an error that an earlier send left behind.
    pub receive_failed: u64,
    /// Taken by the kernel.
    pub sent: u64,
    /// Messages with several datagrams that the kernel took.
    pub groups: u64,
    /// Messages that it refused to segment; their packets went out one by one.
    pub segmentation_refused: u64,
    /// The kernel had no room, also not after some tries.
    pub tx_would_block: u64,
    /// No route or no neighbour, or a firewall forbids it.
    pub tx_unreachable: u64,
    /// Larger than a datagram, or than the path where DF is set.
    pub tx_too_big: u64,
    /// No socket of the address family is open.
    pub tx_no_socket: u64,
    /// Empty, or in too many parts: a defect of the pipeline.
    pub tx_invalid: u64,
    /// Refused for another reason.
    pub tx_rejected: u64,
}

type Reason = fn(&mut TunnelStats) -> &mut u64;

/// Where the packets of the last system call are being handed out.
#[derive(Clone, Copy, Default)]
struct Cursor {
    datagram: usize,
    datagrams: usize,
}

/// A coalesced datagram that is being cut.
struct Cutting {
    whole: Mbuf,
    from: SocketAddr,
    tos: u8,
    size: usize,
    offset: usize,
}

/// One worker's sockets on the tunnel port.
pub struct TunnelPort {
    families: [Option<Family>; 2],
    landings: Landings,
    cursor: Cursor,
    cutting: Option<Cutting>,
    /// The family to ask first, so that neither starves the other.
    turn: usize,
    /// The datagrams of the last system call were long ones.
    long: bool,
    stats: TunnelStats,
    flushed: Sent,
}

impl TunnelPort {
    /// Binds the tunnel port for each worker with the default [`TunnelOptions`], in the calling thread's
    /// network namespace. With several workers the kernel spreads peers among them (`SO_REUSEPORT`).
    ///
    /// # Errors
    /// [`KernelPortError`]: the port is taken, an address is not there, nothing is left to bind. A host
    /// without IPv6 is no error as long as an IPv4 address is given.
    pub fn open(
        workers: usize,
        bind_v4: Option<SocketAddrV4>,
        bind_v6: Option<SocketAddrV6>,
        pools: &Pools,
    ) -> Result<Vec<TunnelPort>, KernelPortError> {
        TunnelPort::open_with(workers, bind_v4, bind_v6, pools, TunnelOptions::default())
    }

    /// [`TunnelPort::open`] with options.
    ///
    /// # Errors
    /// As there.
    pub fn open_with(
        workers: usize,
        bind_v4: Option<SocketAddrV4>,
        bind_v6: Option<SocketAddrV6>,
        pools: &Pools,
        options: TunnelOptions,
    ) -> Result<Vec<TunnelPort>, KernelPortError> {
        if workers == 0 || workers > MAX_WORKERS {
            return Err(KernelPortError::BadWorkerCount(workers));
        }
        let v4 = Family::open(workers, bind_v4.map(SocketAddr::from), options)?;
        let v6 = Family::open(workers, bind_v6.map(SocketAddr::from), options)?;
        if v4.is_empty() && v6.is_empty() {
            return Err(KernelPortError::NoTunnelAddress);
        }
        let mut v6 = v6.into_iter();
        let mut v4 = v4.into_iter();
        (0..workers)
            .map(|_| {
                Ok(TunnelPort {
                    families: [v4.next(), v6.next()],
                    landings: Landings::new(pools)?,
                    cursor: Cursor::default(),
                    cutting: None,
                    turn: 0,
                    long: false,
                    stats: TunnelStats::default(),
                    flushed: Sent::default(),
                })
            })
            .collect()
    }

    /// Hands about `limit` inner packets to `sink`, each with its sender and the outer type of service
    /// or traffic class; how many these were. A coalesced datagram that was begun is handed out to its end, so that
    /// what belongs together comes together: up to [`COALESCED`] packets beyond the limit. A packet of such a datagram has
    /// its first [`OWN_BYTES`] in an mbuf of its own; behind it hangs a shared view of the rest.
    pub fn receive(&mut self, limit: usize, sink: &mut impl FnMut(Mbuf, &SocketAddr, u8)) -> usize {
        let mut delivered = self.hand_out(limit, sink);
        let mut quiet = 0;
        while delivered < limit && quiet < self.families.len() {
            let most = if self.long { LONG_LANDINGS } else { LANDINGS };
            let wanted = most.min(limit - delivered);
            match self.land(wanted) {
                // More may wait only where the call came back full.
                Landed::Packets(count) => quiet = if count < wanted { quiet + 1 } else { 0 },
                Landed::Nothing => quiet += 1,
                Landed::Failed => {
                    self.stats.receive_failed += 1;
                    self.doubt();
                    quiet += 1;
                }
                Landed::NoMbuf => {
                    // Newer packets are worth more than a queue that stands still.
                    if self.discard() {
                        self.stats.no_mbuf += 1;
                    } else {
                        self.doubt();
                    }
                    quiet += 1;
                }
            }
            delivered += self.hand_out(limit - delivered, sink);
        }
        delivered
    }

    /// Receives from the next family that has a socket. Not while packets wait to be handed out.
    fn land(&mut self, wanted: usize) -> Landed {
        self.turn = (self.turn + 1) % self.families.len();
        let Some(family) = &self.families[self.turn] else {
            return Landed::Nothing;
        };
        let landed = self.landings.receive(family.socket.as_fd(), wanted, false);
        if let Landed::Packets(datagrams) = landed {
            self.long = (0..datagrams).any(|index| self.landings.length(index) >= LONG);
            self.cursor = Cursor {
                datagram: 0,
                datagrams,
            };
        }
        landed
    }

    // The socket may have an ICMP error to tell.
    fn doubt(&mut self) {
        if let Some(family) = &mut self.families[self.turn] {
            family.doubtful = true;
        }
    }

    fn discard(&self) -> bool {
        let family = self.families[self.turn].as_ref();
        family.is_some_and(|family| syscall::discard(family.socket.as_fd()))
    }

    fn hand_out(&mut self, limit: usize, sink: &mut impl FnMut(Mbuf, &SocketAddr, u8)) -> usize {
        let mut delivered = 0;
        while delivered < limit || (self.cutting.is_some() && delivered < limit + COALESCED) {
            if let Some(cutting) = &mut self.cutting {
                match cutting.next(self.landings.pools()) {
                    Cut::Packet(mbuf) => {
                        sink(mbuf, &cutting.from, cutting.tos);
                        self.stats.received += 1;
                        delivered += 1;
                    }
                    Cut::NoMbuf => self.stats.no_mbuf += 1,
                    Cut::Done => self.cutting = None,
                }
                continue;
            }
            if self.cursor.datagram == self.cursor.datagrams {
                break;
            }
            let index = self.cursor.datagram;
            self.cursor.datagram += 1;
            match self.datagram(index) {
                Ok((mbuf, from, tos, Some(size))) => {
                    self.cutting = Some(Cutting {
                        whole: mbuf,
                        from,
                        tos,
                        size,
                        offset: 0,
                    });
                }
                Ok((mbuf, from, tos, None)) => {
                    sink(mbuf, &from, tos);
                    self.stats.received += 1;
                    delivered += 1;
                }
                Err(reason) => *reason(&mut self.stats) += 1,
            }
        }
        delivered
    }

    /// Datagram `index` of the last call, and the size of its packets when there are several.
    fn datagram(&mut self, index: usize) -> Result<(Mbuf, SocketAddr, u8, Option<usize>), Reason> {
        let length = self.landings.length(index);
        if length == 0 {
            return Err(|stats| &mut stats.empty);
        }
        if self.landings.truncated(index) {
            return Err(|stats| &mut stats.truncated);
        }
        let details = self.landings.details(index);
        let from = self.landings.sender(index);
        let mbuf = self.landings.take(index, length);
        let (Some(from), Some(mbuf)) = (from, mbuf) else {
            return Err(|stats| &mut stats.truncated);
        };
        let size = details.coalesced.filter(|&size| size > 0 && size < length);
        Ok((mbuf, from, details.tos, size))
    }

    /// Queues an inner packet for a host, with the outer type of service or traffic class. Flushes when
    /// the queue is full. An IPv4-mapped address leaves by IPv4.
    pub fn push(&mut self, mbuf: Mbuf, to: &SocketAddr, tos: u8) {
        let to = canonical(*to);
        let family = usize::from(to.is_ipv6());
        if mbuf.pkt_len() == 0 {
            self.drop_packet(|stats| &mut stats.tx_invalid);
            return;
        }
        let TunnelPort {
            families,
            stats,
            flushed,
            ..
        } = self;
        let Some(family) = &mut families[family] else {
            self.drop_packet(|stats| &mut stats.tx_no_socket);
            return;
        };
        if family.queue.is_full() {
            family.send(stats, flushed);
        }
        let index = family.queue.len();
        family.to[index] = Name::of(to);
        family.tos[index] = tos;
        if family.queue.push(mbuf).is_err() {
            self.drop_packet(|stats| &mut stats.tx_would_block);
        }
    }

    fn drop_packet(&mut self, reason: Reason) {
        *reason(&mut self.stats) += 1;
        self.flushed.dropped += 1;
    }

    /// Sends what is queued, by one system call for each address family that has something. What became
    /// of all packets pushed since the previous flush. Packets to one host stay in order.
    pub fn flush(&mut self) -> Sent {
        for family in self.families.iter_mut().flatten() {
            family.send(&mut self.stats, &mut self.flushed);
        }
        std::mem::take(&mut self.flushed)
    }

    /// Tells the hosts of which ICMP said that a datagram was too big for the path since the last call. What the path
    /// carries, [`path_mtu`](crate::path_mtu) knows from then on.
    #[inline]
    pub fn path_errors(&mut self, sink: &mut impl FnMut(IpAddr)) {
        for family in self.families.iter_mut().flatten() {
            if family.doubtful {
                family.errors(sink);
            }
        }
    }

    /// The descriptors to wait for.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let families = self.families.iter().flatten();
        families.map(|family| family.socket.as_fd())
    }

    /// Where the sockets are bound.
    pub fn local_addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.fds().filter_map(|fd| syscall::local_address(fd).ok())
    }

    /// Whether the kernel has `UDP_SEGMENT`, and it is used.
    #[must_use]
    pub fn segmentation(&self) -> bool {
        self.families
            .iter()
            .flatten()
            .any(|family| family.segmentation)
    }

    /// Whether the kernel has `UDP_GRO`, and it is used.
    #[must_use]
    pub fn coalescing(&self) -> bool {
        self.families
            .iter()
            .flatten()
            .any(|family| family.coalescing)
    }

    /// Datagrams that the kernel dropped because a receive buffer was full. A system call per socket.
    #[must_use]
    pub fn kernel_drops(&self) -> u64 {
        // `SK_MEMINFO_DROPS` is the ninth word.
        self.fds()
            .filter_map(|fd| syscall::option::<9>(fd, libc::SOL_SOCKET, libc::SO_MEMINFO).ok())
            .map(|words| u64::from(words[8]))
            .sum()
    }

    /// Counters since the port was opened.
    #[must_use]
    pub fn stats(&self) -> TunnelStats {
        self.stats
    }
}

enum Cut {
    Packet(Mbuf),
    /// This packet is lost; the next one may not be.
    NoMbuf,
    Done,
}

impl Cutting {
    fn next(&mut self, pools: &Pools) -> Cut {
        let left = self.whole.pkt_len().saturating_sub(self.offset);
        if left == 0 {
            return Cut::Done;
        }
        let (offset, length) = (self.offset, left.min(self.size));
        self.offset += length;
        let own = length.min(OWN_BYTES);
        let Some(mut packet) = pools.small.alloc() else {
            return Cut::NoMbuf;
        };
        let copied = match packet.append(own) {
            Some(room) => self.whole.copy_out(offset, room),
            None => false,
        };
        if !copied {
            return Cut::NoMbuf;
        }
        if length > own {
            let rest = self.whole.slice(&pools.small, offset + own, length - own);
            let Some(Ok(())) = rest.map(|rest| packet.push_segment(rest)) else {
                return Cut::NoMbuf;
            };
        }
        Cut::Packet(packet)
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddrV4::new(ip, address.port()).into(),
        IpAddr::V6(_) => address,
    }
}
