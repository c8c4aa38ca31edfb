//! From the tunnel to a container, where the uplink takes frames as they are on the wire.
//!
//! TCP goes to the joiner instead: one large packet costs a container's kernel less than ten small ones.

use dpdk::{Burst, Mbuf, Sole};
use net::address::Address;
use net::ecn;
use net::ethernet::{self, EtherType, Mac};
use net::packet::Protocol;
use net::plain::{Family, Plain, V4, V6};

use super::{AHEAD, Gathered, Inward, Lane, Lanes, Plane, Step};
use crate::counters::Counter;
use crate::pipeline::{GATEWAY_MAC, Output, Pipeline};
use crate::tables::flows::{Home, Tag};
use crate::tables::routes::Route;
use crate::tally::OfService;
use crate::uplink::Received;
use crate::uplink::template;

/// What a lane keeps of the datagram.
#[derive(Clone, Copy, Debug)]
struct Around {
    /// Its source.
    from: u32,
    /// The slot of the container that the packet is for.
    slot: u32,
}

/// The container that the last packet was for, its slot, and whether it may have flows: the next one is mostly for the
/// same.
#[derive(Clone, Copy, Debug, Default)]
struct Last(Option<(Address, u32, bool)>);

type Gathering = (Gathered<Around>, Last);

/// How a container's frames begin, but for the addresses.
const fn ethertype<F: Family>() -> EtherType {
    if F::HEADER_LEN == V4::HEADER_LEN {
        EtherType::IPV4
    } else {
        EtherType::IPV6
    }
}

/// Whether a datagram's payload is TCP directly behind its IP header.
fn is_stream(l3: &[u8]) -> bool {
    let protocol = match l3.first().map(|b| b >> 4) {
        Some(4) => l3.get(9),
        Some(6) => l3.get(6),
        _ => None,
    };
    protocol == Some(&Protocol::TCP.0)
}

impl<O: Output> Pipeline<'_, O> {
    /// Frames from the uplink; all are taken. What may be joined is only opened, and goes to `streams`.
    pub fn burst_from_wire<const N: usize>(
        &mut self,
        frames: &mut Burst<N>,
        tunnel_port: u16,
        streams: &mut Vec<Received>,
    ) {
        if self.tracer.is_on() {
            // Each decision is told on the general way.
            for frame in frames.drain() {
                streams.extend(self.output.open(frame));
            }
            return;
        }
        self.hosts.follow(self.tables);
        let mut frames = frames.drain();
        for frame in frames.as_slice().iter().take(AHEAD) {
            frame.prefetch_data();
        }
        let mut gathering: Gathering = (Gathered::new(), Last(None));
        let mut plain = 0;
        while let Some(frame) = frames.next() {
            if let Some(frame) = frames.as_slice().get(AHEAD) {
                frame.prefetch_data();
            }
            match self.gather_in(frame, tunnel_port, &mut gathering) {
                Ok(()) => plain += 1,
                Err(frame) => self.take_in(frame, &mut gathering.0, streams),
            }
        }
        self.go_all_in(&mut gathering.0);
        self.output.opened(plain);
        self.counters.add(Counter::ReceivedTunnel, plain);
    }

    /// The general way.
    #[inline(never)]
    fn take_in(
        &mut self,
        frame: Mbuf,
        gathered: &mut Gathered<Around>,
        streams: &mut Vec<Received>,
    ) {
        let Some((mbuf, from, tos)) = self.output.open(frame) else {
            return;
        };
        if is_stream(mbuf.data()) {
            streams.push((mbuf, from, tos));
            return;
        }
        // What came before it goes first.
        self.go_all_in(gathered);
        if let Some((mbuf, _)) = self.parse_inner(mbuf, from) {
            self.from_tunnel(mbuf, from, tos);
        }
    }

    /// Gives back what must take the general way.
    #[inline(always)]
    fn gather_in(
        &mut self,
        frame: Mbuf,
        tunnel_port: u16,
        (gathered, last): &mut Gathering,
    ) -> Result<(), Mbuf> {
        let frame = Sole::new(frame)?;
        let Some((outer, l3)) = open(frame.data(), tunnel_port) else {
            return Err(frame.into_mbuf());
        };
        match l3.first().map(|b| b >> 4) {
            Some(4) => match self.read_in::<V4>(l3, &outer, last) {
                Some(lane) => self.enlist_in(frame, lane, &mut gathered.v4),
                None => Err(frame.into_mbuf()),
            },
            Some(6) => match self.read_in::<V6>(l3, &outer, last) {
                Some(lane) => self.enlist_in(frame, lane, &mut gathered.v6),
                None => Err(frame.into_mbuf()),
            },
            _ => Err(frame.into_mbuf()),
        }
    }

    #[inline(always)]
    fn read_in<F: Plane>(
        &self,
        l3: &[u8],
        outer: &Plain<V4>,
        last: &mut Last,
    ) -> Option<Lane<F, Around>> {
        let plain = F::parse(l3, l3.len())?;
        if plain.protocol != Protocol::UDP
            || plain.total_len > self.settings.mtu
            || (outer.tos & 3 != 0 && ecn::decapsulate(plain.tos, outer.tos) != Some(plain.tos))
        {
            return None;
        }
        let destination = plain.addresses.destination();
        let (slot, client) = match last.0 {
            Some((same, slot, client)) if same == destination => (slot, client),
            _ => match self.tables.route(destination) {
                Some(Route::Local(slot)) => {
                    let client = self.shard.may_have_flows(destination);
                    *last = Last(Some((destination, slot, client)));
                    (slot, client)
                }
                _ => return None,
            },
        };
        let (home, step) = if client {
            let tag = Tag::reverse::<F>(plain.ports, plain.protocol);
            (self.shard.seek(&plain.addresses, tag), Step::Home)
        } else {
            self.tables.routes.seek(plain.addresses.source());
            (Home::default(), Step::Chain)
        };
        let from = outer.addresses.source_bits();
        Some(Lane {
            plain,
            home,
            step,
            rest: Around { from, slot },
        })
    }

    #[inline(always)]
    fn enlist_in<F: Plane>(
        &mut self,
        frame: Sole,
        lane: Lane<F, Around>,
        lanes: &mut Lanes<F, Around>,
    ) -> Result<(), Mbuf> {
        if lanes.frames.is_full() {
            self.go_lanes_in(lanes);
        }
        lanes.push(frame, lane)
    }

    #[inline(always)]
    fn go_all_in(&mut self, gathered: &mut Gathered<Around>) {
        if !gathered.v4.frames.is_empty() {
            self.go_lanes_in(&mut gathered.v4);
        }
        if !gathered.v6.frames.is_empty() {
            self.go_lanes_in(&mut gathered.v6);
        }
    }

    #[inline(never)]
    fn go_lanes_in<F: Plane>(&mut self, lanes: &mut Lanes<F, Around>) {
        let Lanes { frames, lanes } = lanes;
        self.look::<Inward, F, Around>(lanes);
        for lane in lanes.iter() {
            if let Step::Flow { peer, .. } = lane.step {
                self.shard.prefetch(peer);
            }
        }
        for (frame, lane) in frames.drain(..).zip(lanes.iter()) {
            if let Err((frame, outer)) = self.go_in(frame, lane) {
                self.deliver_again(frame, outer);
            }
        }
        lanes.clear();
    }

    /// What must take the general way after all, and has been counted.
    #[cold]
    #[inline(never)]
    fn deliver_again(&mut self, frame: Sole, from: Address) {
        let mut mbuf = frame.into_mbuf();
        let tos = mbuf.data().get(15).copied().unwrap_or(0);
        if mbuf.advance(template::LEN) {
            self.from_tunnel(mbuf, from, tos);
        } else {
            self.drop(mbuf, Counter::Malformed);
        }
    }

    /// Restores and delivers; gives back, untouched, what must take the general way.
    #[inline(always)]
    fn go_in<F: Plane>(
        &mut self,
        mut frame: Sole,
        Lane {
            plain, step, rest, ..
        }: &Lane<F, Around>,
    ) -> Result<(), (Sole, Address)> {
        let from = Address::from_v4_bits(rest.from);
        let Some(port) = self.tables.slots.get(rest.slot) else {
            return Err((frame, from));
        };
        // By another port than the host's, to a container whose flows are this worker's.
        if port.worker != self.settings.worker || port.ifindex == 0 {
            return Err((frame, from));
        }
        let (record, service, new) = match *step {
            Step::Flow {
                backend,
                service,
                peer,
            } if service != 0 => {
                let dialled = self.shard.destination(peer);
                let new = dialled.map(|dialled| plain.addresses.with_source(dialled));
                (self.records.get(backend), service, new)
            }
            Step::Backend(id) => (self.records.at(id), 0, None),
            _ => (None, 0, None),
        };
        let lives_there = record.is_some_and(|record| self.is_host(record.location(), from));
        if !lives_there {
            return Err((frame, from));
        }
        let len = usize::from(plain.total_len);
        let more = ethernet::HEADER_LEN;
        let sent = frame
            .reframe(template::LEN, more, len)
            .and_then(|bytes| bytes.split_first_chunk_mut())
            .is_some_and(|(head, l3)| {
                let header = ethernet::Header {
                    destination: Mac(port.mac),
                    source: GATEWAY_MAC,
                    ethertype: ethertype::<F>(),
                };
                *head = header.to_bytes();
                new.is_none_or(|new| plain.deliver(l3, new))
            });
        if !sent {
            self.drop(frame.into_mbuf(), Counter::NoMbuf);
            return Ok(());
        }
        let tally = &self.counters.tally;
        if service != 0 {
            tally.count_service(service - 1, OfService::Packets);
        }
        if new.is_none() {
            self.note_served_by(plain.addresses.source(), plain.ports, plain.protocol, &port);
        }
        tally.frame_out(port.number, len + more);
        self.output.access(frame.into_mbuf(), port.ifindex);
        Ok(())
    }
}

/// A datagram to our port over IPv4, whole, and the packet in it.
#[inline(always)]
fn open(frame: &[u8], tunnel_port: u16) -> Option<(Plain<V4>, &[u8])> {
    let (header, l3) = frame.split_first_chunk::<{ ethernet::HEADER_LEN }>()?;
    let [.., e0, e1] = *header;
    if EtherType(u16::from_be_bytes([e0, e1])) != EtherType::IPV4 {
        return None;
    }
    let outer = V4::parse(l3, l3.len())?;
    if outer.protocol != Protocol::UDP || outer.ports & 0xffff != u32::from(tunnel_port) {
        return None;
    }
    let inner = l3.get(template::LEN - ethernet::HEADER_LEN..usize::from(outer.total_len))?;
    Some((outer, inner))
}
