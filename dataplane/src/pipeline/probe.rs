//! How far away other hosts are: small datagrams of our own through the tunnel port (contract section 5), answered by
//! the peer's data plane and dropped unread by a reference peer.
//!
//! A probe is 24 bytes: `0x80`, its kind (1 request, 2 answer), two zero bytes, the asked host's number at the asker (4
//! bytes), the asker's clock (8 bytes), and a keyed check of both (8 bytes), all big-endian. The asked only turns the
//! kind around, so an answer proves that its request came from here, whichever worker it reaches, and nobody keeps
//! state. An answer is as long as its request: there is nothing to amplify.

use dpdk::Mbuf;
use net::address::Address;
use net::packet::{Protocol, TcpFlags};

use super::{Output, Packet, Pipeline};
use crate::counters::Counter;
use crate::tables::flows::Place;
use crate::tables::region::{BackendRef, Location};
use crate::tables::{SALT, low32, mix};

const LEN: usize = 24;
const FIRST: u8 = 0x80;
const REQUEST: u8 = 1;
const ANSWER: u8 = 2;
/// Between two probes of a host, in milliseconds.
const INTERVAL_MS: u64 = 5000;
/// Hosts probed in one millisecond, so that many hosts make no burst.
const PER_TICK: usize = 4;
/// An answer later than this, in µs, says nothing any more.
const LATEST_US: u64 = 10_000_000;

/// Where the round of probes stands.
#[derive(Debug, Default)]
pub(super) struct Round {
    next: usize,
    begun: u64,
}

fn microseconds() -> u64 {
    // Good for 580 years of a counter at 4 GHz before the product overflows 128 bits, let alone the result.
    let hz = u128::from(dpdk::cycles_hz().max(1));
    u64::try_from(u128::from(dpdk::cycles()) * 1_000_000 / hz).unwrap_or(u64::MAX)
}

impl<O: Output> Pipeline<'_, O> {
    fn check(&self, host: u32, clock: u64) -> u64 {
        mix(clock ^ self.tables.region.seed(), u64::from(host) ^ SALT[2])
    }

    /// Sends the probes that are due. Worker 0 does this for all.
    pub(super) fn probe(&mut self, milliseconds: u64) {
        if self.settings.worker != 0 {
            return;
        }
        let tables = self.tables;
        let hosts = tables.probed_hosts();
        if self.round.next >= hosts.len() {
            if milliseconds.saturating_sub(self.round.begun) < INTERVAL_MS {
                return;
            }
            self.round = Round {
                next: 0,
                begun: milliseconds,
            };
        }
        for word in hosts.iter().skip(self.round.next).take(PER_TICK) {
            self.round.next += 1;
            let host = low32(word.load(std::sync::atomic::Ordering::Relaxed));
            let Some(endpoint) = tables.region.host(host) else {
                continue;
            };
            let Some(mut probe) = self.small.alloc() else {
                continue;
            };
            let clock = microseconds();
            let mut bytes = [0; LEN];
            let [kind, body @ ..] = &mut bytes;
            *kind = FIRST;
            let fields = [REQUEST, 0, 0]
                .into_iter()
                .chain(host.to_be_bytes())
                .chain(clock.to_be_bytes())
                .chain(self.check(host, clock).to_be_bytes());
            for (to, from) in body.iter_mut().zip(fields) {
                *to = from;
            }
            if probe.extend_from_slice(&bytes) {
                self.counters.count(Counter::Probes);
                tables.region.count_probe(host);
                self.output.tunnel(probe, endpoint, 0);
            }
        }
    }

    /// Takes a datagram that is one of ours; gives back what is not.
    #[inline]
    pub(super) fn take_probe(&mut self, mbuf: Mbuf, from: Address) -> Option<Mbuf> {
        if mbuf.data().first() != Some(&FIRST) {
            return Some(mbuf);
        }
        self.probed(mbuf, from);
        None
    }

    #[cold]
    fn probed(&mut self, mut mbuf: Mbuf, from: Address) {
        let Some(&bytes) = mbuf
            .data()
            .first_chunk::<LEN>()
            .filter(|_| mbuf.pkt_len() == LEN)
        else {
            return self.drop(mbuf, Counter::NotIp);
        };
        let [
            _,
            kind,
            _,
            _,
            h0,
            h1,
            h2,
            h3,
            c0,
            c1,
            c2,
            c3,
            c4,
            c5,
            c6,
            c7,
            check @ ..,
        ] = bytes;
        let host = u32::from_be_bytes([h0, h1, h2, h3]);
        let clock = u64::from_be_bytes([c0, c1, c2, c3, c4, c5, c6, c7]);
        match kind {
            REQUEST => {
                // Only hosts that the route table knows are answered, at the port that it knows.
                let Some(endpoint) = self.tables.endpoint_of(from) else {
                    return self.drop(mbuf, Counter::SpoofedTunnel);
                };
                if !self.errors.take() {
                    return self.drop(mbuf, Counter::NotIp);
                }
                if let Some(kind) = mbuf.data_mut().get_mut(1) {
                    *kind = ANSWER;
                }
                // The answer takes the request's place.
                self.output.tunnel(mbuf, endpoint, 0);
            }
            ANSWER => {
                let elapsed = microseconds().saturating_sub(clock);
                let genuine = u64::from_be_bytes(check) == self.check(host, clock)
                    && self
                        .tables
                        .region
                        .host(host)
                        .is_some_and(|(address, _)| address == from)
                    && elapsed <= LATEST_US;
                if !genuine {
                    return self.drop(mbuf, Counter::SpoofedTunnel);
                }
                self.tables.region.learn_rtt(
                    host,
                    u32::try_from(elapsed).unwrap_or(u32::MAX),
                    true,
                );
                self.drop(mbuf, Counter::Answered);
            }
            _ => self.drop(mbuf, Counter::NotIp),
        }
    }

    /// Times TCP handshakes with hosts that do not answer probes: a reference peer's round trip.
    #[inline]
    pub(super) fn time_handshake(
        &self,
        packet: &Packet,
        place: Place,
        reference: BackendRef,
        answer: bool,
    ) {
        if packet.headers.protocol == Protocol::TCP && packet.headers.tcp_flags.any(TcpFlags::SYN) {
            self.time_syn(place, reference, answer);
        }
    }

    #[cold]
    fn time_syn(&self, place: Place, reference: BackendRef, answer: bool) {
        let now = low32(microseconds());
        if !answer {
            return self.shard.note_opening(place, now);
        }
        let Some(begun) = self.shard.opening(place) else {
            return;
        };
        if let Some(backend) = self.tables.region.backend(reference)
            && let Location::Host(host) = backend.location
        {
            self.tables
                .region
                .learn_rtt(host, now.wrapping_sub(begun), false);
        }
    }
}
