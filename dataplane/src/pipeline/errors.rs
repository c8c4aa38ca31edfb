//! ICMP errors, translated like the packets they are about (RFC 5508 section 4, contract section 5).
//!
//! An error carries the beginning of the packet that failed. Its receiver finds the connection by that quote, so the
//! quote must show the packet as the receiver sent it: what the translation did to the packet is undone in the quote.

use net::packet::Quoted;
use net::rewrite::AddressChange;

use super::semantic::family;
use super::{Output, Packet, Pipeline};
use crate::counters::Counter;
use crate::tables::flows::Tuple;
use crate::tables::region::Backend;
use crate::tables::routes::Route;
use crate::tables::slots::AccessSlot;
use net::address::Address;

/// The quoted packet's answer: what a packet in the other direction looks like.
fn answered(quoted: &Quoted) -> Tuple {
    Tuple {
        source: quoted.destination,
        destination: quoted.source,
        source_port: quoted.destination_port,
        destination_port: quoted.source_port,
        protocol: quoted.protocol,
    }
}

impl<O: Output> Pipeline<'_, O> {
    // The quote, all of it contiguous and writable.
    fn quote(&self, mut packet: Packet) -> Option<(Packet, Quoted)> {
        let whole = packet.mbuf.pkt_len().min(1500);
        if !packet.mbuf.pull_up(whole) {
            self.drop(packet.mbuf, Counter::NoMbuf);
            return None;
        }
        match packet.headers.quoted(packet.mbuf.data()) {
            Ok(quoted) => Some((packet, quoted)),
            Err(_) => {
                self.drop(packet.mbuf, Counter::Malformed);
                None
            }
        }
    }

    /// An error that a local container sends to a Service IP or Instance IP, about a packet it received from there:
    /// both it and its quote become what the other side knows (`C`, `d` outside; mirrored inside).
    #[cold]
    pub(super) fn error_out(&mut self, packet: Packet, own: Address) {
        let Some((packet, mut quoted)) = self.quote(packet) else {
            return;
        };
        let (source, destination) = (packet.headers.source, packet.headers.destination);
        // It may speak only of packets that were sent to it, and only to who sent them.
        if quoted.destination != source || quoted.source != destination {
            return self.drop(packet.mbuf, Counter::Icmp);
        }
        let Some((id, backend)) = self.peer_of(&answered(&quoted)) else {
            return self.drop(packet.mbuf, Counter::Icmp);
        };
        let to = family(backend.namespace, own.is_v4());
        if to.is_unspecified() {
            return self.drop(packet.mbuf, Counter::Icmp);
        }
        let Some(mut packet) = self.hop(packet) else {
            return;
        };
        self.tables.mark_used(id, self.now);
        let inside = AddressChange::new(quoted.source, to, quoted.destination, own);
        let outside = AddressChange::new(source, own, destination, to);
        self.note_translation(&mut packet, own, to);
        let (Some(inside), Some(outside)) = (inside, outside) else {
            return self.drop(packet.mbuf, Counter::Malformed);
        };
        let done = inside
            .apply_to_quote(packet.mbuf.data_mut(), &packet.headers, &mut quoted)
            .and_then(|()| {
                outside.apply(packet.mbuf.data_mut(), &mut packet.headers, packet.state)
            });
        if done.is_err() {
            return self.drop(packet.mbuf, Counter::Malformed);
        }
        self.forward(packet, backend.location);
    }

    // Who a container's packet with this tuple goes to.
    fn peer_of(&self, tuple: &Tuple) -> Option<(u32, Backend)> {
        if let Some((_, reference)) = self.shard.forward(tuple, self.now) {
            return self
                .tables
                .region
                .backend(reference)
                .map(|b| (reference.id, b));
        }
        match self.tables.route(tuple.destination) {
            Some(Route::Instance(id)) => self.tables.region.backend_at(id).map(|(_, b)| (id, b)),
            _ => None,
        }
    }

    /// An error for the container in `port`: its quote, and if it comes from the backend itself its source, show the
    /// address that the container dialled. None when the packet has ended here.
    #[cold]
    pub(super) fn error_in(&mut self, packet: Packet, port: &AccessSlot) -> Option<Packet> {
        let (mut packet, mut quoted) = self.quote(packet)?;
        let v4 = packet.headers.source.is_v4();
        let own = port.namespace(v4);
        // A peer may have left the quote as the packet came to it: from our Instance IP, to its namespace IP.
        let unmirrored = quoted.source == port.instance(v4) && !quoted.source.is_unspecified();
        if quoted.source != own && !unmirrored {
            self.drop(packet.mbuf, Counter::Icmp);
            return None;
        }
        let peer = match (unmirrored, self.tables.route(quoted.destination)) {
            (true, Some(Route::Namespace(id))) => self
                .tables
                .region
                .backend_at(id)
                .map_or(quoted.destination, |(_, b)| family(b.instance, v4)),
            (true, Some(Route::Local(slot))) => self
                .tables
                .slots
                .get(slot)
                .map_or(quoted.destination, |other| other.instance(v4)),
            _ => quoted.destination,
        };
        let sent = Quoted {
            source: own,
            destination: peer,
            ..quoted
        };
        // An error does not keep a flow alive (RFC 5508 section 4.2).
        let flow = self.shard.reverse(&answered(&sent), self.now);
        let shown = flow.map_or(peer, |(_, _, dialled)| dialled);
        let about = Quoted {
            destination: shown,
            ..sent
        };
        self.note_error(&mut packet, &about);
        let inside = AddressChange::new(quoted.source, own, quoted.destination, shown);
        let changed = inside.is_some_and(|change| {
            change
                .apply_to_quote(packet.mbuf.data_mut(), &packet.headers, &mut quoted)
                .is_ok()
        });
        let from_backend = packet.headers.source == peer;
        if !changed || (from_backend && shown != peer && !Self::set_source(&mut packet, shown)) {
            self.drop(packet.mbuf, Counter::Malformed);
            return None;
        }
        Some(packet)
    }
}
