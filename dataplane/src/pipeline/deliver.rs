//! The way out: to a container, to another node, to the node itself.

use dpdk::{L4Checksum, Mbuf, Segment};
use net::address::Address;
use net::answer::Failure;
use net::ethernet::{self, EtherType, Mac};
use net::finish;
use net::packet::Icmp;
use net::rewrite::AddressChange;
use net::{ecn, mss};

use super::fragments::Decision;
use super::semantic::tuple;
use super::{GATEWAY_MAC, Origin, Output, Packet, Pipeline};
use crate::counters::Counter;
use crate::plan::{Range, range};
use crate::tables::region::Location;
use crate::tables::routes::Route;
use crate::tables::slots::AccessSlot;
use crate::tunnel;

impl<O: Output> Pipeline<'_, O> {
    /// Sends a translated packet to where its backend runs.
    #[inline]
    pub(super) fn forward(&mut self, packet: Packet, location: Location) {
        match location {
            Location::Local(slot) => self.deliver(packet, slot),
            Location::Host(host) => self.encapsulate(packet, host),
            Location::Nowhere => self.drop(packet.mbuf, Counter::NotAttached),
        }
    }

    /// Delivers to the container in `slot`, by the worker that owns it: only its shard knows whether this answers one
    /// of the container's own flows.
    #[inline]
    pub(super) fn deliver(&mut self, mut packet: Packet, slot: u32) {
        let Some(port) = self.tables.slots.get(slot) else {
            return self.drop(packet.mbuf, Counter::NotAttached);
        };
        if port.worker != self.settings.worker {
            return self.hand_over(packet, port.worker);
        }
        if packet.headers.fragment.is_later() {
            return self.follow_in(packet, slot);
        }
        if let Icmp::Error { .. } = packet.headers.icmp {
            if let Some(packet) = self.error_in(packet, &port) {
                self.hand_to(packet, &port);
            }
            return;
        }
        let first = self.first_fragment(&packet);
        let mut restored = None;
        if let Some((place, reference, dialled)) = self.shard.reverse(&tuple(&packet), self.now) {
            self.shard.touch(place, packet.headers.tcp_flags, self.now);
            self.time_handshake(&packet, place, reference, true);
            if !Self::set_source(&mut packet, dialled) {
                return self.drop(packet.mbuf, Counter::Malformed);
            }
            restored = Some(dialled);
        }
        if packet.headers.total_len > usize::from(self.settings.mtu)
            && packet.mbuf.offload().segment == Segment::None
            && port.ifindex != 0
            && !matches!(packet.origin, Origin::Access(_))
        {
            return self.too_large_for(packet, &port);
        }
        self.hand_to(packet, &port);
        if let Some(key) = first {
            self.lead(key, Decision::In { source: restored });
        }
    }

    /// Ends a packet of another node that the container's interface would not take, and tells its sender: in the
    /// container's name, and translated as if it had said it, so that the other node finds the flow.
    #[cold]
    fn too_large_for(&mut self, packet: Packet, port: &AccessSlot) {
        let failure = Failure::TooBig {
            mtu: u32::from(self.settings.mtu),
        };
        let own = packet.headers.destination;
        if let Some(error) = self.error_from(own, &packet, failure) {
            self.counters.count(Counter::Answers);
            if let Some(error) = self.parse(error, Origin::Access(port.ifindex)) {
                self.outbound(error, port);
            }
        }
        self.drop(packet.mbuf, Counter::TooBig);
    }

    pub(super) fn set_source(packet: &mut Packet, source: Address) -> bool {
        AddressChange::to_source(&packet.headers, source).is_some_and(|change| {
            change
                .apply(packet.mbuf.data_mut(), &mut packet.headers, packet.state)
                .is_ok()
        })
    }

    /// Hands a packet that is as the container shall see it to the container.
    #[inline]
    pub(super) fn hand_to(&mut self, packet: Packet, port: &AccessSlot) {
        if port.ifindex == 0 {
            return self.host_bound(packet);
        }
        let ethertype = packet.ethertype();
        let Packet { mut mbuf, .. } = packet;
        if Self::frame(&mut mbuf, Mac(port.mac), GATEWAY_MAC, ethertype) {
            self.output.access(mbuf, port.ifindex);
        } else {
            self.drop(mbuf, Counter::NoMbuf);
        }
    }

    /// Passes a packet on to the worker whose flows it concerns.
    pub(super) fn hand_over(&mut self, packet: Packet, worker: u16) {
        match self.output.hand_over(packet.mbuf, worker) {
            Ok(()) => self.counters.count(Counter::HandedOver),
            Err(mbuf) => self.drop(mbuf, Counter::RingFull),
        }
    }

    /// A packet that another worker handed over. Whose it is is looked up again: while it lay in the ring, the slot of
    /// then may have gone to another container.
    pub fn from_ring(&mut self, mbuf: Mbuf) {
        // Where it came from no longer matters: what may answer it was decided by the other worker.
        let Some(packet) = self.parse(mbuf, Origin::Host) else {
            return;
        };
        let destination = packet.headers.destination;
        match self.tables.route(destination) {
            Some(Route::Local(slot)) => self.deliver(packet, slot),
            // What the node's own processes send to Service IPs.
            _ if range(destination) == Range::Semantic => self.onward(packet),
            _ => self.drop(packet.mbuf, Counter::NotAttached),
        }
    }

    /// Puts an Ethernet header before the packet.
    pub(super) fn frame(
        mbuf: &mut Mbuf,
        destination: Mac,
        source: Mac,
        ethertype: EtherType,
    ) -> bool {
        let header = ethernet::Header {
            destination,
            source,
            ethertype,
        };
        match mbuf.prepend(ethernet::HEADER_LEN) {
            Some(front) => header.write(front).is_some(),
            None => false,
        }
    }

    /// Hands the packet to the node's kernel.
    pub(super) fn host_bound(&mut self, packet: Packet) {
        let ethertype = packet.ethertype();
        let Packet { mut mbuf, .. } = packet;
        let mac = self.output.host_mac();
        if Self::frame(&mut mbuf, mac, GATEWAY_MAC, ethertype) {
            self.output.host(mbuf);
        } else {
            self.drop(mbuf, Counter::NoMbuf);
        }
    }

    /// Ends a packet that fits no datagram to where it goes, and tells its sender. This comes before the packet is
    /// translated: the error must quote what the sender sent.
    #[inline]
    pub(super) fn fit(&mut self, packet: Packet, location: Location) -> Option<Packet> {
        let Location::Host(_) = location else {
            return Some(packet);
        };
        let mtu = usize::from(self.settings.mtu);
        let longest = match packet.mbuf.offload().segment {
            Segment::None => packet.headers.total_len,
            // A stream can be cut anywhere, datagrams have borders that a cut may not move.
            Segment::Tcp { .. } => 0,
            Segment::Udp { size } => usize::from(packet.headers.header_len) + usize::from(size),
        };
        if longest <= mtu {
            return Some(packet);
        }
        let mtu = u32::from(self.settings.mtu);
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
        let mtu = self.settings.mtu;
        let tos = ecn::encapsulate(packet.headers.tos);
        let header_len = packet.headers.header_len;
        let ip_tcp =
            header_len.saturating_sub(packet.headers.l4_offset).min(20) + packet.headers.l4_offset;
        if mss::clamp(
            packet.mbuf.data_mut(),
            &packet.headers,
            mtu.saturating_sub(ip_tcp),
            packet.state,
        )
        .is_err()
        {
            return self.drop(packet.mbuf, Counter::Malformed);
        }
        let offload = packet.mbuf.offload();
        let size = match offload.segment {
            Segment::None => None,
            Segment::Tcp { mss: size } | Segment::Udp { size } => Some(size),
        };
        if let Some(size) = size {
            return self.encapsulate_pieces(&packet, to, tos, size);
        }
        if packet.headers.total_len > usize::from(mtu) {
            return self.drop(packet.mbuf, Counter::TooBig);
        }
        if offload.checksum != L4Checksum::Complete {
            let finished = finish::partial(&packet.headers, packet.mbuf.segments());
            if !finished.is_ok_and(|sum| sum.write(packet.mbuf.data_mut()).is_ok()) {
                return self.drop(packet.mbuf, Counter::Malformed);
            }
            packet.mbuf.set_offload(dpdk::Offload::default());
        }
        self.output.tunnel(packet.mbuf, to, tos);
    }

    fn encapsulate_pieces(&mut self, packet: &Packet, to: (net::Address, u16), tos: u8, size: u16) {
        let room = self.settings.mtu.saturating_sub(packet.headers.header_len);
        let output = &mut self.output;
        let cut = tunnel::cut(
            &packet.mbuf,
            &packet.headers,
            size.min(room),
            self.small,
            |piece| {
                output.tunnel(piece, to, tos);
            },
        );
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
}
