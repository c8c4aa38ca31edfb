//! Fragments follow the first fragment of their datagram, which alone has ports (pitfall 10).
//!
//! What was decided for the first is kept for a while under the datagram's identity; later ones that arrive before it
//! are held, in bounded number and for a bounded time (RFC 815's problem without its reassembly: nothing needs to be
//! put together here).

use std::collections::{HashMap, VecDeque};

use dpdk::Mbuf;
use net::address::Address;
use net::packet::{Fragment, Protocol};
use net::rewrite::AddressChange;

use super::{Origin, Output, Packet, Pipeline};
use crate::counters::Counter;
use crate::observe::trace::Note;
use crate::tables::region::Location;

/// Datagrams under way at once.
const DATAGRAMS: usize = 4096;
/// Fragments held at once.
const HELD: usize = 512;
/// How long a decision is kept and a fragment held, in milliseconds. RFC 8200 section 4.5 says 60 s for reassembly;
/// who reassembles is the container, so this only bounds reordering.
const PATIENCE_MS: u64 = 5000;

/// A datagram's identity on one side of the translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    source: Address,
    destination: Address,
    protocol: Protocol,
    id: u32,
}

/// What the first fragment met.
#[derive(Clone, Copy, Debug)]
pub(super) enum Decision {
    /// Translated on the way out of a container.
    Out {
        source: Address,
        destination: Address,
        location: Location,
    },
    /// Delivered to a container, with the dialled address put back or as it came.
    In { source: Option<Address> },
}

#[derive(Debug)]
struct Held {
    key: Key,
    mbuf: Mbuf,
    origin: Origin,
    /// The slot that it is to be delivered to; none on the way out.
    slot: Option<u32>,
    until: u64,
}

/// The datagrams whose fragments are passing.
#[derive(Debug)]
pub(super) struct Fragments {
    decided: HashMap<Key, (Decision, u64)>,
    order: VecDeque<Key>,
    held: VecDeque<Held>,
    clock: u64,
}

impl Fragments {
    pub(super) fn new() -> Self {
        Self {
            decided: HashMap::with_capacity(DATAGRAMS),
            order: VecDeque::with_capacity(DATAGRAMS),
            held: VecDeque::with_capacity(HELD),
            clock: 0,
        }
    }

    pub(super) fn held(&self) -> usize {
        self.held.len()
    }
}

fn key(packet: &Packet) -> Option<Key> {
    let (Fragment::First { id } | Fragment::Later { id, .. }) = packet.headers.fragment else {
        return None;
    };
    Some(Key {
        source: packet.headers.source,
        destination: packet.headers.destination,
        protocol: packet.headers.protocol,
        id,
    })
}

impl<O: Output> Pipeline<'_, O> {
    /// The identity of a first fragment, before it is translated.
    #[inline(always)]
    pub(super) fn first_fragment(&self, packet: &Packet) -> Option<Key> {
        match packet.headers.fragment {
            Fragment::None => None,
            _ => key(packet),
        }
    }

    /// Notes what was decided for a first fragment, and lets go what waited for it.
    #[cold]
    pub(super) fn lead(&mut self, key: Key, decision: Decision) {
        let until = self.fragments.clock + PATIENCE_MS;
        if self
            .fragments
            .decided
            .insert(key, (decision, until))
            .is_none()
        {
            if self.fragments.order.len() >= DATAGRAMS
                && let Some(oldest) = self.fragments.order.pop_front()
            {
                self.fragments.decided.remove(&oldest);
            }
            self.fragments.order.push_back(key);
        }
        for _ in 0..self.fragments.held.len() {
            let Some(held) = self.fragments.held.pop_front() else {
                break;
            };
            if held.key != key {
                self.fragments.held.push_back(held);
                continue;
            }
            if let Some(packet) = self.parse(held.mbuf, held.origin) {
                match held.slot {
                    Some(slot) => self.follow_in(packet, slot),
                    None => self.follow_out(packet),
                }
            }
        }
    }

    fn hold(&mut self, packet: Packet, slot: Option<u32>) {
        let Some(key) = key(&packet) else {
            return self.drop(packet.mbuf, Counter::Malformed);
        };
        if self.fragments.held.len() >= HELD {
            return self.drop(packet.mbuf, Counter::FragmentsFull);
        }
        self.note(&packet.mbuf, Note::Held);
        let until = self.fragments.clock + PATIENCE_MS;
        self.fragments.held.push_back(Held {
            key,
            mbuf: packet.mbuf,
            origin: packet.origin,
            slot,
            until,
        });
    }

    fn decision(&self, packet: &Packet) -> Option<Decision> {
        let key = key(packet)?;
        self.fragments
            .decided
            .get(&key)
            .map(|(decision, _)| *decision)
    }

    /// A later fragment from a container to a Service IP or Instance IP.
    #[cold]
    pub(super) fn follow_out(&mut self, packet: Packet) {
        let Some(Decision::Out {
            source,
            destination,
            location,
        }) = self.decision(&packet)
        else {
            return self.hold(packet, None);
        };
        let Some(mut packet) = self.fit(packet, location).and_then(|p| self.hop(p)) else {
            return;
        };
        self.note_translation(&mut packet, source, destination);
        let (from, to) = (packet.headers.source, packet.headers.destination);
        let applied = AddressChange::new(from, source, to, destination).is_some_and(|change| {
            change
                .apply(packet.mbuf.data_mut(), &mut packet.headers, packet.state)
                .is_ok()
        });
        if !applied {
            return self.drop(packet.mbuf, Counter::Malformed);
        }
        self.forward(packet, location);
    }

    /// A later fragment for the container in `slot`.
    #[cold]
    pub(super) fn follow_in(&mut self, mut packet: Packet, slot: u32) {
        let Some(Decision::In { source }) = self.decision(&packet) else {
            return self.hold(packet, Some(slot));
        };
        let v4 = packet.headers.destination.is_v4();
        let port = self.tables.slots.get(slot);
        // While it was held, the slot may have been given to another container.
        let Some(port) =
            port.filter(|p| p.ifindex == 0 || p.namespace(v4) == packet.headers.destination)
        else {
            return self.drop(packet.mbuf, Counter::NotAttached);
        };
        if let Some(source) = source {
            self.note_restored(&mut packet, source);
            if !Self::set_source(&mut packet, source) {
                return self.drop(packet.mbuf, Counter::Malformed);
            }
        }
        self.hand_to(packet, &port);
    }

    /// Forgets old decisions and gives up what was held too long.
    pub(super) fn expire_fragments(&mut self, milliseconds: u64) {
        self.fragments.clock = milliseconds;
        while let Some(oldest) = self.fragments.order.front() {
            if self
                .fragments
                .decided
                .get(oldest)
                .is_some_and(|(_, until)| *until > milliseconds)
            {
                break;
            }
            if let Some(oldest) = self.fragments.order.pop_front() {
                self.fragments.decided.remove(&oldest);
            }
        }
        while self
            .fragments
            .held
            .front()
            .is_some_and(|held| held.until <= milliseconds)
        {
            if let Some(held) = self.fragments.held.pop_front() {
                self.drop(held.mbuf, Counter::FragmentExpired);
            }
        }
    }
}
