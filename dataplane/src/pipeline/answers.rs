//! What the node says to the sender of a packet that cannot go on: ICMP errors, and TCP resets for connections that
//! have no other end any more. Limited in rate (RFC 1812 section 4.3.2.8), so that an error never costs more than the
//! packet did.

use dpdk::Mbuf;
use net::address::Address;
use net::answer::{self, Failure};
use net::ethernet::Mac;
use net::packet::{Protocol, Version};

use super::{GATEWAY_MAC, Origin, Output, Packet, Pipeline};
use crate::counters::Counter;
use crate::observe::trace::Note;

/// ICMP errors in a second, and in one go.
pub(super) const ERRORS: u32 = 1000;
/// TCP resets likewise. More than errors: when an instance with thousands of connections goes, each needs one, and a
/// connection needs no second one.
pub(super) const RESETS: u32 = 32_000;

/// A token bucket for answers of one kind.
#[derive(Debug)]
pub(super) struct Budget {
    left: u32,
    rate: u32,
    second: u64,
}

impl Budget {
    pub(super) fn new(rate: u32) -> Self {
        Self {
            left: rate,
            rate,
            second: 0,
        }
    }

    pub(super) fn refill(&mut self, milliseconds: u64) {
        if milliseconds / 1000 != self.second {
            self.second = milliseconds / 1000;
            self.left = self.rate;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.left == 0
    }

    pub(super) fn take(&mut self) -> bool {
        let some = self.left > 0;
        self.left = self.left.saturating_sub(1);
        some
    }
}

impl<O: Output> Pipeline<'_, O> {
    /// Ends a packet that leads nowhere: "host unreachable" to its sender.
    pub(super) fn unreachable(&mut self, packet: Packet, reason: Counter) {
        self.report(&packet, Failure::HostUnreachable);
        self.drop(packet.mbuf, reason);
    }

    /// Ends a packet whose other end does not exist: TCP is reset, anything else is unreachable.
    pub(super) fn refuse(&mut self, packet: Packet, reason: Counter) {
        if packet.headers.protocol != Protocol::TCP {
            return self.unreachable(packet, reason);
        }
        if self.resets.take()
            && let Some(mut reply) = self.small.alloc()
        {
            let written = answer::tcp_reset(reply.spare_mut(), packet.mbuf.data(), &packet.headers);
            if written.is_ok_and(|length| reply.set_len(length)) {
                self.note(&packet.mbuf, Note::Answered { reset: true });
                self.send_back(reply, &packet);
            }
        }
        self.drop(packet.mbuf, reason);
    }

    /// Tells the packet's sender what went wrong, as the gateway. Only who is behind a port of this node is told, the node
    /// itself by the address that it dialled.
    #[cold]
    pub(super) fn report(&mut self, packet: &Packet, failure: Failure) {
        if matches!(packet.origin, Origin::Tunnel(_)) {
            return;
        }
        let Some(gateway) = self
            .tables
            .host()
            .map(|port| port.namespace(packet.headers.version == Version::V4))
        else {
            return;
        };
        if gateway.is_unspecified() {
            return;
        }
        // From its own address the node's kernel takes no packet (RFC 1812 section 5.3.7, a martian): the node's own
        // processes hear it from where they dialled.
        let speaker = if packet.headers.source == gateway {
            packet.headers.destination
        } else {
            gateway
        };
        if let Some(error) = self.error_from(speaker, packet, failure) {
            self.note(&packet.mbuf, Note::Answered { reset: false });
            self.send_back(error, packet);
        }
    }

    /// The error about a packet, while the second's budget lasts and where there may be one.
    #[cold]
    pub(super) fn error_from(
        &mut self,
        source: Address,
        packet: &Packet,
        failure: Failure,
    ) -> Option<Mbuf> {
        if !self.errors.take() {
            return None;
        }
        let mut error = self.small.alloc()?;
        let written = answer::icmp_error(
            error.spare_mut(),
            packet.mbuf.data(),
            &packet.headers,
            source,
            failure,
        );
        written
            .is_ok_and(|length| error.set_len(length))
            .then_some(error)
    }

    fn send_back(&mut self, mut reply: Mbuf, packet: &Packet) {
        let ethertype = packet.ethertype();
        let port = match packet.origin {
            Origin::Access(ifindex) => self.tables.port(ifindex),
            Origin::Host => self.tables.host(),
            Origin::Tunnel(_) => None,
        };
        let Some(port) = port else { return };
        let mac = if port.ifindex == 0 {
            self.output.host_mac()
        } else {
            Mac(port.mac)
        };
        if Self::frame(&mut reply, mac, GATEWAY_MAC, ethertype) {
            self.counters.count(Counter::Answers);
            self.send_frame(reply, &port);
        }
    }
}
