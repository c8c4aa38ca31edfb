//! Instances of this node: what jobs say of the namespace addresses that containers come and go with.
//!
//! Containers come and go a few times a second at most, so records are found by going through all of them: what a map
//! of namespace addresses would cost, each of a million remote instances would pay.

use std::net::SocketAddr;

use super::InstanceRoute;
use super::records::pair;
use crate::api::{CommandError, JobRoutes, Pair};
use crate::control::Controller;
use crate::control::attachments::{v4_bits, v6_address};
use crate::tables::region::{Backend, BackendRef, Location};

fn shares_address(one: Pair, other: Pair) -> bool {
    one.iter().any(|address| other.iter().any(|a| a == address))
}

impl Controller {
    // The backends that have one of these namespace addresses: a job may name one family of a container that has both.
    fn naming(&self, namespace: Pair) -> Vec<(BackendRef, Backend)> {
        let (v4, v6) = (v4_bits(namespace), v6_address(namespace));
        let region = &self.tables.region;
        region.with_namespace(self.next_backend, v4, v6).collect()
    }

    /// The Instance IPs that some job names for a namespace address.
    pub(in crate::control) fn instance_ips(&self, namespace: Pair) -> Pair {
        let named = self.naming(namespace);
        let (own_v4, own_v6) = (v4_bits(namespace), v6_address(namespace));
        let v4 = named
            .iter()
            .rfind(|(_, b)| own_v4 != 0 && b.namespace.0 == own_v4);
        let v6 = named
            .iter()
            .rfind(|(_, b)| !own_v6.is_unspecified() && b.namespace.1 == own_v6);
        Pair {
            v4: v4.and_then(|(_, b)| pair(b.instance).v4),
            v6: v6.and_then(|(_, b)| pair(b.instance).v6),
        }
    }

    /// Looks again at the jobs that name a namespace address which has just been attached or detached: without waiting
    /// for the cluster's tables, new flows go where there is someone, and those of who left end here.
    pub(in crate::control) fn place_again(&mut self, namespace: Pair) -> Result<(), CommandError> {
        let named = self.naming(namespace);
        let hashes: Vec<u32> = named.iter().map(|(_, backend)| backend.job).collect();
        let concerned = |instance: &InstanceRoute| shares_address(instance.namespace, namespace);
        let mut names: Vec<Box<str>> = self
            .jobs
            .iter()
            .filter(|(_, job)| hashes.contains(&job.hash) || job.absent.iter().any(concerned))
            .map(|(name, _)| name.clone())
            .collect();
        // Where they take addresses from each other, the same has them each time.
        names.sort_unstable();
        for name in names {
            self.set_again(&name)?;
        }
        // Who was attached and is not, of a job that nobody has named since an earlier process: its flows end, too.
        for (reference, _) in named {
            if let Some(backend) = self.tables.region.backend(reference)
                && let Location::Local(_) = backend.location
                && self.local_slot(pair(backend.namespace)).is_none()
            {
                self.remove_backend(reference);
            }
        }
        Ok(())
    }

    // Sets a job as it was said last. Its services stay as they are: no instance names any.
    fn set_again(&mut self, name: &str) -> Result<(), CommandError> {
        let Some(job) = self.jobs.get(name) else {
            return Ok(());
        };
        let mut instances = Vec::new();
        let mut left = Vec::new();
        for member in &job.members {
            let (Some(backend), Some(host)) = (
                self.tables.region.backend(member.reference),
                self.said_at(*member),
            ) else {
                continue;
            };
            let instance = InstanceRoute {
                number: member.number,
                namespace: pair(backend.namespace),
                instance: pair(backend.instance),
                services: Vec::new(),
                host,
                weight: member.weight,
                draining: member.draining,
                load: Some(backend.load),
            };
            if let Location::Local(_) = backend.location
                && self.local_slot(instance.namespace).is_none()
            {
                left.push(instance.clone());
            }
            instances.push(instance);
        }
        instances.extend(job.absent.iter().cloned());
        let routes = JobRoutes {
            job: name.to_owned(),
            instances,
        };
        if let Some(job) = self.jobs.get_mut(name) {
            job.absent.extend(left);
        }
        self.set_job(routes)
    }

    /// Whether an instance has left this node, and its job does not say that it is elsewhere now: this is news of
    /// before. `absent` are those of which that is known.
    pub(super) fn has_left(&self, absent: &[InstanceRoute], instance: &InstanceRoute) -> bool {
        let said = |host: SocketAddr| instance.host == host;
        let same = |other: &InstanceRoute| {
            other.namespace == instance.namespace
                && other.instance == instance.instance
                && said(other.host)
        };
        absent.iter().any(same) && self.local_slot(instance.namespace).is_none()
    }

    /// The backends of a namespace address run elsewhere now.
    pub(in crate::control) fn relocate(&mut self, namespace: Pair, location: Location) {
        for (reference, backend) in self.naming(namespace) {
            self.tables
                .region
                .update_backend(reference, location, backend.draining, backend.load);
        }
    }
}
