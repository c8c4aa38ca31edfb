//! Packets whose address is not known yet. Each waits, for a bounded time and in bounded company, while the control
//! plane asks the cluster; nobody else waits with it (pitfall 12).

use std::collections::VecDeque;

use dpdk::Mbuf;
use net::address::Address;
use net::answer::Failure;

use super::{Origin, Output, Packet, Pipeline};
use crate::counters::Counter;
use crate::observe::trace::Note;

/// Packets that wait at one worker.
const LIMIT: usize = 512;
/// Packets that wait for one address.
const LIMIT_PER_ADDRESS: usize = 32;
/// How long a packet waits, in milliseconds.
const PATIENCE_MS: u64 = 3000;

#[derive(Debug)]
struct Waiter {
    mbuf: Mbuf,
    origin: Origin,
    address: Address,
    until: u64,
}

/// The packets that wait, in order of arrival.
#[derive(Debug)]
pub(super) struct Waiting {
    queue: VecDeque<Waiter>,
    seen_version: u64,
    clock: u64,
}

impl Waiting {
    pub(super) fn new() -> Self {
        Self {
            queue: VecDeque::with_capacity(LIMIT),
            seen_version: 0,
            clock: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }
}

impl<O: Output> Pipeline<'_, O> {
    /// Sets a packet aside until `address` is known.
    #[cold]
    pub(super) fn wait(&mut self, packet: Packet, address: Address) {
        if address.is_unspecified() {
            return self.unreachable(packet, Counter::Unreachable);
        }
        let same = self
            .waiting
            .queue
            .iter()
            .filter(|w| w.address == address)
            .count();
        if same == 0 {
            self.counters.count(Counter::Misses);
            self.output.unresolved(address);
        }
        if same >= LIMIT_PER_ADDRESS || self.waiting.queue.len() >= LIMIT {
            return self.drop(packet.mbuf, Counter::WaitingFull);
        }
        self.note(&packet.mbuf, Note::Waits(address));
        let until = self.waiting.clock + PATIENCE_MS;
        self.waiting.queue.push_back(Waiter {
            mbuf: packet.mbuf,
            origin: packet.origin,
            address,
            until,
        });
    }

    /// Lets go on what can, when a table has changed; gives up what has waited too long.
    pub(super) fn look_again(&mut self, milliseconds: u64) {
        self.waiting.clock = milliseconds;
        if self.waiting.queue.is_empty() {
            return;
        }
        let version = self.tables.version();
        if version != self.waiting.seen_version {
            self.waiting.seen_version = version;
            for _ in 0..self.waiting.queue.len() {
                let Some(waiter) = self.waiting.queue.pop_front() else {
                    break;
                };
                if self.tables.is_known(waiter.address) {
                    self.resume(waiter);
                } else {
                    self.waiting.queue.push_back(waiter);
                }
            }
        }
        while self
            .waiting
            .queue
            .front()
            .is_some_and(|w| w.until <= milliseconds)
        {
            let Some(waiter) = self.waiting.queue.pop_front() else {
                break;
            };
            if let Some(packet) = self.parse(waiter.mbuf, waiter.origin) {
                self.report(&packet, Failure::HostUnreachable);
                self.drop(packet.mbuf, Counter::WaitingExpired);
            }
        }
    }

    fn resume(&mut self, waiter: Waiter) {
        let Some(packet) = self.parse(waiter.mbuf, waiter.origin) else {
            return;
        };
        self.note(&packet.mbuf, Note::Resumed);
        match waiter.origin {
            Origin::Access(ifindex) => match self.tables.port(ifindex) {
                Some(port)
                    if port.namespace(packet.headers.source.is_v4()) == packet.headers.source =>
                {
                    self.outbound(packet, &port);
                }
                _ => self.drop(packet.mbuf, Counter::UnknownPort),
            },
            Origin::Tunnel(from) => self.admit(packet, from),
            Origin::Host => self.onward(packet),
        }
    }
}
