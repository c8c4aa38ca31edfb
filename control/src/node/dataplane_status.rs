//! What the data plane counts, as people and their tools see it.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use serde::Serialize;

use crate::forwarding::{Count, PolicyCounts, PortCounts, RoleCounts, ServiceCounts, Stats};

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
}

/// One attached container's frames since it was attached.
#[derive(Clone, Debug, Serialize)]
pub struct PortView {
    /// Host end of the veth pair.
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
        }
    }
}
