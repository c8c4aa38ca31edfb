//! A node on a bench: containers `c` (10.18.0.2) and `e` (10.18.0.3), a service with two instances on another node.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use dpdk::{Burst, Eal, EalOptions, Mbuf, Memory, Mempool, Offload};
use kernel_port::{AccessGroup, AccessPort, Pools, Waiter};
use net::Address;
use net::ethernet::{EtherType, HEADER_LEN, Header, Mac};

use super::packets::{Kind, Spec, assert_right};
use crate::api::{AccessKind, Attachment, Event, JobRoutes, Pair, Subnet};
use crate::control::{Controller, WorkerLink};
use crate::counters::{Counter, Counters, Group};
use crate::pipeline::{GATEWAY_MAC, Output, Pipeline, Settings};
use crate::sync::AtomicU64;
use crate::tables::Tables;
use crate::tables::flows::Shard;
use crate::tables::region::{Layout, Region};
use crate::tunnel::Joiner;
use crate::uplink::{self, Received, template};

pub use super::plan::*;

pub const MTU: u16 = 1450;
pub const TUNNEL_PORT: u16 = 50103;
pub const HOST_MAC: Mac = Mac([2, 0, 0, 0, 0, 9]);
/// Interface of the container `c`, and of `e`.
pub const C: u32 = 101;
pub const E: u32 = 102;

/// What the pipeline sent.
#[derive(Clone, Debug)]
pub enum Sent {
    Access(u32, Vec<u8>, Offload),
    Tunnel(Vec<u8>, SocketAddr, u8, Offload),
    Host(Vec<u8>, Offload),
}

impl Sent {
    /// The IP packet; fails unless it is finished and right.
    pub fn packet(&self) -> Vec<u8> {
        let (packet, offload) = match self {
            Sent::Access(_, frame, offload) => (frame[HEADER_LEN..].to_vec(), *offload),
            Sent::Tunnel(packet, _, _, offload) => (packet.clone(), *offload),
            Sent::Host(frame, offload) => (frame[HEADER_LEN..].to_vec(), *offload),
        };
        assert_eq!(offload, Offload::default(), "work is left to do: {self:?}");
        assert_right(&packet);
        packet
    }

    pub fn ethernet(&self) -> Header {
        match self {
            Sent::Access(_, frame, _) | Sent::Host(frame, _) => Header::parse(frame).unwrap(),
            Sent::Tunnel(..) => panic!("no frame: {self:?}"),
        }
    }
}

/// Records instead of sending.
#[derive(Default)]
pub struct Recorder {
    pub sent: Vec<Sent>,
    pub unresolved: Vec<Address>,
    /// Caught queries, and whether they are taken.
    pub queries: Vec<(u32, Vec<u8>)>,
    pub takes_queries: bool,
    pub handed: Vec<(u16, Mbuf)>,
    pub total: u64,
    pub to_access: u64,
    pub ring_is_full: bool,
    /// Complete frames, by an uplink that writes them itself.
    pub frames: Vec<Vec<u8>>,
    /// The headers of datagrams to every host, as such an uplink has them.
    pub outer: Option<[AtomicU64; template::WORDS]>,
    /// Datagrams that the pipeline opened by itself.
    pub opened: usize,
}

fn bytes(mbuf: &Mbuf) -> Vec<u8> {
    mbuf.segments().flatten().copied().collect()
}

impl Output for Recorder {
    fn access(&mut self, frame: Mbuf, ifindex: u32) {
        self.total += 1;
        self.to_access += 1;
        self.sent
            .push(Sent::Access(ifindex, bytes(&frame), frame.offload()));
    }
    fn tunnel(&mut self, packet: Mbuf, to: (Address, u16), tos: u8) {
        self.total += 1;
        let to = crate::pipeline::endpoint(to);
        self.sent
            .push(Sent::Tunnel(bytes(&packet), to, tos, packet.offload()));
    }
    fn host(&mut self, frame: Mbuf) {
        self.total += 1;
        self.sent.push(Sent::Host(bytes(&frame), frame.offload()));
    }
    fn host_mac(&self) -> Mac {
        HOST_MAC
    }
    fn hand_over(&mut self, packet: Mbuf, worker: u16) -> Result<(), Mbuf> {
        if self.ring_is_full {
            return Err(packet);
        }
        self.handed.push((worker, packet));
        Ok(())
    }
    fn outer(&self, _: u32) -> Option<&[AtomicU64; template::WORDS]> {
        self.outer.as_ref()
    }
    fn frame(&mut self, frame: Mbuf) {
        self.total += 1;
        self.frames.push(bytes(&frame));
    }
    fn open(&mut self, frame: Mbuf) -> Option<Received> {
        uplink::open(frame, TUNNEL_PORT)
    }
    fn opened(&mut self, datagrams: usize) {
        self.opened += datagrams;
    }
    fn unresolved(&mut self, address: Address) {
        self.unresolved.push(address);
    }
    fn query(&mut self, packet: Mbuf, ifindex: u32) -> Result<(), Mbuf> {
        if !self.takes_queries {
            return Err(packet);
        }
        self.queries.push((ifindex, bytes(&packet)));
        Ok(())
    }
}

/// One EAL for the process, pools for what sockets hold.
fn memory() -> &'static Pools {
    static MEMORY: OnceLock<(Eal, Pools)> = OnceLock::new();
    let (_, pools) = MEMORY.get_or_init(|| {
        let eal = Eal::init(EalOptions {
            file_prefix: format!("oakpipe{}", std::process::id()),
            memory: Memory::NoHuge { megabytes: 512 },
            ..EalOptions::default()
        })
        .unwrap();
        let small = Mempool::create("small", 4095, 0, 2048 + 128, None).unwrap();
        let large = Mempool::create("large", 255, 0, 65535, None).unwrap();
        (eal, Pools { small, large })
    });
    pools
}

/// A pool that no other test uses meanwhile, so that what leaks shows.
fn take_pool() -> &'static Mempool {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    memory();
    let free = FREE.lock().unwrap().pop();
    free.unwrap_or_else(|| {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let pool = Mempool::create(&format!("p{n}"), 2047, 0, 2048 + 128, None).unwrap();
        Box::leak(Box::new(pool))
    })
}

static FREE: Mutex<Vec<&'static Mempool>> = Mutex::new(Vec::new());

pub struct Node {
    pub control: Controller,
    pub workers: Vec<Pipeline<'static, Recorder>>,
    pub counters: Vec<Arc<Counters>>,
    pub clock: u64,
    pub tables: &'static Tables,
    pub shared: Arc<Tables>,
    pub pool: &'static Mempool,
    joiner: Joiner<(Address, u8)>,
    _ports: Vec<AccessPort>,
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        self.balance();
        self.workers.clear();
        self.joiner = Joiner::new();
        assert_eq!(self.pool.in_use(), 0, "mbufs have leaked");
        FREE.lock().unwrap().push(self.pool);
    }
}

impl Node {
    /// Containers `c` and `e` are attached, in turn to the workers; `job` has its instances away, `here` is `e`.
    pub fn new(workers: usize) -> Node {
        let mut node = Node::bare(workers);
        node.set_subnets();
        node.attach(C, pair(V4.c, V6.c));
        node.attach(E, pair(V4.e, V6.e));
        node.set_job(client());
        node.set_job(here());
        node.set_job(job(&[0, 1]));
        node.tick(1);
        node
    }

    pub fn bare(workers: usize) -> Node {
        let layout = Layout {
            shards: workers,
            slots: 1 << 12,
            backends: 1 << 10,
            hosts: 64,
        };
        Node::over(Region::on_heap(layout, 77), workers)
    }

    /// The process ends, and the next one takes over; its node has the gateway, but nothing attached.
    pub fn restart(self) -> Node {
        let region = self.tables.region.taken_over();
        let now = u32::try_from(self.clock / 1000).unwrap();
        for n in 0..self.workers.len() {
            Shard::new(region.shard(n).unwrap(), region.seed()).recover(now);
        }
        let mut node = Node::over(region, self.workers.len());
        node.set_subnets();
        node
    }

    fn over(region: Region, workers: usize) -> Node {
        let tables = Arc::new(Tables::new(region, workers));
        // Pipelines borrow the tables for as long as the node lives: the tests' process may keep them.
        let borrowed: &'static Tables = Box::leak(Box::new(Arc::clone(&tables)));
        let pool = take_pool();
        let (access, ports) = AccessGroup::open(workers, 16, memory()).unwrap();
        let waker = Waiter::new().unwrap().waker();
        let links: Vec<WorkerLink> = (0..workers)
            .map(|_| WorkerLink {
                counters: Arc::new(Counters::default()),
                waker: waker.clone(),
                changer: crate::access::changes().0,
            })
            .collect();
        let counters: Vec<Arc<Counters>> = links.iter().map(|l| Arc::clone(&l.counters)).collect();
        let listener = Box::new(|_: Event| {});
        let control = Controller::new(Arc::clone(&tables), access, links, listener, String::new());
        let workers = (0..workers)
            .map(|n| {
                let counters: &'static Counters = Box::leak(Box::new(Arc::clone(&counters[n])));
                let settings = Settings {
                    worker: u16::try_from(n).unwrap(),
                    mtu: MTU,
                };
                Pipeline::new(borrowed, counters, pool, settings, Recorder::default()).unwrap()
            })
            .collect();
        let mut node = Node {
            control,
            workers,
            counters,
            clock: 1_000_000,
            tables: borrowed,
            shared: Arc::clone(&tables),
            pool,
            joiner: Joiner::new(),
            _ports: ports,
        };
        node.tick(0);
        node
    }

    fn set_subnets(&mut self) {
        self.control
            .set_subnets(vec![Subnet {
                v4: Some("10.18.0.0".parse().unwrap()),
                v6: Some("fc00::".parse().unwrap()),
                gateway: pair(V4.gateway, V6.gateway),
            }])
            .unwrap();
        self.publish();
    }

    pub fn attach(&mut self, ifindex: u32, namespace: Pair) {
        self.control
            .attach(Attachment {
                port: AccessKind::Packet {
                    ifindex,
                    interface: format!("veth{ifindex}"),
                },
                mac: mac(ifindex).0,
                namespace,
                job: String::new(),
                number: 0,
            })
            .unwrap();
        self.publish();
    }

    pub fn set_job(&mut self, routes: JobRoutes) {
        self.control.set_job(routes).unwrap();
        self.publish();
    }

    pub fn publish(&mut self) {
        self.control.publish();
        self.control.reclaim();
    }

    /// Time passes.
    pub fn tick(&mut self, milliseconds: u64) {
        self.clock += milliseconds;
        for worker in &mut self.workers {
            worker.tick(self.clock);
        }
        self.settle();
    }

    // What workers hand to each other arrives.
    fn settle(&mut self) {
        while let Some((to, mbuf)) = self.workers.iter_mut().find_map(|w| w.output.handed.pop()) {
            self.workers[usize::from(to)].from_ring(mbuf);
        }
        self.balance();
    }

    pub fn sum(&self, counter: Counter) -> u64 {
        self.counters.iter().map(|c| c.get(counter)).sum()
    }

    fn group(&self, group: Group) -> u64 {
        Counter::ALL
            .iter()
            .filter(|c| c.group() == group)
            .map(|&c| self.sum(c))
            .sum()
    }

    pub fn balance(&self) {
        let sent: u64 = self.workers.iter().map(|w| w.output.total).sum();
        let waiting: usize = self.workers.iter().map(Pipeline::waiting).sum();
        assert_eq!(
            self.group(Group::Received) + self.group(Group::Made),
            sent + self.group(Group::Dropped) + self.group(Group::Consumed) + waiting as u64,
            "the books do not balance: {:?}",
            self.occurred()
        );
    }

    fn occurred(&self) -> Vec<(Counter, u64)> {
        Counter::ALL
            .iter()
            .map(|&c| (c, self.sum(c)))
            .filter(|(_, n)| *n > 0)
            .collect()
    }

    pub fn mbuf(&self, bytes: &[u8], offload: Offload) -> Mbuf {
        let mut chain: Option<Mbuf> = None;
        for (n, piece) in bytes.chunks(2048).enumerate() {
            let mut mbuf = self.pool.alloc().unwrap();
            assert!(mbuf.extend_from_slice(piece));
            match &mut chain {
                None => chain = Some(mbuf),
                Some(head) => head.push_segment(mbuf).unwrap_or_else(|_| panic!("{n}")),
            }
        }
        let mut mbuf = chain.unwrap_or_else(|| self.pool.alloc().unwrap());
        mbuf.set_offload(offload);
        mbuf
    }

    fn owner(&self, ifindex: u32) -> usize {
        self.tables
            .port(ifindex)
            .map_or(0, |port| usize::from(port.worker))
    }

    pub fn taken(&mut self) -> Vec<Sent> {
        self.settle();
        self.workers
            .iter_mut()
            .flat_map(|w| std::mem::take(&mut w.output.sent))
            .collect()
    }

    pub fn unresolved(&mut self) -> Vec<Address> {
        self.workers
            .iter_mut()
            .flat_map(|w| std::mem::take(&mut w.output.unresolved))
            .collect()
    }

    /// A frame as a container sends it.
    pub fn frame(&mut self, ifindex: u32, frame: &[u8], offload: Offload) -> Vec<Sent> {
        let mbuf = self.mbuf(frame, offload);
        let worker = self.owner(ifindex);
        self.workers[worker].burst_from_access(&mut vec![(mbuf, ifindex)]);
        self.taken()
    }

    /// A packet as a container sends it.
    pub fn access(&mut self, ifindex: u32, packet: &[u8]) -> Vec<Sent> {
        self.frame(ifindex, &framed(mac(ifindex), packet), Offload::default())
    }

    /// Packets of a container in one burst, or, `apart`, each by the general way.
    pub fn bursts(&mut self, ifindex: u32, packets: &[Vec<u8>], apart: bool) -> Vec<Sent> {
        let worker = self.owner(ifindex);
        let mut frames = Vec::new();
        for packet in packets {
            let frame = framed(mac(ifindex), packet);
            frames.push((self.mbuf(&frame, Offload::default()), ifindex));
        }
        if apart {
            for (mbuf, ifindex) in frames {
                self.workers[worker].from_access(mbuf, ifindex);
            }
        } else {
            self.workers[worker].burst_from_access(&mut frames);
            assert!(frames.is_empty());
        }
        self.taken()
    }

    /// Datagrams in one burst.
    pub fn burst(&mut self, worker: usize, from: &str, tos: u8, packets: &[Vec<u8>]) -> Vec<Sent> {
        let from = address(from);
        let packets = packets
            .iter()
            .map(|packet| (self.mbuf(packet, Offload::default()), from, tos))
            .collect();
        self.received(worker, packets)
    }

    /// Frames of datagrams in one burst, as they are on the wire.
    pub fn wire(&mut self, worker: usize, from: &str, tos: u8, packets: &[Vec<u8>]) -> Vec<Sent> {
        let mut frames = Burst::<512>::new();
        for packet in packets {
            let frame = self.mbuf(&on_the_wire(from, tos, packet), Offload::default());
            frames.push(frame).unwrap();
        }
        let mut streams = Vec::new();
        self.workers[worker].burst_from_wire(&mut frames, TUNNEL_PORT, &mut streams);
        assert!(frames.is_empty());
        self.received(worker, streams)
    }

    fn received(&mut self, worker: usize, packets: Vec<Received>) -> Vec<Sent> {
        let mut ready = Vec::new();
        for (mbuf, from, tos) in packets {
            if let Some((mbuf, headers)) = self.workers[worker].parse_inner(mbuf, from)
                && self
                    .joiner
                    .offer(mbuf, &headers, (from, tos), |m, of| ready.push((m, of)))
            {
                self.counters[worker].count(Counter::Joined);
            }
        }
        self.joiner.flush(|m, of| ready.push((m, of)));
        for (mbuf, (from, tos)) in ready {
            self.workers[worker].from_tunnel(mbuf, from, tos);
        }
        self.taken()
    }

    /// A packet as another node sends it.
    pub fn tunnel(&mut self, from: &str, packet: &[u8]) -> Vec<Sent> {
        self.burst(0, from, 0, &[packet.to_vec()])
    }

    /// A packet as the node's kernel sends it, through queue `worker` of the TAP.
    pub fn host(&mut self, worker: usize, packet: &[u8]) -> Vec<Sent> {
        let mbuf = self.mbuf(&framed(HOST_MAC, packet), Offload::default());
        self.workers[worker].from_host(mbuf);
        self.taken()
    }

    /// Runs a step that must end one packet for this reason; gives what was sent meanwhile.
    pub fn dropping(
        &mut self,
        reason: Counter,
        step: impl FnOnce(&mut Node) -> Vec<Sent>,
    ) -> Vec<Sent> {
        let (before, all) = (self.sum(reason), self.group(Group::Dropped));
        let sent = step(self);
        assert_eq!(self.sum(reason), before + 1, "{:?}", self.occurred());
        assert_eq!(self.group(Group::Dropped), all + 1, "{:?}", self.occurred());
        sent
    }
}

/// The frame of a datagram from the tunnel port of another node.
pub fn on_the_wire(from: &str, tos: u8, packet: &[u8]) -> Vec<u8> {
    let ethernet = Header {
        destination: HOST_MAC,
        source: Mac([2, 0, 0, 0, 0, 1]),
        ethertype: EtherType::IPV4,
    };
    let udp_len = u16::try_from(packet.len() + 8).unwrap();
    let ip = net::ipv4::Build {
        source: address(from),
        destination: address("192.0.2.10"),
        protocol: 17,
        ttl: 64,
        tos,
        id: 0,
        dont_fragment: true,
        total_len: udp_len + 20,
    };
    let udp = net::udp::header(TUNNEL_PORT, TUNNEL_PORT, udp_len, 0);
    [&ethernet.to_bytes()[..], &ip.to_bytes(), &udp, packet].concat()
}

pub fn mac(ifindex: u32) -> Mac {
    Mac([2, 0, 0, 0, 1, u8::try_from(ifindex).unwrap()])
}

/// From a container or the host, to the gateway.
pub fn framed(source: Mac, packet: &[u8]) -> Vec<u8> {
    let v4 = packet.first().is_none_or(|b| b >> 4 != 6);
    let header = Header {
        destination: GATEWAY_MAC,
        source,
        ethertype: if v4 { EtherType::IPV4 } else { EtherType::IPV6 },
    };
    [&header.to_bytes(), packet].concat()
}

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

pub const fn tcp(flags: u8) -> Kind {
    Kind::Tcp {
        flags,
        options: false,
    }
}

/// A packet between two addresses, ports 4000 and 80 unless changed.
pub fn spec(kind: Kind, source: &str, destination: &str) -> Spec {
    Spec {
        source: address(source),
        destination: address(destination),
        ..Spec::plain(!source.contains(':'), kind, b"odd payload")
    }
}

/// The answer to it from `source` to `destination`.
pub fn answer(kind: Kind, source: &str, destination: &str) -> Spec {
    Spec {
        source_port: 80,
        destination_port: 4000,
        ..spec(kind, source, destination)
    }
}

/// The same packet one hop later between other addresses.
pub fn moved(spec: &Spec, source: &str, destination: &str, hops: u8) -> Vec<u8> {
    Spec {
        source: address(source),
        destination: address(destination),
        ttl: spec.ttl - hops,
        ..spec.clone()
    }
    .build()
}

/// The one packet that came out of the tunnel's end.
pub fn to_tunnel(sent: &[Sent]) -> Vec<u8> {
    assert!(
        matches!(sent, [Sent::Tunnel(_, to, _, _)] if *to == format!("{AWAY}:50103").parse().unwrap()),
        "{sent:?}"
    );
    sent[0].packet()
}

/// The one packet that a container got.
pub fn to_container(sent: &[Sent], ifindex: u32) -> Vec<u8> {
    assert!(
        matches!(sent, [Sent::Access(i, _, _)] if *i == ifindex),
        "{sent:?}"
    );
    let ethernet = sent[0].ethernet();
    assert_eq!(
        (ethernet.destination, ethernet.source),
        (mac(ifindex), GATEWAY_MAC)
    );
    sent[0].packet()
}

/// The one packet that the host got.
pub fn to_host(sent: &[Sent]) -> Vec<u8> {
    assert!(matches!(sent, [Sent::Host(..)]), "{sent:?}");
    let ethernet = sent[0].ethernet();
    assert_eq!(
        (ethernet.destination, ethernet.source),
        (HOST_MAC, GATEWAY_MAC)
    );
    sent[0].packet()
}

/// Which of the service's instances the packet went to.
pub fn picked(plan: &Plan, packet: &[u8]) -> usize {
    let headers = net::packet::Headers::parse(packet, packet.len()).unwrap();
    plan.d
        .iter()
        .position(|d| address(d) == headers.destination)
        .unwrap()
}
