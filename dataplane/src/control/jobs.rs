//! Jobs: from what a table query says to backends, sets and addresses.
//!
//! A job's routes replace what was known in one step per address: the new set is written beside the old one and
//! published by one store, so a packet sees either, and there is never a moment without a route (pitfall 13).
//! Backends are known by what they are (namespace IPs, Instance IPs, job), so an instance that is named again keeps its
//! record and its flows, even across a restart of the process.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use net::address::Address;

mod lines;
mod rotation;

use super::attachments::{v4_bits, v6_address};
use super::{Controller, Resting};
use crate::api::{CommandError, InstanceRoute, JobRoutes, Pair, Policy};
use crate::tables::low32;
use crate::tables::region::{Backend, BackendRef, Location};
use crate::tables::routes::{Route, set_cells, write_set};
use crate::tally::OfService;
use rotation::rotation;

/// What a backend is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    namespace: (u32, Address),
    instance: (u32, Address),
    job: u32,
}

/// A Service IP of a job, with its published set.
#[derive(Debug)]
struct Service {
    policy: Policy,
    addresses: Vec<Address>,
    number: u32,
    set: u32,
    turns: usize,
}

/// What is known of a job.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) first_set: Instant,
    instances: Vec<(Identity, BackendRef, InstanceRoute)>,
    /// Named by the cluster as running here, but not attached.
    absent: Vec<InstanceRoute>,
    services: BTreeMap<Policy, Service>,
}

impl Job {
    pub(super) fn backends(&self) -> impl Iterator<Item = BackendRef> + '_ {
        self.instances.iter().map(|(_, reference, _)| *reference)
    }
}

fn job_hash(job: &str) -> u32 {
    // Only compared within one boot of one program version; the mapping's version covers a change of it.
    let mut hasher = DefaultHasher::new();
    job.hash(&mut hasher);
    low32(hasher.finish())
}

fn identity(instance: &InstanceRoute, job: u32) -> Identity {
    Identity {
        namespace: (v4_bits(instance.namespace), v6_address(instance.namespace)),
        instance: (v4_bits(instance.instance), v6_address(instance.instance)),
        job,
    }
}

/// The addresses of a record that are there.
fn both((v4, v6): (u32, Address)) -> impl Iterator<Item = Address> {
    let v4 = (v4 != 0).then(|| Address::from_v4_bits(v4));
    v4.into_iter().chain((!v6.is_unspecified()).then_some(v6))
}

fn full(error: impl std::fmt::Display) -> CommandError {
    CommandError::Full(error.to_string())
}

impl Controller {
    pub(super) fn set_route(&mut self, address: Address, route: Route) -> Result<(), CommandError> {
        let old = self
            .tables
            .routes
            .set(
                &self.tables.arena,
                &mut self.allocator,
                address,
                route.to_word(),
            )
            .map_err(full)?;
        if old != Some(route.to_word()) {
            self.dirty = true;
        }
        Ok(())
    }

    pub(super) fn remove_route(&mut self, address: Address) {
        if let Some((_, cell)) = self.tables.routes.remove(&self.tables.arena, address) {
            self.retire(cell, 1);
        }
    }

    /// Finds again what an earlier process knew. Local backends are nowhere until their containers are attached.
    pub(super) fn take_over(&mut self) {
        let layout = self.tables.region.layout();
        let mut owners = HashMap::new();
        for (shard, worker) in self.shards().zip(0u16..) {
            if shard.live() > 0 {
                shard.for_each(|tuple, _, _| {
                    owners.insert(tuple.source, worker);
                    true
                });
            }
        }
        self.owners = owners;
        for host in 0..u32::try_from(layout.hosts).unwrap_or(u32::MAX) {
            // Numbers are given in order, so the first gap is the end.
            let Some(endpoint) = self.tables.region.host(host) else {
                break;
            };
            self.hosts.insert(endpoint, host);
            if let Err(error) = self.publish_host_number(endpoint.0, host) {
                tracing::error!("taking over the hosts of an earlier process: {error}");
            }
        }
        for id in 0..u32::try_from(layout.backends).unwrap_or(u32::MAX) {
            let generation = self.tables.region.backend_generation(id);
            if generation == 0 {
                break;
            }
            self.next_backend = id + 1;
            let reference = BackendRef { id, generation };
            match self.tables.region.record(reference) {
                Some(backend) => {
                    if let Location::Local(_) = backend.location {
                        self.tables.region.update_backend(
                            reference,
                            Location::Nowhere,
                            backend.draining,
                            backend.load,
                        );
                    }
                    let identity = Identity {
                        namespace: backend.namespace,
                        instance: backend.instance,
                        job: backend.job,
                    };
                    self.enlist(identity, reference);
                    self.orphans
                        .entry(backend.job)
                        .or_default()
                        .push((identity, reference));
                }
                None => self.free_backends.push(id),
            }
        }
    }

    fn host_number(&mut self, host: SocketAddr) -> Result<u32, CommandError> {
        let key = (Address::from(host.ip()), host.port());
        if let Some(&number) = self.hosts.get(&key) {
            return Ok(number);
        }
        let number = u32::try_from(self.hosts.len()).unwrap_or(u32::MAX);
        if !self.tables.region.publish_host(number, key.0, key.1) {
            return Err(CommandError::Full(format!(
                "more than {} tunnel endpoints are known; restart the Net Manager to forget the old ones",
                self.tables.region.layout().hosts
            )));
        }
        self.hosts.insert(key, number);
        self.publish_host_number(key.0, number)?;
        Ok(number)
    }

    fn publish_host_number(&mut self, address: Address, number: u32) -> Result<(), CommandError> {
        self.add_path(address, number);
        self.tables
            .hosts
            .set(
                &self.tables.arena,
                &mut self.allocator,
                address,
                u64::from(number),
            )
            .map(|_| ())
            .map_err(full)
    }

    /// Publishes the hosts whose distance decides something: those of jobs with an address that goes by it.
    pub(crate) fn publish_probed(&mut self) {
        if !std::mem::take(&mut self.probed_changed) {
            return;
        }
        let cells = set_cells(self.probed.len());
        let Some(cell) = self.allocator.allocate(&self.tables.arena, cells) else {
            return;
        };
        for (to, host) in self.tables.arena.words(cell).iter().zip(self.probed.keys()) {
            to.store(u64::from(*host), std::sync::atomic::Ordering::Relaxed);
        }
        let length = u32::try_from(self.probed.len()).unwrap_or(0);
        let (old, old_length) = self.tables.set_probed_hosts(cell, length);
        if old != 0 {
            self.retire(old, set_cells(old_length as usize));
        }
    }

    // Counts each remote host of the job's instances for or against being probed.
    fn count_probed(&mut self, job: &Job, add: bool) {
        if !job.services.keys().any(|policy| policy.by_distance()) {
            return;
        }
        for (_, _, instance) in &job.instances {
            let key = (Address::from(instance.host.ip()), instance.host.port());
            let Some(&host) = self.hosts.get(&key) else {
                continue;
            };
            if add {
                *self.probed.entry(host).or_default() += 1;
            } else if let Some(count) = self.probed.get_mut(&host) {
                *count -= 1;
                if *count == 0 {
                    self.probed.remove(&host);
                }
            }
            self.probed_changed = true;
        }
    }

    fn take_backend(&mut self) -> Result<u32, CommandError> {
        if let Some(id) = self.free_backends.pop() {
            return Ok(id);
        }
        let id = self.next_backend;
        let limit = self.tables.region.layout().backends;
        if id as usize >= limit {
            return Err(CommandError::Full(format!(
                "more than {limit} instances are reachable from this node"
            )));
        }
        self.next_backend += 1;
        Ok(id)
    }

    fn backend_for(
        &mut self,
        instance: &InstanceRoute,
        job: u32,
    ) -> Result<(Identity, BackendRef), CommandError> {
        let identity = identity(instance, job);
        let location = match self.local_slot(instance.namespace) {
            Some(slot) => Location::Local(slot),
            None => Location::Host(self.host_number(instance.host)?),
        };
        let load = instance.load.unwrap_or(0);
        if let Some(&reference) = self.backends.get(&identity) {
            // It left this node, and the job does not say that it is elsewhere now: this is news of before.
            if let Location::Host(_) = location
                && self.left.get(&reference) == Some(&instance.host)
            {
                return Ok((identity, reference));
            }
            self.left.remove(&reference);
            self.tables
                .region
                .update_backend(reference, location, instance.draining, load);
            return Ok((identity, reference));
        }
        let id = self.take_backend()?;
        let backend = Backend {
            location,
            namespace: identity.namespace,
            instance: identity.instance,
            draining: instance.draining,
            load,
            job,
            number: instance.number,
        };
        let Some(reference) = self.tables.region.publish_backend(id, &backend) else {
            return Err(full(
                "the backend table is damaged; restart the Net Manager",
            ));
        };
        self.enlist(identity, reference);
        Ok((identity, reference))
    }

    fn enlist(&mut self, identity: Identity, reference: BackendRef) {
        self.backends.insert(identity, reference);
        for address in both(identity.namespace) {
            self.namespaces.entry(address).or_default().push(reference);
        }
    }

    /// Replaces what is known of a job.
    pub(crate) fn set_job(&mut self, routes: JobRoutes) -> Result<(), CommandError> {
        let hash = job_hash(&routes.job);
        let mut job = self.jobs.remove(&routes.job).unwrap_or_else(|| Job {
            first_set: Instant::now(),
            instances: Vec::new(),
            absent: Vec::new(),
            services: BTreeMap::new(),
        });
        self.count_probed(&job, false);
        let before = std::mem::take(&mut job.instances);
        job.absent.clear();
        let result = self.fill_job(&mut job, hash, routes.instances);
        let kept: HashSet<BackendRef> = job.backends().collect();
        if result.is_ok() {
            let before = before
                .into_iter()
                .map(|(identity, reference, _)| (identity, reference));
            let orphans = self.orphans.remove(&hash).unwrap_or_default();
            for (identity, reference) in before.chain(orphans).filter(|(_, r)| !kept.contains(r)) {
                self.remove_backend(identity, reference);
            }
        } else {
            // What is in the tables is still what the job says it has.
            job.instances
                .extend(before.into_iter().filter(|(_, r, _)| !kept.contains(r)));
        }
        self.count_probed(&job, true);
        let absent: Vec<Address> = job
            .absent
            .iter()
            .flat_map(|instance| instance.namespace.iter().chain(instance.instance.iter()))
            .map(Address::from)
            .collect();
        self.jobs.insert(routes.job, job);
        self.dirty = true;
        result?;
        absent
            .into_iter()
            .try_for_each(|address| self.unresolvable(address))
    }

    fn fill_job(
        &mut self,
        job: &mut Job,
        hash: u32,
        instances: Vec<InstanceRoute>,
    ) -> Result<(), CommandError> {
        let mut addresses: BTreeMap<Policy, Vec<Address>> = BTreeMap::new();
        for instance in instances {
            for service in &instance.services {
                let list = addresses.entry(service.policy).or_default();
                for address in service.addresses.iter().map(Address::from) {
                    if !list.contains(&address) {
                        list.push(address);
                    }
                }
            }
            if self.is_absent(instance.namespace) {
                job.absent.push(instance);
                continue;
            }
            let (identity, reference) = self.backend_for(&instance, hash)?;
            for address in instance.instance.iter() {
                self.set_route(address.into(), Route::Instance(reference.id))?;
                self.queries.settled(address.into());
            }
            for address in instance.namespace.iter() {
                if self.local_slot(Pair::of(address)).is_none() {
                    self.set_route(address.into(), Route::Namespace(reference.id))?;
                    self.queries.settled(address.into());
                }
            }
            self.learn_instance(instance.namespace, instance.instance)?;
            job.instances.push((identity, reference, instance));
        }
        job.instances
            .sort_by_key(|(_, _, instance)| instance.number);
        // A Service IP outlives its last instance: it then has an empty set, not no route.
        let policies: Vec<Policy> = addresses
            .keys()
            .chain(job.services.keys())
            .copied()
            .collect();
        for policy in policies {
            let list = addresses.get(&policy).filter(|l| !l.is_empty()).cloned();
            let list = list.or_else(|| {
                // One that picks by another policy now is that one's.
                let taken = |a: &Address| addresses.values().any(|list| list.contains(a));
                let kept = job.services.get(&policy)?.addresses.iter().copied();
                Some(kept.filter(|a| !taken(a)).collect())
            });
            self.publish_service(job, policy, list.unwrap_or_default())?;
        }
        Ok(())
    }

    fn publish_service(
        &mut self,
        job: &mut Job,
        policy: Policy,
        addresses: Vec<Address>,
    ) -> Result<(), CommandError> {
        let members: Vec<(BackendRef, u8)> = job
            .instances
            .iter()
            .filter(|(_, _, i)| !i.draining)
            .map(|(_, reference, i)| (*reference, if policy.by_weight() { i.weight } else { 1 }))
            .collect();
        let turns = rotation(&members);
        let cells = set_cells(turns.len());
        let set = self
            .allocator
            .allocate(&self.tables.arena, cells)
            .ok_or_else(|| {
                full("the route table is full; fewer services must be reachable from this node")
            })?;
        write_set(self.tables.arena.words(set), policy, &turns);
        let (number, old, before) = match job.services.remove(&policy) {
            Some(service) => (
                service.number,
                Some((service.set, service.turns)),
                service.addresses,
            ),
            None => (self.take_service()?, None, Vec::new()),
        };
        for &address in &addresses {
            self.set_route(
                address,
                Route::Service {
                    service: number,
                    set,
                },
            )?;
            self.queries.settled(address);
        }
        for address in before.into_iter().filter(|a| !addresses.contains(a)) {
            self.remove_service_route(address, number);
        }
        if let Some((old, turns)) = old {
            self.retire(old, set_cells(turns));
        }
        job.services.insert(
            policy,
            Service {
                policy,
                addresses,
                number,
                set,
                turns: turns.len(),
            },
        );
        Ok(())
    }

    fn take_service(&mut self) -> Result<u32, CommandError> {
        // Not one that a flow still carries: it would be counted for the new owner.
        for _ in 0..self.free_services.len().min(64) {
            let Some(number) = self.free_services.pop_front() else {
                break;
            };
            if self.tallied(|t| t.service(number, OfService::Live)) == 0 {
                for worker in &self.workers {
                    worker.counters.tally.clear_service(number);
                }
                return Ok(number);
            }
            self.free_services.push_back(number);
        }
        let number = self.next_service;
        if number as usize >= crate::tables::SERVICES {
            return Err(full(
                "more services are reachable from this node than it can hold",
            ));
        }
        self.next_service += 1;
        Ok(number)
    }

    // An address that another job has taken over meanwhile is left alone.
    fn remove_service_route(&mut self, address: Address, number: u32) {
        if let Some(Route::Service { service, .. }) = self.tables.route(address)
            && service == number
        {
            self.remove_route(address);
        }
    }

    fn remove_backend(&mut self, identity: Identity, reference: BackendRef) {
        // Named twice, by a job that lists an instance twice or as an orphan too, it is given back once.
        if self.backends.get(&identity) != Some(&reference) {
            return;
        }
        self.backends.remove(&identity);
        for address in both(identity.instance) {
            if self.tables.route(address) == Some(Route::Instance(reference.id)) {
                self.remove_route(address);
            }
        }
        for address in both(identity.namespace) {
            if self.tables.route(address) == Some(Route::Namespace(reference.id)) {
                self.remove_route(address);
            }
        }
        self.tables.region.remove_backend(reference);
        self.tables.count_departure();
        self.left.remove(&reference);
        self.dirty = true;
        for address in both(identity.namespace) {
            if let Some(list) = self.namespaces.get_mut(&address) {
                list.retain(|r| *r != reference);
                if list.is_empty() {
                    self.namespaces.remove(&address);
                }
            }
        }
        self.rest(Resting::Backend(reference.id));
    }

    pub(crate) fn forget_job(&mut self, name: &str) {
        for (identity, reference) in self.orphans.remove(&job_hash(name)).unwrap_or_default() {
            self.remove_backend(identity, reference);
        }
        let Some(job) = self.jobs.remove(name) else {
            return;
        };
        self.count_probed(&job, false);
        for service in job.services.into_values() {
            for address in service.addresses {
                self.remove_service_route(address, service.number);
            }
            self.retire(service.set, set_cells(service.turns));
            self.rest(Resting::Service(service.number));
        }
        for (identity, reference, _) in job.instances {
            self.remove_backend(identity, reference);
        }
        self.dirty = true;
    }

    /// The Instance IPs that some job names for a namespace address.
    pub(super) fn instance_ips(&self, namespace: Pair) -> Pair {
        let last = |address: Address| {
            let list = self.namespaces.get(&address)?;
            self.tables.region.record(*list.last()?)
        };
        let v4 = namespace.v4.and_then(|a| last(IpAddr::V4(a).into()));
        let v6 = namespace.v6.and_then(|a| last(IpAddr::V6(a).into()));
        Pair {
            v4: v4
                .filter(|b| b.instance.0 != 0)
                .map(|b| b.instance.0.into()),
            v6: v6
                .filter(|b| !b.instance.1.is_unspecified())
                .map(|b| b.instance.1.0.into()),
        }
    }

    /// Looks again at the jobs that name a namespace address which has just been attached or detached: without waiting
    /// for the cluster's tables, new flows go where there is someone, and those of who left end here.
    pub(super) fn place_again(&mut self, namespace: Pair) -> Result<(), CommandError> {
        let concerned = |instance: &InstanceRoute| {
            let mut addresses = instance.namespace.iter();
            addresses.any(|address| namespace.iter().any(|other| other == address))
        };
        let affected: Vec<JobRoutes> = self
            .jobs
            .iter()
            .map(|(name, job)| {
                let placed = job.instances.iter().map(|(_, _, instance)| instance);
                (name, placed.chain(&job.absent))
            })
            .filter(|(_, instances)| instances.clone().any(concerned))
            .map(|(name, instances)| JobRoutes {
                job: name.clone(),
                instances: instances.cloned().collect(),
            })
            .collect();
        for routes in affected {
            self.set_job(routes)?;
        }
        Ok(())
    }

    /// The backends of a namespace address run elsewhere now.
    pub(super) fn relocate(&mut self, namespace: Pair, location: Location) {
        let lists = namespace
            .iter()
            .filter_map(|address| self.namespaces.get(&address.into()));
        for &reference in lists.flatten() {
            if let Some(backend) = self.tables.region.record(reference) {
                self.left.remove(&reference);
                self.tables.region.update_backend(
                    reference,
                    location,
                    backend.draining,
                    backend.load,
                );
            }
        }
    }

    /// The container of these backends has left this node. The cluster will say so, too; until then, and whether or not
    /// it can be reached, flows to them end and no new ones are opened.
    pub(super) fn leave(&mut self, namespace: Pair) {
        let references: Vec<BackendRef> = namespace
            .iter()
            .filter_map(|address| self.namespaces.get(&address.into()))
            .flatten()
            .copied()
            .collect();
        for reference in references {
            self.tables.region.leave_backend(reference);
            let said = self
                .jobs
                .values()
                .flat_map(|job| &job.instances)
                .find(|(_, other, _)| *other == reference);
            if let Some((_, _, instance)) = said {
                self.left.insert(reference, instance.host);
            }
        }
        self.tables.count_departure();
    }
}
