//! The common packets of a burst, together: whole TCP or UDP packets of open flows, and answers of servers.
//!
//! One packet after another would wait for memory at each step: its headers, its flow's slot, its backend's record.
//! Here each pass over the burst asks for what the next pass needs, so that these waits overlap. What is not common
//! takes the general way in its turn, so that a flow's packets stay in order; only the general way opens flows, waits,
//! answers, reassembles and reports.

use arrayvec::ArrayVec;
use dpdk::Mbuf;
use net::ethernet::{self, EtherType};
use net::plain::{Family, Plain, V4, V6};

use super::{GATEWAY_MAC, Output, Pipeline};
use crate::counters::Counter;
use crate::plan::{Range, range};
use crate::tables::Tables;
use crate::tables::flows::{Hash, Key, Look, Place, Tag};
use crate::tables::region::{BackendRef, Location, Record};
use crate::tables::routes::Route;
use crate::tables::slots::AccessSlot;
use crate::tally::OfService;
use crate::uplink::template;

/// Packets that are worked on together.
const LANES: usize = 64;
/// How many packets ahead headers are asked for.
const AHEAD: usize = 6;

/// Which way a packet takes.
#[derive(Clone, Copy, Debug)]
enum Kind {
    General,
    V4,
    V6,
}

/// How far a plain packet has come.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// It takes the general way after all.
    General,
    /// Its flow's home has been asked for.
    Home,
    /// Its flow is not at home; the first of these places beside it has been asked for.
    Away(u16),
    /// It has no flow; the chain of its destination has been asked for.
    Chain,
    /// The first node of that chain has been asked for.
    Node,
    /// Its flow, and the backend that it names, whose record has been asked for.
    Flow(Place, BackendRef),
    /// Its destination is the Instance IP of the backend in this record, which has been asked for.
    Instance(u32),
}

/// A plain packet, and how far it has come.
#[derive(Clone, Copy, Debug)]
struct Lane<F: Family> {
    plain: Plain<F>,
    hash: Hash,
    step: Step,
}

type Lanes<F> = ArrayVec<Lane<F>, LANES>;

/// What the pipeline asks of a family's addresses.
trait Plane: Family + Key {
    /// Whether the source is the container's own.
    fn is_from(self, port: &AccessSlot) -> bool;
    /// Whether the destination is a Service IP or an Instance IP.
    fn is_semantic(self) -> bool;
    /// From the container's Instance IP to the backend's namespace IP; `None` where one of them is missing.
    fn to_backend(port: &AccessSlot, backend: Record<'_>) -> Option<Self>;
}

impl Plane for V4 {
    #[inline(always)]
    fn is_from(self, port: &AccessSlot) -> bool {
        self.source_bits() == port.namespace_v4
    }

    #[inline(always)]
    fn is_semantic(self) -> bool {
        range(self.destination()) == Range::Semantic
    }

    #[inline(always)]
    fn to_backend(port: &AccessSlot, backend: Record<'_>) -> Option<Self> {
        let (own, namespace) = (port.instance_v4, backend.namespace_v4());
        (own != 0 && namespace != 0).then(|| V4::new(own, namespace))
    }
}

impl Plane for V6 {
    #[inline(always)]
    fn is_from(self, port: &AccessSlot) -> bool {
        self.0 == port.namespace_v6
    }

    #[inline(always)]
    fn is_semantic(self) -> bool {
        range(self.1) == Range::Semantic
    }

    #[inline(always)]
    fn to_backend(port: &AccessSlot, backend: Record<'_>) -> Option<Self> {
        let (own, namespace) = (port.instance_v6, backend.namespace_v6());
        (!own.is_unspecified() && !namespace.is_unspecified()).then_some(V6(own, namespace))
    }
}

/// The access port that the last frame came by: the next one mostly comes by the same.
#[derive(Default)]
struct LastPort(Option<AccessSlot>);

impl LastPort {
    #[inline(always)]
    fn get(&mut self, tables: &Tables, ifindex: u32) -> Option<&AccessSlot> {
        if self.0.as_ref().is_none_or(|port| port.ifindex != ifindex) {
            self.0 = tables.port(ifindex);
        }
        self.0.as_ref()
    }
}

impl<O: Output> Pipeline<'_, O> {
    /// Frames from containers, each with its interface's index; all are taken.
    pub fn burst_from_access(&mut self, frames: &mut Vec<(Mbuf, u32)>) {
        if self.tracer.is_on() {
            // Each decision is told on the general way.
            for (frame, ifindex) in frames.drain(..) {
                self.from_access(frame, ifindex);
            }
        }
        while !frames.is_empty() {
            let count = frames.len().min(LANES);
            self.counters.add(Counter::ReceivedAccess, count);
            let mut port = LastPort::default();
            let mut kinds: ArrayVec<Kind, LANES> = ArrayVec::new();
            let (mut v4, mut v6) = (Lanes::<V4>::new(), Lanes::<V6>::new());
            for (frame, _) in frames.iter().take(AHEAD) {
                frame.prefetch_data();
            }
            for at in 0..count {
                if let Some((frame, _)) = frames.get(at + AHEAD) {
                    frame.prefetch_data();
                }
                if let Some((frame, ifindex)) = frames.get(at) {
                    let kind = match port.get(self.tables, *ifindex) {
                        Some(port) => self.look_at_frame(frame, port, &mut v4, &mut v6),
                        None => Kind::General,
                    };
                    // There is room for `LANES`.
                    let _ = kinds.try_push(kind);
                }
            }
            self.look_up(&mut v4);
            self.look_up(&mut v6);
            let (mut v4, mut v6) = (v4.iter(), v6.iter());
            for ((frame, ifindex), kind) in frames.drain(..count).zip(kinds) {
                // A port may go while its packets are under way; their lanes are theirs all the same.
                let left = match kind {
                    Kind::General => Some(frame),
                    Kind::V4 => self.go(frame, port.get(self.tables, ifindex), v4.next()),
                    Kind::V6 => self.go(frame, port.get(self.tables, ifindex), v6.next()),
                };
                if let Some(frame) = left {
                    self.access(frame, ifindex);
                }
            }
        }
    }

    #[inline(always)]
    fn look_at_frame(
        &self,
        frame: &Mbuf,
        port: &AccessSlot,
        v4: &mut Lanes<V4>,
        v6: &mut Lanes<V6>,
    ) -> Kind {
        let Some((header, l3)) = frame.data().split_first_chunk::<{ ethernet::HEADER_LEN }>()
        else {
            return Kind::General;
        };
        let [d0, d1, d2, d3, d4, d5, .., e0, e1] = *header;
        if [d0, d1, d2, d3, d4, d5] != GATEWAY_MAC.0 || !frame.is_plain() {
            return Kind::General;
        }
        match EtherType(u16::from_be_bytes([e0, e1])) {
            EtherType::IPV4 if self.enlist(l3, port, v4) => Kind::V4,
            EtherType::IPV6 if self.enlist(l3, port, v6) => Kind::V6,
            _ => Kind::General,
        }
    }

    #[inline(always)]
    fn enlist<F: Plane>(&self, l3: &[u8], port: &AccessSlot, lanes: &mut Lanes<F>) -> bool {
        let Some(plain) = F::parse(l3, l3.len()) else {
            return false;
        };
        if !plain.addresses.is_from(port)
            || !plain.addresses.is_semantic()
            || plain.total_len > self.settings.mtu
        {
            return false;
        }
        let tag = Tag::forward::<F>(plain.ports, plain.protocol);
        let lane = Lane {
            hash: self.shard.seek(&plain.addresses, tag),
            plain,
            step: Step::Home,
        };
        lanes.try_push(lane).is_ok()
    }

    #[inline(always)]
    fn look_up<F: Plane>(&self, lanes: &mut Lanes<F>) {
        let mut further = false;
        for lane in lanes.iter_mut() {
            let plain = &lane.plain;
            let tag = Tag::forward::<F>(plain.ports, plain.protocol);
            lane.step = match self.shard.look(lane.hash, &plain.addresses, tag) {
                Look::Here(place) => self.pass(plain, place),
                Look::Away(bits) => Step::Away(bits),
                Look::Nowhere => {
                    self.tables.routes.seek(plain.addresses.destination());
                    Step::Chain
                }
            };
            further |= !matches!(lane.step, Step::Flow(..));
        }
        if further {
            self.look_further(lanes);
        }
    }

    #[inline(never)]
    fn look_further<F: Plane>(&self, lanes: &mut Lanes<F>) {
        for lane in lanes.iter_mut() {
            let plain = &lane.plain;
            match lane.step {
                Step::Away(bits) => {
                    let tag = Tag::forward::<F>(plain.ports, plain.protocol);
                    let found = self.shard.search(lane.hash, bits, &plain.addresses, tag);
                    lane.step = match found {
                        Some(place) => self.pass(plain, place),
                        None => Step::General,
                    };
                }
                Step::Chain => {
                    let destination = plain.addresses.destination();
                    self.tables.routes.approach(&self.tables.arena, destination);
                    lane.step = Step::Node;
                }
                _ => {}
            }
        }
        for lane in lanes.iter_mut() {
            if let Step::Node = lane.step {
                let destination = lane.plain.addresses.destination();
                lane.step = match self.tables.route(destination) {
                    Some(Route::Instance(id)) => {
                        self.records.prefetch(id);
                        self.tables.mark_used(id, self.now);
                        Step::Instance(id)
                    }
                    _ => Step::General,
                };
            }
        }
    }

    #[inline(always)]
    fn pass<F: Family>(&self, plain: &Plain<F>, place: Place) -> Step {
        let Some(passed) = self.shard.pass(place, plain.protocol, self.now) else {
            return Step::General;
        };
        self.records.prefetch(passed.backend.id);
        if passed.refreshed {
            self.tables.mark_used(passed.backend.id, self.now);
        }
        Step::Flow(place, passed.backend)
    }

    /// Translates and sends; gives back, untouched, what must take the general way.
    #[inline(always)]
    fn go<F: Plane>(
        &mut self,
        mut frame: Mbuf,
        port: Option<&AccessSlot>,
        lane: Option<&Lane<F>>,
    ) -> Option<Mbuf> {
        let (Some(port), Some(Lane { plain, step, .. })) = (port, lane) else {
            return Some(frame);
        };
        let (record, service) = match *step {
            Step::Flow(place, reference) => match self.shard.service(place) {
                Some(service) => (self.records.get(reference), Some(service)),
                None => return Some(frame),
            },
            Step::Instance(id) => (self.records.at(id), None),
            _ => return Some(frame),
        };
        let Some(record) = record else {
            return Some(frame);
        };
        let (Location::Host(host), Some(new)) = (record.location(), F::to_backend(port, record))
        else {
            return Some(frame);
        };
        if plain.total_len > self.path(host) {
            return Some(frame);
        }
        let tally = &self.counters.tally;
        tally.frame_in(port.number, frame.pkt_len());
        if let Some(service) = service {
            tally.count_service(service, OfService::Packets);
        }
        let len = usize::from(plain.total_len);
        if let Some(words) = self.output.outer(host) {
            let id = self.datagrams;
            self.datagrams = id.wrapping_add(1);
            let datagram = template::Datagram {
                inner: plain.total_len,
                tos: plain.tos,
                id,
            };
            let sent = frame
                .reframe(ethernet::HEADER_LEN, template::LEN, len)
                .and_then(|bytes| bytes.split_first_chunk_mut())
                .is_some_and(|(head, l3)| {
                    template::write(words, head, datagram);
                    plain.forward(l3, new)
                });
            if sent {
                self.output.frame(frame);
            } else {
                self.drop(frame, Counter::NoMbuf);
            }
            return None;
        }
        let Some(to) = self.tables.region.host(host) else {
            self.drop(frame, Counter::NotAttached);
            return None;
        };
        let sent = frame
            .reframe(ethernet::HEADER_LEN, 0, len)
            .is_some_and(|l3| plain.forward(l3, new));
        if sent {
            self.output.tunnel(frame, to, plain.tos);
        } else {
            self.drop(frame, Counter::NoMbuf);
        }
        None
    }
}
