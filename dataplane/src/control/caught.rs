//! Queries that workers caught, and the packets that answer them.

use std::net::SocketAddr;

use dpdk::Mbuf;
use net::answer;
use net::packet::Headers;

use super::Controller;
use crate::access::Change;
use crate::api::{Answer, Event, Query};
use crate::pipeline::endpoint;

impl Controller {
    /// Hands a query on to who knows DNS.
    pub(super) fn query(&self, packet: &Mbuf, port: u32) {
        let Ok(headers) = Headers::parse(packet.data(), packet.pkt_len()) else {
            return;
        };
        let message = packet
            .data()
            .get(usize::from(headers.header_len)..headers.total_len);
        let Some(message) = message else { return };
        (self.events)(Event::Query(Query {
            port,
            from: endpoint((headers.source, headers.source_port)),
            to: endpoint((headers.destination, headers.destination_port)),
            message: message.to_vec(),
        }));
    }

    /// Makes the packet that answers a query, for the worker that owns the container. The port may have gone to
    /// another container meanwhile.
    pub(super) fn answer(&self, answer: &Answer) {
        let Some(attached) = self.attached.get(&answer.port) else {
            return;
        };
        let namespace = attached.attachment.namespace;
        if !namespace.iter().any(|own| own == answer.to.ip()) {
            return;
        }
        let (Some(link), Some(small)) = (
            self.workers.get(usize::from(attached.port.worker)),
            &self.small,
        ) else {
            return;
        };
        let Some(mut packet) = small.alloc() else {
            return;
        };
        let end = |end: SocketAddr| (end.ip().into(), end.port());
        let written = answer::datagram(
            packet.spare_mut(),
            end(answer.from),
            end(answer.to),
            &answer.message,
        );
        if written.is_ok_and(|length| packet.set_len(length))
            && link.changer.tell(Change::Answer(packet))
        {
            link.waker.wake();
        }
    }
}
