//! Into the tunnel: what fits the path to the other node, or is made to.
//!
//! Every path has a length of its own: that of the link or of the narrowest hop that was met, less the headers around
//! an inner packet. A stream is cut to it, a packet that may be fragmented is, and of one that may not its sender is
//! told. IPv6 never hears of less than 1280 bytes (RFC 8200 section 5): below that, the uplink splits the datagram.

use dpdk::{L4Checksum, Mbuf, Segment};
use net::address::Address;
use net::answer::Failure;
use net::fragment::Plan;
use net::packet::{Headers, Version};
use net::{ecn, finish, ipv4, mss};

use super::{Output, Packet, Pipeline};
use crate::counters::Counter;
use crate::observe::trace::Note;
use crate::tables::low32;
use crate::tables::region::Location;
use crate::tunnel::{self, Cut};

/// The least that IPv6 asks of every link, in bytes.
const LEAST_V6: u16 = 1280;

/// A host's tunnel endpoint.
type Endpoint = (Address, u16);

/// The longest packet of its family that its sender may be held to.
fn limit(headers: &Headers, path: u16) -> usize {
    usize::from(match headers.version {
        Version::V4 => path,
        Version::V6 => path.max(LEAST_V6),
    })
}

pub(super) fn may_be_fragmented(l3: &[u8], headers: &Headers) -> bool {
    headers.version == Version::V4
        && ipv4::Header::of(l3).is_some_and(|ip| ip.fragment_word() & ipv4::DONT_FRAGMENT == 0)
}

impl<O: Output> Pipeline<'_, O> {
    /// The longest inner packet that goes to a host in one piece.
    #[inline(always)]
    pub(super) fn path(&self, host: u32) -> u16 {
        self.tables.region.host_mtu(host).min(self.settings.mtu)
    }

    /// Ends a packet that fits no datagram to where it goes and must not be fragmented, and tells its sender. This
    /// comes before the packet is translated: the error must quote what the sender sent.
    #[inline]
    pub(super) fn fit(&mut self, packet: Packet, location: Location) -> Option<Packet> {
        let Location::Host(host) = location else {
            return Some(packet);
        };
        let path = self.path(host);
        let longest = match packet.mbuf.offload().segment {
            Segment::None => packet.headers.total_len,
            // A stream can be cut anywhere, datagrams have borders that a cut may not move.
            Segment::Tcp { .. } => 0,
            Segment::Udp { size } => usize::from(packet.headers.header_len) + usize::from(size),
        };
        if longest <= usize::from(path) {
            return Some(packet);
        }
        self.fit_long(packet, longest, path)
    }

    #[cold]
    fn fit_long(&mut self, packet: Packet, longest: usize, path: u16) -> Option<Packet> {
        let limit = limit(&packet.headers, path);
        if longest <= limit || may_be_fragmented(packet.mbuf.data(), &packet.headers) {
            return Some(packet);
        }
        let mtu = u32::try_from(limit).unwrap_or(u32::MAX);
        self.report(&packet, Failure::TooBig { mtu });
        self.drop(packet.mbuf, Counter::TooBig);
        None
    }

    /// Sends the packet to another node: checksums finished, cut where it stands for several, one datagram each.
    #[inline]
    pub(super) fn encapsulate(&mut self, mut packet: Packet, host: u32) {
        let Some(to) = self.tables.region.host(host) else {
            return self.drop(packet.mbuf, Counter::NotAttached);
        };
        let path = self.path(host);
        let tos = ecn::encapsulate(packet.headers.tos);
        if !clamp(&mut packet, path) {
            return self.drop(packet.mbuf, Counter::Malformed);
        }
        let offload = packet.mbuf.offload();
        if offload.segment != Segment::None {
            return self.encapsulate_pieces(&packet, to, tos, path);
        }
        if offload.checksum != L4Checksum::Complete {
            let finished = finish::partial(&packet.headers, packet.mbuf.segments());
            if !finished.is_ok_and(|sum| sum.write(packet.mbuf.data_mut()).is_ok()) {
                return self.drop(packet.mbuf, Counter::Malformed);
            }
            packet.mbuf.set_offload(dpdk::Offload::default());
        }
        if packet.headers.total_len > usize::from(path) {
            return self.encapsulate_long(packet, to, tos, path);
        }
        self.note(&packet.mbuf, Note::SentTunnel(to.0, to.1));
        self.output.tunnel(packet.mbuf, to, tos);
    }

    fn encapsulate_pieces(&mut self, packet: &Packet, to: Endpoint, tos: u8, path: u16) {
        let room = path.saturating_sub(packet.headers.header_len);
        let size = match packet.mbuf.offload().segment {
            Segment::Udp { size } if size > room => {
                return self.encapsulate_long_datagrams(packet, to, tos, (size, path));
            }
            Segment::Udp { size } => size,
            Segment::Tcp { mss } => mss.min(room),
            Segment::None => room,
        };
        let output = &mut self.output;
        let cut = tunnel::cut(&packet.mbuf, &packet.headers, size, self.small, |piece| {
            output.tunnel(piece, to, tos);
        });
        self.account(self.followed(&packet.mbuf), to, cut);
    }

    // One packet came in; each piece that left or was lost beyond it was made here.
    fn account(&self, followed: u64, to: Endpoint, cut: Cut) {
        self.note_cut(followed, to, cut);
        self.account_pieces(cut);
    }

    pub(super) fn account_pieces(&self, cut: Cut) {
        match cut.failure {
            None => self
                .counters
                .add(Counter::Pieces, cut.pieces.saturating_sub(1)),
            // One piece more was due: the one that stands for all that is lost.
            Some(reason) => {
                self.counters.add(Counter::Pieces, cut.pieces);
                self.counters.count(reason);
            }
        }
    }

    /// A packet, checksums finished, that is longer than the path.
    #[cold]
    fn encapsulate_long(&mut self, packet: Packet, to: Endpoint, tos: u8, path: u16) {
        let followed = self.followed(&packet.mbuf);
        let cut = self.send_long(packet.mbuf, &packet.headers, (to, tos), path);
        self.account(followed, to, cut);
    }

    /// Several datagrams in one packet, of which each is longer than the path (the last one maybe not).
    #[cold]
    fn encapsulate_long_datagrams(
        &mut self,
        packet: &Packet,
        to: Endpoint,
        tos: u8,
        (size, path): (u16, u16),
    ) {
        let small = self.small;
        let mut all = Cut {
            pieces: 0,
            failure: None,
        };
        let cut = tunnel::cut(&packet.mbuf, &packet.headers, size, small, |datagram| {
            let Ok(headers) = Headers::parse(datagram.data(), datagram.pkt_len()) else {
                all.failure = Some(Counter::Malformed);
                return;
            };
            let sent = self.send_long(datagram, &headers, (to, tos), path);
            all.pieces += sent.pieces;
            all.failure = all.failure.or(sent.failure);
        });
        let all = Cut {
            pieces: all.pieces,
            failure: all.failure.or(cut.failure),
        };
        self.account(self.followed(&packet.mbuf), to, all);
    }

    // Sends one packet, in fragments if it is too long; how many pieces that were.
    fn send_long(
        &mut self,
        mbuf: Mbuf,
        headers: &Headers,
        (to, tos): (Endpoint, u8),
        path: u16,
    ) -> Cut {
        if headers.total_len <= limit(headers, path) {
            // Too long for the path, but not for IPv6: the uplink splits the datagram.
            self.output.tunnel(mbuf, to, tos);
            return Cut {
                pieces: 1,
                failure: None,
            };
        }
        let Some(plan) = Plan::of_v4(headers, mbuf.data(), path) else {
            return Cut {
                pieces: 0,
                failure: Some(Counter::TooBig),
            };
        };
        self.counters.count(Counter::Fragmented);
        let output = &mut self.output;
        tunnel::fragments(&mbuf, &plan, self.small, |piece| {
            output.tunnel(piece, to, tos);
        })
    }

    /// Clamps the segment size that a connection's other end announces, by what goes to it in one piece: a peer may
    /// have a wider way to us than we to it, and not every peer clamps.
    #[cold]
    pub(super) fn clamp_from(&self, packet: &mut Packet, from: Address) -> bool {
        let host = self.tables.hosts.get(&self.tables.arena, from);
        let path = host.map_or(self.settings.mtu, |host| self.path(low32(host)));
        clamp(packet, path)
    }
}

/// Lowers the segment size that a SYN announces to what a path carries; false when the packet contradicts itself.
#[inline]
fn clamp(packet: &mut Packet, path: u16) -> bool {
    let headers = &packet.headers;
    let tcp = headers.header_len.saturating_sub(headers.l4_offset).min(20);
    let room = path.saturating_sub(headers.l4_offset + tcp);
    mss::clamp(packet.mbuf.data_mut(), headers, room, packet.state).is_ok()
}
