//! What the Net Manager sees of the data plane: plain values in, plain values out.
//!
//! Everything here is a command or an answer. A command travels over a channel to the control thread, the single
//! writer of the tables, and its answer comes back the same way; no caller ever touches what a worker reads.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::observe::capture::CapturePort;
pub use crate::policy::Policy;

/// How a worker waits when there is nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Poll without pause: for nodes with dedicated cores.
    Spin,
    /// After some empty rounds wait on the ports' file descriptors (or, for a port without one, sleep briefly).
    Backoff,
}

/// How packets leave towards other nodes (design: the uplink role).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Uplink {
    /// The kernel keeps the NIC; UDP sockets on the tunnel port.
    Socket,
    /// An ethdev port by DPDK devargs, such as `net_af_packet0,iface=eth0`, or a PCI address.
    Ethdev {
        /// DPDK device arguments.
        devargs: String,
        /// The kernel interface that holds the addresses and whose neighbours count.
        interface: String,
        /// What that interface gets of the device's frames.
        beside: Beside,
    },
}

/// What the kernel gets of the frames at an ethdev uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beside {
    /// A copy of each: the `af_packet` PMD.
    Copies,
    /// All but whole datagrams to the tunnel port, by a program of ours: the `af_xdp` PMD. Datagrams that came in
    /// fragments, or on a queue that is not ours, are read from the kernel's socket.
    Rest,
    /// Nothing by itself, the NIC being wholly in DPDK: what is not the tunnel's goes to it by a TAP with the interface's
    /// name and the NIC's address, and what it sends there leaves by the NIC. The TAP outlives the process.
    Tap,
}

/// What the host port is (design: the host role).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPort {
    /// A TAP of our own.
    Tap,
    /// `net_virtio_user` on `/dev/vhost-net`: a thread of the kernel's copies.
    VirtioUser,
    /// Another device of DPDK's that makes an interface of [`Config::host_interface`]'s name by itself.
    Ethdev {
        /// DPDK device arguments.
        devargs: String,
    },
}

impl HostPort {
    /// The word for it.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            HostPort::Tap => "tap",
            HostPort::VirtioUser => "virtio_user",
            HostPort::Ethdev { .. } => "ethdev",
        }
    }
}

/// Mbufs that one worker's ports and queues need.
pub const PACKETS_PER_WORKER: u32 = crate::memory::SMALL_PER_WORKER;

/// Instances that a node is made for, if nothing else is said.
pub const INSTANCES: usize = 1 << 17;

/// What the data plane is started with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Tells this node from others on the machine: EAL's file prefix and the name of the flow mapping. `[a-z0-9-]+`.
    pub instance: String,
    /// Worker lcores, at least one.
    pub workers: usize,
    /// The CPUs of the workers, one each; empty lets the data plane choose.
    pub worker_cpus: Vec<usize>,
    /// How an idle worker waits.
    pub idle: Idle,
    /// The uplink's kind.
    pub uplink: Uplink,
    /// UDP port that the tunnel is bound to, host byte order (contract: 50103).
    pub tunnel_port: u16,
    /// Name of the host port's interface, 15 bytes at most (`oak0`).
    pub host_interface: String,
    /// The host port's kind.
    pub host_port: HostPort,
    /// Largest inner packet that is sent into the tunnel, in bytes (contract: 1450).
    pub mtu: u16,
    /// Mbufs of each worker, at least [`PACKETS_PER_WORKER`]; more only where a port holds many packets back.
    pub packets: u32,
    /// Queries of containers for names of this DNS zone are caught, whatever server they were sent to, and handed to the
    /// listener ([`Event::Query`]); `None` lets all pass.
    pub caught_zone: Option<String>,
    /// Instances that may be reachable at once, 64 bytes each in the flow mapping.
    pub instances: usize,
    /// Flows that the table holds over all workers.
    pub flows: usize,
    /// Megabytes of hugepages to use; `None` takes hugepages where there are any, `Some(0)` never.
    pub hugepage_mb: Option<u32>,
    /// The network namespace that the flows belong to (see [`namespace_cookie`](crate::namespace_cookie)); a mapping of
    /// another is thrown away.
    pub namespace: u64,
    /// Folder on a tmpfs for the flow mapping (`/dev/shm`).
    pub shared_dir: PathBuf,
}

/// An IPv4 and an IPv6 address of one thing; either may be missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pair {
    /// The IPv4 address.
    pub v4: Option<Ipv4Addr>,
    /// The IPv6 address.
    pub v6: Option<Ipv6Addr>,
}

impl Pair {
    /// A pair of both families.
    #[must_use]
    pub const fn new(v4: Option<Ipv4Addr>, v6: Option<Ipv6Addr>) -> Self {
        Self { v4, v6 }
    }

    /// A pair of one address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self {
                v4: Some(v4),
                v6: None,
            },
            IpAddr::V6(v6) => Self {
                v4: None,
                v6: Some(v6),
            },
        }
    }

    /// The addresses that are there, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.v4
            .map(IpAddr::V4)
            .into_iter()
            .chain(self.v6.map(IpAddr::V6))
    }
}

/// A Service IP and its policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ServiceAddress {
    /// How it picks.
    pub policy: Policy,
    /// The addresses that are dialled.
    pub addresses: Pair,
}

/// One running instance of a job, as a table query describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceRoute {
    /// Number of the instance within its job.
    pub number: u32,
    /// Its real addresses (namespace IPs).
    pub namespace: Pair,
    /// Its Instance IPs.
    pub instance: Pair,
    /// The Service IPs of its job.
    pub services: Vec<ServiceAddress>,
    /// The tunnel endpoint of the node it runs on.
    pub host: SocketAddr,
    /// Its share in round robin, 1 to 255.
    pub weight: u8,
    /// Keeps its flows and gets no new ones.
    pub draining: bool,
    /// Flows that its node reported, if it did.
    pub load: Option<u32>,
}

/// All that is known of one job. It replaces what was known before, in one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobRoutes {
    /// The job's name.
    pub job: String,
    /// Its running instances; none is a statement too.
    pub instances: Vec<InstanceRoute>,
}

/// How a container or VM is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessKind {
    /// The host end of a veth pair, read and written by packet socket. Any number of them.
    Packet {
        /// Its interface index, in the node's own network namespace.
        ifindex: u32,
        /// Its name, for people.
        interface: String,
    },
    /// A device of DPDK, plugged in for this attachment and out with it: `net_vhost0,iface=/run/vm.sock` for a VM, or any
    /// other. This DPDK has room for 32 of them, the uplink's included, and a worker that owns one polls it, asleep
    /// for 50 µs at a time. Its frames must have finished checksums: what is behind a `net_af_packet` needs its
    /// offloads switched off (`ethtool -K IFACE tx off`), `net_vhost` sees to it by itself.
    Ethdev {
        /// DPDK device arguments.
        devargs: String,
    },
}

/// A container or VM that is attached to this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Its port.
    pub port: AccessKind,
    /// MAC address of the container's end.
    pub mac: [u8; 6],
    /// The container's namespace IPs.
    pub namespace: Pair,
    /// The job that it is an instance of.
    pub job: String,
    /// Number of the instance.
    pub number: u32,
}

/// A job that no packet has used for so long may be forgotten (`Handle::forget_job`). A flow that may live on
/// for longer without a packet counts as use.
pub const JOB_UNUSED: Duration = Duration::from_secs(300);

/// A worker subnetwork that this node owns (contract section 1): its network addresses and its gateways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// Network address of the `/26`.
    pub v4: Option<Ipv4Addr>,
    /// Network address of the `/120`.
    pub v6: Option<Ipv6Addr>,
    /// Gateway addresses, those of the node.
    pub gateway: Pair,
}

/// Where frames for a host go first, for an ethdev uplink. Read from the kernel's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// Our address on the way there.
    pub source: IpAddr,
    /// MAC address of the uplink's interface.
    pub source_mac: [u8; 6],
    /// MAC address of the next hop.
    pub next_mac: [u8; 6],
    /// The longest IP packet, in bytes, that the route carries by the kernel's table: the route's own MTU or else its
    /// interface's. None where that is not known.
    pub mtu: Option<u16>,
}

/// What the data plane asks of the control plane. Handed to the listener on the control thread; it must not block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A packet waits for this address: run a table query and answer with `set_job` or `set_unresolvable`. Asked
    /// once; asked again, with back-off, while packets for it keep coming.
    Unresolved(IpAddr),
    /// An ethdev uplink must reach this host: answer with `set_next_hop`.
    NextHop(IpAddr),
    /// A container asks for a name of the zone that is caught: answer with `Handle::answer`. It asks again by itself.
    Query(Query),
    /// A worker ended without being told to: the node should restart the data plane. The text says why.
    WorkerDied(String),
}

/// A query that was caught on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// The port that it came by.
    pub port: u32,
    /// The container, and the port it asked from.
    pub from: SocketAddr,
    /// The server that it asked.
    pub to: SocketAddr,
    /// The message.
    pub message: Vec<u8>,
}

/// The answer to a [`Query`]: the container gets it from the server that it asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The port that the query came by.
    pub port: u32,
    /// The server that was asked.
    pub from: SocketAddr,
    /// The container.
    pub to: SocketAddr,
    /// The message, which fits the container's MTU.
    pub message: Vec<u8>,
}

/// A port and its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortLine {
    /// Which.
    pub port: CapturePort,
    /// What people call it: an interface, or DPDK's name of a device.
    pub name: String,
    /// `packet`, `ethdev`, `socket`, `tap` or `virtio_user`.
    pub kind: &'static str,
}

/// A backend that a packet can go to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendLine {
    /// Its number, as a trace says it.
    pub backend: u32,
    /// The job.
    pub job: String,
    /// Number of the instance within its job.
    pub instance: u32,
    /// Its namespace IPs.
    pub namespace: Pair,
    /// `local`, or the tunnel endpoint of its node.
    pub via: String,
    /// Its share in round robin.
    pub weight: u8,
    /// Keeps its flows and gets no new ones.
    pub draining: bool,
    /// Flows that its node reported.
    pub load: u32,
    /// Live flows that this node has opened to it.
    pub live: u64,
    /// Time since a packet last used it; none if no packet has.
    pub idle: Option<Duration>,
}

/// Another node that instances are said to run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerLine {
    /// Its tunnel endpoint.
    pub endpoint: SocketAddr,
    /// The longest inner packet that the path there carries, in bytes, if that is known.
    pub mtu: Option<u16>,
    /// Whether the kernel has a route there (socket uplink), or has told how frames begin their way (ethdev).
    pub routed: bool,
    /// Measured round trip, if there is one.
    pub round_trip: Option<Duration>,
    /// Whether it was measured by probes, which the other node answers now.
    pub answers_probes: bool,
    /// Probes, one after the other, that it has left unanswered so far: a node that is down, a filter on the way, or
    /// a program that does not answer any.
    pub unanswered: u32,
}

/// One counter with its name, such as `drop_spoofed_source`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// Name in lower snake case, fit for a metric.
    pub name: &'static str,
    /// Packets since the start.
    pub packets: u64,
}

/// What one role's ports say of themselves, all workers together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoleCounts {
    /// `access`, `tunnel` (the socket uplink), `ethdev` (the other kind) or `host`.
    pub role: &'static str,
    /// Its numbers. `tx_…` are packets that the port did not send, by reason; `kernel_drops` are packets that the
    /// kernel dropped before the port saw them.
    pub counts: Vec<Count>,
}

/// Frames of one attached container, since it was attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortCounts {
    /// Name of the host end.
    pub interface: String,
    /// The job that it is an instance of.
    pub job: String,
    /// Number of the instance.
    pub number: u32,
    /// Frames from the container.
    pub packets_in: u64,
    /// Their bytes, Ethernet headers included; a large segment counts once.
    pub bytes_in: u64,
    /// Frames to the container, those that its port refused among them.
    pub packets_out: u64,
    /// Their bytes.
    pub bytes_out: u64,
    /// Frames to the container that its port did not take.
    pub refused: u64,
}

/// How one worker spends its time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkerCounts {
    /// Its number.
    pub worker: usize,
    /// Time in rounds that moved packets.
    pub busy: Duration,
    /// Time since it began.
    pub alive: Duration,
    /// Live flows of its shard.
    pub flows: u64,
}

/// A pool of mbufs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolCounts {
    /// Its name.
    pub pool: &'static str,
    /// Mbufs that it has.
    pub size: u64,
    /// Of these, mbufs in use.
    pub in_use: u64,
}

/// What the driver of an ethdev port counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceCounts {
    /// DPDK's name of the device.
    pub device: String,
    /// `uplink` or `access`.
    pub role: &'static str,
    /// Whether its link is up: for `net_vhost`, whether a VM is connected.
    pub up: bool,
    /// Its counters.
    pub counts: dpdk::PortStats,
}

/// What one policy decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyCounts {
    /// Its name.
    pub policy: &'static str,
    /// Times that it picked an instance.
    pub picks: u64,
    /// Times that it found none.
    pub refusals: u64,
}

/// One job's addresses of one policy, since they became known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceCounts {
    /// The job.
    pub job: String,
    /// Name of the policy.
    pub policy: &'static str,
    /// The addresses that are dialled.
    pub addresses: Vec<IpAddr>,
    /// Flows opened.
    pub opened: u64,
    /// Flows that live.
    pub live: u64,
    /// Packets of its flows, both directions.
    pub packets: u64,
    /// Packets refused: there was no instance, or the flow's had gone.
    pub refused: u64,
}

/// Active flows of an instance on this node, estimated from what is delivered to it (within about a tenth).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceLoad {
    /// The job.
    pub job: String,
    /// Number of the instance.
    pub number: u32,
    /// Flows with a packet in the last ten to twenty seconds.
    pub flows: u32,
}

/// See `Handle::loads`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loads {
    /// This node's instances.
    pub own: Vec<InstanceLoad>,
    /// Jobs at whose addresses flows are opened by a policy that goes by load.
    pub wanted: Vec<String>,
}

/// Counters over all workers. `received + made = sent + drops + consumed + waiting`, each summed, but for the bursts
/// under way while the numbers were read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Packets received, by port role: access, tunnel, host.
    pub received: Vec<Count>,
    /// Packets sent, by port role.
    pub sent: Vec<Count>,
    /// Packets dropped, by reason; only reasons that occurred.
    pub drops: Vec<Count>,
    /// Packets made here: answers, probes, pieces of a packet that was cut.
    pub made: Vec<Count>,
    /// Packets that ended here with their purpose served: requests answered, pieces joined.
    pub consumed: Vec<Count>,
    /// Other events: flows opened, table queries asked for.
    pub events: Vec<Count>,
    /// Packets that wait for a route, or for the first fragment of their datagram.
    pub waiting: u64,
    /// Live flows now.
    pub flows: u64,
    /// Flows given up because there was no room.
    pub flows_evicted: u64,
    /// Flows that the table can hold.
    pub flow_capacity: u64,
    /// Worker lcores.
    pub workers: usize,
    /// Attached containers.
    pub attached: usize,
    /// Jobs with a route.
    pub jobs: usize,
    /// How memory was had: `hugepages` or `no-huge`, with the size in MB.
    pub memory: String,
    /// Attached containers.
    pub containers: Vec<PortCounts>,
    /// Policies.
    pub policies: Vec<PolicyCounts>,
    /// Services whose routes are known.
    pub services: Vec<ServiceCounts>,
    /// What ports say of themselves, by role.
    pub roles: Vec<RoleCounts>,
    /// Workers.
    pub worker_counts: Vec<WorkerCounts>,
    /// Packet memory.
    pub pools: Vec<PoolCounts>,
    /// Ports of DPDK.
    pub devices: Vec<DeviceCounts>,
    /// Commands that wait for the control thread, this question not counted.
    pub commands_waiting: usize,
    /// Addresses that the control plane has been asked for and has not answered.
    pub unresolved: usize,
}

/// One line of the route table for people and `--json`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteLine {
    /// The job.
    pub job: String,
    /// The dialled address.
    pub address: IpAddr,
    /// `rr`, `closest`, `underutilized`, `instance` or `namespace`.
    pub kind: &'static str,
    /// The backends: instance number, namespace address, and `local` or the host's endpoint.
    pub backends: Vec<(u32, IpAddr, String)>,
}

/// One live flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowLine {
    /// IP protocol number.
    pub protocol: u8,
    /// The client's namespace address and port.
    pub client: SocketAddr,
    /// The Service IP dialled and the port.
    pub service: SocketAddr,
    /// The picked backend's namespace address, if it is still known.
    pub backend: Option<IpAddr>,
    /// Time until it ends if no packet comes.
    pub expires_in: Duration,
}

/// Why the data plane did not start. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration contradicts itself or the machine.
    #[error("data plane configuration: {0}")]
    Config(String),
    /// EAL did not initialise.
    #[error(transparent)]
    Eal(#[from] dpdk::EalError),
    /// No memory for packets.
    #[error("packet memory: {0}")]
    Memory(String),
    /// A port of the kernel could not be opened.
    #[error(transparent)]
    KernelPort(#[from] kernel_port::KernelPortError),
    /// An ethdev port could not be opened.
    #[error("uplink: {0}")]
    Uplink(String),
    /// The host port could not be opened.
    #[error("host port: {0}")]
    Host(String),
    /// The flow mapping could not be opened.
    #[error("flow mapping: {0}")]
    SharedFlows(String),
    /// A thread could not be started.
    #[error("thread: {0}")]
    Thread(String),
}

/// Why a command was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// The data plane has stopped.
    #[error("the data plane has stopped; restart the Net Manager and look at its log")]
    Stopped,
    /// No room for one more of something; the text names the limit and its setting.
    #[error("{0}")]
    Full(String),
    /// One at a time, and someone was first.
    #[error("{0}")]
    Busy(String),
    /// The address or interface is attached already.
    #[error("{0} is attached already; detach it first")]
    Attached(String),
    /// The kernel refused.
    #[error("{0}")]
    Kernel(String),
}
