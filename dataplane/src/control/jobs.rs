//! Jobs: from what a table query says to backends, sets and addresses.
//!
//! A job's routes replace what was known in one step per address: the new set is written beside the old one and
//! published by one store, so a packet sees either, and there is never a moment without a route (pitfall 13).
//!
//! A node may know a million instances, and hears of a change to one by the whole of its job's routes. So a job keeps
//! of an instance only what its record (`tables::region`) does not hold, and what a job says again is passed over: its
//! addresses lead where it left them unless someone else has taken one, which is counted (`Controller::contested`).

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Instant;

use net::address::Address;

mod lines;
mod places;
mod records;
mod rotation;

use super::{Controller, Resting};
use crate::api::{CommandError, InstanceRoute, JobRoutes, Policy, ServiceAddress};
use crate::tables::low32;
use crate::tables::region::BackendRef;
use crate::tables::routes::{Route, set_cells, write_set};
use crate::tally::OfService;
use records::{Before, Identity};
use rotation::rotation;

/// A Service IP of a job, with its published set.
#[derive(Debug)]
struct Service {
    policy: Policy,
    number: u32,
    set: u32,
    turns: u32,
    addresses: Box<[Address]>,
}

/// An instance that packets can go to; the rest of it is in its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Member {
    reference: BackendRef,
    /// The host that it is said to run on, or [`HERE`].
    host: u32,
    number: u32,
    weight: u8,
    draining: bool,
}

/// For an instance that is attached to this node; where its job says that it is stands in `Controller::said`.
const HERE: u32 = u32::MAX;

/// What is known of a job.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) first_set: Instant,
    /// `Controller::contested` when all of its addresses led where it says; 0 when they may not.
    settled: u64,
    hash: u32,
    /// By their numbers.
    members: Box<[Member]>,
    /// Named by the cluster as running here, but not attached. Their services are the job's.
    absent: Vec<InstanceRoute>,
    services: Vec<Service>,
}

impl Job {
    fn new(hash: u32) -> Self {
        Self {
            first_set: Instant::now(),
            settled: 0,
            hash,
            members: Box::default(),
            absent: Vec::new(),
            services: Vec::new(),
        }
    }

    pub(super) fn backends(&self) -> impl Iterator<Item = BackendRef> + '_ {
        self.members.iter().map(|member| member.reference)
    }
}

fn job_hash(job: &str) -> u32 {
    // Only compared within one boot of one program version; the mapping's version covers a change of it.
    let mut hasher = DefaultHasher::new();
    job.hash(&mut hasher);
    low32(hasher.finish())
}

fn full(error: impl std::fmt::Display) -> CommandError {
    CommandError::Full(error.to_string())
}

/// The addresses that instances name, by policy. Most often each names the same.
fn named_addresses(instances: &[InstanceRoute]) -> Vec<(Policy, Vec<Address>)> {
    let mut named: Vec<(Policy, Vec<Address>)> = Vec::new();
    let mut last: &[ServiceAddress] = &[];
    for instance in instances {
        if *instance.services == *last {
            continue;
        }
        last = &instance.services;
        for service in last {
            let at = named.iter().position(|(p, _)| *p == service.policy);
            let at = at.unwrap_or_else(|| {
                named.push((service.policy, Vec::new()));
                named.len() - 1
            });
            let Some((_, list)) = named.get_mut(at) else {
                continue;
            };
            for address in service.addresses.iter().map(Address::from) {
                if !list.contains(&address) {
                    list.push(address);
                }
            }
        }
    }
    named.sort_by_key(|(policy, _)| *policy);
    named
}

/// The addresses of a Service IP's policy as a job names them now. One that names none keeps what it had, without what
/// goes by another policy now: a Service IP outlives its last instance, with an empty set, not without a route.
fn kept_addresses(job: &Job, policy: Policy, named: &[(Policy, Vec<Address>)]) -> Vec<Address> {
    let taken = |address: &Address| named.iter().any(|(_, list)| list.contains(address));
    let known = job.services.iter().find(|s| s.policy == policy);
    let before = known.map_or(&[][..], |service| &service.addresses);
    before.iter().copied().filter(|a| !taken(a)).collect()
}

impl Controller {
    /// Replaces what is known of a job.
    pub(crate) fn set_job(&mut self, routes: JobRoutes) -> Result<(), CommandError> {
        let JobRoutes { job, instances } = routes;
        let (name, mut job) = match self.jobs.remove_entry(job.as_str()) {
            Some(known) => known,
            None => {
                let hash = job_hash(&job);
                (job.into_boxed_str(), Job::new(hash))
            }
        };
        self.count_probed(&job, false);
        let before = std::mem::take(&mut job.members);
        let orphans = match self.orphans.is_empty() {
            true => Vec::new(),
            false => self.orphans.remove(&job.hash).unwrap_or_default(),
        };
        let mut members = Vec::with_capacity(instances.len());
        let known = Before::new(&before, &orphans);
        let result = self.fill_job(&mut job, &mut members, known, instances);
        let was = before.iter().map(|m| m.reference);
        if !orphans.is_empty() || was.ne(members.iter().map(|m| m.reference)) {
            let mut kept: Vec<u32> = members.iter().map(|m| m.reference.id).collect();
            kept.sort_unstable();
            let is_gone = |reference: BackendRef| kept.binary_search(&reference.id).is_err();
            let mut orphans = orphans;
            orphans.retain(|&reference| is_gone(reference));
            let gone = before.iter().filter(|m| is_gone(m.reference));
            if result.is_ok() {
                for reference in gone.map(|m| m.reference).chain(orphans) {
                    self.remove_backend(reference);
                }
            } else {
                // What is in the tables is still what the job says it has.
                members.extend(gone);
                if !orphans.is_empty() {
                    self.orphans.insert(job.hash, orphans);
                }
            }
        }
        job.members = members.into_boxed_slice();
        self.count_probed(&job, true);
        let absent: Vec<Address> = job
            .absent
            .iter()
            .flat_map(|instance| instance.namespace.iter().chain(instance.instance.iter()))
            .map(Address::from)
            .collect();
        self.jobs.insert(name, job);
        result?;
        absent
            .into_iter()
            .try_for_each(|address| self.unresolvable(address))
    }

    fn fill_job(
        &mut self,
        job: &mut Job,
        members: &mut Vec<Member>,
        mut before: Before<'_>,
        instances: Vec<InstanceRoute>,
    ) -> Result<(), CommandError> {
        let settled = std::mem::take(&mut job.settled) == self.contested;
        let absent = std::mem::take(&mut job.absent);
        let named = named_addresses(&instances);
        let mut overlaps = false;
        for instance in instances {
            let identity = Identity::of(&instance, job.hash);
            let found = before.with_number(&self.tables.region, instance.number, &identity);
            // What one instance has just taken from another of the job is that one's again when its turn comes.
            if settled
                && !overlaps
                && let Some((member, backend)) = found
                && self.is_said_at(member, instance.host)
            {
                members.push(self.refresh(member, &backend, &instance));
                continue;
            }
            if self.is_absent(instance.namespace) || self.has_left(&absent, &instance) {
                let services = Vec::new();
                job.absent.push(InstanceRoute {
                    services,
                    ..instance
                });
                continue;
            }
            let found = found
                .map(|(member, _)| member.reference)
                .or_else(|| before.with_identity(&self.tables.region, &identity));
            let member = self.place(&instance, &identity, found)?;
            members.push(member);
            if found.is_none() {
                before.add(identity, member.reference);
            }
            overlaps |= self.lead_to(member.reference, &instance, job.hash)?;
        }
        members.sort_by_key(|member| member.number);
        let steady = settled && before.turns_like(members);
        if !steady {
            self.dirty = true;
        }
        for (policy, list) in &named {
            let kept = list
                .is_empty()
                .then(|| kept_addresses(job, *policy, &named));
            let list = kept.as_ref().unwrap_or(list);
            self.publish_service(job, members, *policy, list, steady)?;
        }
        let unnamed = |policy: &Policy| named.iter().all(|(other, _)| other != policy);
        let others: Vec<Policy> = job.services.iter().map(|s| s.policy).collect();
        for policy in others.into_iter().filter(unnamed) {
            let list = kept_addresses(job, policy, &named);
            self.publish_service(job, members, policy, &list, steady)?;
        }
        job.settled = if overlaps { 0 } else { self.contested };
        Ok(())
    }

    /// Nothing that was done before is trusted.
    #[cfg(test)]
    pub(super) fn distrust(&mut self) {
        self.contested += 1;
    }

    // Makes the addresses of an instance lead to its backend; true when one of them led to another of the same job.
    fn lead_to(
        &mut self,
        reference: BackendRef,
        instance: &InstanceRoute,
        job: u32,
    ) -> Result<bool, CommandError> {
        let mut overlaps = false;
        for address in instance.instance.iter() {
            let route = Route::Instance(reference.id);
            overlaps |= self.claim(address.into(), route, job)?;
        }
        let mut local = false;
        for address in instance.namespace.iter().map(Address::from) {
            if let Some(Route::Local(slot)) = self.tables.route(address) {
                local = true;
                // Two instances with one container: which one it is depends on who is set last.
                let (v4, port) = (address.is_v4(), self.tables.slots.get(slot));
                let known = port.map(|port| port.instance(v4));
                let mut own = instance.instance.iter().map(Address::from);
                overlaps |= known
                    .is_some_and(|known| !known.is_unspecified() && own.all(|own| own != known));
                continue;
            }
            overlaps |= self.claim(address, Route::Namespace(reference.id), job)?;
        }
        if local {
            self.learn_instance(instance.namespace, instance.instance)?;
        }
        Ok(overlaps)
    }

    // Takes an address for an instance of a job; true when it was another instance's of the job. One that was someone
    // else's is theirs again when they are set again.
    fn claim(&mut self, address: Address, route: Route, job: u32) -> Result<bool, CommandError> {
        let old = self.set_route(address, route)?;
        self.queries.settled(address);
        let overlaps = match old {
            None | Some(Route::Unreachable) => return Ok(false),
            Some(old) if old == route => return Ok(false),
            Some(Route::Instance(id) | Route::Namespace(id)) => self
                .tables
                .region
                .backend_at(id)
                .is_none_or(|(_, other)| other.job == job),
            Some(Route::Service { .. } | Route::Local(_)) => false,
        };
        if !overlaps {
            self.contested += 1;
        }
        Ok(overlaps)
    }

    // Publishes the addresses and the set of one policy; when nothing is new but perhaps the addresses, only those.
    fn publish_service(
        &mut self,
        job: &mut Job,
        members: &[Member],
        policy: Policy,
        addresses: &[Address],
        steady: bool,
    ) -> Result<(), CommandError> {
        let at = job.services.iter().position(|s| s.policy == policy);
        let before = at.and_then(|at| job.services.get_mut(at));
        if steady && before.as_ref().is_some_and(|s| *s.addresses == *addresses) {
            return Ok(());
        }
        let weighted: Vec<(BackendRef, u8)> = members
            .iter()
            .filter(|m| !m.draining)
            .map(|m| (m.reference, if policy.by_weight() { m.weight } else { 1 }))
            .collect();
        let turns = rotation(&weighted);
        let cells = set_cells(turns.len());
        let set = self
            .allocator
            .allocate(&self.tables.arena, cells)
            .ok_or_else(|| {
                full("the route table is full; fewer services must be reachable from this node")
            })?;
        write_set(self.tables.arena.words(set), policy, &turns);
        let number = match &before {
            Some(service) => service.number,
            None => self.take_service()?,
        };
        let route = Route::Service {
            service: number,
            set,
        };
        for &address in addresses {
            let old = self.set_route(address, route)?;
            self.queries.settled(address);
            match old {
                None | Some(Route::Unreachable) => {}
                Some(Route::Service { service, .. }) if service == number => {}
                Some(_) => self.contested += 1,
            }
        }
        let service = Service {
            policy,
            number,
            set,
            turns: u32::try_from(turns.len()).unwrap_or(u32::MAX),
            addresses: addresses.into(),
        };
        let Some(known) = before else {
            job.services.push(service);
            return Ok(());
        };
        let old = std::mem::replace(known, service);
        for &address in old.addresses.iter().filter(|a| !addresses.contains(a)) {
            self.remove_service_route(address, number);
        }
        self.retire(old.set, set_cells(old.turns as usize));
        self.dirty = true;
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

    pub(crate) fn forget_job(&mut self, name: &str) {
        for reference in self.orphans.remove(&job_hash(name)).unwrap_or_default() {
            self.remove_backend(reference);
        }
        let Some(job) = self.jobs.remove(name) else {
            return;
        };
        self.count_probed(&job, false);
        for service in job.services {
            for &address in &service.addresses {
                self.remove_service_route(address, service.number);
            }
            self.retire(service.set, set_cells(service.turns as usize));
            self.rest(Resting::Service(service.number));
        }
        for member in job.members {
            self.remove_backend(member.reference);
        }
        self.dirty = true;
    }
}

#[cfg(test)]
mod tests;
