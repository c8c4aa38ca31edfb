//! The route table as people see it.

use std::net::IpAddr;
use std::time::Duration;

use net::address::Address;

use super::records::pair;
use super::{Member, Service};
use crate::api::{BackendLine, Policy, RouteLine};
use crate::control::Controller;
use crate::tables::region::{BackendRef, Location};
use crate::tables::routes::{BackendSet, Members};

impl Controller {
    /// The services of all jobs: job, policy, addresses, number.
    pub(in crate::control) fn services(
        &self,
    ) -> impl Iterator<Item = (&str, Policy, Vec<IpAddr>, u32)> {
        self.jobs.iter().flat_map(|(name, job)| {
            let named = |service: &&Service| !service.addresses.is_empty();
            job.services.iter().filter(named).map(move |service| {
                let addresses = service.addresses.iter().map(|a| a.to_ip()).collect();
                (&**name, service.policy, addresses, service.number)
            })
        })
    }

    pub(in crate::control) fn route_lines(&self) -> Vec<RouteLine> {
        let mut lines = Vec::new();
        for (name, job) in &self.jobs {
            for service in job.services.iter() {
                let set = BackendSet::at(&self.tables.arena, service.set);
                for address in &service.addresses {
                    let mut backends: Vec<_> = (0..set.len())
                        .filter_map(|n| set.get(n))
                        .filter_map(|r| self.backend_line(r, address.is_v4()))
                        .collect();
                    backends.sort();
                    backends.dedup();
                    lines.push(RouteLine {
                        job: name.to_string(),
                        address: address.to_ip(),
                        kind: service.policy.name(),
                        backends,
                    });
                }
            }
            for member in &job.members {
                let Some(backend) = self.tables.region.backend(member.reference) else {
                    continue;
                };
                for (kind, addresses) in [
                    ("instance", backend.instance),
                    ("namespace", backend.namespace),
                ] {
                    for address in pair(addresses).iter() {
                        lines.push(RouteLine {
                            job: name.to_string(),
                            address,
                            kind,
                            backends: self
                                .backend_line(member.reference, address.is_ipv4())
                                .into_iter()
                                .collect(),
                        });
                    }
                }
            }
        }
        lines.sort_by(|a, b| (&a.job, a.kind, a.address).cmp(&(&b.job, b.kind, b.address)));
        lines
    }

    pub(crate) fn backend_lines(&self) -> Vec<BackendLine> {
        let now = crate::clock::seconds();
        let line = |name: &str, member: &Member| {
            let backend = self.tables.region.backend(member.reference)?;
            let place = |v4| self.backend_line(member.reference, v4);
            Some(BackendLine {
                backend: member.reference.id,
                job: name.to_owned(),
                instance: member.number,
                namespace: pair(backend.namespace),
                via: place(true).or_else(|| place(false))?.2,
                weight: member.weight,
                draining: member.draining,
                load: backend.load,
                live: self.tallied(|t| u64::from(t.live_flows(member.reference.id))),
                idle: match self.tables.last_used(member.reference.id) {
                    0 => None,
                    used => Some(Duration::from_secs(u64::from(now.saturating_sub(used)))),
                },
            })
        };
        self.jobs
            .iter()
            .flat_map(|(name, job)| job.members.iter().filter_map(move |m| line(name, m)))
            .collect()
    }

    fn backend_line(&self, reference: BackendRef, v4: bool) -> Option<(u32, IpAddr, String)> {
        let backend = self.tables.region.backend(reference)?;
        let address = if v4 {
            Address::from_v4_bits(backend.namespace.0).to_ip()
        } else {
            backend.namespace.1.to_ip()
        };
        let place = match backend.location {
            Location::Local(_) => "local".to_owned(),
            Location::Nowhere => "not attached".to_owned(),
            Location::Host(host) => self.tables.region.host(host).map_or_else(
                || "unknown".to_owned(),
                |at| crate::pipeline::endpoint(at).to_string(),
            ),
        };
        Some((backend.number, address, place))
    }
}
