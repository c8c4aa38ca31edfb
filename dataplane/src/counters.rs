//! What happened to every packet, by name.
//!
//! Each worker counts for itself, in words that only it writes; whoever asks adds them up. The books balance:
//! `received + made = sent + dropped + consumed + waiting + handed over and not yet taken`, where *made* are the
//! node's own answers and the additional pieces of a packet that was cut, and *consumed* are requests that were
//! answered and packets that became part of a joined one.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::port_stats::PortStats;
use crate::tables::region::BACKENDS;
use crate::tally::Tally;

macro_rules! counters {
    ($( $(#[$doc:meta])* $name:ident = $text:literal in $group:ident ),+ $(,)?) => {
        /// What is counted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Counter { $( $(#[$doc])* $name ),+ }

        impl Counter {
            /// All of them.
            pub const ALL: &'static [Counter] = &[ $( Counter::$name ),+ ];

            /// Its name, fit for a metric.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $( Counter::$name => $text ),+ }
            }

            /// What kind of event it is.
            #[must_use]
            pub const fn group(self) -> Group {
                match self { $( Counter::$name => Group::$group ),+ }
            }
        }
    };
}

/// How a counter enters the balance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// A packet came in.
    Received,
    /// A packet went out.
    Sent,
    /// A packet was dropped, for this reason.
    Dropped,
    /// A packet was made here.
    Made,
    /// A packet ended here, its purpose served.
    Consumed,
    /// Something else.
    Event,
}

counters! {
    /// From a container.
    ReceivedAccess = "access" in Received,
    /// From another node.
    ReceivedTunnel = "tunnel" in Received,
    /// From the node itself.
    ReceivedHost = "host" in Received,
    /// At a NIC that is wholly in DPDK: frames that are not the tunnel's, and frames that the kernel sends by its TAP.
    ReceivedException = "exception" in Received,
    /// To a container.
    SentAccess = "access" in Sent,
    /// To another node.
    SentTunnel = "tunnel" in Sent,
    /// To the node itself.
    SentHost = "host" in Sent,
    /// Those frames, to the kernel or to the NIC.
    SentException = "exception" in Sent,
    /// Not from a port that has a container (any more).
    UnknownPort = "unknown_port" in Dropped,
    /// Neither ARP, IPv4 nor IPv6, or not addressed to the gateway.
    NotForUs = "not_for_us" in Dropped,
    /// Headers that contradict themselves or the packet's length.
    Malformed = "malformed" in Dropped,
    /// An IPv4 header checksum that is wrong.
    HeaderChecksum = "header_checksum" in Dropped,
    /// A source route, or more extension headers than are walked.
    SourceRoute = "source_route" in Dropped,
    /// A container's source address that is not its own.
    SpoofedSource = "spoofed_source" in Dropped,
    /// From the tunnel: a source that does not live on the sending host.
    SpoofedTunnel = "spoofed_tunnel" in Dropped,
    /// From the tunnel: not for an instance on this node.
    NotHere = "not_here" in Dropped,
    /// A first half-byte that is no IP version: another kind of datagram.
    NotIp = "not_ip" in Dropped,
    /// Multicast or broadcast, or confined to the link.
    LinkScope = "link_scope" in Dropped,
    /// TTL or hop limit ran out here.
    TtlExpired = "ttl_expired" in Dropped,
    /// The Service IP has no backend now.
    NoBackend = "no_backend" in Dropped,
    /// The address is known to lead nowhere.
    Unreachable = "unreachable" in Dropped,
    /// The flow's backend is gone.
    BackendGone = "backend_gone" in Dropped,
    /// The backend is known but its container is not attached.
    NotAttached = "not_attached" in Dropped,
    /// Every backend's answers would be taken for another flow's.
    Ambiguous = "ambiguous_flow" in Dropped,
    /// Too many packets wait for a route already.
    WaitingFull = "waiting_full" in Dropped,
    /// No route came in time.
    WaitingExpired = "waiting_expired" in Dropped,
    /// Larger than fits the tunnel and must not be cut.
    TooBig = "too_big" in Dropped,
    /// A datagram of another node that came in fragments, not all of them.
    OuterIncomplete = "outer_fragments_incomplete" in Dropped,
    /// A fragment whose datagram's first one did not come, or came too late.
    FragmentExpired = "fragment_expired" in Dropped,
    /// A fragment beyond what may wait.
    FragmentsFull = "fragments_full" in Dropped,
    /// An ICMP message that belongs to no flow.
    Icmp = "icmp_without_flow" in Dropped,
    /// The node's own instance is not known to the cluster, so its processes cannot dial Service IPs.
    HostWithoutInstance = "host_without_instance" in Dropped,
    /// Marked as having met congestion, by a sender that cannot be told (RFC 6040).
    Congested = "congested" in Dropped,
    /// No mbuf was free.
    NoMbuf = "no_mbuf" in Dropped,
    /// The kernel or NIC did not take it.
    PortRefused = "port_refused" in Dropped,
    /// The owner's ring was full.
    RingFull = "ring_full" in Dropped,
    /// A query for services' names beyond what its container, or all of them, may send.
    QueryLimit = "query_limit" in Dropped,
    /// No next hop towards the host is known.
    NoNextHop = "no_next_hop" in Dropped,
    /// Answers that this node made: ARP, ICMP, RST.
    Answers = "answers" in Made,
    /// Pieces beyond the first of a packet that was cut.
    Pieces = "pieces" in Made,
    /// Requests that were answered here.
    Answered = "answered" in Consumed,
    /// Queries for services' names, taken out of the way to be answered by the node.
    Caught = "caught_queries" in Consumed,
    /// Packets that became part of the one before.
    Joined = "joined" in Consumed,
    /// Probes sent to measure round trips.
    Probes = "probes" in Made,
    /// Bare ACKs that ask a waiting client of a gone instance where it stands.
    Challenges = "challenges" in Made,
    /// Flows opened.
    FlowsOpened = "flows_opened" in Event,
    /// Flows ended because their instance had gone.
    FlowsOrphaned = "flows_orphaned" in Event,
    /// Packets handed to the worker that owns their container.
    HandedOver = "handed_over" in Event,
    /// Table queries asked for.
    Misses = "misses" in Event,
    /// Datagrams of other nodes that came in fragments and were put together.
    Reassembled = "reassembled" in Event,
    /// Packets that left in fragments, because the path carries less.
    Fragmented = "fragmented" in Event,
    /// Reports that a path carries less than was sent there.
    PathReports = "path_reports" in Event,
    /// Rounds that found nothing and slept.
    Sleeps = "sleeps" in Event,
}

const COUNT: usize = Counter::ALL.len();

/// The counters of one worker.
#[repr(align(64))]
#[derive(Debug)]
pub struct Counters {
    named: [AtomicU64; COUNT],
    /// The same per service, policy, instance and container.
    pub tally: Tally,
    /// What its ports say of themselves.
    pub ports: PortStats,
    /// How it spends its time.
    pub time: Time,
}

/// How a worker spends its time, in cycles of the clock.
#[derive(Debug, Default)]
pub struct Time {
    /// When it began.
    begun: AtomicU64,
    /// In rounds that moved packets.
    busy: AtomicU64,
}

impl Time {
    /// The worker begins now. Only the owning worker may call this.
    pub fn begin(&self, now: u64) {
        self.begun.store(now, Ordering::Relaxed);
    }

    /// A round that moved packets took so long. Only the owning worker may call this.
    #[inline(always)]
    pub fn spend(&self, cycles: u64) {
        let before = self.busy.load(Ordering::Relaxed);
        self.busy
            .store(before.wrapping_add(cycles), Ordering::Relaxed);
    }

    /// Cycles spent busy, and since the beginning; zero for a worker that has not begun.
    #[must_use]
    pub fn read(&self, now: u64) -> (u64, u64) {
        match self.begun.load(Ordering::Relaxed) {
            0 => (0, 0),
            begun => (self.busy.load(Ordering::Relaxed), now.saturating_sub(begun)),
        }
    }
}

impl Default for Counters {
    fn default() -> Self {
        Self::new(BACKENDS)
    }
}

impl Counters {
    /// All zero, with room for the flows of so many backends.
    #[must_use]
    pub fn new(backends: usize) -> Self {
        Self {
            named: [const { AtomicU64::new(0) }; COUNT],
            tally: Tally::new(backends),
            ports: PortStats::default(),
            time: Time::default(),
        }
    }

    /// Adds `by`. Only the owning worker may call this.
    #[inline(always)]
    pub fn add(&self, counter: Counter, by: usize) {
        if let Some(word) = self.named.get(counter as usize) {
            word.store(
                word.load(Ordering::Relaxed).wrapping_add(by as u64),
                Ordering::Relaxed,
            );
        }
    }

    /// Adds one. Only the owning worker may call this.
    #[inline(always)]
    pub fn count(&self, counter: Counter) {
        self.add(counter, 1);
    }

    /// The value now.
    #[must_use]
    pub fn get(&self, counter: Counter) -> u64 {
        self.named
            .get(counter as usize)
            .map_or(0, |w| w.load(Ordering::Relaxed))
    }
}
