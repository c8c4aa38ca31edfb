//! A worker lcore's loop: poll the ports, run the pipeline, flush, and sleep when there is nothing to do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use dpdk::{Burst, Mbuf, Mempool, RingReceiver, RingSender};
use kernel_port::{AccessPort, TapPort, Waiter, Waker};
use net::address::Address;
use net::ethernet::Mac;

use crate::api::Idle;
use crate::asleep::Asleep;
use crate::clock;
use crate::control::Message;
use crate::counters::{Counter, Counters};
use crate::pipeline::{Output, Pipeline, Settings};
use crate::tables::Tables;
use crate::tunnel::Joiner;
use crate::uplink::{Push, Uplink};

/// Packets taken from one port in one round.
const BURST: usize = 64;
/// Empty rounds before a worker that may sleep does. Polling a little longer than one round trip through the kernel
/// spares a wake-up per packet of a conversation.
const EMPTY_ROUNDS: u32 = 16;
/// The longest sleep: expiry goes on when nothing else does.
const SLEEP: Duration = Duration::from_millis(250);
/// The longest sleep while packets wait for a route.
const SLEEP_WAITING: Duration = Duration::from_millis(20);
/// The longest sleep with a port that has no descriptor to wait for.
const NAP: Duration = Duration::from_micros(50);

/// Another worker's inbox, and how to wake its owner.
#[derive(Clone)]
pub struct Neighbour {
    /// The filling end of its ring.
    pub ring: RingSender<Mbuf>,
    /// Wakes it.
    pub waker: Waker,
    /// Up while it sleeps.
    pub asleep: Asleep,
}

/// What a worker is made of.
pub struct Worker {
    /// Number, mtu.
    pub settings: Settings,
    /// The tables.
    pub tables: Arc<Tables>,
    /// Its counters.
    pub counters: Arc<Counters>,
    /// Small mbufs, for answers and headers.
    pub small: Mempool,
    /// How it waits.
    pub idle: Idle,
    /// Containers.
    pub access: AccessPort,
    /// Other nodes.
    pub uplink: Uplink,
    /// The node itself.
    pub host: TapPort,
    /// Packets that others hand over.
    pub inbox: RingReceiver<Mbuf>,
    /// All workers' inboxes, its own included.
    pub neighbours: Vec<Neighbour>,
    /// To the control thread.
    pub control: SyncSender<Message>,
    /// What it sleeps on.
    pub waiter: Waiter,
    /// Set when it shall end.
    pub stop: Arc<AtomicBool>,
}

/// The ports, as the pipeline sees them.
struct Ports<'a> {
    tables: &'a Tables,
    counters: &'a Counters,
    access: AccessPort,
    uplink: Uplink,
    /// Datagrams without a packet that were counted.
    unusable: u64,
    host: TapPort,
    neighbours: Vec<Neighbour>,
    handed: Vec<Burst<BURST>>,
    control: SyncSender<Message>,
}

impl Output for Ports<'_> {
    fn access(&mut self, frame: Mbuf, ifindex: u32) {
        self.access.push(frame, ifindex);
    }

    fn tunnel(&mut self, packet: Mbuf, to: (Address, u16), tos: u8) {
        match self.uplink.push(self.tables, packet, to, tos) {
            Push::Queued => {}
            Push::NoMbuf => self.counters.count(Counter::NoMbuf),
            Push::NoNextHop => {
                self.counters.count(Counter::NoNextHop);
                // A full channel means that the control thread has enough to ask for.
                let _ = self.control.try_send(Message::NextHop(to.0));
            }
        }
    }

    fn host(&mut self, frame: Mbuf) {
        self.host.push(frame);
    }

    fn host_mac(&self) -> Mac {
        Mac(self.host.mac())
    }

    fn hand_over(&mut self, packet: Mbuf, worker: u16) -> Result<(), Mbuf> {
        let worker = usize::from(worker);
        let Some(burst) = self.handed.get_mut(worker) else {
            return Err(packet);
        };
        match burst.push(packet) {
            Ok(()) => Ok(()),
            Err(packet) => {
                self.pass_on(worker);
                match self.handed.get_mut(worker) {
                    Some(burst) => burst.push(packet),
                    None => Err(packet),
                }
            }
        }
    }

    fn unresolved(&mut self, address: Address) {
        let _ = self.control.try_send(Message::Unresolved(address));
    }
}

impl Ports<'_> {
    // The port keeps what holds no packet to itself; the books must show it all the same.
    fn count_unusable(&mut self) {
        let unusable = self.uplink.unusable();
        let more = usize::try_from(unusable - self.unusable).unwrap_or(0);
        if more > 0 {
            self.unusable = unusable;
            self.counters.add(Counter::ReceivedTunnel, more);
            self.counters.add(Counter::Malformed, more);
        }
    }

    fn pass_on(&mut self, worker: usize) {
        let (Some(burst), Some(neighbour)) =
            (self.handed.get_mut(worker), self.neighbours.get(worker))
        else {
            return;
        };
        if burst.is_empty() {
            return;
        }
        neighbour.ring.enqueue_burst(burst);
        // What the ring does not take is lost here rather than delaying everyone else's packets.
        self.counters.add(Counter::RingFull, burst.len());
        burst.clear();
        if neighbour.asleep.must_be_woken() {
            neighbour.waker.wake();
        }
    }

    fn flush(&mut self) {
        for worker in 0..self.handed.len() {
            self.pass_on(worker);
        }
        for (sent, counter) in [
            (self.access.flush(), Counter::SentAccess),
            (self.uplink.flush(), Counter::SentTunnel),
            (self.host.flush(), Counter::SentHost),
        ] {
            self.counters.add(counter, sent.sent);
            self.counters.add(Counter::PortRefused, sent.dropped);
        }
    }
}

impl Worker {
    /// Runs until told to stop.
    pub fn run(self) {
        let Worker {
            settings,
            tables,
            counters,
            small,
            idle,
            access,
            uplink,
            host,
            mut inbox,
            ..
        } = self;
        let me = usize::from(settings.worker);
        let (joins, has_descriptor) = (uplink.joins(), matches!(uplink, Uplink::Socket(_)));
        let handed = self.neighbours.iter().map(|_| Burst::new()).collect();
        let asleep = self
            .neighbours
            .get(me)
            .map(|n| n.asleep.clone())
            .unwrap_or_default();
        let ports = Ports {
            tables: &tables,
            counters: &counters,
            access,
            uplink,
            unusable: 0,
            host,
            neighbours: self.neighbours,
            handed,
            control: self.control,
        };
        let Some(mut pipeline) = Pipeline::new(&tables, &counters, &small, settings, ports) else {
            return;
        };
        let mut frames: Vec<(Mbuf, u32)> = Vec::with_capacity(BURST * 2);
        let mut datagrams: Vec<(Mbuf, Address, u8)> = Vec::with_capacity(BURST * 2);
        let mut joined: Vec<(Mbuf, Address, u8)> = Vec::with_capacity(BURST * 2);
        let mut from_host: Vec<Mbuf> = Vec::with_capacity(BURST * 2);
        let mut handed_over = Burst::<BURST>::new();
        let mut joiner = Joiner::new();
        let tick_cycles = dpdk::cycles_hz() / 1000;
        let mut next_tick = 0;
        let mut empty_rounds = 0;
        tables.quiescence.wake(me);
        while !self.stop.load(Ordering::Relaxed) {
            let cycles = dpdk::cycles();
            if cycles >= next_tick {
                next_tick = cycles + tick_cycles;
                pipeline.tick(clock::milliseconds());
            }

            // Containers.
            let mut work = pipeline
                .output
                .access
                .receive(BURST, &mut |mbuf, ifindex| frames.push((mbuf, ifindex)));
            for (frame, ifindex) in frames.drain(..) {
                pipeline.from_access(frame, ifindex);
            }

            // Other nodes.
            work += pipeline
                .output
                .uplink
                .receive(BURST, &mut |received| datagrams.push(received));
            pipeline.output.count_unusable();
            for (mbuf, from, tos) in datagrams.drain(..) {
                let Some((mbuf, headers)) = pipeline.parse_inner(mbuf, from) else {
                    continue;
                };
                if joins {
                    let ready = |mbuf, (from, tos)| joined.push((mbuf, from, tos));
                    if joiner.offer(mbuf, &headers, (from, tos), ready) {
                        counters.count(Counter::Joined);
                    }
                } else {
                    joined.push((mbuf, from, tos));
                }
            }
            joiner.flush(|mbuf, (from, tos)| joined.push((mbuf, from, tos)));
            for (mbuf, from, tos) in joined.drain(..) {
                pipeline.from_tunnel(mbuf, from, tos);
            }

            // The node itself.
            work += pipeline
                .output
                .host
                .receive(BURST, &mut |mbuf| from_host.push(mbuf));
            for frame in from_host.drain(..) {
                pipeline.from_host(frame);
            }

            // Other workers.
            work += inbox.dequeue_burst(&mut handed_over);
            for mbuf in handed_over.drain() {
                pipeline.from_ring(mbuf);
            }

            pipeline.output.flush();
            tables.quiescence.pass(me);
            if work > 0 {
                empty_rounds = 0;
                continue;
            }
            empty_rounds += 1;
            if idle == Idle::Spin || empty_rounds < EMPTY_ROUNDS {
                continue;
            }

            // Nothing to do: sleep until a port or another worker has something.
            tables.quiescence.sleep(me);
            {
                let _raised = asleep.raise();
                if inbox.dequeue_burst(&mut handed_over) == 0 {
                    counters.count(Counter::Sleeps);
                    let patience = match (has_descriptor, pipeline.waiting()) {
                        (false, _) => NAP,
                        (true, 0) => SLEEP,
                        (true, _) => SLEEP_WAITING,
                    };
                    // A failing wait only means one more empty round.
                    let _ = self.waiter.wait(Some(patience));
                }
            }
            tables.quiescence.wake(me);
            for mbuf in handed_over.drain() {
                pipeline.from_ring(mbuf);
            }
        }
        tables.quiescence.sleep(me);
    }
}
