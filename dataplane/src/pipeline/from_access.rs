//! What a container sends: answered here (ARP, neighbour discovery), or checked to come from its own address and
//! sent on its way.

use dpdk::Mbuf;
use net::answer;
use net::arp;
use net::ethernet::{self, EtherType, Mac};
use net::ndp;
use net::packet::{Icmp, Version};

use super::{GATEWAY_MAC, Origin, Output, Packet, Pipeline};
use crate::counters::Counter;
use crate::plan::{Range, range};
use crate::tables::slots::AccessSlot;

impl<O: Output> Pipeline<'_, O> {
    /// A frame from the interface `ifindex`, Ethernet header first.
    pub fn from_access(&mut self, frame: Mbuf, ifindex: u32) {
        self.counters.count(Counter::ReceivedAccess);
        self.access(frame, ifindex);
    }

    /// A frame that has been counted.
    pub(super) fn access(&mut self, mut frame: Mbuf, ifindex: u32) {
        let Some(slot) = self.tables.interface(ifindex) else {
            return self.drop(frame, Counter::UnknownPort);
        };
        let Some(port) = self.tables.slots.get(slot) else {
            return self.drop(frame, Counter::UnknownPort);
        };
        self.counters.tally.frame_in(port.number, frame.pkt_len());
        let Some(ethernet) = ethernet::Header::parse(frame.data()) else {
            return self.drop(frame, Counter::Malformed);
        };
        match ethernet.ethertype {
            EtherType::IPV4 | EtherType::IPV6 => {}
            EtherType::ARP => return self.arp(frame, &port),
            _ => return self.drop(frame, Counter::NotForUs),
        }
        if ethernet.destination != GATEWAY_MAC && !ethernet.destination.is_group() {
            return self.drop(frame, Counter::NotForUs);
        }
        if !frame.advance(ethernet::HEADER_LEN) {
            return self.drop(frame, Counter::Malformed);
        }
        let Some(packet) = self.parse(frame, Origin::Access(ifindex)) else {
            return;
        };
        let is_v4 = packet.headers.version == Version::V4;
        if is_v4 != (ethernet.ethertype == EtherType::IPV4) {
            return self.drop(packet.mbuf, Counter::Malformed);
        }
        if packet.headers.icmp == Icmp::Discovery {
            return self.neighbour(packet, &port, ethernet.source);
        }
        if ethernet.destination.is_group() || packet.headers.destination.is_multicast() {
            return self.drop(packet.mbuf, Counter::LinkScope);
        }
        if packet.headers.source.is_unspecified() || packet.headers.source != port.namespace(is_v4)
        {
            let reason = if packet.headers.source.is_link_local() {
                Counter::LinkScope
            } else {
                Counter::SpoofedSource
            };
            return self.drop(packet.mbuf, reason);
        }
        if self.catcher.is_none() {
            return self.outbound(packet, &port);
        }
        if let Some(packet) = self.catch(packet, &port) {
            self.outbound(packet, &port);
        }
    }

    /// A packet from a local container (or from the node itself) with a source address of its own.
    #[inline]
    pub(super) fn outbound(&mut self, packet: Packet, port: &AccessSlot) {
        match range(packet.headers.destination) {
            Range::Semantic => self.semantic(packet, port),
            Range::Namespace => self.namespace(packet),
            Range::Outside => self.outside(packet),
        }
    }

    /// Answers for every address but the asker's own: the gateway is the way to all of them.
    fn arp(&mut self, mut frame: Mbuf, port: &AccessSlot) {
        if frame.data().len() < ethernet::HEADER_LEN + arp::LEN
            && !frame.pull_up(ethernet::HEADER_LEN + arp::LEN)
        {
            return self.drop(frame, Counter::Malformed);
        }
        let Some(request) = frame
            .data()
            .get(ethernet::HEADER_LEN..)
            .and_then(arp::Packet::parse)
        else {
            return self.drop(frame, Counter::Malformed);
        };
        let own = port.namespace(true);
        // A probe (RFC 5227) has no sender address; an announcement asks for the sender's own.
        if request.operation != arp::Operation::Request
            || request.sender != own
            || request.target == own
        {
            return self.drop(frame, Counter::LinkScope);
        }
        let Some(mut reply) = self.small.alloc() else {
            return self.drop(frame, Counter::NoMbuf);
        };
        match answer::arp_reply(reply.spare_mut(), &request, GATEWAY_MAC) {
            Some(length) if reply.set_len(length) => {
                self.counters.count(Counter::Answers);
                self.send_frame(reply, port);
                self.drop(frame, Counter::Answered);
            }
            _ => self.drop(frame, Counter::Malformed),
        }
    }

    #[cold]
    fn neighbour(&mut self, packet: Packet, port: &AccessSlot, asker: Mac) {
        let Some(solicitation) = ndp::Solicitation::parse(packet.mbuf.data(), &packet.headers)
        else {
            return self.drop(packet.mbuf, Counter::LinkScope);
        };
        // Its own address, asked for by duplicate address detection or otherwise, is its own.
        if solicitation.target == port.namespace(false) || solicitation.source.is_unspecified() {
            return self.drop(packet.mbuf, Counter::LinkScope);
        }
        let Some(mut reply) = self.small.alloc() else {
            return self.drop(packet.mbuf, Counter::NoMbuf);
        };
        let written =
            answer::neighbour_advertisement(reply.spare_mut(), &solicitation, GATEWAY_MAC);
        if written.is_some_and(|length| reply.set_len(length))
            && Self::frame(
                &mut reply,
                answer::advertisement_destination(&solicitation, asker),
                GATEWAY_MAC,
                EtherType::IPV6,
            )
        {
            self.counters.count(Counter::Answers);
            self.send_frame(reply, port);
            self.drop(packet.mbuf, Counter::Answered);
        } else {
            self.drop(packet.mbuf, Counter::Malformed);
        }
    }
}
