//! From a container to the tunnel.

use dpdk::{Burst, Mbuf, Sole};
use net::ethernet::{self, EtherType};
use net::packet::Protocol;
use net::plain::{Plain, V4, V6};

use super::{AHEAD, Frames, Gathered, Lane, Lanes, OfPort, Outward, Plane, Step};
use crate::counters::Counter;
use crate::pipeline::catch;
use crate::pipeline::semantic::Begun;
use crate::pipeline::{GATEWAY_MAC, Origin, Output, Pipeline};
use crate::tables::flows::{Home, Tag, Tuple};
use crate::tables::region::Location;
use crate::tables::slots::AccessSlot;
use crate::tally::OfService;
use crate::uplink::template;

/// The gateway's MAC address as a number.
const GATEWAY_BITS: u64 = {
    let [a, b, c, d, e, f] = GATEWAY_MAC.0;
    u64::from_be_bytes([0, 0, a, b, c, d, e, f])
};

#[inline(always)]
fn key<F: Plane>(plain: &Plain<F>) -> Tuple {
    let [a, b, c, d] = plain.ports.to_be_bytes();
    Tuple {
        source: plain.addresses.source(),
        destination: plain.addresses.destination(),
        source_port: u16::from_be_bytes([a, b]),
        destination_port: u16::from_be_bytes([c, d]),
        protocol: plain.protocol,
    }
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
    fn take_frames(&mut self, frames: impl Frames) {
        if self.tracer.is_on() {
            // Each decision is told on the general way.
            return frames.for_each(|(frame, ifindex)| self.from_access(frame, ifindex));
        }
        match self.catcher {
            None => self.take::<false>(frames),
            Some(_) => self.take::<true>(frames),
        }
    }

    /// With `CATCH`, datagrams to the port of DNS take the general way, where they are looked into.
    #[inline(always)]
    fn take<const CATCH: bool>(&mut self, mut frames: impl Frames) {
        self.hosts.follow(self.tables);
        for n in 0..AHEAD {
            if let Some(frame) = frames.ahead(n) {
                frame.prefetch_data();
            }
        }
        let mut gathered = Gathered::new();
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
            if let Err(frame) = self.gather::<CATCH>(frame, port, &mut gathered) {
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
    fn gather<const CATCH: bool>(
        &mut self,
        frame: Mbuf,
        port: &AccessSlot,
        to: &mut Gathered<()>,
    ) -> Result<(), Mbuf> {
        let frame = Sole::new(frame)?;
        let Some((header, l3)) = frame.data().split_first_chunk::<{ ethernet::HEADER_LEN }>()
        else {
            return Err(frame.into_mbuf());
        };
        let [first @ .., _, _, _, _, e0, e1] = *header;
        // Six bytes, in one comparison of eight.
        if u64::from_be_bytes(first) >> 16 != GATEWAY_BITS {
            return Err(frame.into_mbuf());
        }
        match EtherType(u16::from_be_bytes([e0, e1])) {
            EtherType::IPV4 => match self.read::<V4, CATCH>(l3, port) {
                Some((plain, home)) => self.enlist(frame, plain, home, port, &mut to.v4),
                None => Err(frame.into_mbuf()),
            },
            EtherType::IPV6 => match self.read::<V6, CATCH>(l3, port) {
                Some((plain, home)) => self.enlist(frame, plain, home, port, &mut to.v6),
                None => Err(frame.into_mbuf()),
            },
            _ => Err(frame.into_mbuf()),
        }
    }

    #[inline(always)]
    fn read<F: Plane, const CATCH: bool>(
        &self,
        l3: &[u8],
        port: &AccessSlot,
    ) -> Option<(Plain<F>, Home)> {
        let plain = F::parse(l3, l3.len())?;
        if !plain.addresses.is_from(port)
            || !plain.addresses.is_semantic()
            || plain.total_len > self.settings.mtu
        {
            return None;
        }
        if CATCH
            && plain.protocol == Protocol::UDP
            && plain.ports & 0xffff == u32::from(catch::PORT)
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
        lanes: &mut Lanes<F, ()>,
    ) -> Result<(), Mbuf> {
        if lanes.frames.is_full() {
            self.go_lanes(lanes, port);
        }
        frame.prefetch_front(ethernet::HEADER_LEN, template::LEN);
        let lane = Lane {
            plain,
            home,
            step: Step::Home,
            rest: (),
        };
        lanes.push(frame, lane)
    }

    #[inline(always)]
    fn go_all(&mut self, gathered: &mut Gathered<()>, port: &AccessSlot) {
        if !gathered.v4.frames.is_empty() {
            self.go_lanes(&mut gathered.v4, port);
        }
        if !gathered.v6.frames.is_empty() {
            self.go_lanes(&mut gathered.v6, port);
        }
    }

    #[inline(never)]
    fn go_lanes<F: Plane>(&mut self, lanes: &mut Lanes<F, ()>, port: &AccessSlot) {
        let Lanes { frames, lanes } = lanes;
        self.look::<Outward, F, ()>(lanes);
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

    /// Translates and sends; gives back, untouched, what must take the general way.
    #[inline(always)]
    fn go<F: Plane>(
        &mut self,
        mut frame: Sole,
        Lane { plain, step, .. }: &Lane<F, ()>,
        port: &AccessSlot,
    ) -> Result<(), Mbuf> {
        let (record, service) = match *step {
            // One that has no service yet learns it on the general way.
            Step::Flow {
                backend, service, ..
            } if service != 0 => (self.records.get(backend), service),
            Step::Backend(id) => {
                // A connection's beginning is not plain.
                if plain.protocol == Protocol::UDP {
                    self.shard.supersede(&key(plain).answered());
                }
                (self.records.at(id), 0)
            }
            Step::Service { service, set, .. } if F::has_instance(port) => {
                match self.begin_lane(plain, service, set) {
                    // A packet before it in this burst has opened it.
                    None => (None, 0),
                    Some(Begun::Flow { reference, .. }) => {
                        self.tables.mark_used(reference.id, self.now);
                        (self.records.get(reference), service + 1)
                    }
                    Some(refused) => {
                        self.end_refused(frame.into_mbuf(), port, &refused);
                        return Ok(());
                    }
                }
            }
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

    #[inline(never)]
    fn begin_lane<F: Plane>(&mut self, plain: &Plain<F>, service: u32, set: u32) -> Option<Begun> {
        let key = key(plain);
        match self.shard.forward(&key, self.now) {
            Some(_) => None,
            None => Some(self.begin_flow(&key, service, set)),
        }
    }

    /// A packet that opens no flow, as the general way ends it.
    #[cold]
    #[inline(never)]
    fn end_refused(&mut self, mut frame: Mbuf, port: &AccessSlot, why: &Begun) {
        if !frame.advance(ethernet::HEADER_LEN) {
            return self.drop(frame, Counter::Malformed);
        }
        let Some(packet) = self.parse(frame, Origin::Access(port.ifindex)) else {
            return;
        };
        match why {
            Begun::Ambiguous => self.drop(packet.mbuf, Counter::Ambiguous),
            _ => self.unreachable(packet, Counter::NoBackend),
        }
    }
}
