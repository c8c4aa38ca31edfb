//! Datagrams of other nodes that come in fragments: a peer behind a narrower link, or one that lets routers split.
//!
//! The kernel does this for a UDP socket; an ethdev uplink has nobody in front of it. Fragments come in any order and
//! are joined without copying. What waits is bounded in datagrams, in fragments of each, and in time; overlaps end a
//! datagram (RFC 5722 section 3, RFC 8200 section 4.5), since nobody sends them in good faith.

use arrayvec::ArrayVec;
use dpdk::Mbuf;
use net::address::Address;
use net::packet::{Fragment, Headers};
use net::udp;

use super::Received;

/// Datagrams under way at once.
const DATAGRAMS: usize = 64;
/// Fragments of one: a tunnel datagram has 1500 bytes or little more, and no path carries less than 552.
const FRAGMENTS: usize = 16;
/// How long a datagram waits for its fragments, in milliseconds. RFC 8200 says 60 s, RFC 791 15 s, with hosts in mind
/// that wait for a human; here the inner sender has repeated it long before.
const PATIENCE_MS: u64 = 3000;

/// Congestion experienced (RFC 3168).
const CE: u8 = 3;

/// What came of fragments since the last tick.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reassembled {
    /// Datagrams put together.
    pub whole: usize,
    /// Datagrams given up.
    pub given_up: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Key {
    source: Address,
    destination: Address,
    id: u32,
}

/// A fragment's payload, and where it belongs.
struct Part {
    offset: usize,
    payload: Mbuf,
}

struct Datagram {
    key: Key,
    /// In order, without overlaps.
    parts: ArrayVec<Part, FRAGMENTS>,
    /// Where the last fragment ends, once it is here.
    end: Option<usize>,
    tos: u8,
    until: u64,
}

impl Datagram {
    /// Takes a fragment; false when it contradicts the others.
    fn insert(&mut self, part: Part, more: bool) -> bool {
        let (from, to) = (part.offset, part.offset + part.payload.pkt_len());
        if !more && self.end.is_some_and(|end| end != to) {
            return false;
        }
        let at = self.parts.partition_point(|p| p.offset < from);
        if let Some(next) = self.parts.get(at) {
            if next.offset == from && next.payload.pkt_len() == to - from {
                // The same again: a link may duplicate.
                return true;
            }
            if next.offset < to {
                return false;
            }
        }
        let before = at.checked_sub(1).and_then(|n| self.parts.get(n));
        if before.is_some_and(|p| p.offset + p.payload.pkt_len() > from) {
            return false;
        }
        if !more {
            self.end = Some(to);
        }
        let last = self
            .parts
            .last()
            .map_or(0, |p| p.offset + p.payload.pkt_len());
        if self.end.is_some_and(|end| last.max(to) > end) || self.parts.is_full() {
            return false;
        }
        self.parts.insert(at, part);
        true
    }

    fn is_whole(&self) -> bool {
        let mut reached = 0;
        for part in &self.parts {
            if part.offset != reached {
                return false;
            }
            reached += part.payload.pkt_len();
        }
        self.end == Some(reached)
    }

    /// The inner packet of a datagram that is whole, if it was sent to our port.
    fn open(self, tunnel_port: u16) -> Option<Received> {
        let mut parts = self.parts.into_iter();
        let mut whole = parts.next()?.payload;
        for part in parts {
            whole.push_segment(part.payload).ok()?;
        }
        let mut header = [0; udp::HEADER_LEN];
        if !whole.copy_out(0, &mut header) {
            return None;
        }
        let [_, _, a, b, c, d, ..] = header;
        let length = usize::from(u16::from_be_bytes([c, d]));
        let ours = u16::from_be_bytes([a, b]) == tunnel_port
            && length > udp::HEADER_LEN
            && length <= whole.pkt_len();
        whole.truncate(length);
        (ours && whole.advance(udp::HEADER_LEN)).then_some((whole, self.key.source, self.tos))
    }
}

/// The datagrams whose fragments are passing.
pub(super) struct Reassembly {
    tunnel_port: u16,
    /// In order of arrival.
    waiting: Vec<Datagram>,
    clock: u64,
    done: Reassembled,
}

impl Reassembly {
    pub(super) fn new(tunnel_port: u16) -> Self {
        Self {
            tunnel_port,
            waiting: Vec::with_capacity(DATAGRAMS),
            clock: 0,
            done: Reassembled::default(),
        }
    }

    /// Takes a fragment of a UDP datagram, an IP packet; gives back the inner packet when the datagram is whole.
    pub(super) fn offer(&mut self, mut packet: Mbuf, headers: &Headers) -> Option<Received> {
        let (id, offset, more) = match headers.fragment {
            Fragment::None => return None,
            Fragment::First { id } => (id, 0, true),
            Fragment::Later { id, offset, more } => (id, usize::from(offset), more),
        };
        // Another program's datagram shows at its first fragment.
        let foreign = offset == 0 && headers.destination_port != self.tunnel_port;
        let key = Key {
            source: headers.source,
            destination: headers.destination,
            id,
        };
        let found = self.waiting.iter().position(|d| d.key == key);
        if foreign || !packet.advance(usize::from(headers.l4_offset)) || packet.pkt_len() == 0 {
            if let Some(at) = found {
                self.give_up(at);
            }
            return None;
        }
        let at = match found {
            Some(at) => at,
            None => {
                if self.waiting.len() >= DATAGRAMS {
                    self.give_up(0);
                }
                self.waiting.push(Datagram {
                    key,
                    parts: ArrayVec::new(),
                    end: None,
                    tos: headers.tos,
                    until: self.clock + PATIENCE_MS,
                });
                self.waiting.len() - 1
            }
        };
        let datagram = self.waiting.get_mut(at)?;
        // RFC 3168 section 5.3: congestion met by one fragment was met by the datagram.
        if headers.tos & CE == CE {
            datagram.tos |= CE;
        }
        let part = Part {
            offset,
            payload: packet,
        };
        if !datagram.insert(part, more) {
            self.give_up(at);
            return None;
        }
        if !datagram.is_whole() {
            return None;
        }
        let opened = self.waiting.remove(at).open(self.tunnel_port);
        match opened {
            Some(_) => self.done.whole += 1,
            None => self.done.given_up += 1,
        }
        opened
    }

    fn give_up(&mut self, at: usize) {
        self.waiting.remove(at);
        self.done.given_up += 1;
    }

    /// Gives up what has waited too long at `milliseconds`; what came of fragments since the last call.
    pub(super) fn tick(&mut self, milliseconds: u64) -> Reassembled {
        self.clock = milliseconds;
        while self
            .waiting
            .first()
            .is_some_and(|d| d.until <= milliseconds)
        {
            self.give_up(0);
        }
        std::mem::take(&mut self.done)
    }
}
