//! What the data plane counts, as people and their tools see it.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use serde::Serialize;

use crate::forwarding::{
    Count, DeviceCounts, PolicyCounts, PoolCounts, PortCounts, RoleCounts, ServiceCounts, Stats,
    WorkerCounts,
};

/// Counters of the data plane. `received + made = sent + drops + consumed + waiting`, each summed.
#[derive(Clone, Debug, Serialize)]
pub struct DataplaneStatus {
    /// How memory was had.
    pub memory: String,
    /// Worker lcores.
    pub workers: usize,
    /// Live flows and room for them.
    pub flows: u64,
    /// Flows that the table holds.
    pub flow_capacity: u64,
    /// Live flows given up because there was no room.
    pub flows_evicted: u64,
    /// Packets waiting for a route.
    pub waiting: u64,
    /// Jobs with a route.
    pub jobs: usize,
    /// Received packets by port role.
    pub received: HashMap<&'static str, u64>,
    /// Packets that the node made.
    pub made: HashMap<&'static str, u64>,
    /// Sent packets by port role.
    pub sent: HashMap<&'static str, u64>,
    /// Dropped packets by reason.
    pub drops: HashMap<&'static str, u64>,
    /// Packets that ended here with their purpose served.
    pub consumed: HashMap<&'static str, u64>,
    /// Other events.
    pub events: HashMap<&'static str, u64>,
    /// Frames of each attached container.
    pub containers: Vec<PortView>,
    /// What policies decided.
    pub policies: Vec<PolicyView>,
    /// Services whose routes are known.
    pub services: Vec<ServiceView>,
    /// What the kernel's ports count themselves.
    pub ports: Vec<RoleView>,
    /// Workers, each on a core of its own.
    pub cores: Vec<WorkerView>,
    /// Packet memory.
    pub pools: Vec<PoolView>,
    /// Ports of DPDK, as their drivers count.
    pub devices: Vec<DeviceView>,
    /// Commands that wait for the control thread.
    pub commands_waiting: usize,
    /// Addresses that the cluster has been asked for without an answer so far.
    pub unresolved: usize,
}

/// How one worker spends its time.
#[derive(Clone, Debug, Serialize)]
pub struct WorkerView {
    /// Its number.
    pub worker: usize,
    /// Seconds in rounds that moved packets.
    pub busy_seconds: f64,
    /// Seconds since it began.
    pub alive_seconds: f64,
    /// Live flows of its shard.
    pub flows: u64,
}

/// A pool of mbufs.
#[derive(Clone, Debug, Serialize)]
pub struct PoolView {
    /// Its name.
    pub pool: &'static str,
    /// Mbufs that it has.
    pub size: u64,
    /// Of these, mbufs in use.
    pub in_use: u64,
}

/// What a driver counts.
#[derive(Clone, Debug, Serialize)]
pub struct DeviceView {
    /// DPDK's name of the device.
    pub device: String,
    /// `uplink` or `access`.
    pub role: &'static str,
    /// Whether its link is up; of a `vhost-user` port, whether a virtual machine is connected.
    pub up: bool,
    /// Packets received.
    pub received_packets: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Packets sent.
    pub sent_packets: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Packets lost because no worker polled in time (`imissed`).
    pub missed: u64,
    /// Bad packets received.
    pub receive_errors: u64,
    /// Packets that could not be sent.
    pub send_errors: u64,
    /// Packets lost because no mbuf was free.
    pub no_mbuf: u64,
}

impl From<WorkerCounts> for WorkerView {
    fn from(counts: WorkerCounts) -> Self {
        Self {
            worker: counts.worker,
            busy_seconds: counts.busy.as_secs_f64(),
            alive_seconds: counts.alive.as_secs_f64(),
            flows: counts.flows,
        }
    }
}

impl From<PoolCounts> for PoolView {
    fn from(counts: PoolCounts) -> Self {
        Self {
            pool: counts.pool,
            size: counts.size,
            in_use: counts.in_use,
        }
    }
}

impl From<DeviceCounts> for DeviceView {
    fn from(device: DeviceCounts) -> Self {
        let counts = device.counts;
        Self {
            device: device.device,
            role: device.role,
            up: device.up,
            received_packets: counts.rx_packets,
            received_bytes: counts.rx_bytes,
            sent_packets: counts.tx_packets,
            sent_bytes: counts.tx_bytes,
            missed: counts.rx_missed,
            receive_errors: counts.rx_errors,
            send_errors: counts.tx_errors,
            no_mbuf: counts.rx_no_mbuf,
        }
    }
}

/// One attached container's frames since it was attached.
#[derive(Clone, Debug, Serialize)]
pub struct PortView {
    /// Host end of the veth pair, or DPDK's name of the device.
    pub interface: String,
    /// The job.
    pub job: String,
    /// Number of the instance.
    pub instance: u32,
    /// Frames from the container.
    pub packets_in: u64,
    /// Their bytes.
    pub bytes_in: u64,
    /// Frames to the container.
    pub packets_out: u64,
    /// Their bytes.
    pub bytes_out: u64,
    /// Of those to the container, frames that its port did not take.
    pub refused: u64,
}

/// What one policy decided.
#[derive(Clone, Debug, Serialize)]
pub struct PolicyView {
    /// Its name.
    pub policy: &'static str,
    /// Times that it picked an instance.
    pub picks: u64,
    /// Times that it found none.
    pub refusals: u64,
}

/// One job's addresses of one policy.
#[derive(Clone, Debug, Serialize)]
pub struct ServiceView {
    /// The job.
    pub job: String,
    /// Name of the policy.
    pub policy: &'static str,
    /// The addresses that are dialled.
    pub addresses: Vec<IpAddr>,
    /// Flows opened.
    pub opened: u64,
    /// Live flows.
    pub live: u64,
    /// Packets of its flows, both directions.
    pub packets: u64,
    /// Packets refused for want of an instance.
    pub refused: u64,
}

/// What one role's ports count themselves.
#[derive(Clone, Debug, Serialize)]
pub struct RoleView {
    /// The role.
    pub role: &'static str,
    /// Its numbers by name.
    pub counts: BTreeMap<&'static str, u64>,
}

impl From<PortCounts> for PortView {
    fn from(counts: PortCounts) -> Self {
        Self {
            interface: counts.interface,
            job: counts.job,
            instance: counts.number,
            packets_in: counts.packets_in,
            bytes_in: counts.bytes_in,
            packets_out: counts.packets_out,
            bytes_out: counts.bytes_out,
            refused: counts.refused,
        }
    }
}

impl From<PolicyCounts> for PolicyView {
    fn from(counts: PolicyCounts) -> Self {
        Self {
            policy: counts.policy,
            picks: counts.picks,
            refusals: counts.refusals,
        }
    }
}

impl From<ServiceCounts> for ServiceView {
    fn from(counts: ServiceCounts) -> Self {
        Self {
            job: counts.job,
            policy: counts.policy,
            addresses: counts.addresses,
            opened: counts.opened,
            live: counts.live,
            packets: counts.packets,
            refused: counts.refused,
        }
    }
}

impl From<RoleCounts> for RoleView {
    fn from(counts: RoleCounts) -> Self {
        let pair = |count: Count| (count.name, count.packets);
        Self {
            role: counts.role,
            counts: counts.counts.into_iter().map(pair).collect(),
        }
    }
}

impl From<Stats> for DataplaneStatus {
    fn from(stats: Stats) -> Self {
        let map = |counts: Vec<Count>| {
            counts
                .into_iter()
                .map(|count| (count.name, count.packets))
                .collect()
        };
        Self {
            memory: stats.memory,
            workers: stats.workers,
            flows: stats.flows,
            flow_capacity: stats.flow_capacity,
            flows_evicted: stats.flows_evicted,
            waiting: stats.waiting,
            jobs: stats.jobs,
            received: map(stats.received),
            made: map(stats.made),
            sent: map(stats.sent),
            drops: map(stats.drops),
            consumed: map(stats.consumed),
            events: map(stats.events),
            containers: stats.containers.into_iter().map(Into::into).collect(),
            policies: stats.policies.into_iter().map(Into::into).collect(),
            services: stats.services.into_iter().map(Into::into).collect(),
            ports: stats.roles.into_iter().map(Into::into).collect(),
            cores: stats.worker_counts.into_iter().map(Into::into).collect(),
            pools: stats.pools.into_iter().map(Into::into).collect(),
            devices: stats.devices.into_iter().map(Into::into).collect(),
            commands_waiting: stats.commands_waiting,
            unresolved: stats.unresolved,
        }
    }
}
