//! The way out: to a container, to another node, to the node itself.

use dpdk::{L4Checksum, Mbuf, Segment};
use net::address::Address;
use net::answer::Failure;
use net::ethernet::{self, EtherType, Mac};
use net::finish;
use net::fragment::Plan;
use net::packet::{Icmp, Protocol};
use net::rewrite::AddressChange;

use super::encapsulate::may_be_fragmented;
use super::fragments::Decision;
use super::semantic::tuple;
use super::{GATEWAY_MAC, Origin, Output, Packet, Pipeline};
use crate::counters::Counter;
use crate::observe::trace::Note;
use crate::plan::{Range, range};
use crate::tables::region::Location;
use crate::tables::routes::Route;
use crate::tables::slots::AccessSlot;
use crate::tables::{SALT, halves, mix};
use crate::tunnel;

/// Ports from here on are those that kernels give to clients (Linux: 32768 to 60999, RFC 6335: from 49152).
const EPHEMERAL: u16 = 32_768;

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
            self.count_of_service(place, dialled);
            self.time_handshake(&packet, place, reference, true);
            self.note_restored(&mut packet, dialled);
            if !Self::set_source(&mut packet, dialled) {
                return self.drop(packet.mbuf, Counter::Malformed);
            }
            restored = Some(dialled);
        } else {
            self.note_served(&packet, &port);
        }
        if packet.headers.total_len > usize::from(self.settings.mtu)
            && packet.mbuf.offload().segment == Segment::None
            && port.ifindex != 0
            && !matches!(packet.origin, Origin::Access(_))
        {
            self.too_large_for(packet, &port);
        } else {
            self.hand_to(packet, &port);
        }
        if let Some(key) = first {
            self.lead(key, Decision::In { source: restored });
        }
    }

    /// A packet of another node that the container's interface would not take: split where it may be, else ended, and
    /// its sender told: in the container's name, and translated as if it had said it, so that the other node finds the
    /// flow.
    #[cold]
    fn too_large_for(&mut self, packet: Packet, port: &AccessSlot) {
        if may_be_fragmented(packet.mbuf.data(), &packet.headers) {
            return self.split_for(packet, port);
        }
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

    #[cold]
    fn split_for(&mut self, mut packet: Packet, port: &AccessSlot) {
        if packet.mbuf.offload().checksum != L4Checksum::Complete {
            let finished = finish::partial(&packet.headers, packet.mbuf.segments());
            if !finished.is_ok_and(|sum| sum.write(packet.mbuf.data_mut()).is_ok()) {
                return self.drop(packet.mbuf, Counter::Malformed);
            }
            packet.mbuf.set_offload(dpdk::Offload::default());
        }
        let Some(plan) = Plan::of_v4(&packet.headers, packet.mbuf.data(), self.settings.mtu) else {
            return self.drop(packet.mbuf, Counter::TooBig);
        };
        self.counters.count(Counter::Fragmented);
        let small = self.small;
        let mut refused = 0;
        let mut cut = tunnel::fragments(&packet.mbuf, &plan, small, |mut piece| {
            if Self::frame(&mut piece, Mac(port.mac), GATEWAY_MAC, EtherType::IPV4) {
                self.note(&packet.mbuf, Note::SentAccess(port.ifindex));
                self.send_frame(piece, port);
            } else {
                refused += 1;
            }
        });
        if refused > 0 {
            cut.pieces -= refused;
            cut.failure = Some(Counter::NoMbuf);
        }
        self.account_pieces(cut);
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
            self.note(&mbuf, Note::SentAccess(port.ifindex));
            self.send_frame(mbuf, port);
        } else {
            self.drop(mbuf, Counter::NoMbuf);
        }
    }

    /// Sends a finished frame to a container, or to the node itself, and counts it there.
    #[inline]
    pub(super) fn send_frame(&mut self, frame: Mbuf, port: &AccessSlot) {
        if port.ifindex == 0 {
            return self.output.host(frame);
        }
        self.counters.tally.frame_out(port.number, frame.pkt_len());
        self.output.access(frame, port.ifindex);
    }

    /// Notes what a container serves, for the load that the node reports of it. Answers in flows of its own have been
    /// told apart; what else answers it (it dialled an Instance IP, or the outside) comes from a service's port to one of
    /// those that kernels give to clients.
    #[inline(always)]
    fn note_served(&self, packet: &Packet, port: &AccessSlot) {
        let headers = &packet.headers;
        if matches!(
            headers.protocol,
            Protocol::TCP | Protocol::UDP | Protocol::SCTP
        ) {
            let ports = u32::from(headers.source_port) << 16 | u32::from(headers.destination_port);
            self.note_served_by(headers.source, ports, headers.protocol, port);
        }
    }

    /// As [`Self::note_served`], for a protocol that has ports: the source port in the high half of `ports`.
    #[inline(always)]
    pub(super) fn note_served_by(
        &self,
        source: Address,
        ports: u32,
        protocol: Protocol,
        port: &AccessSlot,
    ) {
        let ephemeral = u32::from(EPHEMERAL);
        if ports & 0xffff < ephemeral || ports >> 16 >= ephemeral {
            let (high, low) = halves(source);
            let rest = u64::from(ports) << 16 | u64::from(protocol.0);
            let hash = mix(
                mix(low ^ rest ^ SALT[0], high ^ rest.rotate_left(32) ^ SALT[1]),
                SALT[2],
            );
            self.tables.activity.note(port.number, hash, self.window);
        }
    }

    /// Passes a packet on to the worker whose flows it concerns.
    pub(super) fn hand_over(&mut self, packet: Packet, worker: u16) {
        self.note(&packet.mbuf, Note::HandedOver(worker));
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
        self.note(&packet.mbuf, Note::TakenOver);
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
            self.note(&mbuf, Note::SentHost);
            self.output.host(mbuf);
        } else {
            self.drop(mbuf, Counter::NoMbuf);
        }
    }
}
