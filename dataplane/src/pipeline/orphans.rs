//! Flows whose instance has gone: found soon, and ended so that their clients notice.
//!
//! A client that sends is answered at its next packet (`semantic`). One that only waits for an answer sends nothing, and
//! would wait until its own keepalive tires of it. So when an instance goes, each worker walks its shard once, in bounded
//! steps. Flows that no client can wait on for long end some seconds later. The client of an established TCP connection is sent a bare ACK, as
//! from the address that it dialled, with a sequence number outside its window; RFC 9293 (section 3.10.7.4) has it answer
//! with an acknowledgement of what it expects, that meets the flow without a backend, and the reset that follows is exact
//! (RFC 5961 would not let any other pass). No connection's sequence numbers need be known for this.
//!
//! A random number falls into a window of megabytes once in a thousand times, and kernels limit such answers to two a
//! second; so the walk is repeated with other numbers until the client has spoken or the flow's last seconds are over.

use net::answer;
use net::ethernet::Mac;
use net::packet::{Protocol, TcpFlags};

use super::{GATEWAY_MAC, Output, Packet, Pipeline};
use crate::counters::Counter;
use crate::tables::flows::{Place, Tuple};
use crate::tables::region::BackendRef;
use crate::tables::routes::Route;
use crate::tables::{SALT, halves, low32, mix};
use net::ethernet::EtherType;

/// Slots looked at in one tick: some tens of µs.
const SLOTS_PER_TICK: usize = 4096;
/// Clients asked in one tick. Their resets have a budget to match (`answers`).
const ASKED_PER_TICK: usize = 32;
/// Between two walks while clients have not answered, in milliseconds.
const REPEAT_MS: u64 = 700;
/// How long a flow stays, in whole seconds: for three or four tries, or for answers that are under way.
const GRACE_SECONDS: u32 = 2;
/// How long a container may take to be attached again after a restart, in seconds.
const ATTACH_SECONDS: u32 = 30;

/// Where the walk stands.
#[derive(Debug)]
pub(super) struct Walk {
    seen: u64,
    at: usize,
    /// Slots still to be looked at.
    left: usize,
    /// When to walk again, if a client has been asked.
    again: Option<u64>,
}

impl Walk {
    /// One that begins at once: an earlier process may have left flows whose instance went as it died.
    pub(super) fn new(slots: usize) -> Self {
        Self {
            seen: 0,
            at: 0,
            left: slots,
            again: None,
        }
    }

    pub(super) fn is_under_way(&self) -> bool {
        self.left > 0
    }

    pub(super) fn pause(&self, milliseconds: u64) -> Option<u64> {
        if self.left > 0 {
            return Some(1);
        }
        self.again.map(|at| at.saturating_sub(milliseconds).max(1))
    }
}

impl<O: Output> Pipeline<'_, O> {
    /// Goes on with the walk, if one is due.
    #[inline]
    pub(super) fn walk_orphans(&mut self, milliseconds: u64) {
        let departures = self.tables.departures();
        if departures != self.orphans.seen
            || self.orphans.is_under_way()
            || self.orphans.again.is_some_and(|at| at <= milliseconds)
        {
            self.walk_on(milliseconds, departures);
        }
    }

    #[cold]
    fn walk_on(&mut self, milliseconds: u64, departures: u64) {
        if self.orphans.again.is_some_and(|at| at <= milliseconds) {
            self.orphans.again = None;
            self.orphans.left = self.shard.slots();
        }
        if departures != self.orphans.seen {
            // Wherever the walk is, every slot is looked at once more.
            self.orphans.seen = departures;
            self.orphans.left = self.shard.slots();
        }
        if self.shard.live() == 0 {
            self.orphans.left = 0;
            return;
        }
        let mut asked = 0;
        let mut last: Option<(BackendRef, bool)> = None;
        for _ in 0..self.orphans.left.min(SLOTS_PER_TICK) {
            if asked == ASKED_PER_TICK {
                break;
            }
            if let Some((place, reference)) = self.shard.flow_at(self.orphans.at) {
                let there = match last {
                    Some((known, there)) if known == reference => there,
                    _ => self.tables.region.is_there(reference),
                };
                last = Some((reference, there));
                if !there && self.end_or_ask(place, milliseconds) {
                    asked += 1;
                    self.orphans.again = Some(milliseconds + REPEAT_MS);
                }
            }
            self.orphans.at = (self.orphans.at + 1) % self.shard.slots();
            self.orphans.left -= 1;
        }
    }

    // True when the client was asked; then the flow stays for its answer.
    fn end_or_ask(&mut self, place: Place, milliseconds: u64) -> bool {
        if self.shard.has_ended(place, self.now) {
            self.end_orphan(place);
            return false;
        }
        let Some(tuple) = self.shard.waiting_client(place) else {
            // Its last answers may be under way, and are still the dialled address's.
            self.shard.shorten(place, self.now + GRACE_SECONDS);
            self.orphans.again = Some(milliseconds + REPEAT_MS);
            return false;
        };
        if let Some(Route::Local(slot)) = self.tables.route(tuple.source) {
            self.shard.shorten(place, self.now + GRACE_SECONDS);
            self.challenge(&tuple, slot, milliseconds);
            return true;
        }
        // Gone, too, or after a restart not attached again yet.
        self.shard.shorten(place, self.now + ATTACH_SECONDS);
        self.orphans.again = Some(milliseconds + REPEAT_MS);
        false
    }

    fn end_orphan(&mut self, place: Place) {
        self.shard.remove(place);
        self.counters.count(Counter::FlowsOrphaned);
    }

    fn challenge(&mut self, tuple: &Tuple, slot: u32, milliseconds: u64) {
        let Some(port) = self.tables.slots.get(slot) else {
            return;
        };
        // No mbuf, no question: the next walk asks.
        let Some(mut ask) = self.small.alloc() else {
            return;
        };
        let ports = u64::from(tuple.source_port) << 16 | u64::from(tuple.destination_port);
        let random = mix(
            halves(tuple.source).1 ^ ports ^ self.tables.region.seed(),
            milliseconds ^ SALT[1],
        );
        let written = answer::tcp_challenge(
            ask.spare_mut(),
            (tuple.destination, tuple.destination_port),
            (tuple.source, tuple.source_port),
            low32(mix(random, SALT[0])),
        );
        let ethertype = if tuple.source.is_v4() {
            EtherType::IPV4
        } else {
            EtherType::IPV6
        };
        let mac = if port.ifindex == 0 {
            self.output.host_mac()
        } else {
            Mac(port.mac)
        };
        if written.is_ok_and(|length| ask.set_len(length))
            && Self::frame(&mut ask, mac, GATEWAY_MAC, ethertype)
        {
            self.counters.count(Counter::Challenges);
            self.send_frame(ask, &port);
        }
    }

    /// A packet of a flow whose backend has gone. Gives it back when it may open a flow to another; a connection cannot
    /// go on elsewhere, and its client is told now, not after minutes.
    #[cold]
    pub(super) fn orphaned(&mut self, packet: Packet, place: Place) -> Option<Packet> {
        let flags = packet.headers.tcp_flags;
        let opens = flags.any(TcpFlags::SYN) && !flags.any(TcpFlags::ACK);
        if packet.headers.protocol != Protocol::TCP || opens {
            self.end_orphan(place);
            return Some(packet);
        }
        if let Some(service) = self.shard.service(place) {
            self.counters
                .tally
                .count_service(service, crate::tally::OfService::Refused);
        }
        if self.resets.is_empty() {
            // The flow stays: whoever is not told now is told at its next packet, or asked again.
            self.drop(packet.mbuf, Counter::BackendGone);
            return None;
        }
        self.end_orphan(place);
        self.refuse(packet, Counter::BackendGone);
        None
    }
}
