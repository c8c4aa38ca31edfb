//! A worker lcore's loop: poll the ports, run the pipeline, flush, and sleep when there is nothing to do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use dpdk::{Burst, Mbuf, Mempool, RingReceiver, RingSender};
use kernel_port::{TapPort, Waiter, Waker};
use net::address::Address;
use net::ethernet::Mac;

use crate::access::Access;
use crate::api::Idle;
use crate::clock;
use crate::control::Message;
use crate::counters::{Counter, Counters};
use crate::observe::capture::{CapturePort, Eye};
use crate::pipeline::{Output, Pipeline, Settings};
use crate::tables::Tables;
use crate::tunnel::Joiner;
use crate::uplink::{Push, Uplink};

/// Packets taken from one port in one round.
const BURST: usize = 64;
/// Access ports that one round may take a burst from: the packet socket, and as many as DPDK has.
const PORTS: usize = 33;
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
    /// True while it sleeps.
    pub asleep: Arc<AtomicBool>,
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
    pub access: Access,
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
    eye: Eye<'a>,
    access: Access,
    uplink: Uplink,
    host: TapPort,
    neighbours: Vec<Neighbour>,
    handed: Vec<Burst<BURST>>,
    control: SyncSender<Message>,
}

impl Output for Ports<'_> {
    fn access(&mut self, frame: Mbuf, ifindex: u32) {
        if let Some(eye) = self.eye.open() {
            eye.see(CapturePort::Access(ifindex), true, &frame, None);
        }
        self.access.push(frame, ifindex);
    }

    fn tunnel(&mut self, packet: Mbuf, to: (Address, u16), tos: u8) {
        match self
            .uplink
            .push(self.tables, self.eye.open(), packet, to, tos)
        {
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
        if let Some(eye) = self.eye.open() {
            eye.see(CapturePort::Host, true, &frame, None);
        }
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
        // The ring must be seen filled by a worker that is about to sleep; pairs with the fence before its last look.
        fence(Ordering::SeqCst);
        if neighbour.asleep.load(Ordering::Relaxed) {
            neighbour.waker.wake();
        }
    }

    fn flush(&mut self) {
        for worker in 0..self.handed.len() {
            self.pass_on(worker);
        }
        let access = self.access.flush();
        self.counters.add(Counter::Pieces, access.pieces);
        for (sent, counter) in [
            (access.sent, Counter::SentAccess),
            (self.uplink.flush(self.eye.open()), Counter::SentTunnel),
            (self.host.flush(), Counter::SentHost),
        ] {
            self.counters.add(counter, sent.sent);
            self.counters.add(Counter::PortRefused, sent.dropped);
        }
    }
}

/// A flag that is raised while its owner sleeps.
struct Asleep<'a>(&'a AtomicBool);

impl<'a> Asleep<'a> {
    fn raise(flag: &'a AtomicBool) -> Self {
        flag.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        Self(flag)
    }
}

impl Drop for Asleep<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
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
        let uplink_sleeps = matches!(uplink, Uplink::Socket(_));
        let handed = self.neighbours.iter().map(|_| Burst::new()).collect();
        let asleep = self
            .neighbours
            .get(me)
            .map(|n| Arc::clone(&n.asleep))
            .unwrap_or_default();
        let ports = Ports {
            tables: &tables,
            counters: &counters,
            eye: Eye::new(&tables, settings.worker),
            access,
            uplink,
            host,
            neighbours: self.neighbours,
            handed,
            control: self.control,
        };
        let Some(mut pipeline) = Pipeline::new(&tables, &counters, &small, settings, ports) else {
            return;
        };
        let mut frames: Vec<(Mbuf, u32)> = Vec::with_capacity(BURST * PORTS);
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

            let ports = &mut pipeline.output;
            ports.eye.refresh();
            ports.access.follow();

            // Containers.
            let mut work = ports
                .access
                .receive(BURST, &mut |mbuf, ifindex| frames.push((mbuf, ifindex)));
            if let Some(eye) = ports.eye.open() {
                for (frame, ifindex) in &frames {
                    eye.see(CapturePort::Access(*ifindex), false, frame, None);
                }
            }
            for (frame, ifindex) in frames.drain(..) {
                pipeline.from_access(frame, ifindex);
            }

            // Other nodes.
            let Ports { uplink, eye, .. } = &mut pipeline.output;
            work += uplink.receive(eye.open(), BURST, &mut |received| datagrams.push(received));
            for (mbuf, from, tos) in datagrams.drain(..) {
                let Some((mbuf, headers)) = pipeline.parse_inner(mbuf, from) else {
                    continue;
                };
                // By either uplink: what a container's kernel sent as one segment comes as one packet to another's.
                let ready = |mbuf, (from, tos)| joined.push((mbuf, from, tos));
                let followed = pipeline.followed(&mbuf);
                if joiner.offer(mbuf, &headers, (from, tos), ready) {
                    counters.count(Counter::Joined);
                    pipeline.note_joined(followed);
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
            if let Some(eye) = pipeline.output.eye.open() {
                for frame in &from_host {
                    eye.see(CapturePort::Host, false, frame, None);
                }
            }
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
                let _asleep = Asleep::raise(&asleep);
                if inbox.dequeue_burst(&mut handed_over) == 0 {
                    counters.count(Counter::Sleeps);
                    let sleeps = uplink_sleeps && pipeline.output.access.has_descriptors();
                    let patience = match (sleeps, pipeline.waiting()) {
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
