//! Why a packet went where it went: each stage's decision about the packets that someone asked for.
//!
//! A packet that matches when it arrives, or once it is translated, gets a number, which travels in its mbuf's tag:
//! through waiting, fragments and other workers' rings. Every stage that decides something about a packet with a
//! number writes a record of plain numbers; the reader makes [`Step`]s of them.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use net::address::Address;
use net::packet::{Headers, Icmp, Quoted};

use super::View;
use super::clock::Clock;
use super::ring::Ring;
use crate::api::{CommandError, Policy};
use crate::counters::Counter;
use crate::tables::{Tables, halves, high32, join, low32, word};

/// Words of a worker's ring: 2 MB, of which the kernel gives what is used.
pub(super) const RING_ORDER: u32 = 18;

/// Which packets are followed. A packet matches in either direction: as it says, or as its answer; before or after
/// translation. An ICMP error matches by the packet that it is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TraceFilter {
    /// Source address.
    pub source: Option<IpAddr>,
    /// Destination address.
    pub destination: Option<IpAddr>,
    /// Source port (an echo's identifier).
    pub source_port: Option<u16>,
    /// Destination port.
    pub destination_port: Option<u16>,
    /// IP protocol number.
    pub protocol: Option<u8>,
}

/// Both ends of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// Where it comes from; the port is 0 where the protocol has none.
    pub source: SocketAddr,
    /// Where it goes.
    pub destination: SocketAddr,
    /// IP protocol number.
    pub protocol: u8,
}

/// Where a packet arrived or left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The access port with this number.
    Access(u32),
    /// The tunnel; the other node's endpoint (port 0 where it is not known).
    Tunnel(SocketAddr),
    /// The node itself.
    Host,
}

/// What kind of address a packet without a flow went to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// An Instance IP.
    Instance,
    /// A namespace IP.
    Namespace,
}

/// One decision about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It came in and was understood.
    Arrived {
        /// Where.
        from: Place,
        /// What it said.
        ends: Ends,
        /// Its length in bytes.
        length: u32,
        /// TCP's flags.
        tcp_flags: u8,
        /// A later fragment: no ports.
        fragment: bool,
    },
    /// An ICMP error about a packet with these ends.
    About(Ends),
    /// It belongs to a known flow, which has this backend.
    Flow {
        /// Number of the backend.
        backend: u32,
    },
    /// No flow was known: the policy picked.
    Picked {
        /// How.
        policy: Policy,
        /// Number of the backend.
        backend: u32,
        /// Turns that it picked from.
        turns: u32,
    },
    /// The address itself names the backend.
    Routed {
        /// What kind of address it is.
        target: Target,
        /// Number of the backend.
        backend: u32,
    },
    /// It is an answer in a known flow: its source became the address that was dialled.
    Restored {
        /// That address.
        dialled: IpAddr,
    },
    /// Its addresses were translated.
    Rewritten(Ends),
    /// Nothing is known of this address yet: it waits, and the cluster is asked.
    Waits {
        /// The address.
        address: IpAddr,
    },
    /// What it waited for is known.
    Resumed,
    /// A fragment that waits for the first of its datagram.
    Held,
    /// Another worker owns the container that it concerns.
    HandedOver {
        /// That worker.
        worker: u16,
    },
    /// That worker took it.
    TakenOver,
    /// It became part of the packet before it.
    Joined,
    /// It was cut.
    Cut {
        /// Into so many.
        pieces: u32,
    },
    /// It left.
    Sent {
        /// Where.
        to: Place,
    },
    /// Its sender was told why it cannot go on: by ICMP, or a TCP reset.
    Answered {
        /// A reset.
        reset: bool,
    },
    /// It ended here, for this reason (a counter's name).
    Dropped(&'static str),
}

/// A step, of which packet, where and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceRecord {
    /// Tells packets apart; the same on all workers.
    pub packet: u64,
    /// Which worker decided.
    pub worker: u16,
    /// When, since 1970.
    pub at: Duration,
    /// What.
    pub step: Step,
}

/// A packet's ends in the words of the packet path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tuple {
    pub source: Address,
    pub destination: Address,
    pub source_port: u16,
    pub destination_port: u16,
    pub protocol: u8,
}

impl From<&Headers> for Tuple {
    fn from(headers: &Headers) -> Self {
        Self {
            source: headers.source,
            destination: headers.destination,
            source_port: headers.source_port,
            destination_port: headers.destination_port,
            protocol: headers.protocol.0,
        }
    }
}

impl From<&Quoted> for Tuple {
    fn from(quoted: &Quoted) -> Self {
        Self {
            source: quoted.source,
            destination: quoted.destination,
            source_port: quoted.source_port,
            destination_port: quoted.destination_port,
            protocol: quoted.protocol.0,
        }
    }
}

/// A step as a worker notes it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Note {
    Arrived {
        from: (u64, Address),
        tuple: Tuple,
        length: usize,
        tcp_flags: u8,
        fragment: bool,
    },
    About(Tuple),
    Flow(u32),
    Picked {
        policy: Policy,
        backend: u32,
        turns: usize,
    },
    Instance(u32),
    Namespace(u32),
    Restored(Address),
    Rewritten(Tuple),
    Waits(Address),
    Resumed,
    Held,
    HandedOver(u16),
    TakenOver,
    Joined,
    Cut(usize),
    SentAccess(u32),
    SentTunnel(Address, u16),
    SentHost,
    Answered {
        reset: bool,
    },
    Dropped(Counter),
}

/// Places in a record's word.
pub(crate) const FROM_ACCESS: u64 = 0;
pub(crate) const FROM_TUNNEL: u64 = 1 << 32;
pub(crate) const FROM_HOST: u64 = 2 << 32;

/// What is looked for, as a worker asks it.
#[derive(Clone, Copy, Debug, Default)]
struct Matcher {
    source: Option<Address>,
    destination: Option<Address>,
    source_port: Option<u16>,
    destination_port: Option<u16>,
    protocol: Option<u8>,
}

impl Matcher {
    fn one_way(&self, from: (Address, u16), to: (Address, u16)) -> bool {
        self.source.is_none_or(|a| a == from.0)
            && self.destination.is_none_or(|a| a == to.0)
            && self.source_port.is_none_or(|p| p == from.1)
            && self.destination_port.is_none_or(|p| p == to.1)
    }

    fn matches(&self, tuple: &Tuple) -> bool {
        let (from, to) = (
            (tuple.source, tuple.source_port),
            (tuple.destination, tuple.destination_port),
        );
        self.protocol.is_none_or(|p| p == tuple.protocol)
            && (self.one_way(from, to) || self.one_way(to, from))
    }

    fn wants_all(&self) -> bool {
        self.source.is_none()
            && self.destination.is_none()
            && self.source_port.is_none()
            && self.destination_port.is_none()
            && self.protocol.is_none()
    }
}

const SOURCE: u64 = 1;
const DESTINATION: u64 = 2;
const SOURCE_PORT: u64 = 4;
const DESTINATION_PORT: u64 = 8;
const PROTOCOL: u64 = 16;

impl TraceFilter {
    fn to_words(self) -> [u64; super::ASKED] {
        let bit = |set: bool, bit: u64| if set { bit } else { 0 };
        let (s1, s2) = halves(self.source.map_or(Address(0), Address::from));
        let (d1, d2) = halves(self.destination.map_or(Address(0), Address::from));
        let set = bit(self.source.is_some(), SOURCE)
            | bit(self.destination.is_some(), DESTINATION)
            | bit(self.source_port.is_some(), SOURCE_PORT)
            | bit(self.destination_port.is_some(), DESTINATION_PORT)
            | bit(self.protocol.is_some(), PROTOCOL);
        let ports = u64::from(self.source_port.unwrap_or(0))
            | u64::from(self.destination_port.unwrap_or(0)) << 16
            | u64::from(self.protocol.unwrap_or(0)) << 32;
        [set, ports, s1, s2, d1, d2]
    }
}

#[allow(clippy::cast_possible_truncation)] // fields of a word
fn matcher([set, ports, s1, s2, d1, d2]: [u64; super::ASKED]) -> Matcher {
    let has = |bit: u64| set & bit != 0;
    Matcher {
        source: has(SOURCE).then(|| join(s1, s2)),
        destination: has(DESTINATION).then(|| join(d1, d2)),
        source_port: has(SOURCE_PORT).then_some(ports as u16),
        destination_port: has(DESTINATION_PORT).then_some((ports >> 16) as u16),
        protocol: has(PROTOCOL).then_some((ports >> 32) as u8),
    }
}

/// A worker's pen.
#[derive(Debug)]
pub(crate) struct Tracer<'a> {
    view: View<'a>,
    matcher: Matcher,
    worker: u16,
    numbers: Cell<u64>,
}

impl<'a> Tracer<'a> {
    pub(crate) fn new(tables: &'a Tables, worker: u16) -> Self {
        Self {
            view: View::new(&tables.observation.trace, worker),
            matcher: Matcher::default(),
            worker,
            numbers: Cell::new(0),
        }
    }

    /// Looks whether anyone wants to know; once a tick.
    #[inline(always)]
    pub(crate) fn refresh(&mut self) {
        if let Some(asked) = self.view.refresh() {
            self.matcher = matcher(asked);
        }
    }

    #[inline(always)]
    pub(crate) fn is_on(&self) -> bool {
        self.view.is_on()
    }

    /// A new packet's number: session, worker, count.
    fn number(&self) -> u64 {
        let count = self.numbers.get().wrapping_add(1);
        self.numbers.set(count);
        u64::from(self.view.session()) << 48
            | u64::from(self.worker & 0xff) << 40
            | (count & 0xff_ffff_ffff)
    }

    /// Whether this is a number of this session: 0 is a packet that nobody asked for, another session's is as good as
    /// none.
    pub(crate) fn follows(&self, number: u64) -> bool {
        number >> 48 == u64::from(self.view.session())
    }

    /// A number for a packet with these ends, or about one (`quoted`), if it is looked for.
    #[cold]
    pub(crate) fn wanted(&self, tuple: &Tuple, quoted: Option<&Tuple>) -> Option<u64> {
        let found =
            self.matcher.matches(tuple) || quoted.is_some_and(|inner| self.matcher.matches(inner));
        found.then(|| self.number())
    }

    /// A number for a packet that could not be understood, if everything is looked for.
    #[cold]
    pub(crate) fn wanted_unread(&self) -> Option<u64> {
        self.matcher.wants_all().then(|| self.number())
    }

    /// Notes a step of the packet with this number.
    #[cold]
    pub(crate) fn note(&self, number: u64, note: Note) {
        if let Some(ring) = self.view.ring().filter(|_| self.follows(number)) {
            write(ring, number, self.worker, note);
        }
    }
}

fn write(ring: &Ring, number: u64, worker: u16, note: Note) {
    // kind, three words of detail, and a tuple where there is one.
    let (kind, detail, tuple) = match note {
        Note::Arrived {
            from: (place, address),
            tuple,
            length,
            tcp_flags,
            fragment,
        } => {
            let (high, low) = halves(address);
            let rest = u64::from(tcp_flags) | u64::from(fragment) << 8 | (length as u64) << 32;
            (0, [place, high, low, rest], Some(tuple))
        }
        Note::About(tuple) => (1, [0; 4], Some(tuple)),
        Note::Flow(backend) => (2, [u64::from(backend), 0, 0, 0], None),
        Note::Picked {
            policy,
            backend,
            turns,
        } => (
            3,
            [
                u64::from(backend),
                u64::from(policy.number()),
                turns as u64,
                0,
            ],
            None,
        ),
        Note::Instance(backend) => (4, [u64::from(backend), 0, 0, 0], None),
        Note::Namespace(backend) => (5, [u64::from(backend), 0, 0, 0], None),
        Note::Restored(dialled) => {
            let (high, low) = halves(dialled);
            (6, [0, high, low, 0], None)
        }
        Note::Rewritten(tuple) => (7, [0; 4], Some(tuple)),
        Note::Waits(address) => {
            let (high, low) = halves(address);
            (8, [0, high, low, 0], None)
        }
        Note::Resumed => (9, [0; 4], None),
        Note::Held => (10, [0; 4], None),
        Note::HandedOver(to) => (11, [u64::from(to), 0, 0, 0], None),
        Note::TakenOver => (12, [0; 4], None),
        Note::Joined => (17, [0; 4], None),
        Note::Cut(pieces) => (13, [pieces as u64, 0, 0, 0], None),
        Note::SentAccess(number) => (14, [u64::from(number), 0, 0, 0], None),
        Note::SentTunnel(address, port) => {
            let (high, low) = halves(address);
            (14, [FROM_TUNNEL | u64::from(port), high, low, 0], None)
        }
        Note::SentHost => (14, [FROM_HOST, 0, 0, 0], None),
        Note::Answered { reset } => (15, [u64::from(reset), 0, 0, 0], None),
        Note::Dropped(counter) => (16, [counter as u64, 0, 0, 0], None),
    };
    let ends = tuple.map_or([0; 5], |t| {
        let ((s1, s2), (d1, d2)) = (halves(t.source), halves(t.destination));
        let ports = u64::from(t.source_port)
            | u64::from(t.destination_port) << 16
            | u64::from(t.protocol) << 32;
        [s1, s2, d1, d2, ports]
    });
    let [a, b, c, d] = detail;
    let [s1, s2, d1, d2, ports] = ends;
    ring.push(
        &[
            number,
            word(u32::from(worker), kind),
            dpdk::cycles(),
            a,
            b,
            c,
            d,
            s1,
            s2,
            d1,
            d2,
            ports,
        ],
        None,
    );
}

#[allow(clippy::cast_possible_truncation)] // fields of a word
fn ends([s1, s2, d1, d2, ports]: [u64; 5]) -> Ends {
    let at = |high, low, port| SocketAddr::new(join(high, low).to_ip(), port);
    Ends {
        source: at(s1, s2, ports as u16),
        destination: at(d1, d2, (ports >> 16) as u16),
        protocol: (ports >> 32) as u8,
    }
}

#[allow(clippy::cast_possible_truncation)] // fields of a word
fn place(code: u64, high: u64, low: u64) -> Place {
    match code & !0xffff_ffff {
        FROM_TUNNEL => Place::Tunnel(SocketAddr::new(join(high, low).to_ip(), code as u16)),
        FROM_HOST => Place::Host,
        _ => Place::Access(low32(code)),
    }
}

#[allow(clippy::cast_possible_truncation)] // fields of a word
fn record(words: &[u64], session: u32, clock: &Clock) -> Option<TraceRecord> {
    let &[number, who, cycles, a, b, c, d, s1, s2, d1, d2, ports] = words.first_chunk::<12>()?;
    if number >> 48 != u64::from(session) {
        return None;
    }
    let ends = || ends([s1, s2, d1, d2, ports]);
    let address = || join(b, c).to_ip();
    let backend = low32(a);
    let step = match low32(who) {
        0 => Step::Arrived {
            from: place(a, b, c),
            ends: ends(),
            length: high32(d),
            tcp_flags: d as u8,
            fragment: d & 0x100 != 0,
        },
        1 => Step::About(ends()),
        2 => Step::Flow { backend },
        3 => Step::Picked {
            policy: Policy::of_number(low32(b)).unwrap_or(Policy::RoundRobin),
            backend,
            turns: low32(c),
        },
        4 => Step::Routed {
            target: Target::Instance,
            backend,
        },
        5 => Step::Routed {
            target: Target::Namespace,
            backend,
        },
        6 => Step::Restored { dialled: address() },
        7 => Step::Rewritten(ends()),
        8 => Step::Waits { address: address() },
        9 => Step::Resumed,
        10 => Step::Held,
        11 => Step::HandedOver { worker: a as u16 },
        12 => Step::TakenOver,
        13 => Step::Cut { pieces: low32(a) },
        14 => Step::Sent { to: place(a, b, c) },
        15 => Step::Answered { reset: a != 0 },
        16 => Step::Dropped(Counter::ALL.get(a as usize)?.name()),
        17 => Step::Joined,
        _ => return None,
    };
    Some(TraceRecord {
        packet: number & 0xffff_ffff_ffff,
        worker: high32(who) as u16,
        at: clock.at(cycles),
        step,
    })
}

/// What an ICMP error is about, as far as its first bytes tell.
pub(crate) fn quoted(bytes: &[u8], headers: &Headers) -> Option<Tuple> {
    if !matches!(headers.icmp, Icmp::Error { .. }) {
        return None;
    }
    headers
        .quoted(bytes)
        .ok()
        .map(|quoted| Tuple::from(&quoted))
}

/// A trace under way; dropping it ends it.
#[derive(Debug)]
pub struct Trace {
    tables: Arc<Tables>,
    session: u32,
    lost_before: u64,
    clock: Clock,
    words: Vec<u64>,
}

impl Trace {
    pub(crate) fn begin(tables: Arc<Tables>, filter: TraceFilter) -> Result<Self, CommandError> {
        let switch = &tables.observation.trace;
        let session = switch.begin(filter.to_words(), "trace")?;
        Ok(Self {
            lost_before: switch.lost(),
            session,
            clock: Clock::now(),
            words: Vec::new(),
            tables,
        })
    }

    /// Waits until all workers take part, or a second at most.
    pub(crate) fn settle(&self) {
        self.tables.observation.trace.settle(self.session);
    }

    /// Adds what was noted since the last time, in order of time.
    pub fn read(&mut self, into: &mut Vec<TraceRecord>) {
        self.clock.refresh();
        let begun = into.len();
        for lane in &self.tables.observation.trace.lanes {
            let end = lane.ring.end();
            while lane.ring.pop(end, &mut self.words) {
                into.extend(record(&self.words, self.session, &self.clock));
            }
        }
        if let Some(new) = into.get_mut(begun..) {
            new.sort_by_key(|record| record.at);
        }
    }

    /// Steps that were not noted, because the reader was too slow.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.tables.observation.trace.lost() - self.lost_before
    }

    /// Whether the data plane has stopped, so that nothing more will come.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.tables.observation.trace.closed.load(Ordering::Acquire)
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        self.tables.observation.trace.end();
    }
}
