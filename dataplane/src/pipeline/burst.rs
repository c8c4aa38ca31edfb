//! The common packets of a burst, together: whole TCP or UDP packets of open flows, and answers of servers.
//!
//! One packet after another would wait for memory at each step: its headers, its flow's slot, its backend's record.
//! Here each pass over the burst asks for what the next pass needs, so that these waits overlap. What is not common
//! takes the general way in its turn, so that a flow's packets stay in order; only the general way opens flows, waits,
//! answers, reassembles and reports.

use arrayvec::ArrayVec;
use dpdk::{Burst, Drain, Mbuf, Sole};
use net::ethernet::{self, EtherType};
use net::plain::{Family, Plain, V4, V6};

use super::{GATEWAY_MAC, Output, Pipeline};
use crate::counters::Counter;
use crate::plan::{Range, range};
use crate::tables::flows::{Home, Key, Look, Passed, Tag, Timeout};
use crate::tables::region::{BackendRef, Location, Record};
use crate::tables::routes::Route;
use crate::tables::slots::AccessSlot;
use crate::tally::OfService;
use crate::uplink::template;

/// Packets that are worked on together.
const LANES: usize = 64;
/// How many packets ahead headers are asked for.
const AHEAD: usize = 6;

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
    /// The backend that its flow names, whose record has been asked for, and the service's number and one.
    Flow(BackendRef, u32),
    /// Its destination is the Instance IP of the backend in this record, which has been asked for.
    Instance(u32),
}

/// What is known of a plain packet, and how far it has come.
#[derive(Clone, Copy, Debug)]
struct Lane<F: Family> {
    plain: Plain<F>,
    home: Home,
    step: Step,
}

/// Plain packets of one family: as many frames as lanes.
struct Lanes<F: Family> {
    frames: ArrayVec<Sole, LANES>,
    lanes: ArrayVec<Lane<F>, LANES>,
}

impl<F: Family> Lanes<F> {
    fn new() -> Self {
        Self {
            frames: ArrayVec::new(),
            lanes: ArrayVec::new(),
        }
    }
}

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

/// Frames of a burst, each with its port's number, of which one can look at what comes.
pub(super) trait Frames: Iterator<Item = (Mbuf, u32)> {
    /// The frame that so many others come before.
    fn ahead(&self, n: usize) -> Option<&Mbuf>;
}

impl Frames for std::vec::Drain<'_, (Mbuf, u32)> {
    #[inline(always)]
    fn ahead(&self, n: usize) -> Option<&Mbuf> {
        self.as_slice().get(n).map(|(frame, _)| frame)
    }
}

/// Frames of one port.
struct OfPort<'a>(Drain<'a>, u32);

impl Iterator for OfPort<'_> {
    type Item = (Mbuf, u32);

    #[inline(always)]
    fn next(&mut self) -> Option<(Mbuf, u32)> {
        Some((self.0.next()?, self.1))
    }
}

impl Frames for OfPort<'_> {
    #[inline(always)]
    fn ahead(&self, n: usize) -> Option<&Mbuf> {
        self.0.as_slice().get(n)
    }
}

/// The plain packets of a burst, by family: packets of different families are of different flows.
struct Gathered {
    v4: Lanes<V4>,
    v6: Lanes<V6>,
}

impl<O: Output> Pipeline<'_, O> {
    /// Frames from containers, each with its interface's index; all are taken.
    pub fn burst_from_access(&mut self, frames: &mut Vec<(Mbuf, u32)>) {
        if !frames.is_empty() {
            self.take_frames(frames.drain(..));
        }
    }

    /// Frames that came by one port; all are taken.
    pub fn burst_from_port<const N: usize>(&mut self, number: u32, frames: &mut Burst<N>) {
        if !frames.is_empty() {
            self.take_frames(OfPort(frames.drain(), number));
        }
    }

    #[inline(always)]
    fn take_frames(&mut self, mut frames: impl Frames) {
        if self.tracer.is_on() {
            // Each decision is told on the general way.
            return frames.for_each(|(frame, ifindex)| self.from_access(frame, ifindex));
        }
        self.hosts.follow(self.tables);
        for n in 0..AHEAD {
            if let Some(frame) = frames.ahead(n) {
                frame.prefetch_data();
            }
        }
        let mut gathered = Gathered {
            v4: Lanes::new(),
            v6: Lanes::new(),
        };
        let mut came = 0;
        let mut last: Option<AccessSlot> = None;
        while let Some((frame, ifindex)) = frames.next() {
            came += 1;
            if let Some(frame) = frames.ahead(AHEAD) {
                frame.prefetch_data();
            }
            if last.as_ref().is_none_or(|port| port.ifindex != ifindex) {
                if let Some(port) = &last {
                    self.go_all(&mut gathered, port);
                }
                last = self.tables.port(ifindex);
            }
            let Some(port) = &last else {
                self.access(frame, ifindex);
                continue;
            };
            if let Err(frame) = self.gather(frame, port, &mut gathered) {
                // What came before it goes first.
                self.go_all(&mut gathered, port);
                self.access(frame, ifindex);
            }
        }
        self.counters.add(Counter::ReceivedAccess, came);
        if let Some(port) = &last {
            self.go_all(&mut gathered, port);
        }
    }

    /// Gives back what must take the general way.
    #[inline(always)]
    fn gather(&mut self, frame: Mbuf, port: &AccessSlot, to: &mut Gathered) -> Result<(), Mbuf> {
        let frame = Sole::new(frame)?;
        let Some((header, l3)) = frame.data().split_first_chunk::<{ ethernet::HEADER_LEN }>()
        else {
            return Err(frame.into_mbuf());
        };
        let [d0, d1, d2, d3, d4, d5, .., e0, e1] = *header;
        if [d0, d1, d2, d3, d4, d5] != GATEWAY_MAC.0 {
            return Err(frame.into_mbuf());
        }
        match EtherType(u16::from_be_bytes([e0, e1])) {
            EtherType::IPV4 => match self.read::<V4>(l3, port) {
                Some((plain, home)) => self.enlist(frame, plain, home, port, &mut to.v4),
                None => Err(frame.into_mbuf()),
            },
            EtherType::IPV6 => match self.read::<V6>(l3, port) {
                Some((plain, home)) => self.enlist(frame, plain, home, port, &mut to.v6),
                None => Err(frame.into_mbuf()),
            },
            _ => Err(frame.into_mbuf()),
        }
    }

    #[inline(always)]
    fn read<F: Plane>(&self, l3: &[u8], port: &AccessSlot) -> Option<(Plain<F>, Home)> {
        let plain = F::parse(l3, l3.len())?;
        if !plain.addresses.is_from(port)
            || !plain.addresses.is_semantic()
            || plain.total_len > self.settings.mtu
        {
            return None;
        }
        let tag = Tag::forward::<F>(plain.ports, plain.protocol);
        Some((plain, self.shard.seek(&plain.addresses, tag)))
    }

    #[inline(always)]
    fn enlist<F: Plane>(
        &mut self,
        frame: Sole,
        plain: Plain<F>,
        home: Home,
        port: &AccessSlot,
        lanes: &mut Lanes<F>,
    ) -> Result<(), Mbuf> {
        if lanes.frames.is_full() {
            self.go_lanes(lanes, port);
        }
        frame.prefetch_front(ethernet::HEADER_LEN, template::LEN);
        let step = Step::Home;
        // Both have the same room, and there is some.
        let _ = lanes.lanes.try_push(Lane { plain, home, step });
        let pushed = lanes.frames.try_push(frame);
        pushed.map_err(|full| full.element().into_mbuf())
    }

    #[inline(always)]
    fn go_all(&mut self, gathered: &mut Gathered, port: &AccessSlot) {
        if !gathered.v4.frames.is_empty() {
            self.go_lanes(&mut gathered.v4, port);
        }
        if !gathered.v6.frames.is_empty() {
            self.go_lanes(&mut gathered.v6, port);
        }
    }

    #[inline(never)]
    fn go_lanes<F: Plane>(&mut self, lanes: &mut Lanes<F>, port: &AccessSlot) {
        let Lanes { frames, lanes } = lanes;
        let mut further = false;
        for lane in lanes.iter_mut() {
            let plain = &lane.plain;
            let tag = Tag::forward::<F>(plain.ports, plain.protocol);
            let timeout = Timeout::of(plain.protocol);
            let look = self
                .shard
                .look(lane.home, &plain.addresses, tag, timeout, self.now);
            if let Look::Passed(passed) = look {
                lane.step = self.pass(passed);
            } else {
                lane.step = self.turn(plain, look);
                further = true;
            }
        }
        if further {
            self.look_further(lanes);
        }
        let (mut packets, mut bytes) = (0, 0);
        for (frame, lane) in frames.drain(..).zip(lanes.iter()) {
            let length = frame.data().len();
            match self.go(frame, lane, port) {
                Ok(()) => {
                    packets += 1;
                    bytes += length;
                }
                Err(frame) => self.access(frame, port.ifindex),
            }
        }
        lanes.clear();
        self.counters.tally.frames_in(port.number, packets, bytes);
    }

    #[inline(always)]
    fn pass(&self, passed: Passed) -> Step {
        self.records.prefetch(passed.backend.id);
        if passed.refreshed {
            self.tables.mark_used(passed.backend.id, self.now);
        }
        Step::Flow(passed.backend, passed.service)
    }

    fn turn<F: Plane>(&self, plain: &Plain<F>, look: Look) -> Step {
        match look {
            Look::Passed(passed) => self.pass(passed),
            Look::Away(bits) => Step::Away(bits),
            Look::Rare => Step::General,
            Look::Nowhere => {
                self.tables.routes.seek(plain.addresses.destination());
                Step::Chain
            }
        }
    }

    #[inline(never)]
    fn look_further<F: Plane>(&self, lanes: &mut [Lane<F>]) {
        for lane in lanes.iter_mut() {
            let plain = &lane.plain;
            match lane.step {
                Step::Away(bits) => {
                    let tag = Tag::forward::<F>(plain.ports, plain.protocol);
                    let timeout = Timeout::of(plain.protocol);
                    let found = self
                        .shard
                        .search(lane.home, bits, &plain.addresses, tag, timeout, self.now);
                    lane.step = match found {
                        Look::Passed(passed) => self.pass(passed),
                        _ => Step::General,
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

    /// Translates and sends; gives back, untouched, what must take the general way.
    #[inline(always)]
    fn go<F: Plane>(
        &mut self,
        mut frame: Sole,
        Lane { plain, step, .. }: &Lane<F>,
        port: &AccessSlot,
    ) -> Result<(), Mbuf> {
        let (record, service) = match *step {
            Step::Flow(reference, service) => (self.records.get(reference), service),
            Step::Instance(id) => (self.records.at(id), 0),
            _ => (None, 0),
        };
        let way = record.and_then(|record| match record.location() {
            Location::Host(host) => Some((host, F::to_backend(port, record)?)),
            _ => None,
        });
        let Some((host, new)) = way else {
            return Err(frame.into_mbuf());
        };
        if self.hosts.get(host).is_none() && !self.keep_host(host) {
            return Err(frame.into_mbuf());
        }
        let Some(kept) = self.hosts.get(host) else {
            return Err(frame.into_mbuf());
        };
        if plain.total_len > kept.path {
            return Err(frame.into_mbuf());
        }
        if service != 0 {
            self.counters
                .tally
                .count_service(service - 1, OfService::Packets);
        }
        let len = usize::from(plain.total_len);
        if kept.has_template {
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
                    kept.template.write(head, datagram);
                    plain.forward(l3, new)
                });
            if sent {
                self.output.frame(frame.into_mbuf());
            } else {
                self.drop(frame.into_mbuf(), Counter::NoMbuf);
            }
            return Ok(());
        }
        let Some(to) = self.tables.region.host(host) else {
            self.drop(frame.into_mbuf(), Counter::NotAttached);
            return Ok(());
        };
        let sent = frame
            .reframe(ethernet::HEADER_LEN, 0, len)
            .is_some_and(|l3| plain.forward(l3, new));
        if sent {
            self.output.tunnel(frame.into_mbuf(), to, plain.tos);
        } else {
            self.drop(frame.into_mbuf(), Counter::NoMbuf);
        }
        Ok(())
    }
}
