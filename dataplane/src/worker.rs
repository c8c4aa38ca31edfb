//! A worker lcore's loop: poll the ports, run the pipeline, flush, and sleep when there is nothing to do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::Duration;

use dpdk::{Burst, Mbuf, Mempool, RingReceiver, RingSender};
use kernel_port::{Waiter, Waker};
use net::address::Address;
use net::ethernet::Mac;

use crate::access::Access;
use crate::api::Idle;
use crate::asleep::Asleep;
use crate::clock;
use crate::control::Message;
use crate::counters::{Counter, Counters};
use crate::host::Host;
use crate::observe::capture::{CapturePort, Eye};
use crate::pipeline::catch::Zone;
use crate::pipeline::{Output, Pipeline, Settings};
use crate::sync::AtomicU64;
use crate::tables::Tables;
use crate::tunnel::Joiner;
use crate::uplink::template;
use crate::uplink::{Crossed, Push, Received, Uplink};

/// Packets taken from one port in one round.
const BURST: usize = 64;
/// While others keep the worker busy, an empty host port is asked again after so many µs: of a TAP, asking takes a system
/// call, which costs as much as several packets.
const HOST_US: u64 = 50;
/// Empty rounds before a worker that may sleep does. Each is a system call per port, so more of them are most of what a
/// lone packet costs (measured at 30,000 packets a second: 16 rounds cost 6 us of 16, and spared no round trip anything).
const EMPTY_ROUNDS: u32 = 2;
/// The same where no descriptor wakes it, and it naps: what comes meanwhile waits for the nap to end.
const EMPTY_ROUNDS_BEFORE_NAP: u32 = 16;
/// So many packets of containers go out before the other ports are looked at: these looks are system calls.
const FEW: usize = 4;
/// Reports about paths passed on in a millisecond: a flood of them must not keep the control thread from its work.
const REPORTS: u32 = 4;
/// The longest sleep: expiry goes on when nothing else does.
const SLEEP: Duration = Duration::from_millis(250);
/// The longest sleep while packets wait for a route: nobody wakes a worker when it comes, and this is what the first
/// packet to an address pays for that.
const SLEEP_WAITING: Duration = Duration::from_millis(1);
/// The longest sleep with a port that has no descriptor to wait for.
const NAP: Duration = Duration::from_micros(50);

/// Between two looks at what the ports counted, in milliseconds, while there is work.
const SHOW_MS: u64 = 50;
/// Between two looks at what the kernel dropped, which takes a system call.
const DROPS_MS: u64 = 1000;

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
    pub access: Access,
    /// Other nodes.
    pub uplink: Uplink,
    /// The node itself.
    pub host: Host,
    /// Packets that others hand over.
    pub inbox: RingReceiver<Mbuf>,
    /// All workers' inboxes, its own included.
    pub neighbours: Vec<Neighbour>,
    /// To the control thread.
    pub control: SyncSender<Message>,
    /// What it sleeps on.
    pub waiter: Waiter,
    /// The zone whose queries it catches.
    pub caught_zone: Option<Zone>,
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
    /// Datagrams without a packet that were counted.
    unusable: u64,
    host: Host,
    neighbours: Vec<Neighbour>,
    handed: Vec<Burst<BURST>>,
    control: SyncSender<Message>,
    reports_left: u32,
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
            Push::Split(frames) => {
                self.counters.count(Counter::Fragmented);
                self.counters.add(Counter::Pieces, frames.saturating_sub(1));
            }
            Push::Torn(frames) => {
                self.counters.add(Counter::Pieces, frames);
                self.counters.count(Counter::NoMbuf);
            }
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

    #[inline(always)]
    fn outer(&self, host: u32) -> Option<&[AtomicU64; template::WORDS]> {
        match self.uplink {
            Uplink::Ethdev(_) => self.tables.template(host),
            Uplink::Socket(_) => None,
        }
    }

    #[inline(always)]
    fn frame(&mut self, frame: Mbuf) {
        if !self.uplink.frame(self.eye.open(), frame) {
            self.counters.count(Counter::NoMbuf);
        }
    }

    fn open(&mut self, frame: Mbuf) -> Option<Received> {
        self.uplink.open(self.tables, frame)
    }

    fn opened(&mut self, datagrams: usize) {
        self.uplink.opened(datagrams);
    }

    fn unresolved(&mut self, address: Address) {
        let _ = self.control.try_send(Message::Unresolved(address));
    }

    fn query(&mut self, packet: Mbuf, ifindex: u32) -> Result<(), Mbuf> {
        let sent = self.control.try_send(Message::Query(packet, ifindex));
        sent.map_err(|error| match error {
            TrySendError::Full(message) | TrySendError::Disconnected(message) => message,
        })
        .or_else(|message| match message {
            Message::Query(packet, _) => Err(packet),
            _ => Ok(()),
        })
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

    /// Passes on what was said of paths. What is lost here is said again.
    #[inline]
    fn report_paths(&mut self) {
        let (counters, control, left) = (self.counters, &self.control, &mut self.reports_left);
        self.uplink.reports(|report| {
            counters.count(Counter::PathReports);
            if *left > 0 {
                *left -= 1;
                let _ = control.try_send(Message::Path(report));
            }
        });
    }

    /// Shows what the ports counted; with `drops`, also what the kernel did.
    fn show(&self, drops: bool) {
        let shown = &self.counters.ports;
        shown.store_access(&self.access.stats());
        self.uplink.show(shown, drops);
        shown.store_host(&self.host.stats());
    }

    #[cold]
    fn note_refused(&mut self) {
        let (tables, tally) = (self.tables, &self.counters.tally);
        self.access.take_refused(|(ifindex, frames)| {
            if let Some(port) = tables.port(ifindex) {
                tally.refused(port.number, frames as u64);
            }
        });
    }

    /// What an uplink does once in a while.
    fn tick(&mut self, milliseconds: u64) {
        self.reports_left = REPORTS;
        let fragments = self.uplink.tick(milliseconds);
        self.counters.add(Counter::Reassembled, fragments.whole);
        // What is whole is counted when it is parsed.
        self.counters
            .add(Counter::ReceivedTunnel, fragments.given_up);
        self.counters
            .add(Counter::OuterIncomplete, fragments.given_up);
    }

    fn flush(&mut self) {
        for worker in 0..self.handed.len() {
            self.pass_on(worker);
        }
        let access = self.access.flush();
        if access.sent.dropped > 0 {
            self.note_refused();
        }
        let host = self.host.flush();
        self.counters
            .add(Counter::Pieces, access.pieces + host.pieces);
        for (sent, counter) in [
            (access.sent, Counter::SentAccess),
            (self.uplink.flush(self.eye.open()), Counter::SentTunnel),
            (host.sent, Counter::SentHost),
        ] {
            self.counters.add(counter, sent.sent);
            self.counters.add(Counter::PortRefused, sent.dropped);
        }
        let crossed = self.uplink.crossed();
        if crossed.received > 0 {
            let Crossed { received, sent } = crossed;
            self.counters.add(Counter::ReceivedException, received);
            self.counters.add(Counter::SentException, sent.sent);
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
        let ends_sleep = matches!(uplink, Uplink::Socket(_)) && host.fd().is_some();
        let handed = self.neighbours.iter().map(|_| Burst::new()).collect();
        let asleep = self
            .neighbours
            .get(me)
            .map(|n| n.asleep.clone())
            .unwrap_or_default();
        let ports = Ports {
            tables: &tables,
            counters: &counters,
            eye: Eye::new(&tables, settings.worker),
            access,
            uplink,
            unusable: 0,
            host,
            neighbours: self.neighbours,
            handed,
            control: self.control,
            reports_left: REPORTS,
        };
        let Some(pipeline) = Pipeline::new(&tables, &counters, &small, settings, ports) else {
            return;
        };
        let mut pipeline = pipeline.with_caught_zone(self.caught_zone);
        let mut frames: Vec<(Mbuf, u32)> = Vec::with_capacity(BURST * 2);
        let mut frames_of_port = Burst::<BURST>::new();
        let mut datagrams: Vec<(Mbuf, Address, u8)> = Vec::with_capacity(BURST * 2);
        let mut joined: Vec<(Mbuf, Address, u8)> = Vec::with_capacity(BURST * 2);
        let mut from_host: Vec<Mbuf> = Vec::with_capacity(BURST * 2);
        let mut handed_over = Burst::<BURST>::new();
        let mut joiner = Joiner::new();
        let tick_cycles = dpdk::cycles_hz() / 1000;
        let (mut next_tick, mut next_show, mut next_drops) = (0, 0, 0);
        let host_cycles = dpdk::cycles_hz() / 1_000_000 * HOST_US;
        let (mut next_host, mut next_beside) = (0, 0);
        let mut empty_rounds = 0;
        let mut worked_since = None;
        counters.time.begin(dpdk::cycles());
        tables.quiescence.wake(me);
        while !self.stop.load(Ordering::Relaxed) {
            let cycles = dpdk::cycles();
            if let Some(since) = worked_since.take() {
                counters.time.spend(cycles.saturating_sub(since));
            }
            if cycles >= next_tick {
                next_tick = cycles + tick_cycles;
                let now = clock::milliseconds();
                pipeline.tick(now);
                pipeline.output.tick(now);
                if now >= next_show {
                    // Once in a second what the kernel dropped, too.
                    pipeline.output.show(now >= next_drops);
                    counters.ports.store_waiting(pipeline.waiting());
                    next_show = now + SHOW_MS;
                    if now >= next_drops {
                        next_drops = now + DROPS_MS;
                    }
                }
            }

            let ports = &mut pipeline.output;
            ports.eye.refresh();
            if ports.access.follow() {
                while let Some(packet) = pipeline.output.access.take_answer() {
                    pipeline.from_control(packet);
                }
            }
            let ports = &mut pipeline.output;

            // Containers.
            let mut work = ports
                .access
                .receive(BURST, &mut |mbuf, ifindex| frames.push((mbuf, ifindex)));
            if let Some(eye) = ports.eye.open() {
                for (frame, ifindex) in &frames {
                    eye.see(CapturePort::Access(*ifindex), false, frame, None);
                }
            }
            pipeline.burst_from_access(&mut frames);
            for n in 0.. {
                let ports = &mut pipeline.output;
                let Some(number) = ports.access.poll(n, &mut frames_of_port) else {
                    break;
                };
                if let Some(eye) = ports.eye.open() {
                    for frame in frames_of_port.as_slice() {
                        eye.see(CapturePort::Access(number), false, frame, None);
                    }
                }
                work += frames_of_port.len();
                pipeline.burst_from_port(number, &mut frames_of_port);
            }

            // A few are in no burst that grows by waiting for what other ports have.
            if (1..=FEW).contains(&work) {
                pipeline.output.flush();
            }

            // Other nodes.
            let Ports { uplink, eye, .. } = &mut pipeline.output;
            work += uplink.receive(eye.open(), BURST, &mut |received| {
                datagrams.push(received);
            });
            if cycles >= next_beside {
                let came = uplink.look_beside(eye.open(), BURST, &mut |received| {
                    datagrams.push(received);
                });
                next_beside = if came > 0 {
                    cycles
                } else {
                    cycles + host_cycles
                };
                work += came;
            }
            if let Some(tunnel_port) = uplink.frames(eye.open(), &mut frames_of_port) {
                work += frames_of_port.len();
                pipeline.burst_from_wire(&mut frames_of_port, tunnel_port, &mut datagrams);
            }
            pipeline.output.report_paths();
            pipeline.output.count_unusable();
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
            if work == 0 || cycles >= next_host {
                let came = pipeline
                    .output
                    .host
                    .receive(BURST, &mut |mbuf| from_host.push(mbuf));
                next_host = if came > 0 {
                    cycles
                } else {
                    cycles + host_cycles
                };
                work += came;
            }
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
                worked_since = Some(cycles);
                continue;
            }
            empty_rounds += 1;
            if idle == Idle::Spin {
                continue;
            }
            let sleeps = ends_sleep && pipeline.output.access.has_descriptors();
            let enough = match sleeps {
                true => EMPTY_ROUNDS,
                false => EMPTY_ROUNDS_BEFORE_NAP,
            };
            if empty_rounds < enough {
                // Where there are few cores, whom the last packet woke may wait for this one.
                std::thread::yield_now();
                continue;
            }

            // Nothing to do: sleep until a port or another worker has something.
            tables.quiescence.sleep(me);
            {
                let _raised = asleep.raise();
                if inbox.dequeue_burst(&mut handed_over) == 0 {
                    counters.count(Counter::Sleeps);
                    pipeline.output.show(false);
                    counters.ports.store_waiting(pipeline.waiting());
                    let patience = match (sleeps, pipeline.waiting()) {
                        (false, _) => NAP,
                        (true, 0) => SLEEP,
                        (true, _) => SLEEP_WAITING,
                    };
                    let tick = pipeline.tick_within(clock::milliseconds());
                    let patience =
                        tick.map_or(patience, |ms| patience.min(Duration::from_millis(ms)));
                    // A failing wait only means one more empty round.
                    let _ = self.waiter.wait(Some(patience));
                }
            }
            tables.quiescence.wake(me);
            for mbuf in handed_over.drain() {
                pipeline.from_ring(mbuf);
            }
        }
        pipeline.output.show(true);
        tables.quiescence.sleep(me);
    }
}
