//! One packet's way: classify, translate, deliver or encapsulate.
//!
//! ```text
//!            access port            tunnel                host TAP
//!                │                    │                      │
//!           from_access          from_tunnel             from_host
//!                └──── semantic ──────┼──────────────────────┘
//!                         │           │
//!              flow or policy picks   │
//!                         │           │
//!                   ┌─────┴─────┐     │
//!              encapsulate   deliver ◄┘   (on the worker that owns the destination's container)
//!                   │           │
//!                tunnel    access port or host TAP
//! ```
//!
//! A packet is a `Packet`: an mbuf whose first byte is the IP header's, with that header parsed once. Each stage takes
//! it by value and either passes it on or accounts for its end; nothing is lost without a counter.

mod answers;
mod burst;
pub mod catch;
mod deliver;
mod encapsulate;
mod errors;
mod fragments;
mod from_access;
mod from_host;
mod from_tunnel;
mod hosts;
mod orphans;
mod probe;
mod semantic;
mod trace;
mod waiting;

#[cfg(test)]
pub(crate) mod tests;

use std::net::SocketAddr;

use dpdk::{Mbuf, Mempool};
use net::address::Address;
use net::ethernet::{EtherType, Mac};
use net::packet::{Headers, ParseError, Version};
use net::rewrite::L4State;

use crate::counters::{Counter, Counters};
use crate::observe::trace::Tracer;
use crate::offload::{agrees, l4_state};
use crate::policy::Known;
use crate::sync::AtomicU64;
use crate::tables::activity;
use crate::tables::flows::Shard;
use crate::tables::region::Records;
use crate::tables::{SERVICES, Tables};
use crate::uplink::{Received, template};

use answers::Budget;
use fragments::Fragments;
use hosts::Hosts;
use waiting::Waiting;

/// The gateway's MAC address towards containers: locally administered, and none that a host interface has, so that
/// the kernel never takes a container's frames for its own (design section 3).
pub const GATEWAY_MAC: Mac = Mac([0x02, 0x6f, 0x61, 0x6b, 0x00, 0x01]);

/// Where finished packets go. A send is queued; the worker flushes after each round.
pub trait Output {
    /// A frame, Ethernet header first, to the access port of this interface.
    fn access(&mut self, frame: Mbuf, ifindex: u32);
    /// An inner packet to the tunnel endpoint of a host, with the outer TOS byte.
    fn tunnel(&mut self, packet: Mbuf, to: (Address, u16), tos: u8);
    /// A frame, Ethernet header first, to the node itself.
    fn host(&mut self, frame: Mbuf);
    /// The MAC address of the host TAP.
    fn host_mac(&self) -> Mac;
    /// A packet whose flows another worker owns. Gives it back when that worker's ring is full.
    fn hand_over(&mut self, packet: Mbuf, worker: u16) -> Result<(), Mbuf>;
    /// The words of the frame that a datagram to host `host` begins with, if the port writes frames itself.
    fn outer(&self, host: u32) -> Option<&[AtomicU64; template::WORDS]>;
    /// A frame, complete.
    fn frame(&mut self, frame: Mbuf);
    /// Opens a frame that came by the uplink: the datagram's packet, its source and its TOS byte. `None` for what is no
    /// whole datagram of the tunnel's, or not yet.
    fn open(&mut self, frame: Mbuf) -> Option<Received>;
    /// So many datagrams were opened by who received them.
    fn opened(&mut self, datagrams: usize);
    /// Asks for a table query.
    fn unresolved(&mut self, address: Address);
    /// A container's query for services' names, from its IP header on, to be answered by the control side. Gives it back
    /// when nobody takes it.
    fn query(&mut self, packet: Mbuf, _ifindex: u32) -> Result<(), Mbuf> {
        Err(packet)
    }
}

/// Where a packet came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// From the container behind the interface with this index.
    Access(u32),
    /// From another node: the datagram's source.
    Tunnel(Address),
    /// From the node itself, by the TAP.
    Host,
}

/// A packet under way: the mbuf begins with the IP header, `headers` describes it.
#[derive(Debug)]
pub struct Packet {
    mbuf: Mbuf,
    headers: Headers,
    state: L4State,
    origin: Origin,
}

impl Packet {
    /// What its frame's header says that it is.
    fn ethertype(&self) -> EtherType {
        match self.headers.version {
            Version::V4 => EtherType::IPV4,
            Version::V6 => EtherType::IPV6,
        }
    }
}

/// The settings that stages need.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// This worker's number.
    pub worker: u16,
    /// Largest inner packet that goes into the tunnel, in bytes.
    pub mtu: u16,
}

/// One worker's pipeline.
pub struct Pipeline<'a, O> {
    tables: &'a Tables,
    shard: Shard<'a>,
    records: Records<'a>,
    counters: &'a Counters,
    small: &'a Mempool,
    settings: Settings,
    /// Per service: whatever its policy keeps.
    policy_state: Vec<u32>,
    waiting: Waiting,
    fragments: Fragments,
    errors: Budget,
    resets: Budget,
    orphans: orphans::Walk,
    round: probe::Round,
    catcher: Option<catch::Catcher>,
    tracer: Tracer<'a>,
    sweep_at: usize,
    hosts: Hosts,
    /// Counts outer datagrams that a router may fragment.
    datagrams: u16,
    /// Seconds of the machine's monotonic clock.
    now: u32,
    /// The window of what containers are seen to serve.
    window: u64,
    /// Where packets go.
    pub output: O,
}

impl<'a, O: Output> Pipeline<'a, O> {
    /// A pipeline for the shard of `settings.worker`; `None` when the region has no such shard.
    pub fn new(
        tables: &'a Tables,
        counters: &'a Counters,
        small: &'a Mempool,
        settings: Settings,
        output: O,
    ) -> Option<Self> {
        let shard = Shard::counted(
            tables.region.shard(usize::from(settings.worker))?,
            tables.region.seed(),
            &counters.tally,
        );
        let orphans = orphans::Walk::new(shard.slots());
        Some(Self {
            tables,
            shard,
            records: tables.region.records(),
            counters,
            small,
            settings,
            policy_state: vec![0; SERVICES],
            waiting: Waiting::new(),
            fragments: Fragments::new(),
            errors: Budget::new(answers::ERRORS),
            resets: Budget::new(answers::RESETS),
            orphans,
            round: probe::Round::default(),
            catcher: None,
            tracer: Tracer::new(tables, settings.worker),
            sweep_at: 0,
            hosts: Hosts::new(tables.region.layout().hosts),
            datagrams: 0,
            now: 0,
            window: activity::window(0),
            output,
        })
    }

    /// Tells the time, in milliseconds of the machine's monotonic clock, and does what is due: expired flows end, in
    /// bounded steps; packets that waited go on or are given up.
    pub fn tick(&mut self, milliseconds: u64) {
        self.tracer.refresh();
        self.now = u32::try_from(milliseconds / 1000).unwrap_or(u32::MAX);
        self.window = activity::window(self.now);
        self.errors.refill(milliseconds);
        self.resets.refill(milliseconds);
        self.refill_catcher(milliseconds);
        self.sweep_at = self.shard.sweep(self.sweep_at, 64, self.now);
        self.walk_orphans(milliseconds);
        self.look_again(milliseconds);
        self.expire_fragments(milliseconds);
        self.probe(milliseconds);
    }

    /// Packets that wait for a route, or for the first fragment of their datagram.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len() + self.fragments.held()
    }

    /// How soon the next tick must come at `milliseconds`, in milliseconds, if it must.
    #[must_use]
    pub fn tick_within(&self, milliseconds: u64) -> Option<u64> {
        self.orphans.pause(milliseconds)
    }

    /// What policies may look at.
    fn known(&self) -> Known<'a> {
        Known {
            region: &self.tables.region,
            tally: &self.counters.tally,
        }
    }

    /// Flows of this worker.
    #[must_use]
    pub fn flows(&self) -> u64 {
        self.shard.live()
    }

    fn drop(&self, mbuf: Mbuf, reason: Counter) {
        self.counters.count(reason);
        if self.tracer.is_on() {
            self.note_drop(&mbuf, reason);
        }
        drop(mbuf);
    }

    /// Parses what begins with an IP header; accounts for what does not parse.
    #[inline]
    fn parse(&self, mut mbuf: Mbuf, origin: Origin) -> Option<Packet> {
        let length = mbuf.pkt_len();
        let parsed = match Headers::parse(mbuf.data(), length) {
            Err(ParseError::NotContiguous { needed }) => {
                if !mbuf.pull_up(needed.min(length)) {
                    self.drop(mbuf, Counter::NoMbuf);
                    return None;
                }
                Headers::parse(mbuf.data(), length)
            }
            parsed => parsed,
        };
        match parsed {
            Ok(headers) => {
                if headers.padding != 0 {
                    mbuf.truncate(headers.total_len);
                }
                let headers = Headers {
                    padding: 0,
                    ..headers
                };
                // A container can have said of its packet what it liked; the work left to do must fit what it is.
                if !agrees(&mbuf, &headers) {
                    self.drop(mbuf, Counter::Malformed);
                    return None;
                }
                let state = l4_state(&mbuf);
                // What follows edits headers in place: they must be this packet's alone.
                if mbuf.data_mut().is_empty() && !mbuf.pull_up(usize::from(headers.header_len)) {
                    self.drop(mbuf, Counter::NoMbuf);
                    return None;
                }
                let mut packet = Packet {
                    mbuf,
                    headers,
                    state,
                    origin,
                };
                self.note_arrival(&mut packet);
                Some(packet)
            }
            Err(error) => {
                self.drop(
                    mbuf,
                    match error {
                        ParseError::Version => Counter::NotIp,
                        ParseError::HeaderChecksum => Counter::HeaderChecksum,
                        ParseError::SourceRoute | ParseError::ExtensionLimit => {
                            Counter::SourceRoute
                        }
                        _ => Counter::Malformed,
                    },
                );
                None
            }
        }
    }
}

/// The endpoint as a socket address; IPv4-mapped addresses become IPv4.
#[must_use]
pub fn endpoint((address, port): (Address, u16)) -> SocketAddr {
    SocketAddr::new(address.to_ip(), port)
}
