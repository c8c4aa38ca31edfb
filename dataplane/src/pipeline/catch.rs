//! Queries of containers for the names of services, caught on their way to whatever server they were sent to
//! (contract section 4, `DnsIntercept`).
//!
//! The pipeline tells such a query by its destination port and the zone of its name; what it answers, the control side
//! knows. A caught packet goes there whole and ends; the answer comes back as a packet of its own. Nobody waits.

use arrayvec::ArrayVec;
use dpdk::{Mbuf, Segment};
use net::dns;
use net::packet::{Fragment, Protocol};

use super::{Origin, Output, Packet, Pipeline};
use crate::counters::Counter;
use crate::tables::routes::Route;
use crate::tables::slots::AccessSlot;

/// The port of DNS.
pub(super) const PORT: u16 = 53;
/// For so many milliseconds a budget lasts.
const PERIOD_MS: u64 = 8;
/// Queries of one container in a period, and of all.
const EACH: u8 = 16;
const ALL: u32 = 128;
/// Containers that are told apart; others share.
const SHARES: usize = 256;

/// A zone's name, as it stands in a message.
pub type Zone = ArrayVec<u8, { dns::NAME_MAX }>;

/// Reads a zone's name; `None` when it is none.
#[must_use]
pub fn zone(name: &str) -> Option<Zone> {
    let mut bytes = [0; dns::NAME_MAX];
    let length = dns::write_name(&mut bytes, name.trim_matches('.'))?;
    Zone::try_from(bytes.get(..length)?).ok()
}

/// What is caught, and how much of it.
#[derive(Debug)]
pub(super) struct Catcher {
    zone: Zone,
    period: u64,
    left: u32,
    taken: [u8; SHARES],
}

impl Catcher {
    pub(super) fn new(zone: Zone) -> Self {
        Self {
            zone,
            period: 0,
            left: ALL,
            taken: [0; SHARES],
        }
    }

    fn refill(&mut self, milliseconds: u64) {
        let period = milliseconds / PERIOD_MS;
        if period != self.period {
            self.period = period;
            if self.left < ALL {
                self.left = ALL;
                self.taken.fill(0);
            }
        }
    }

    /// Whether this container may ask now: one that asks without end leaves the others their share.
    fn may(&mut self, port: u16) -> bool {
        let Some(taken) = self.taken.get_mut(usize::from(port) % SHARES) else {
            return false;
        };
        let may = self.left > 0 && *taken < EACH;
        if may {
            self.left -= 1;
            *taken += 1;
        }
        may
    }
}

impl<O: Output> Pipeline<'_, O> {
    /// Catches queries for this zone from now on.
    #[must_use]
    pub fn with_caught_zone(mut self, zone: Option<Zone>) -> Self {
        self.catcher = zone.map(Catcher::new);
        self
    }

    pub(super) fn refill_catcher(&mut self, milliseconds: u64) {
        if let Some(catcher) = &mut self.catcher {
            catcher.refill(milliseconds);
        }
    }

    /// Takes a query for the zone out of the way; gives back what is none.
    #[cold]
    pub(super) fn catch(&mut self, packet: Packet, port: &AccessSlot) -> Option<Packet> {
        let Some(catcher) = &mut self.catcher else {
            return Some(packet);
        };
        let headers = &packet.headers;
        let message = packet
            .mbuf
            .data()
            .get(usize::from(headers.header_len)..headers.total_len);
        let caught = headers.protocol == Protocol::UDP
            && headers.destination_port == PORT
            && headers.fragment == Fragment::None
            && packet.mbuf.offload().segment == Segment::None
            && message.is_some_and(|message| dns::asks_for(message, &catcher.zone));
        if !caught {
            return Some(packet);
        }
        if !catcher.may(port.number) {
            self.drop(packet.mbuf, Counter::QueryLimit);
            return None;
        }
        match self.output.query(packet.mbuf, port.ifindex) {
            Ok(()) => self.counters.count(Counter::Caught),
            Err(mbuf) => self.drop(mbuf, Counter::QueryLimit),
        }
        None
    }

    /// A packet that the control side made for a container, from its IP header on.
    pub fn from_control(&mut self, mbuf: Mbuf) {
        self.counters.count(Counter::Answers);
        let Some(packet) = self.parse(mbuf, Origin::Host) else {
            return;
        };
        let slot = match self.tables.route(packet.headers.destination) {
            Some(Route::Local(slot)) => self.tables.slots.get(slot),
            _ => None,
        };
        match slot {
            Some(port) if port.worker == self.settings.worker => self.hand_to(packet, &port),
            Some(port) => self.hand_over(packet, port.worker),
            None => self.drop(packet.mbuf, Counter::NotAttached),
        }
    }
}
