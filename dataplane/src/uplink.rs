//! The uplink role: towards other nodes. Two kinds play it behind one face.
//!
//! With a `socket` uplink the kernel routes, resolves neighbours and learns path MTUs, and one system call carries many
//! datagrams. With an `ethdev` uplink this module writes Ethernet, IP and UDP headers itself, from a next hop that the
//! control plane reads out of the kernel's tables and keeps current.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use dpdk::{Burst, Mbuf, Mempool, RxQueue, TxQueue};
use kernel_port::{Sent, TunnelPort};
use net::address::Address;
use net::checksum;
use net::ethernet::{self, EtherType, Mac};
use net::packet::{Fragment, Headers, Protocol};
use net::{ipv4, ipv6, udp};

use crate::api::NextHop;
use crate::observe::capture::{CapturePort, Eye};
use crate::tables::{Tables, halves, join};

const HOPS: u8 = 64;

/// Writes a next hop into a cell that no worker can reach yet.
pub(crate) fn write_next_hop(words: &[AtomicU64], hop: &NextHop) {
    let mac = |m: [u8; 6]| u64::from_be_bytes([0, 0, m[0], m[1], m[2], m[3], m[4], m[5]]);
    let (high, low) = halves(Address::from(hop.source));
    for (word, value) in words
        .iter()
        .zip([mac(hop.source_mac), mac(hop.next_mac), high, low])
    {
        word.store(value, Ordering::Relaxed);
    }
}

fn read_next_hop(words: &[AtomicU64; 4]) -> (Mac, Mac, Address) {
    let word = |n: usize| words.get(n).map_or(0, |w| w.load(Ordering::Relaxed));
    let mac = |value: u64| {
        let b = value.to_be_bytes();
        Mac([b[2], b[3], b[4], b[5], b[6], b[7]])
    };
    (mac(word(0)), mac(word(1)), join(word(2), word(3)))
}

/// What is received: an inner packet, the outer source address, the outer TOS byte.
pub type Received = (Mbuf, Address, u8);

/// What became of a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Push {
    /// It waits for the flush.
    Queued,
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
    inbox: Burst<64>,
    outbox: Burst<64>,
    tunnel_port: u16,
    small: Mempool,
    id: u16,
    flushed: Sent,
    ignored: u64,
}

impl EthdevUplink {
    /// Over a pair of queues; `tunnel_port` in host byte order.
    pub fn new(rx: RxQueue, tx: TxQueue, tunnel_port: u16, small: Mempool) -> Self {
        Self {
            rx,
            tx,
            inbox: Burst::new(),
            outbox: Burst::new(),
            tunnel_port,
            small,
            id: 0,
            flushed: Sent::default(),
            ignored: 0,
        }
    }

    fn receive(&mut self, eye: Option<&Eye<'_>>, sink: &mut impl FnMut(Received)) -> usize {
        let count = self.rx.burst(&mut self.inbox);
        if let Some(eye) = eye {
            see_all(eye, false, &self.inbox);
        }
        for frame in self.inbox.drain() {
            // The kernel has a copy of every frame and answers what is not the tunnel's.
            match decapsulate(frame, self.tunnel_port) {
                Some(received) => sink(received),
                None => self.ignored += 1,
            }
        }
        count
    }

    fn push(
        &mut self,
        tables: &Tables,
        eye: Option<&Eye<'_>>,
        packet: Mbuf,
        to: (Address, u16),
        tos: u8,
    ) -> Push {
        let cell = tables
            .next_hops
            .get(&tables.arena, to.0)
            .map(crate::tables::low32);
        let Some(words) = cell.and_then(|cell| tables.arena.cell(cell)) else {
            return Push::NoNextHop;
        };
        let (source_mac, next_mac, source) = read_next_hop(words);
        self.id = self.id.wrapping_add(1);
        let outer = Outer {
            source_mac,
            next_mac,
            source,
            to,
            from_port: self.tunnel_port,
            tos,
            id: self.id,
        };
        let Some(frame) = encapsulate(packet, &outer, &self.small) else {
            return Push::NoMbuf;
        };
        if let Err(frame) = self.outbox.push(frame) {
            self.send(eye);
            if self.outbox.push(frame).is_err() {
                return Push::NoMbuf;
            }
        }
        Push::Queued
    }

    fn send(&mut self, eye: Option<&Eye<'_>>) {
        if let Some(eye) = eye {
            see_all(eye, true, &self.outbox);
        }
        let waiting = self.outbox.len();
        let mut sent = 0;
        for _ in 0..8 {
            sent += self.tx.burst(&mut self.outbox);
            if self.outbox.is_empty() {
                break;
            }
        }
        self.outbox.clear();
        self.flushed += Sent {
            sent,
            dropped: waiting - sent,
        };
    }

    fn flush(&mut self, eye: Option<&Eye<'_>>) -> Sent {
        if !self.outbox.is_empty() {
            self.send(eye);
        }
        std::mem::take(&mut self.flushed)
    }
}

impl Uplink {
    /// Hands what has arrived to `sink`, a burst at most; how much that was. An open eye sees it first.
    pub fn receive(
        &mut self,
        eye: Option<&Eye<'_>>,
        limit: usize,
        sink: &mut impl FnMut(Received),
    ) -> usize {
        match self {
            Uplink::Socket(port) => {
                port.receive(limit, &mut |mbuf: Mbuf, from: &SocketAddr, tos: u8| {
                    if let Some(eye) = eye {
                        let from = (Address::from(from.ip()), from.port());
                        eye.see(CapturePort::Uplink, false, &mbuf, Some(from));
                    }
                    sink((mbuf, Address::from(from.ip()), tos));
                })
            }
            Uplink::Ethdev(port) => port.receive(eye, sink),
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

    /// Sends what is queued.
    pub fn flush(&mut self, eye: Option<&Eye<'_>>) -> Sent {
        match self {
            Uplink::Socket(port) => port.flush(),
            Uplink::Ethdev(port) => port.flush(eye),
        }
    }
}

#[cold]
fn see_all(eye: &Eye<'_>, outgoing: bool, frames: &Burst<64>) {
    for frame in frames.as_slice() {
        eye.see(CapturePort::Uplink, outgoing, frame, None);
    }
}

// The inner packet of a frame that is a tunnel datagram: whole, not a fragment, to our port.
fn decapsulate(mut frame: Mbuf, tunnel_port: u16) -> Option<Received> {
    let ethernet = ethernet::Header::parse(frame.data())?;
    if !matches!(ethernet.ethertype, EtherType::IPV4 | EtherType::IPV6)
        || !frame.advance(ethernet::HEADER_LEN)
    {
        return None;
    }
    let headers = Headers::parse(frame.data(), frame.pkt_len()).ok()?;
    let ours = headers.protocol == Protocol::UDP
        && headers.destination_port == tunnel_port
        && headers.fragment == Fragment::None;
    if !ours || headers.payload_len() == 0 {
        return None;
    }
    frame.truncate(headers.total_len);
    // What the kernel left for a NIC to do concerned the outer packet, which ends here.
    frame.set_offload(dpdk::Offload::default());
    frame
        .advance(usize::from(headers.header_len))
        .then_some((frame, headers.source, headers.tos))
}

/// The headers around an inner packet.
struct Outer {
    source_mac: Mac,
    next_mac: Mac,
    source: Address,
    to: (Address, u16),
    from_port: u16,
    tos: u8,
    id: u16,
}

fn encapsulate(packet: Mbuf, outer: &Outer, pool: &Mempool) -> Option<Mbuf> {
    let v4 = outer.source.is_v4();
    let ip_len = if v4 {
        ipv4::HEADER_LEN
    } else {
        ipv6::HEADER_LEN
    };
    let udp_len = u16::try_from(packet.pkt_len() + udp::HEADER_LEN).ok()?;
    let head_len = ethernet::HEADER_LEN + ip_len + udp::HEADER_LEN;
    let payload = (!v4).then(|| {
        let mut sum = checksum::Accumulator::new();
        for bytes in packet.segments() {
            sum.add(bytes);
        }
        sum.sum()
    });
    let mut frame = packet;
    if frame.headroom() < head_len {
        let mut head = pool.alloc()?;
        head.push_segment(frame).ok()?;
        frame = head;
    }
    let (ethernet, rest) = frame
        .prepend(head_len)?
        .split_first_chunk_mut::<{ ethernet::HEADER_LEN }>()?;
    let ethertype = if v4 { EtherType::IPV4 } else { EtherType::IPV6 };
    *ethernet = ethernet::Header {
        destination: outer.next_mac,
        source: outer.source_mac,
        ethertype,
    }
    .to_bytes();
    let (ip, rest) = rest.split_at_mut_checked(ip_len)?;
    // RFC 768: no checksum over IPv4, where the inner packet has its own; IPv6 requires one (RFC 8200 section 8.1).
    let checksum = payload.map_or(0, |payload| {
        let header = udp::header(outer.from_port, outer.to.1, udp_len, 0);
        let pseudo = checksum::pseudo_header(
            outer.source,
            outer.to.0,
            Protocol::UDP.0,
            usize::from(udp_len),
        );
        checksum::udp_field(!checksum::add(
            checksum::add(pseudo, checksum::sum(&header)),
            payload,
        ))
    });
    *rest.first_chunk_mut()? = udp::header(outer.from_port, outer.to.1, udp_len, checksum);
    if v4 {
        let build = ipv4::Build {
            source: outer.source,
            destination: outer.to.0,
            protocol: Protocol::UDP.0,
            ttl: HOPS,
            tos: outer.tos,
            id: outer.id,
            dont_fragment: false,
            total_len: u16::try_from(ip_len).ok()?.checked_add(udp_len)?,
        };
        *ip.first_chunk_mut()? = build.to_bytes();
    } else {
        let build = ipv6::Build {
            source: outer.source,
            destination: outer.to.0,
            next_header: Protocol::UDP.0,
            hop_limit: HOPS,
            traffic_class: outer.tos,
            flow_label: 0,
            payload_len: udp_len,
        };
        *ip.first_chunk_mut()? = build.to_bytes();
    }
    Some(frame)
}
