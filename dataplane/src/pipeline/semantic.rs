//! To a Service IP or an Instance IP: the flow's backend, or the policy's choice; then both addresses change.
//!
//! Only a Service IP needs a flow: the client must see its answers come from the address it dialled. A packet to an
//! Instance IP is translated by the route table alone, which also serves every answer of a server (contract section 5).

use arrayvec::ArrayVec;
use net::address::Address;
use net::answer::Failure;
use net::packet::{Icmp, Protocol, TcpFlags};
use net::rewrite::AddressChange;

use super::fragments::Decision;
use super::{Origin, Output, Packet, Pipeline};
use crate::counters::Counter;
use crate::observe::trace::Note;
use crate::policy;
use crate::tables::flows::{Place, Refused, Tuple};
use crate::tables::region::{Backend, BackendRef, Location};
use crate::tables::routes::{BackendSet, Members, Route};
use crate::tables::slots::AccessSlot;
use crate::tally::OfService;

/// A packet's 5-tuple.
pub(super) fn tuple(packet: &Packet) -> Tuple {
    Tuple {
        source: packet.headers.source,
        destination: packet.headers.destination,
        source_port: packet.headers.source_port,
        destination_port: packet.headers.destination_port,
        protocol: packet.headers.protocol,
    }
}

/// What came of opening a flow.
pub(super) enum Begun {
    /// It is open.
    Flow {
        /// Its client's direction.
        place: Place,
        /// The backend that was picked.
        reference: BackendRef,
        /// The same as a value.
        backend: Backend,
        /// Who picked.
        policy: policy::Policy,
        /// Among how many turns.
        turns: usize,
    },
    /// The service has none.
    NoBackend,
    /// Every backend's answers would be taken for another flow's.
    Ambiguous,
}

/// One family's address of a backend; unspecified where it has none.
pub(super) fn family(value: (u32, Address), v4: bool) -> Address {
    match (v4, value.0) {
        (true, 0) => Address(0),
        (true, bits) => Address::from_v4_bits(bits),
        (false, _) => value.1,
    }
}

impl<O: Output> Pipeline<'_, O> {
    /// Translates a packet from the container in `port` to a Service IP or an Instance IP.
    #[inline]
    pub(super) fn semantic(&mut self, packet: Packet, port: &AccessSlot) {
        let v4 = packet.headers.destination.is_v4();
        let own = port.instance(v4);
        if own.is_unspecified() {
            // Which Instance IP is the container's own? Its own namespace IP is the question.
            return self.wait(packet, port.namespace(v4));
        }
        if packet.headers.fragment.is_later() {
            return self.follow_out(packet);
        }
        if let Icmp::Error { .. } = packet.headers.icmp {
            return self.error_out(packet, own);
        }
        let key = tuple(&packet);
        let mut packet = packet;
        if let Some((place, reference)) = self.shard.forward(&key, self.now) {
            let opens = packet.headers.tcp_flags.any(TcpFlags::SYN)
                && !packet.headers.tcp_flags.any(TcpFlags::ACK);
            if opens && self.shard.is_closed(place) {
                self.shard.remove(place);
            } else if let Some(backend) = self.tables.region.backend(reference) {
                self.shard.touch(place, packet.headers.tcp_flags, self.now);
                self.count_of_service(place, key.destination);
                self.time_handshake(&packet, place, reference, false);
                self.note(&packet.mbuf, Note::Flow(reference.id));
                return self.translate(packet, own, reference.id, &backend);
            } else if let Some(still) = self.orphaned(packet, place) {
                packet = still;
            } else {
                return;
            }
        }
        match self.tables.route(packet.headers.destination) {
            Some(Route::Service { service, set }) => self.open(packet, &key, own, service, set),
            Some(Route::Instance(id)) => match self.tables.region.backend_at(id) {
                Some((_, backend)) => {
                    self.note(&packet.mbuf, Note::Instance(id));
                    self.answered_directly(&key, packet.headers.tcp_flags);
                    self.translate(packet, own, id, &backend);
                }
                None => self.unreachable(packet, Counter::NoBackend),
            },
            Some(Route::Unreachable) => self.unreachable(packet, Counter::Unreachable),
            // Semantic addresses are never namespace addresses.
            Some(Route::Namespace(_) | Route::Local(_)) => {
                self.drop(packet.mbuf, Counter::NotForUs);
            }
            None => {
                let destination = packet.headers.destination;
                self.wait(packet, destination);
            }
        }
    }

    /// The answers to what is sent to an Instance IP need no flow, and must meet none that the same ports had before.
    #[inline(always)]
    fn answered_directly(&self, key: &Tuple, flags: TcpFlags) {
        // Of a connection, only its beginning.
        if key.protocol != Protocol::TCP || flags.any(TcpFlags::SYN) {
            self.shard.supersede(&key.answered());
        }
    }

    fn open(&mut self, packet: Packet, key: &Tuple, own: Address, service: u32, set: u32) {
        match self.begin_flow(key, service, set) {
            Begun::Flow {
                place,
                reference,
                backend,
                policy,
                turns,
            } => {
                self.counters
                    .tally
                    .count_service(service, OfService::Packets);
                self.time_handshake(&packet, place, reference, false);
                let picked = Note::Picked {
                    policy,
                    backend: reference.id,
                    turns,
                };
                self.note(&packet.mbuf, picked);
                self.translate(packet, own, reference.id, &backend);
            }
            Begun::NoBackend => self.unreachable(packet, Counter::NoBackend),
            Begun::Ambiguous => self.drop(packet.mbuf, Counter::Ambiguous),
        }
    }

    /// Picks a backend and opens the flow to it, and counts that. A backend whose answers could not be told from another
    /// flow's is passed over.
    pub(super) fn begin_flow(&mut self, key: &Tuple, service: u32, set: u32) -> Begun {
        let v4 = key.source.is_v4();
        let set = BackendSet::at(&self.tables.arena, set);
        let mut ambiguous: ArrayVec<u32, 8> = ArrayVec::new();
        // The first backend whose answers could not be told from another flow's.
        let mut contested = None;
        let Some(policy) = set.policy() else {
            return Begun::NoBackend;
        };
        let (known, tally) = (self.known(), &self.counters.tally);
        loop {
            let picked = self
                .policy_state
                .get_mut(service as usize)
                .and_then(|state| {
                    let usable = |reference: BackendRef, backend: &Backend| {
                        // One that is not attached (again) takes no new flows.
                        backend.location != Location::Nowhere
                            && !family(backend.instance, v4).is_unspecified()
                            && !family(backend.namespace, v4).is_unspecified()
                            && !ambiguous.contains(&reference.id)
                    };
                    policy::select(policy, &set, state, known, usable)
                });
            tally.asked(policy, picked.is_some());
            let Some((reference, backend)) = picked else {
                let Some((reference, backend, reverse)) = contested else {
                    tally.count_service(service, OfService::Refused);
                    return Begun::NoBackend;
                };
                // Where there are no connections, whoever was asked last answers.
                self.shard.supersede(&reverse);
                return match self.shard.open(key, reference, &reverse, self.now) {
                    Ok(place) => self.begun(service, place, reference, backend, policy, set.len()),
                    Err(Refused::Ambiguous) => {
                        tally.count_service(service, OfService::Refused);
                        Begun::Ambiguous
                    }
                };
            };
            let reverse = Tuple {
                source: family(backend.instance, v4),
                destination: key.source,
                source_port: key.destination_port,
                destination_port: key.source_port,
                protocol: key.protocol,
            };
            if let Ok(place) = self.shard.open(key, reference, &reverse, self.now) {
                return self.begun(service, place, reference, backend, policy, set.len());
            }
            contested = contested.or(Some((reference, backend, reverse)));
            if ambiguous.try_push(reference.id).is_err() {
                tally.count_service(service, OfService::Refused);
                return Begun::Ambiguous;
            }
        }
    }

    fn begun(
        &self,
        service: u32,
        place: Place,
        reference: BackendRef,
        backend: Backend,
        policy: policy::Policy,
        turns: usize,
    ) -> Begun {
        self.shard.set_service(place, service);
        let counters = &self.counters;
        counters.tally.count_service(service, OfService::Opened);
        counters.count(Counter::FlowsOpened);
        Begun::Flow {
            place,
            reference,
            backend,
            policy,
            turns,
        }
    }

    /// Counts a packet for the service that its flow dialled.
    #[inline(always)]
    pub(super) fn count_of_service(&self, place: Place, dialled: Address) {
        match self.shard.service(place) {
            Some(service) => self
                .counters
                .tally
                .count_service(service, OfService::Packets),
            None => self.learn_service(place, dialled),
        }
    }

    // A flow of an earlier process: the service has another number now, once its route is back.
    #[cold]
    fn learn_service(&self, place: Place, dialled: Address) {
        if let Some(Route::Service { service, .. }) = self.tables.route(dialled) {
            self.shard.set_service(place, service);
            self.counters
                .tally
                .count_service(service, OfService::Packets);
        }
    }

    /// Rewrites `c → S` to `C → d` and sends the packet where the backend runs.
    #[inline]
    fn translate(&mut self, packet: Packet, own: Address, id: u32, backend: &Backend) {
        let to = family(backend.namespace, own.is_v4());
        if to.is_unspecified() {
            return self.unreachable(packet, Counter::NoBackend);
        }
        let Some(mut packet) = self.fit(packet, backend.location).and_then(|p| self.hop(p)) else {
            return;
        };
        let Some(change) =
            AddressChange::new(packet.headers.source, own, packet.headers.destination, to)
        else {
            return self.drop(packet.mbuf, Counter::Malformed);
        };
        self.tables.mark_used(id, self.now);
        self.note_translation(&mut packet, own, to);
        let first = self.first_fragment(&packet);
        if change
            .apply(packet.mbuf.data_mut(), &mut packet.headers, packet.state)
            .is_err()
        {
            return self.drop(packet.mbuf, Counter::Malformed);
        }
        self.forward(packet, backend.location);
        if let Some(key) = first {
            self.lead(
                key,
                Decision::Out {
                    source: own,
                    destination: to,
                    location: backend.location,
                },
            );
        }
    }

    /// Takes one hop from the packet's time to live; answers and ends it when there is none left.
    pub(super) fn hop(&mut self, mut packet: Packet) -> Option<Packet> {
        use net::rewrite::{Ttl, decrement_ttl};
        match decrement_ttl(packet.mbuf.data_mut(), &mut packet.headers) {
            Ok(Ttl::Left) => Some(packet),
            Ok(Ttl::Expired) => {
                self.report(&packet, Failure::TtlExpired);
                self.drop(packet.mbuf, Counter::TtlExpired);
                None
            }
            Err(_) => {
                self.drop(packet.mbuf, Counter::Malformed);
                None
            }
        }
    }

    /// To a namespace IP: both addresses stay.
    pub(super) fn namespace(&mut self, packet: Packet) {
        let Some(packet) = self.hop(packet) else {
            return;
        };
        let destination = packet.headers.destination;
        match self.tables.route(destination) {
            Some(Route::Local(slot)) => self.deliver(packet, slot),
            Some(Route::Namespace(id)) => match self.tables.region.backend_at(id) {
                Some((_, backend)) => {
                    self.tables.mark_used(id, self.now);
                    self.note(&packet.mbuf, Note::Namespace(id));
                    if let Some(packet) = self.fit(packet, backend.location) {
                        self.forward(packet, backend.location);
                    }
                }
                None => self.unreachable(packet, Counter::NoBackend),
            },
            Some(Route::Unreachable) => self.unreachable(packet, Counter::Unreachable),
            Some(Route::Service { .. } | Route::Instance(_)) => {
                self.drop(packet.mbuf, Counter::NotForUs);
            }
            None => self.wait(packet, destination),
        }
    }

    /// To anywhere else: the node's kernel knows the way, and counts the hop.
    pub(super) fn outside(&mut self, packet: Packet) {
        if packet.headers.destination.is_broadcast() || packet.headers.destination.is_link_local() {
            return self.drop(packet.mbuf, Counter::LinkScope);
        }
        match packet.origin {
            Origin::Host => self.drop(packet.mbuf, Counter::NotForUs),
            _ => self.host_bound(packet),
        }
    }
}
