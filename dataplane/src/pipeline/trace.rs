//! The pipeline's side of a trace. While nobody asks, a stage that could tell something tests one flag.

use dpdk::Mbuf;

use super::{Origin, Output, Packet, Pipeline};
use crate::observe::trace::{FROM_ACCESS, FROM_HOST, FROM_TUNNEL, Note, Tuple, quoted};
use crate::tunnel::Cut;
use net::address::Address;
use net::packet::Quoted;

impl<O: Output> Pipeline<'_, O> {
    /// Notes what was decided about a packet.
    #[inline(always)]
    pub(super) fn note(&self, mbuf: &Mbuf, note: Note) {
        if self.tracer.is_on() {
            self.tracer.note(mbuf.tag(), note);
        }
    }

    /// A packet that was understood: is it one that someone asked for?
    #[inline(always)]
    pub(super) fn note_arrival(&self, packet: &mut Packet) {
        if self.tracer.is_on() {
            let tuple = Tuple::from(&packet.headers);
            self.begin_trace(packet, &tuple);
        }
    }

    /// A packet whose addresses are about to become these, which may be the ones that someone asked for.
    #[inline(always)]
    pub(super) fn note_translation(&self, packet: &mut Packet, source: Address, to: Address) {
        if self.tracer.is_on() {
            let becomes = Tuple {
                source,
                destination: to,
                ..Tuple::from(&packet.headers)
            };
            self.begin_trace(packet, &becomes);
            self.tracer
                .note(packet.mbuf.tag(), Note::Rewritten(becomes));
        }
    }

    /// An answer that is about to show the address that was dialled.
    #[inline(always)]
    pub(super) fn note_restored(&self, packet: &mut Packet, dialled: Address) {
        if self.tracer.is_on() {
            let becomes = Tuple {
                source: dialled,
                ..Tuple::from(&packet.headers)
            };
            self.begin_trace(packet, &becomes);
            self.tracer.note(packet.mbuf.tag(), Note::Restored(dialled));
        }
    }

    /// An ICMP error that is about to show its receiver that it is about this packet.
    #[inline(always)]
    pub(super) fn note_error(&self, packet: &mut Packet, about: &Quoted) {
        if self.tracer.is_on() {
            let about = Tuple::from(about);
            self.begin(packet, &about, None);
            self.tracer.note(packet.mbuf.tag(), Note::About(about));
        }
    }

    #[cold]
    fn begin_trace(&self, packet: &mut Packet, wanted: &Tuple) {
        let about = quoted(packet.mbuf.data(), &packet.headers);
        self.begin(packet, wanted, about);
    }

    #[cold]
    fn begin(&self, packet: &mut Packet, wanted: &Tuple, about: Option<Tuple>) {
        if self.tracer.follows(packet.mbuf.tag()) {
            return;
        }
        let tuple = Tuple::from(&packet.headers);
        let Some(number) = self.tracer.wanted(wanted, about.as_ref()) else {
            return;
        };
        packet.mbuf.set_tag(number);
        let from = match packet.origin {
            Origin::Access(ifindex) => (FROM_ACCESS | u64::from(ifindex), Address(0)),
            Origin::Tunnel(address) => (FROM_TUNNEL, address),
            Origin::Host => (FROM_HOST, Address(0)),
        };
        let arrived = Note::Arrived {
            from,
            tuple,
            length: packet.mbuf.pkt_len(),
            tcp_flags: packet.headers.tcp_flags.0,
            fragment: packet.headers.fragment.is_later(),
        };
        self.tracer.note(number, arrived);
        if let Some(about) = about {
            self.tracer.note(number, Note::About(about));
        }
    }

    /// The number of a packet that is followed, else 0.
    #[inline(always)]
    pub fn followed(&self, mbuf: &Mbuf) -> u64 {
        if self.tracer.is_on() { mbuf.tag() } else { 0 }
    }

    /// The packet with this number became part of the one before.
    #[inline(always)]
    pub fn note_joined(&self, number: u64) {
        if self.tracer.is_on() {
            self.tracer.note(number, Note::Joined);
        }
    }

    /// The packet with this number left in pieces, or some of it was lost.
    #[inline(always)]
    pub(super) fn note_cut(&self, number: u64, (host, port): (Address, u16), cut: Cut) {
        if self.tracer.is_on() {
            self.tracer.note(number, Note::Cut(cut.pieces));
            self.tracer.note(number, Note::SentTunnel(host, port));
            if let Some(reason) = cut.failure {
                self.tracer.note(number, Note::Dropped(reason));
            }
        }
    }

    /// The end of a packet, which may not even have been understood.
    #[cold]
    pub(super) fn note_drop(&self, mbuf: &Mbuf, reason: crate::counters::Counter) {
        let number = match mbuf.tag() {
            number if self.tracer.follows(number) => number,
            _ => self.tracer.wanted_unread().unwrap_or(0),
        };
        self.tracer.note(number, Note::Dropped(reason));
    }
}
