//! What the counters say, added up over the workers and named.

use std::time::Duration;

use super::Controller;
use crate::api::{
    Count, DeviceCounts, PolicyCounts, PoolCounts, PortCounts, RoleCounts, ServiceCounts, Stats,
    WorkerCounts,
};
use crate::counters::{Counter, Group};
use crate::policy::Policy;
use crate::tally::{OfPort, OfService, Tally};

impl Controller {
    /// One number of all workers.
    pub(super) fn tallied(&self, of: impl Fn(&Tally) -> u64) -> u64 {
        self.workers.iter().map(|w| of(&w.counters.tally)).sum()
    }

    pub(crate) fn stats(&mut self) -> Stats {
        let sum = |c: Counter| self.workers.iter().map(|w| w.counters.get(c)).sum::<u64>();
        let of = |groups: &[Group], all: bool| {
            Counter::ALL
                .iter()
                .filter(|c| groups.contains(&c.group()))
                .map(|&c| Count {
                    name: c.name(),
                    packets: sum(c),
                })
                .filter(|c| all || c.packets != 0)
                .collect::<Vec<_>>()
        };
        let layout = self.tables.region.layout();
        let stats = Stats {
            received: of(&[Group::Received], true),
            sent: of(&[Group::Sent], true),
            drops: of(&[Group::Dropped], false),
            made: of(&[Group::Made], false),
            consumed: of(&[Group::Consumed], false),
            events: of(&[Group::Event], false),
            waiting: self
                .workers
                .iter()
                .map(|w| w.counters.ports.waiting())
                .sum(),
            flows: self.shards().map(|s| s.live()).sum(),
            flows_evicted: self.shards().map(|s| s.evicted()).sum(),
            flow_capacity: (layout.shards * layout.slots / 2) as u64,
            workers: self.workers.len(),
            attached: self.attached.len(),
            jobs: self.jobs.len(),
            memory: self.memory.clone(),
            containers: self.container_counts(),
            policies: self.policy_counts(),
            services: self.service_counts(),
            roles: Vec::new(),
            worker_counts: self.worker_counts(),
            pools: self
                .pools
                .iter()
                .map(|(pool, mbufs)| {
                    let in_use = mbufs.in_use() as u64;
                    PoolCounts {
                        pool,
                        size: in_use + mbufs.available() as u64,
                        in_use,
                    }
                })
                .collect(),
            devices: self.device_counts(),
            // Filled in by who counts the askers.
            commands_waiting: 0,
            unresolved: self.queries.open(),
        };
        Stats {
            roles: self.role_counts(),
            ..stats
        }
    }

    fn worker_counts(&self) -> Vec<WorkerCounts> {
        let now = dpdk::cycles();
        let hz = u128::from(dpdk::cycles_hz().max(1));
        let duration = |cycles: u64| {
            let nanoseconds = u128::from(cycles) * 1_000_000_000 / hz;
            Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
        };
        let flows = self.shards().map(|shard| shard.live());
        let workers = self.workers.iter().enumerate().zip(flows);
        workers
            .map(|((worker, link), flows)| {
                let (busy, alive) = link.counters.time.read(now);
                WorkerCounts {
                    worker,
                    busy: duration(busy),
                    alive: duration(alive),
                    flows,
                }
            })
            .collect()
    }

    fn device_counts(&self) -> Vec<DeviceCounts> {
        let uplink = self.uplink.iter().map(|port| ("uplink", &**port));
        let access = self
            .attached
            .values()
            .filter_map(|attached| Some(("access", attached.device.as_ref()?)));
        uplink
            .chain(access)
            .filter_map(|(role, port)| {
                Some(DeviceCounts {
                    device: port.name().to_owned(),
                    role,
                    up: port.link().is_ok_and(|link| link.up),
                    counts: port.stats().ok()?,
                })
            })
            .collect()
    }

    fn container_counts(&self) -> Vec<PortCounts> {
        let mut counts: Vec<PortCounts> = self
            .attached
            .values()
            .map(|attached| {
                let of = |which| self.tallied(|t| t.port(attached.port.number, which));
                let refused = of(OfPort::Refused);
                PortCounts {
                    interface: attached.name().0,
                    job: attached.attachment.job.clone(),
                    number: attached.attachment.number,
                    packets_in: of(OfPort::PacketsIn),
                    bytes_in: of(OfPort::BytesIn),
                    packets_out: of(OfPort::PacketsOut),
                    bytes_out: of(OfPort::BytesOut),
                    refused,
                }
            })
            .collect();
        counts.sort_by(|a, b| a.interface.cmp(&b.interface));
        counts
    }

    fn policy_counts(&self) -> Vec<PolicyCounts> {
        Policy::ALL
            .iter()
            .map(|&policy| PolicyCounts {
                policy: policy.name(),
                picks: self.tallied(|t| t.policy(policy).0),
                refusals: self.tallied(|t| t.policy(policy).1),
            })
            .collect()
    }

    fn service_counts(&self) -> Vec<ServiceCounts> {
        let mut counts = Vec::new();
        for (job, policy, addresses, number) in self.services() {
            let of = |which| self.tallied(|t| t.service(number, which));
            counts.push(ServiceCounts {
                job: job.to_owned(),
                policy: policy.name(),
                addresses,
                opened: of(OfService::Opened),
                live: of(OfService::Live),
                packets: of(OfService::Packets),
                refused: of(OfService::Refused),
            });
        }
        counts.sort_by(|a, b| (&a.job, a.policy).cmp(&(&b.job, b.policy)));
        counts
    }

    // Of each role, the numbers of all workers' ports; of kinds that are not in use, nothing.
    fn role_counts(&mut self) -> Vec<RoleCounts> {
        let mut roles: Vec<RoleCounts> = Vec::new();
        for worker in &self.workers {
            for (n, (role, named)) in worker.counters.ports.read().into_iter().enumerate() {
                if let Some(known) = roles.get_mut(n) {
                    for (sum, (_, value)) in known.counts.iter_mut().zip(named) {
                        sum.packets += value;
                    }
                } else {
                    let counts = named
                        .into_iter()
                        .map(|(name, packets)| Count { name, packets })
                        .collect();
                    roles.push(RoleCounts { role, counts });
                }
            }
        }
        let drops = self.access.drops();
        if let Some(access) = roles.iter_mut().find(|r| r.role == "access") {
            access.counts.push(Count {
                name: "kernel_drops",
                packets: drops,
            });
        }
        roles.retain(|r| r.role == "access" || r.counts.iter().any(|c| c.packets != 0));
        roles
    }
}
