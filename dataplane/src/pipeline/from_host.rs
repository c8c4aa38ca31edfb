//! What the node itself sends through the host TAP: to containers here and on other nodes, from the outside through a
//! port mapping, and from processes of the node that dial Service IPs.

use dpdk::Mbuf;
use net::answer;
use net::arp;
use net::ethernet::{self, EtherType};
use net::ndp;
use net::packet::Icmp;

use super::{GATEWAY_MAC, Origin, Output, Packet, Pipeline};
use crate::counters::Counter;
use crate::plan::{Range, range};
use crate::tables::routes::Route;

impl<O: Output> Pipeline<'_, O> {
    /// A frame from the TAP, Ethernet header first.
    pub fn from_host(&mut self, mut frame: Mbuf) {
        self.counters.count(Counter::ReceivedHost);
        let Some(ethernet) = ethernet::Header::parse(frame.data()) else {
            return self.drop(frame, Counter::Malformed);
        };
        match ethernet.ethertype {
            EtherType::ARP => return self.arp_of_host(frame),
            EtherType::IPV4 | EtherType::IPV6 => {}
            _ => return self.drop(frame, Counter::NotForUs),
        }
        if !frame.advance(ethernet::HEADER_LEN) {
            return self.drop(frame, Counter::Malformed);
        }
        let Some(packet) = self.parse(frame, Origin::Host) else {
            return;
        };
        if packet.headers.icmp == Icmp::Discovery {
            return self.neighbour_of_host(packet, ethernet.source);
        }
        if ethernet.destination != GATEWAY_MAC || packet.headers.destination.is_multicast() {
            return self.drop(packet.mbuf, Counter::LinkScope);
        }
        self.onward(packet);
    }

    pub(super) fn onward(&mut self, packet: Packet) {
        let Some(port) = self.tables.host() else {
            return self.drop(packet.mbuf, Counter::UnknownPort);
        };
        match range(packet.headers.destination) {
            Range::Semantic => {
                let v4 = packet.headers.destination.is_v4();
                if packet.headers.source != port.namespace(v4) {
                    return self.drop(packet.mbuf, Counter::SpoofedSource);
                }
                // The TAP spreads the host's flows over all workers by a hash of its own; their answers come to one.
                if port.worker != self.settings.worker {
                    return self.hand_over(packet, port.worker);
                }
                if port.instance(v4).is_unspecified() {
                    return self.refuse(packet, Counter::HostWithoutInstance);
                }
                self.semantic(packet, &port);
            }
            Range::Namespace => match self.tables.route(packet.headers.destination) {
                // The kernel has counted the hop already, if it forwarded at all.
                Some(Route::Local(slot)) => self.deliver(packet, slot),
                _ => self.namespace(packet),
            },
            Range::Outside => self.drop(packet.mbuf, Counter::NotForUs),
        }
    }

    fn arp_of_host(&mut self, frame: Mbuf) {
        let Some(request) = frame
            .data()
            .get(ethernet::HEADER_LEN..)
            .and_then(arp::Packet::parse)
        else {
            return self.drop(frame, Counter::Malformed);
        };
        let own = self.tables.host().map(|port| port.namespace(true));
        let ours = range(request.target) != Range::Outside && Some(request.target) != own;
        if request.operation != arp::Operation::Request || !ours || request.target == request.sender
        {
            return self.drop(frame, Counter::LinkScope);
        }
        let Some(mut reply) = self.small.alloc() else {
            return self.drop(frame, Counter::NoMbuf);
        };
        match answer::arp_reply(reply.spare_mut(), &request, GATEWAY_MAC) {
            Some(length) if reply.set_len(length) => {
                self.counters.count(Counter::Answers);
                self.output.host(reply);
                self.drop(frame, Counter::Answered);
            }
            _ => self.drop(frame, Counter::Malformed),
        }
    }

    #[cold]
    fn neighbour_of_host(&mut self, packet: Packet, asker: ethernet::Mac) {
        let solicitation = ndp::Solicitation::parse(packet.mbuf.data(), &packet.headers);
        let own = self.tables.host().map(|port| port.namespace(false));
        let Some(solicitation) = solicitation.filter(|s| {
            range(s.target) != Range::Outside && Some(s.target) != own && !s.source.is_unspecified()
        }) else {
            return self.drop(packet.mbuf, Counter::LinkScope);
        };
        let Some(mut reply) = self.small.alloc() else {
            return self.drop(packet.mbuf, Counter::NoMbuf);
        };
        let written =
            answer::neighbour_advertisement(reply.spare_mut(), &solicitation, GATEWAY_MAC);
        let to = answer::advertisement_destination(&solicitation, asker);
        if written.is_some_and(|length| reply.set_len(length))
            && Self::frame(&mut reply, to, GATEWAY_MAC, EtherType::IPV6)
        {
            self.counters.count(Counter::Answers);
            self.output.host(reply);
            self.drop(packet.mbuf, Counter::Answered);
        } else {
            self.drop(packet.mbuf, Counter::Malformed);
        }
    }
}
