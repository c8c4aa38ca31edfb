//! What another node sends: accepted only for an instance on this node, from a host that the route table knows, with
//! an inner source that lives on that host (pitfall 3). The packet arrives translated; the client's node puts back the
//! address that was dialled when it delivers.

use dpdk::Mbuf;
use net::address::Address;
use net::ecn;
use net::packet::{Headers, Icmp, TcpFlags};
use net::rewrite;

use super::semantic::tuple;
use super::{Origin, Output, Packet, Pipeline};
use crate::counters::Counter;
use crate::plan::{Range, range};
use crate::tables::flows::Shard;
use crate::tables::region::Location;
use crate::tables::routes::Route;

impl<O: Output> Pipeline<'_, O> {
    /// Parses an inner packet, for the joining that comes before everything else. Accounts for what does not parse.
    pub fn parse_inner(&mut self, mbuf: Mbuf, from: Address) -> Option<(Mbuf, Headers)> {
        self.counters.count(Counter::ReceivedTunnel);
        let mbuf = self.take_probe(mbuf, from)?;
        self.parse(mbuf, Origin::Tunnel(from))
            .map(|p| (p.mbuf, p.headers))
    }

    /// An inner packet (or several, joined) in a datagram from `from` with the outer TOS byte `tos`.
    pub fn from_tunnel(&mut self, mbuf: Mbuf, from: Address, tos: u8) {
        let Some(mut packet) = self.parse(mbuf, Origin::Tunnel(from)) else {
            return;
        };
        match ecn::decapsulate(packet.headers.tos, tos) {
            Some(inner) if inner == packet.headers.tos => {}
            Some(inner) => {
                if rewrite::set_tos(packet.mbuf.data_mut(), &mut packet.headers, inner).is_err() {
                    return self.drop(packet.mbuf, Counter::Malformed);
                }
            }
            None => return self.drop(packet.mbuf, Counter::Congested),
        }
        if packet.headers.tcp_flags.any(TcpFlags::SYN) && !self.clamp_from(&mut packet, from) {
            return self.drop(packet.mbuf, Counter::Malformed);
        }
        self.admit(packet, from);
    }

    /// Checks both ends of an inner packet, and delivers it.
    pub(super) fn admit(&mut self, packet: Packet, from: Address) {
        let Some(Route::Local(slot)) = self.tables.route(packet.headers.destination) else {
            return self.drop(packet.mbuf, Counter::NotHere);
        };
        if self.answers_flow(&self.shard, &packet, from) {
            return self.deliver(packet, slot);
        }
        let source = packet.headers.source;
        if range(source) == Range::Outside {
            return self.drop(packet.mbuf, Counter::SpoofedTunnel);
        }
        match self.tables.route(source) {
            Some(Route::Instance(id) | Route::Namespace(id)) if self.lives_on(id, from) => {
                // Whom only this packet is from is needed here, too: without a route it would be dropped as spoofed.
                self.tables.mark_used(id, self.now);
                self.deliver(packet, slot);
            }
            // Known to the worker that owns the destination: so after a restart, before the routes are back. Another
            // worker's shard may change under our eyes; a packet that is mistaken for unknown then only waits.
            None if self
                .owners_shard(slot)
                .is_some_and(|shard| self.answers_flow(&shard, &packet, from)) =>
            {
                self.deliver(packet, slot);
            }
            // A gateway on the way is no instance, and nobody's table names it.
            None | Some(Route::Unreachable) if self.reports_from(&packet, slot, from) => {
                self.deliver(packet, slot);
            }
            // Not known yet: it waits while the address is looked up.
            None => self.wait(packet, source),
            Some(_) => self.drop(packet.mbuf, Counter::SpoofedTunnel),
        }
    }

    // An ICMP error about what the container in `slot` sent to an instance on that host: who forwards a packet may say why
    // it did not (RFC 1812 section 4.3), by an address that lies in no table, and delivery looks at the quote again.
    #[cold]
    fn reports_from(&self, packet: &Packet, slot: u32, from: Address) -> bool {
        let Icmp::Error { .. } = packet.headers.icmp else {
            return false;
        };
        let Ok(quoted) = packet.headers.quoted(packet.mbuf.data()) else {
            return false;
        };
        let v4 = packet.headers.source.is_v4();
        let sent_here = self.tables.slots.get(slot).is_some_and(|port| {
            quoted.source == port.namespace(v4) || quoted.source == port.instance(v4)
        });
        let to = self.tables.route(quoted.destination);
        sent_here
            && !quoted.source.is_unspecified()
            && matches!(to, Some(Route::Instance(id) | Route::Namespace(id)) if self.lives_on(id, from))
    }

    fn owners_shard(&self, slot: u32) -> Option<Shard<'_>> {
        let owner = usize::from(self.tables.slots.get(slot)?.worker);
        let region = &self.tables.region;
        Some(Shard::new(region.shard(owner)?, region.seed()))
    }

    // An answer in a flow proves its source: the flow names the backend, the backend its host.
    fn answers_flow(&self, shard: &Shard<'_>, packet: &Packet, from: Address) -> bool {
        shard
            .reverse(&tuple(packet), self.now)
            .is_some_and(|(_, reference, _)| {
                self.tables
                    .region
                    .backend(reference)
                    .is_some_and(|backend| self.is_host(backend.location, from))
            })
    }

    fn lives_on(&self, id: u32, from: Address) -> bool {
        self.tables
            .region
            .backend_at(id)
            .is_some_and(|(_, backend)| self.is_host(backend.location, from))
    }

    // Addresses alone: a NAT on the way may have changed the port.
    #[inline(always)]
    pub(super) fn is_host(&self, location: Location, from: Address) -> bool {
        match location {
            Location::Host(host) => self
                .tables
                .region
                .host(host)
                .is_some_and(|(address, _)| address == from),
            _ => false,
        }
    }
}
