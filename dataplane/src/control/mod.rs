//! The control thread: the single writer of the tables.
//!
//! It takes commands from the control plane and questions from the workers over one channel, changes the tables by
//! single stores, and gives memory back once every worker has passed a quiescent state. It may block; no worker ever
//! waits for it.

mod attachments;
mod caught;
mod ethdevs;
mod jobs;
mod loads;
mod paths;
mod queries;
mod statistics;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use dpdk::{Mbuf, Mempool};
use kernel_port::{AccessGroup, KernelPortError, Waker};
use net::address::Address;

use crate::access::Changer;
use crate::api::{
    Answer, Attachment, BackendLine, CommandError, Event, FlowLine, JOB_UNUSED, JobRoutes, Loads,
    NextHop, PeerLine, PortLine, RouteLine, Stats, Subnet,
};
use crate::clock;
use crate::counters::Counters;
use crate::observe::capture::{Capture, CaptureOptions};
use crate::observe::trace::{Trace, TraceFilter};
use crate::tables::arena::Allocator;
use crate::tables::flows::Shard;
use crate::tables::region::BackendRef;
use crate::tables::{Tables, slots::AccessSlot};
use crate::uplink::PathReport;

use attachments::Attached;
use jobs::Job;
use paths::Paths;
use queries::Queries;

/// What reaches the control thread.
#[derive(Debug)]
pub enum Message {
    /// A worker has a packet for an address without a route.
    Unresolved(Address),
    /// A worker has a packet for a host without a next hop.
    NextHop(Address),
    /// A worker has caught a query of the container behind this interface.
    Query(Mbuf, u32),
    /// A worker was told that a path carries less than was sent there.
    Path(PathReport),
    /// A worker has ended; the text says why.
    WorkerEnded(String),
    /// From the control plane.
    Command(Command),
}

type Reply<T> = SyncSender<Result<T, CommandError>>;

/// Commands, each with the way back for its answer.
#[derive(Debug)]
pub enum Command {
    Subnets(Vec<Subnet>, Reply<()>),
    HostInstance(crate::api::Pair, Reply<()>),
    Attach(Box<Attachment>, Reply<u32>),
    Detach(u32, Reply<bool>),
    SetJob(JobRoutes, Reply<()>),
    SetJobs(Vec<JobRoutes>, Reply<Vec<Result<(), CommandError>>>),
    ForgetJob(String, Reply<()>),
    Unresolvable(IpAddr, Reply<()>),
    NextHop(IpAddr, NextHop, Reply<()>),
    Stats(Reply<Stats>),
    Routes(Reply<Vec<RouteLine>>),
    Flows(usize, Reply<Vec<FlowLine>>),
    JobIdle(Reply<Vec<(String, Duration)>>),
    Ports(Reply<Vec<PortLine>>),
    Backends(Reply<Vec<BackendLine>>),
    Peers(Reply<Vec<PeerLine>>),
    Capture(CaptureOptions, Reply<Capture>),
    Trace(TraceFilter, Reply<Trace>),
    Loads(Reply<Loads>),
    Answer(Box<Answer>),
    Stop(Reply<()>),
}

/// What the control thread needs of each worker.
#[derive(Clone)]
pub struct WorkerLink {
    /// Its counters.
    pub counters: Arc<Counters>,
    /// Wakes it.
    pub waker: Waker,
    /// Its ethdev access ports.
    pub changer: Changer,
}

/// What must know which interfaces are containers' and who owns them.
pub trait Interfaces: Send {
    /// Each interface index with the worker that owns its container; replaces what was said before.
    fn set_interfaces(&mut self, interfaces: &[(u32, usize)]) -> Result<(), KernelPortError>;
    /// Frames that the kernel had no room for.
    fn drops(&mut self) -> u64;
}

impl Interfaces for AccessGroup {
    fn set_interfaces(&mut self, interfaces: &[(u32, usize)]) -> Result<(), KernelPortError> {
        AccessGroup::set_interfaces(self, interfaces)
    }

    fn drops(&mut self) -> u64 {
        self.ring_drops().iter().sum()
    }
}

/// The control thread's state.
pub struct Controller {
    tables: Arc<Tables>,
    allocator: Allocator,
    access: Box<dyn Interfaces>,
    workers: Vec<WorkerLink>,
    events: Box<dyn Fn(Event) + Send + Sync>,
    memory: String,
    jobs: HashMap<Box<str>, Job>,
    /// Backends of an earlier process whose job has not been named again, by the hash of its name.
    orphans: HashMap<u32, Vec<BackendRef>>,
    /// Grows when an address may lead elsewhere than the job that named it has left it: another job has taken it, or a
    /// container or the node itself has come or gone with it.
    contested: u64,
    /// Who owned the containers whose flows an earlier process left: a flow stays in its shard, so its container goes
    /// back to the same worker.
    owners: HashMap<Address, u16>,
    next_backend: u32,
    free_backends: Vec<u32>,
    hosts: HashMap<(Address, u16), u32>,
    paths: Paths,
    /// Hosts to probe, with the number of instances that make it so.
    probed: BTreeMap<u32, usize>,
    probed_changed: bool,
    next_service: u32,
    /// Numbers of services that are gone, the longest gone first; flows may still carry them.
    free_services: VecDeque<u32>,
    /// Per service of a policy by load: when it last opened flows.
    usage: HashMap<u32, loads::Usage>,
    /// Where jobs say that the backends on this node are.
    said: HashMap<BackendRef, SocketAddr>,
    attached: HashMap<u32, Attached>,
    /// Where ethdev access ports receive into; none where there is no worker to poll them.
    small: Option<Mempool>,
    /// Packet memory, with names for people.
    pools: Vec<(&'static str, Mempool)>,
    /// The uplink, if it is a port of DPDK.
    uplink: Option<Arc<dpdk::Port>>,
    next_ethdev: u32,
    next_slot: u32,
    free_slots: Vec<u32>,
    next_number: u16,
    free_numbers: Vec<u16>,
    /// Slots, backends and services that rest until every worker has passed the epoch.
    resting: VecDeque<(u64, Resting)>,
    subnets: Vec<Subnet>,
    host_slot: Option<AccessSlot>,
    queries: Queries,
    /// When the flows were last asked whose they are, in seconds.
    flows_asked: u32,
    dirty: bool,
}

/// Seconds between two looks at all flows.
const FLOWS_ASKED_EVERY: u32 = 60;

#[derive(Clone, Copy, Debug)]
enum Resting {
    Slot(u32),
    Number(u16),
    Backend(u32),
    Service(u32),
}

impl Controller {
    /// Takes over what an earlier process left in the region.
    pub fn new(
        tables: Arc<Tables>,
        access: impl Interfaces + 'static,
        workers: Vec<WorkerLink>,
        events: Box<dyn Fn(Event) + Send + Sync>,
        memory: String,
    ) -> Self {
        let mut controller = Self {
            tables,
            allocator: Allocator::default(),
            access: Box::new(access),
            workers,
            events,
            memory,
            jobs: HashMap::new(),
            orphans: HashMap::new(),
            contested: 1,
            owners: HashMap::new(),
            next_backend: 0,
            free_backends: Vec::new(),
            hosts: HashMap::new(),
            paths: Paths::default(),
            probed: BTreeMap::new(),
            probed_changed: false,
            next_service: 0,
            free_services: VecDeque::new(),
            usage: HashMap::new(),
            said: HashMap::new(),
            attached: HashMap::new(),
            small: None,
            pools: Vec::new(),
            uplink: None,
            next_ethdev: 0,
            next_slot: 1,
            free_slots: Vec::new(),
            next_number: 1,
            free_numbers: Vec::new(),
            resting: VecDeque::new(),
            subnets: Vec::new(),
            host_slot: None,
            queries: Queries::default(),
            flows_asked: 0,
            dirty: false,
        };
        controller.take_over();
        controller
    }

    /// With this pool, ethdev access ports can be plugged in.
    #[must_use]
    pub fn with_ethdevs(mut self, small: Mempool) -> Self {
        self.small = Some(small);
        self
    }

    /// With these pools (with their names) and this uplink to tell of.
    #[must_use]
    pub fn with_devices(
        mut self,
        pools: Vec<(&'static str, Mempool)>,
        uplink: Option<Arc<dpdk::Port>>,
    ) -> Self {
        self.pools = pools;
        self.uplink = uplink;
        self
    }

    /// Runs until told to stop, or until everyone who could send is gone.
    pub fn run(mut self, inbox: &Receiver<Message>) {
        loop {
            let patience = if self.allocator.has_retired() || !self.resting.is_empty() {
                Duration::from_millis(2)
            } else {
                self.queries.next_due().min(Duration::from_millis(500))
            };
            match inbox.recv_timeout(patience) {
                Ok(message) => {
                    if let Some(stopped) = self.handle(message) {
                        let _ = stopped.send(Ok(()));
                        return;
                    }
                    // Take what else is there before the workers are told once.
                    for _ in 0..256 {
                        match inbox.try_recv().ok().map(|m| self.handle(m)) {
                            None => break,
                            Some(None) => {}
                            Some(Some(stopped)) => {
                                let _ = stopped.send(Ok(()));
                                return;
                            }
                        }
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.due();
            self.look_at_paths();
            self.publish_probed();
            self.publish();
            self.reclaim();
        }
    }

    fn handle(&mut self, message: Message) -> Option<Reply<()>> {
        match message {
            Message::Unresolved(address) => self.unresolved(address),
            Message::NextHop(address) => (self.events)(Event::NextHop(address.to_ip())),
            Message::Query(packet, port) => self.query(&packet, port),
            Message::Path(report) => self.path_report(report),
            Message::WorkerEnded(why) => (self.events)(Event::WorkerDied(why)),
            Message::Command(command) => return self.command(command),
        }
        None
    }

    fn command(&mut self, command: Command) -> Option<Reply<()>> {
        // An asker that has gone away needs no answer.
        match command {
            Command::Subnets(subnets, reply) => drop(reply.send(self.set_subnets(subnets))),
            Command::HostInstance(pair, reply) => drop(reply.send(self.set_host_instance(pair))),
            Command::Attach(attachment, reply) => drop(reply.send(self.attach(*attachment))),
            Command::Detach(ifindex, reply) => drop(reply.send(self.detach(ifindex))),
            Command::SetJob(routes, reply) => drop(reply.send(self.set_job(routes))),
            Command::SetJobs(jobs, reply) => {
                let done = jobs.into_iter().map(|routes| self.set_job(routes));
                let done = done.collect();
                drop(reply.send(Ok(done)));
            }
            Command::ForgetJob(job, reply) => {
                self.forget_job(&job);
                drop(reply.send(Ok(())));
            }
            Command::Unresolvable(address, reply) => {
                drop(reply.send(self.unresolvable(address.into())));
            }
            Command::NextHop(host, hop, reply) => {
                drop(reply.send(self.set_next_hop(host.into(), hop)));
            }
            Command::Stats(reply) => drop(reply.send(Ok(self.stats()))),
            Command::Routes(reply) => drop(reply.send(Ok(self.route_lines()))),
            Command::Flows(limit, reply) => drop(reply.send(Ok(self.flow_lines(limit)))),
            Command::JobIdle(reply) => drop(reply.send(Ok(self.job_idle()))),
            Command::Loads(reply) => drop(reply.send(Ok(self.loads(clock::seconds())))),
            Command::Answer(answer) => self.answer(&answer),
            Command::Ports(reply) => drop(reply.send(Ok(self.port_lines()))),
            Command::Peers(reply) => drop(reply.send(Ok(self.peer_lines()))),
            Command::Backends(reply) => drop(reply.send(Ok(self.backend_lines()))),
            Command::Capture(options, reply) => {
                let capture = Capture::begin(Arc::clone(&self.tables), &options);
                self.wake_all();
                drop(reply.send(capture));
            }
            Command::Trace(filter, reply) => {
                let trace = Trace::begin(Arc::clone(&self.tables), filter);
                self.wake_all();
                drop(reply.send(trace));
            }
            Command::Stop(reply) => {
                self.tables.observation.close();
                return Some(reply);
            }
        }
        None
    }

    /// Tells the workers that tables have changed, for the packets that wait.
    pub(crate) fn publish(&mut self) {
        if std::mem::take(&mut self.dirty) {
            self.tables.bump_version();
            self.wake_all();
        }
    }

    fn wake_all(&self) {
        for worker in &self.workers {
            worker.waker.wake();
        }
    }

    fn rest(&mut self, what: Resting) {
        let epoch = self.tables.quiescence.advance();
        self.resting.push_back((epoch, what));
    }

    fn retire(&mut self, cell: u32, cells: usize) {
        let epoch = self.tables.quiescence.advance();
        self.allocator.retire(epoch, cell, cells);
    }

    pub(crate) fn reclaim(&mut self) {
        let passed = self.tables.quiescence.passed();
        self.allocator.reclaim(passed);
        while let Some(&(epoch, what)) = self.resting.front() {
            if epoch >= passed {
                break;
            }
            self.resting.pop_front();
            match what {
                Resting::Slot(slot) => self.free_slots.push(slot),
                Resting::Number(number) => self.free_numbers.push(number),
                Resting::Backend(id) => self.free_backends.push(id),
                Resting::Service(id) => self.free_services.push_back(id),
            }
        }
    }

    fn shards(&self) -> impl Iterator<Item = Shard<'_>> {
        let region = &self.tables.region;
        (0..region.layout().shards)
            .filter_map(|n| Some(Shard::new(region.shard(n)?, region.seed())))
    }

    fn flow_lines(&self, limit: usize) -> Vec<FlowLine> {
        let now = clock::seconds();
        let mut lines = Vec::new();
        for shard in self.shards() {
            shard.for_each(|tuple, reference, expires| {
                if lines.len() >= limit {
                    return false;
                }
                let v4 = tuple.source.is_v4();
                lines.push(FlowLine {
                    protocol: tuple.protocol.0,
                    client: crate::pipeline::endpoint((tuple.source, tuple.source_port)),
                    service: crate::pipeline::endpoint((tuple.destination, tuple.destination_port)),
                    backend: self.tables.region.backend(reference).map(|b| {
                        if v4 {
                            Address::from_v4_bits(b.namespace.0).to_ip()
                        } else {
                            b.namespace.1.to_ip()
                        }
                    }),
                    expires_in: Duration::from_secs(u64::from(expires.saturating_sub(now))),
                });
                true
            });
        }
        lines
    }

    fn job_idle(&mut self) -> Vec<(String, Duration)> {
        let now = clock::seconds();
        self.flows_keep_jobs(now);
        self.jobs
            .iter()
            .map(|(name, job)| {
                let used = job
                    .backends()
                    .map(|b| self.tables.last_used(b.id))
                    .max()
                    .unwrap_or(0);
                let since_used = Duration::from_secs(u64::from(now.saturating_sub(used)));
                (name.to_string(), since_used.min(job.first_set.elapsed()))
            })
            .collect()
    }

    /// Notes the backends of long-lived flows as used, once in a while: a connection may be silent for hours and keeps
    /// its instance (pitfall 7), so its job must not be forgotten for want of packets. Flows that end before a job is
    /// forgotten need no such help.
    pub(crate) fn flows_keep_jobs(&mut self, now: u32) {
        if now.saturating_sub(self.flows_asked) < FLOWS_ASKED_EVERY {
            return;
        }
        self.flows_asked = now;
        let forgotten = now.saturating_add(u32::try_from(JOB_UNUSED.as_secs()).unwrap_or(u32::MAX));
        for shard in self.shards() {
            shard.for_each(|_, backend, end| {
                if end > forgotten {
                    self.tables.mark_used(backend.id, now);
                }
                true
            });
        }
    }

    fn now() -> Instant {
        Instant::now()
    }
}
