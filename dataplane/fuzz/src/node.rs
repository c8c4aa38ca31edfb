//! A node without ports: the real pipelines and the real writer of their tables, a recorder where packets leave, and
//! what must hold of each that does.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

use dataplane::counters::{Counter, Counters, Group};
use dataplane::pipeline::{GATEWAY_MAC, Output, Pipeline, Settings, catch};
use dataplane::plan::{Range, range};
use dataplane::tables::Tables;
use dataplane::tunnel::Joiner;
use dataplane::uplink::{self, Received, template};
use dataplane::writer::Writer;
use dpdk::{Burst, Eal, EalOptions, L4Checksum, Mbuf, Memory, Mempool, Offload, Segment};
use net::Address;
use net::ethernet::{EtherType, HEADER_LEN, Header, Mac};
use net::packet::{Headers, Icmp, Protocol};

use crate::judge;
use crate::plan;

/// Largest inner packet that may leave by the tunnel.
pub const MTU: u16 = 1450;
/// MAC address of the host TAP.
pub const HOST_MAC: Mac = Mac([2, 0, 0, 0, 0, 9]);
/// UDP port of the tunnel.
pub const TUNNEL_PORT: u16 = 50103;
const MBUFS: u32 = 511;

/// Who set off what happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A container's frame.
    Container(usize),
    /// Another host's datagram.
    Tunnel(usize),
    /// The node itself.
    Host,
    /// The clock.
    Time,
}

#[derive(Debug)]
enum Place {
    Access(u32),
    Tunnel(IpAddr),
    Host,
}

#[derive(Debug)]
struct Sent {
    to: Place,
    bytes: Vec<u8>,
    offload: Offload,
}

/// Records instead of sending.
#[derive(Debug, Default)]
pub struct Recorder {
    sent: Vec<Sent>,
    handed: Vec<(u16, Mbuf)>,
    total: u64,
    /// Whether other workers' rings take nothing.
    pub rings_are_full: bool,
}

impl Recorder {
    fn record(&mut self, to: Place, mbuf: &Mbuf) {
        self.total += 1;
        let mut bytes = Vec::with_capacity(mbuf.pkt_len());
        for segment in mbuf.segments() {
            bytes.extend_from_slice(segment);
        }
        assert_eq!(bytes.len(), mbuf.pkt_len(), "a chain's length is wrong");
        self.sent.push(Sent {
            to,
            bytes,
            offload: mbuf.offload(),
        });
    }
}

impl Output for Recorder {
    fn access(&mut self, frame: Mbuf, ifindex: u32) {
        self.record(Place::Access(ifindex), &frame);
    }
    fn tunnel(&mut self, packet: Mbuf, to: (Address, u16), _: u8) {
        self.record(Place::Tunnel(to.0.to_ip()), &packet);
    }
    fn host(&mut self, frame: Mbuf) {
        self.record(Place::Host, &frame);
    }
    fn host_mac(&self) -> Mac {
        HOST_MAC
    }
    fn hand_over(&mut self, packet: Mbuf, worker: u16) -> Result<(), Mbuf> {
        if self.rings_are_full {
            return Err(packet);
        }
        self.handed.push((worker, packet));
        Ok(())
    }
    fn outer(&self, _: u32) -> Option<&[AtomicU64; template::WORDS]> {
        None
    }
    fn frame(&mut self, frame: Mbuf) {
        self.record(Place::Host, &frame);
    }
    fn open(&mut self, frame: Mbuf) -> Option<Received> {
        uplink::open(frame, TUNNEL_PORT)
    }
    fn opened(&mut self, _: usize) {}
    fn unresolved(&mut self, _: Address) {}
    fn query(&mut self, packet: Mbuf, _: u32) -> Result<(), Mbuf> {
        if self.rings_are_full {
            return Err(packet);
        }
        drop(packet);
        Ok(())
    }
}

/// The process's only pool: what leaks shows at the end of each input.
///
/// # Panics
/// When EAL does not start.
pub fn pool() -> &'static Mempool {
    static POOL: OnceLock<(Eal, Mempool)> = OnceLock::new();
    let (_, pool) = POOL.get_or_init(|| {
        let eal = Eal::init(EalOptions {
            file_prefix: format!("oakfuzz{}", std::process::id()),
            memory: Memory::NoHuge { megabytes: 64 },
            ..EalOptions::default()
        })
        .unwrap();
        let pool = Mempool::create("fuzz", MBUFS, 0, 2048 + 128, None).unwrap();
        (eal, pool)
    });
    pool
}

/// A node, and what is known of it from outside.
pub struct Node<'a> {
    /// The single writer.
    pub writer: Writer,
    /// The pipelines, one for each worker.
    pub workers: Vec<Pipeline<'a, Recorder>>,
    tables: &'a Tables,
    counters: &'a [Arc<Counters>],
    joiner: Joiner<(Address, u8)>,
    /// Milliseconds.
    clock: u64,
    /// What workers gave to each other and what set it off.
    ring: Vec<(u16, Mbuf, Cause)>,
    /// Mbufs that are taken so that others find none.
    pub hoard: Vec<Mbuf>,
    /// Which containers are attached.
    pub attached: [bool; plan::CONTAINERS],
    /// Which instance ran where, at any time.
    pub lived: HashSet<(usize, usize)>,
    /// Whether every packet so far came with right checksums.
    pub sound: bool,
}

impl<'a> Node<'a> {
    /// A node over tables that nobody else writes.
    ///
    /// # Panics
    /// When there is no file descriptor left.
    pub fn new(tables: &'a Arc<Tables>, counters: &'a [Arc<Counters>]) -> Self {
        let writer = Writer::new(Arc::clone(tables), counters).unwrap();
        let workers = counters
            .iter()
            .zip(0..)
            .map(|(counters, worker)| {
                let settings = Settings { worker, mtu: MTU };
                let pipeline =
                    Pipeline::new(tables, counters, pool(), settings, Recorder::default()).unwrap();
                pipeline.with_caught_zone(catch::zone("oak"))
            })
            .collect();
        let mut node = Self {
            writer,
            workers,
            tables,
            counters,
            joiner: Joiner::new(),
            clock: 1_000_000,
            ring: Vec::new(),
            hoard: Vec::new(),
            attached: [false; plan::CONTAINERS],
            lived: HashSet::new(),
            sound: true,
        };
        node.tick(0);
        node
    }

    fn sum(&self, counter: Counter) -> u64 {
        self.counters.iter().map(|c| c.get(counter)).sum()
    }

    fn group(&self, group: Group) -> u64 {
        Counter::ALL
            .iter()
            .filter(|c| c.group() == group)
            .map(|&c| self.sum(c))
            .sum()
    }

    fn balance(&self) {
        let sent: u64 = self.workers.iter().map(|w| w.output.total).sum();
        let waiting: usize = self.workers.iter().map(Pipeline::waiting).sum();
        let came = self.group(Group::Received) + self.group(Group::Made);
        let gone = sent + self.group(Group::Dropped) + self.group(Group::Consumed);
        let gone = gone + (waiting + self.ring.len()) as u64;
        if came != gone {
            let counts: Vec<_> = Counter::ALL
                .iter()
                .map(|&c| (c, self.sum(c)))
                .filter(|(_, n)| *n > 0)
                .collect();
            panic!(
                "the books do not balance: {came} came, {gone} went: {waiting} wait, {counts:?}"
            );
        }
    }

    /// A packet in mbufs: `first` bytes in the first one. `None` when there are not enough mbufs.
    #[must_use]
    pub fn mbuf(bytes: &[u8], first: usize, offload: Offload) -> Option<Mbuf> {
        let (head, rest) = bytes.split_at(first.min(bytes.len()));
        let mut chain = pool().alloc()?;
        assert!(chain.extend_from_slice(head));
        for piece in rest.chunks(2048) {
            let mut mbuf = pool().alloc()?;
            assert!(mbuf.extend_from_slice(piece));
            chain.push_segment(mbuf).ok()?;
        }
        chain.set_offload(offload);
        Some(chain)
    }

    /// A container sends a frame.
    pub fn frame(&mut self, container: usize, frame: Mbuf) {
        let ifindex = plan::ifindex(container);
        let worker = self.tables.port(ifindex).map_or(0, |p| p.worker);
        self.workers[usize::from(worker)].burst_from_access(&mut vec![(frame, ifindex)]);
        self.settle(Cause::Container(container));
    }

    /// A host sends a burst of datagrams, which a worker receives: by the kernel, or, with this bit of the outer TOS
    /// byte, as frames.
    pub fn datagrams(&mut self, worker: usize, host: usize, tos: u8, packets: Vec<Mbuf>) {
        const AS_FRAMES: u8 = 4;
        let from = Address::from(plan::host(host));
        let worker = worker % self.workers.len();
        let mut received = Vec::new();
        if tos & AS_FRAMES != 0 && from.is_v4() {
            let mut frames = Burst::<64>::new();
            for mut packet in packets {
                if on_the_wire(&mut packet, from, tos) {
                    let _ = frames.push(packet);
                }
            }
            self.workers[worker].burst_from_wire(&mut frames, TUNNEL_PORT, &mut received);
        } else {
            received.extend(packets.into_iter().map(|packet| (packet, from, tos)));
        }
        let mut ready = Vec::new();
        for (mbuf, from, tos) in received {
            if let Some((mbuf, headers)) = self.workers[worker].parse_inner(mbuf, from)
                && self
                    .joiner
                    .offer(mbuf, &headers, (from, tos), |m, _| ready.push(m))
            {
                self.counters[worker].count(Counter::Joined);
            }
        }
        self.joiner.flush(|m, _| ready.push(m));
        for mbuf in ready {
            self.workers[worker].from_tunnel(mbuf, from, tos);
        }
        self.settle(Cause::Tunnel(host));
    }

    /// The node's kernel sends a frame through a queue of the TAP.
    pub fn from_host(&mut self, worker: usize, frame: Mbuf) {
        let worker = worker % self.workers.len();
        self.workers[worker].from_host(frame);
        self.settle(Cause::Host);
    }

    /// Time passes.
    pub fn tick(&mut self, milliseconds: u64) {
        self.clock += milliseconds;
        for worker in &mut self.workers {
            worker.tick(self.clock);
        }
        self.settle(Cause::Time);
    }

    /// Some of what lies in rings arrives.
    pub fn pass_on(&mut self, count: usize) {
        for _ in 0..count {
            if self.ring.is_empty() {
                return;
            }
            let (to, mbuf, cause) = self.ring.remove(0);
            self.workers[usize::from(to)].from_ring(mbuf);
            self.settle(cause);
        }
    }

    // Judges what has left.
    fn settle(&mut self, cause: Cause) {
        for n in 0..self.workers.len() {
            let handed = std::mem::take(&mut self.workers[n].output.handed);
            self.ring
                .extend(handed.into_iter().map(|(to, mbuf)| (to, mbuf, cause)));
            for sent in std::mem::take(&mut self.workers[n].output.sent) {
                self.judge(&sent, cause);
            }
        }
        self.balance();
    }

    fn judge(&self, sent: &Sent, cause: Cause) {
        let is_tunnel = matches!(sent.to, Place::Tunnel(_));
        let packet = if is_tunnel {
            &sent.bytes[..]
        } else {
            let ethernet = Header::parse(&sent.bytes).unwrap();
            assert_eq!(ethernet.source, GATEWAY_MAC);
            if let Place::Access(ifindex) = sent.to {
                let container = (0..plan::CONTAINERS).find(|&n| plan::ifindex(n) == ifindex);
                let container = container.unwrap();
                assert!(
                    self.attached[container],
                    "to a container that is gone: {sent:?}"
                );
            }
            if ethernet.ethertype == EtherType::ARP {
                self.judge_answer(sent, cause);
                return;
            }
            let v4 = sent.bytes[HEADER_LEN] >> 4 == 4;
            assert_eq!(v4, ethernet.ethertype == EtherType::IPV4, "{sent:?}");
            &sent.bytes[HEADER_LEN..]
        };
        if is_tunnel && packet[0] == 0x80 {
            // A probe or its answer.
            let Place::Tunnel(to) = sent.to else { return };
            assert!(packet.len() == 24 && self.lived.iter().any(|&(_, h)| plan::host(h) == to));
            return;
        }
        let headers = Headers::parse(packet, packet.len()).unwrap_or_else(|e| {
            panic!("what leaves does not parse: {e}: {sent:?}");
        });
        assert_eq!((headers.padding, headers.total_len), (0, packet.len()));
        self.judge_checksums(sent, packet, &headers);
        self.judge_way(sent, packet, &headers, cause);
    }

    // What a node says by itself goes to who asked.
    fn judge_answer(&self, sent: &Sent, cause: Cause) {
        match (&sent.to, cause) {
            (Place::Access(ifindex), Cause::Container(n)) => {
                assert_eq!(*ifindex, plan::ifindex(n), "{sent:?}");
            }
            (Place::Host, Cause::Host) => {}
            _ => panic!("an answer to nobody's question: {sent:?}, {cause:?}"),
        }
    }

    fn judge_checksums(&self, sent: &Sent, packet: &[u8], headers: &Headers) {
        assert_eq!(judge::header_residue(packet), 0, "{sent:?}");
        if let Place::Tunnel(_) = sent.to {
            let (checksum, segment) = (sent.offload.checksum, sent.offload.segment);
            assert_eq!(
                (checksum, segment),
                (L4Checksum::Complete, Segment::None),
                "work is left to do: {sent:?}"
            );
            assert!(
                packet.len() <= usize::from(MTU),
                "too long for the tunnel: {sent:?}"
            );
        }
        if sent.offload.segment != Segment::None {
            assert_ne!(sent.offload.checksum, L4Checksum::Complete, "{sent:?}");
        }
        if sent.offload.checksum == L4Checksum::Complete {
            let residue = judge::transport_residue(packet, headers).unwrap_or(0);
            assert!(!self.sound || residue == 0, "transport checksum: {sent:?}");
            return;
        }
        assert_eq!(sent.offload.l3_len, headers.l4_offset, "{sent:?}");
        if let Some(at) = headers.pseudo_checksum_at() {
            let field = u16::from_be_bytes([packet[at], packet[at + 1]]);
            let right = judge::pseudo(headers, headers.l4_len());
            assert!(
                !self.sound || judge::residue(field) == judge::residue(right),
                "partial transport checksum: {sent:?}"
            );
        }
    }

    fn judge_way(&self, sent: &Sent, packet: &[u8], headers: &Headers, cause: Cause) {
        let is = |pair: dataplane::Pair, address: Address| {
            pair.iter().any(|a| Address::from(a) == address)
        };
        let (source, destination) = (headers.source, headers.destination);
        let belongs = |address: Address, n: usize| {
            is(plan::namespace(n), address) || is(plan::instance(n), address)
        };
        let is_service = |address: Address| {
            (0..plan::JOBS).any(|job| {
                plan::POLICIES
                    .iter()
                    .any(|&policy| is(plan::service(job, policy), address))
            })
        };
        let lived_at = |instance: usize, host: IpAddr| {
            self.lived
                .iter()
                .any(|&(i, h)| i == instance && plan::host(h) == host)
        };
        let back = match (&sent.to, cause) {
            (Place::Access(ifindex), Cause::Container(n)) => *ifindex == plan::ifindex(n),
            (Place::Host, Cause::Host) => true,
            _ => false,
        };
        match sent.to {
            Place::Access(ifindex) => {
                let n = usize::try_from(ifindex - plan::ifindex(0)).unwrap();
                let ethernet = Header::parse(&sent.bytes).unwrap();
                let advertises = headers.protocol == Protocol::ICMPV6
                    && packet.get(usize::from(headers.l4_offset)) == Some(&136);
                if advertises && back {
                    return;
                }
                assert_eq!(ethernet.destination, Mac(plan::mac(n)), "{sent:?}");
                assert!(
                    is(plan::namespace(n), destination),
                    "not its address: {sent:?}"
                );
            }
            Place::Tunnel(to) => {
                let there = (0..plan::INSTANCES)
                    .any(|n| is(plan::namespace(n), destination) && lived_at(n, to));
                assert!(there, "to a host where that address never was: {sent:?}");
            }
            Place::Host => {
                let outside = range(destination) == Range::Outside;
                // The node forwards for others, so what it is told of its own packets can have any destination.
                let told = back || cause == Cause::Time && is(plan::gateway(), source);
                assert!(
                    told || outside || is(plan::gateway(), destination),
                    "{sent:?}"
                );
            }
        }
        // Who set it off can only have sent as himself, or answered as the service that was dialled.
        match cause {
            Cause::Container(n) => {
                let legal = belongs(source, n)
                    || (!matches!(sent.to, Place::Tunnel(_)) && is_service(source));
                assert!(back || legal, "container {n} sent as another: {sent:?}");
            }
            Cause::Tunnel(host) => {
                assert_ne!(
                    host,
                    plan::STRANGER,
                    "a stranger reached somebody: {sent:?}"
                );
                if matches!(sent.to, Place::Tunnel(_)) {
                    // What a container cannot take is told to its sender, and nothing else goes back.
                    let error = matches!(headers.icmp, Icmp::Error { .. });
                    assert!(error, "sent around: {sent:?}");
                    return;
                }
                let from_there = |address: Address| {
                    (0..plan::INSTANCES)
                        .any(|n| belongs(address, n) && lived_at(n, plan::host(host)))
                };
                // Who forwards a packet may say why it did not, by an address that nobody knows: to its sender, about
                // what went to that host.
                let reports = matches!(headers.icmp, Icmp::Error { .. })
                    && headers.quoted(packet).is_ok_and(|quoted| {
                        quoted.source == destination
                            && (is_service(quoted.destination) || from_there(quoted.destination))
                    });
                let legal = is_service(source) || from_there(source) || reports;
                assert!(legal, "host {host} sent for another: {sent:?}");
            }
            Cause::Host | Cause::Time => {}
        }
    }

    /// The end: everything in rings arrives, and every mbuf comes back.
    pub fn end(mut self) {
        self.hoard.clear();
        self.pass_on(usize::MAX);
        drop(self.workers);
        drop(self.joiner);
        drop(self.ring);
        assert_eq!(pool().in_use(), 0, "mbufs have leaked");
    }
}

/// Puts the headers of a datagram from another node's tunnel port before the packet in it.
fn on_the_wire(packet: &mut Mbuf, from: Address, tos: u8) -> bool {
    const LEN: usize = HEADER_LEN + net::ipv4::HEADER_LEN + net::udp::HEADER_LEN;
    let Ok(udp_len) = u16::try_from(packet.pkt_len() + net::udp::HEADER_LEN) else {
        return false;
    };
    let Some(total_len) = udp_len.checked_add(20) else {
        return false;
    };
    let ethernet = Header {
        destination: HOST_MAC,
        source: Mac([2, 0, 0, 0, 0, 1]),
        ethertype: EtherType::IPV4,
    };
    let ip = net::ipv4::Build {
        source: from,
        destination: Address::v4([192, 0, 2, 10]),
        protocol: Protocol::UDP.0,
        ttl: 64,
        tos,
        id: 0,
        dont_fragment: true,
        total_len,
    };
    let udp = net::udp::header(TUNNEL_PORT, TUNNEL_PORT, udp_len, 0);
    let head = [&ethernet.to_bytes()[..], &ip.to_bytes(), &udp].concat();
    match packet.prepend(LEN) {
        Some(front) => {
            front.copy_from_slice(&head);
            true
        }
        None => false,
    }
}
