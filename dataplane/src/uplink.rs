//! The uplink role: towards other nodes. Two kinds play it behind one face.
//!
//! With a `socket` uplink the kernel routes, resolves neighbours and learns path MTUs, and one system call carries many
//! datagrams. With an `ethdev` uplink this module writes Ethernet, IP and UDP headers itself, from a next hop that the
//! control plane reads out of the kernel's tables and keeps current; it splits datagrams and puts them together again,
//! and reads what routers say of the path, where a NIC in DPDK's hands has no kernel behind it.

mod beside;
mod outer;
mod reassembly;
mod report;
#[cfg(test)]
mod tests;

pub mod template;

use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering;

use arrayvec::ArrayVec;
use dpdk::{Burst, Mbuf, Mempool, RxQueue, TxQueue};
use kernel_port::{Sent, TunnelPort};
use net::address::Address;
use net::ethernet::{self, Mac};
use net::packet::{Headers, Icmp};

use crate::api::NextHop;
use crate::observe::capture::{CapturePort, Eye};
use crate::port_stats::{EthdevStats, PortStats};
use crate::sync::AtomicU64;
use crate::tables::{Tables, halves, join, low32};
use crate::tunnel;

pub use beside::{Beside, Crossed};
pub(crate) use outer::FLOOR_V4;
use outer::{Opened, Outer};
pub use reassembly::Reassembled;
use reassembly::Reassembly;

/// Calls until a device that has no room is left alone.
const TRIES: usize = 8;
/// Hosts of which something may be said in one round.
const REPORTS: usize = 8;

/// A next hop as a worker reads it.
struct Hop {
    source_mac: Mac,
    next_mac: Mac,
    source: Address,
    /// The longest outer IP packet that the path carries in one piece.
    path: u16,
}

/// Writes a next hop into a cell that no worker can reach yet, with the longest outer IP packet that the path carries.
pub(crate) fn write_next_hop(words: &[AtomicU64], hop: &NextHop, path: u16) {
    let mac = |m: [u8; 6]| u64::from_be_bytes([0, 0, m[0], m[1], m[2], m[3], m[4], m[5]]);
    let (high, low) = halves(Address::from(hop.source));
    let source_mac = mac(hop.source_mac) | (u64::from(path) << 48);
    for (word, value) in words.iter().zip([source_mac, mac(hop.next_mac), high, low]) {
        word.store(value, Ordering::Relaxed);
    }
}

impl Hop {
    fn read(words: &[AtomicU64; 4]) -> Hop {
        let word = |n: usize| words.get(n).map_or(0, |w| w.load(Ordering::Relaxed));
        let [p, q, source_mac @ ..] = word(0).to_be_bytes();
        let [_, _, next_mac @ ..] = word(1).to_be_bytes();
        Hop {
            source_mac: Mac(source_mac),
            next_mac: Mac(next_mac),
            source: join(word(2), word(3)),
            path: u16::from_be_bytes([p, q]),
        }
    }

    /// The next hop towards a host.
    fn towards(tables: &Tables, host: Address) -> Option<Hop> {
        let cell = low32(tables.next_hops.get(&tables.arena, host)?);
        tables.arena.cell(cell).map(Hop::read)
    }
}

/// What is received: an inner packet, the outer source address, the outer TOS byte.
pub type Received = (Mbuf, Address, u8);

/// Someone said that the path to a host carries less than was sent there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathReport {
    /// The host.
    pub host: Address,
    /// The longest IP packet that the path carries in one piece, in bytes; 0 when it is the kernel that knows.
    pub mtu: u16,
}

/// What became of a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Push {
    /// It waits for the flush.
    Queued,
    /// It waits for the flush in so many fragments.
    Split(usize),
    /// No mbuf or no room for some of its fragments, of which so many wait for the flush all the same.
    Torn(usize),
    /// No next hop is known; ask for it.
    NoNextHop,
    /// No mbuf or no room.
    NoMbuf,
}

/// One worker's uplink.
pub enum Uplink {
    /// The kernel's sockets.
    Socket(Box<TunnelPort>),
    /// A port of DPDK.
    Ethdev(Box<EthdevUplink>),
}

/// One worker's queues of an ethdev port.
pub struct EthdevUplink {
    rx: RxQueue,
    tx: TxQueue,
    outbox: Burst<64>,
    /// It sends frames of several segments.
    takes_chains: bool,
    tunnel_port: u16,
    small: Mempool,
    id: u32,
    flushed: Sent,
    stats: EthdevStats,
    rare: Rare,
    beside: Beside,
    crossed: Crossed,
}

/// What to do with the frames that are neither the tunnel's datagrams nor none of its business.
struct Rare {
    tunnel_port: u16,
    reassembly: Reassembly,
    reports: ArrayVec<PathReport, REPORTS>,
}

impl Rare {
    /// A fragment, or what a router says of our datagrams.
    #[cold]
    fn take(&mut self, tables: &Tables, frame: Mbuf, headers: &Headers) -> Option<Received> {
        let packet = outer::enter(frame, headers)?;
        if headers.icmp == Icmp::None {
            // Only who may send whole datagrams may have some put together.
            tables.endpoint_of(headers.source)?;
            return self.reassembly.offer(packet, headers);
        }
        let report = report::read(tables, self.tunnel_port, packet, headers)?;
        // The same is said of each of a burst's datagrams; what does not fit here is said again.
        if !self.reports.contains(&report) {
            let _ = self.reports.try_push(report);
        }
        None
    }
}

impl EthdevUplink {
    /// Over a pair of queues; `tunnel_port` in host byte order.
    pub fn new(
        (rx, tx): (RxQueue, TxQueue),
        takes_chains: bool,
        tunnel_port: u16,
        small: Mempool,
        beside: Beside,
    ) -> Self {
        Self {
            rx,
            tx,
            outbox: Burst::new(),
            takes_chains,
            tunnel_port,
            small,
            // Workers' fragments, and those of an earlier process, must not be taken for one another's.
            id: low32(dpdk::cycles()),
            flushed: Sent::default(),
            stats: EthdevStats::default(),
            rare: Rare {
                tunnel_port,
                reassembly: Reassembly::new(tunnel_port),
                reports: ArrayVec::new(),
            },
            beside,
            crossed: Crossed::default(),
        }
    }

    fn open(&mut self, tables: &Tables, frame: Mbuf) -> Option<Received> {
        let received = match outer::open(frame, self.tunnel_port) {
            Opened::Inner(received) => Some(received),
            Opened::Other(frame) => {
                match self.beside.wants() {
                    true => self.beside.give(frame, &mut self.crossed),
                    // The kernel has a copy of every frame and answers what is not the tunnel's.
                    false => self.stats.ignored += 1,
                }
                None
            }
            Opened::Rare(frame, headers) => {
                // Whose it is, the kernel finds out as well: it has a socket at the tunnel port that swallows ours.
                if self.beside.wants()
                    && let Some(copy) = frame.slice(&self.small, 0, frame.pkt_len())
                {
                    self.beside.give(copy, &mut self.crossed);
                }
                self.rare.take(tables, frame, &headers)
            }
        };
        self.stats.received += u64::from(received.is_some());
        received
    }

    fn push(
        &mut self,
        tables: &Tables,
        eye: Option<&Eye<'_>>,
        packet: Mbuf,
        to: (Address, u16),
        tos: u8,
    ) -> Push {
        let Some(hop) = Hop::towards(tables, to.0) else {
            return Push::NoNextHop;
        };
        self.id = self.id.wrapping_add(1);
        let outer = Outer {
            source_mac: hop.source_mac,
            next_mac: hop.next_mac,
            source: hop.source,
            to,
            from_port: self.tunnel_port,
            tos,
            id: self.id,
            path: hop.path,
        };
        let fits = outer.fits(packet.pkt_len());
        let Some(frame) = outer.wrap(packet, &self.small) else {
            return Push::NoMbuf;
        };
        if !fits {
            return self.push_split(eye, frame, &outer);
        }
        match self.queue(eye, frame) {
            true => Push::Queued,
            false => Push::NoMbuf,
        }
    }

    #[inline]
    fn queue(&mut self, eye: Option<&Eye<'_>>, frame: Mbuf) -> bool {
        let frame = if self.takes_chains || frame.segment_count() == 1 {
            frame
        } else if let Some(copy) = in_one_piece(&frame, &self.small) {
            copy
        } else {
            return false;
        };
        let Err(frame) = self.outbox.push(frame) else {
            return true;
        };
        self.send(eye);
        self.outbox.push(frame).is_ok()
    }

    /// Sends a datagram in fragments: IPv6 inside asks for more than the path carries, or the path has just become
    /// narrower.
    #[cold]
    fn push_split(&mut self, eye: Option<&Eye<'_>>, mut frame: Mbuf, outer: &Outer) -> Push {
        let plan = match frame.advance(ethernet::HEADER_LEN) {
            true => outer.split(&frame),
            false => None,
        };
        let Some(plan) = plan else {
            return Push::NoMbuf;
        };
        let small = self.small.clone();
        let mut queued = 0;
        let cut = tunnel::fragments(&frame, &plan, &small, |mut piece| {
            queued += usize::from(outer.frame(&mut piece) && self.queue(eye, piece));
        });
        match cut.failure.is_none() && queued == cut.pieces {
            true => Push::Split(queued),
            false => Push::Torn(queued),
        }
    }

    fn send(&mut self, eye: Option<&Eye<'_>>) {
        if let Some(eye) = eye {
            see_all(eye, true, &self.outbox);
        }
        let waiting = self.outbox.len();
        let mut sent = 0;
        for _ in 0..TRIES {
            sent += self.tx.burst(&mut self.outbox);
            if self.outbox.is_empty() {
                break;
            }
        }
        self.outbox.clear();
        self.stats.sent += sent as u64;
        self.stats.tx_full += (waiting - sent) as u64;
        self.flushed += Sent {
            sent,
            dropped: waiting - sent,
        };
    }

    fn flush(&mut self, eye: Option<&Eye<'_>>) -> Sent {
        if !self.outbox.is_empty() {
            self.send(eye);
        }
        if self.crossed.received > 0 {
            self.beside.flush(&mut self.stats, &mut self.crossed);
        }
        std::mem::take(&mut self.flushed)
    }
}

/// A copy in one segment, for a device (the af_xdp PMD) that sends nothing else.
#[cold]
fn in_one_piece(frame: &Mbuf, pool: &Mempool) -> Option<Mbuf> {
    let mut copy = pool.alloc()?;
    let room = copy.append(frame.pkt_len())?;
    frame.copy_out(0, room).then_some(copy)
}

/// Hands what has arrived at the kernel's sockets to `sink`.
fn receive(
    port: &mut TunnelPort,
    eye: Option<&Eye<'_>>,
    limit: usize,
    sink: &mut impl FnMut(Received),
) -> usize {
    port.receive(limit, &mut |mbuf: Mbuf, from: &SocketAddr, tos: u8| {
        if let Some(eye) = eye {
            let from = (Address::from(from.ip()), from.port());
            eye.see(CapturePort::Uplink, false, &mbuf, Some(from));
        }
        sink((mbuf, Address::from(from.ip()), tos));
    })
}

impl Uplink {
    /// Hands what has arrived at the kernel's sockets to `sink`, `limit` packets at most; how many that was. An open eye
    /// sees them first.
    pub fn receive(
        &mut self,
        eye: Option<&Eye<'_>>,
        limit: usize,
        sink: &mut impl FnMut(Received),
    ) -> usize {
        match self {
            Uplink::Socket(port) => receive(port, eye, limit, sink),
            Uplink::Ethdev(_) => 0,
        }
    }

    /// The kernel beside an ethdev: what it sends by the NIC goes out, and what it holds of the tunnel's goes to `sink`.
    /// How many packets that was. Costs a system call, so it is not for every round.
    pub fn look_beside(
        &mut self,
        eye: Option<&Eye<'_>>,
        limit: usize,
        sink: &mut impl FnMut(Received),
    ) -> usize {
        let Uplink::Ethdev(port) = self else { return 0 };
        let EthdevUplink {
            tx,
            beside,
            stats,
            crossed,
            ..
        } = &mut **port;
        match beside {
            Beside::Rest(socket) => {
                let came = receive(socket, eye, limit, sink);
                stats.received += came as u64;
                came
            }
            beside => beside.forward(tx, eye, stats, crossed),
        }
    }

    /// What crossed between the kernel and a NIC that is wholly in DPDK, since the last call.
    #[inline]
    pub fn crossed(&mut self) -> Crossed {
        match self {
            Uplink::Socket(_) => Crossed::default(),
            Uplink::Ethdev(port) => std::mem::take(&mut port.crossed),
        }
    }

    /// Descriptors to wait for.
    pub fn fds(&self) -> Vec<BorrowedFd<'_>> {
        match self {
            Uplink::Socket(port) => port.fds().collect(),
            Uplink::Ethdev(port) => match &port.beside {
                Beside::Copies => Vec::new(),
                Beside::Rest(socket) => socket.fds().collect(),
                Beside::Tap(tap) => vec![tap.fd()],
            },
        }
    }

    /// Adds frames that have arrived at an ethdev to `into`, and says the tunnel's UDP port. An open eye sees them first.
    #[inline]
    pub fn frames(&mut self, eye: Option<&Eye<'_>>, into: &mut Burst<64>) -> Option<u16> {
        let Uplink::Ethdev(port) = self else {
            return None;
        };
        port.rx.burst(into);
        if let Some(eye) = eye {
            see_all(eye, false, into);
        }
        Some(port.tunnel_port)
    }

    /// Opens one of these frames; `None` for what is no whole datagram of the tunnel's.
    pub fn open(&mut self, tables: &Tables, frame: Mbuf) -> Option<Received> {
        match self {
            Uplink::Socket(_) => None,
            Uplink::Ethdev(port) => port.open(tables, frame),
        }
    }

    /// So many of them were opened by the pipeline itself.
    #[inline]
    pub fn opened(&mut self, datagrams: usize) {
        if let Uplink::Ethdev(port) = self {
            port.stats.received += datagrams as u64;
        }
    }

    /// Datagrams so far that hold no packet: empty ones, and such as are longer than any packet.
    #[must_use]
    pub fn unusable(&self) -> u64 {
        match self {
            Uplink::Socket(port) => {
                let stats = port.stats();
                stats.empty + stats.truncated
            }
            // Frames that are not the tunnel's are the kernel's.
            Uplink::Ethdev(port) => match &port.beside {
                Beside::Rest(socket) => {
                    let stats = socket.stats();
                    stats.empty + stats.truncated
                }
                _ => 0,
            },
        }
    }

    /// Queues an inner packet for a host.
    pub fn push(
        &mut self,
        tables: &Tables,
        eye: Option<&Eye<'_>>,
        packet: Mbuf,
        to: (Address, u16),
        tos: u8,
    ) -> Push {
        match self {
            Uplink::Socket(port) => {
                if let Some(eye) = eye {
                    eye.see(CapturePort::Uplink, true, &packet, Some(to));
                }
                port.push(packet, &crate::pipeline::endpoint(to), tos);
                Push::Queued
            }
            Uplink::Ethdev(port) => port.push(tables, eye, packet, to, tos),
        }
    }

    /// Queues a frame that is complete; false when there is no room, and for an uplink that takes none.
    #[inline(always)]
    pub fn frame(&mut self, eye: Option<&Eye<'_>>, frame: Mbuf) -> bool {
        match self {
            Uplink::Socket(_) => false,
            Uplink::Ethdev(port) => port.queue(eye, frame),
        }
    }

    /// Sends what is queued.
    pub fn flush(&mut self, eye: Option<&Eye<'_>>) -> Sent {
        match self {
            Uplink::Socket(port) => port.flush(),
            Uplink::Ethdev(port) => port.flush(eye),
        }
    }

    /// Shows what the port counted; with `drops`, also what the kernel did, which takes system calls.
    pub(crate) fn show(&self, to: &PortStats, drops: bool) {
        match self {
            Uplink::Socket(port) => {
                to.store_tunnel(&port.stats(), drops.then(|| port.kernel_drops()));
            }
            Uplink::Ethdev(port) => to.store_ethdev(&port.stats),
        }
    }

    /// What was said of paths since the last call.
    #[inline]
    pub fn reports(&mut self, mut each: impl FnMut(PathReport)) {
        match self {
            Uplink::Socket(port) => port.path_errors(&mut |host| {
                each(PathReport {
                    host: host.into(),
                    mtu: 0,
                });
            }),
            Uplink::Ethdev(port) => {
                port.rare.reports.drain(..).for_each(&mut each);
                if let Beside::Rest(socket) = &mut port.beside {
                    socket.path_errors(&mut |host| {
                        each(PathReport {
                            host: host.into(),
                            mtu: 0,
                        });
                    });
                }
            }
        }
    }

    /// Gives up datagrams whose fragments did not all come in time, at `milliseconds` of the machine's monotonic
    /// clock.
    pub fn tick(&mut self, milliseconds: u64) -> Reassembled {
        match self {
            // The kernel does this.
            Uplink::Socket(_) => Reassembled::default(),
            Uplink::Ethdev(port) => port.rare.reassembly.tick(milliseconds),
        }
    }
}

/// Opens a frame that holds a whole datagram to `tunnel_port`; for who has no device.
#[must_use]
pub fn open(frame: Mbuf, tunnel_port: u16) -> Option<Received> {
    match outer::open(frame, tunnel_port) {
        Opened::Inner(received) => Some(received),
        _ => None,
    }
}

#[cold]
fn see_all(eye: &Eye<'_>, outgoing: bool, frames: &Burst<64>) {
    for frame in frames.as_slice() {
        eye.see(CapturePort::Uplink, outgoing, frame, None);
    }
}
