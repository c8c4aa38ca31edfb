//! The records of backends and hosts, for jobs.
//!
//! Backends are known by what they are (namespace IPs, Instance IPs, job), so an instance that is named again keeps its
//! record and its flows, even across a restart of the process. The record says what it is, and nobody else.

use std::collections::HashMap;
use std::net::SocketAddr;

use net::address::Address;

use super::{HERE, Job, Member, full};
use crate::api::{CommandError, InstanceRoute, Pair};
use crate::control::attachments::{v4_bits, v6_address};
use crate::control::{Controller, Resting};
use crate::tables::region::{Backend, BackendRef, Location, Region};
use crate::tables::routes::{Route, set_cells};

/// What a backend is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    namespace: (u32, Address),
    instance: (u32, Address),
    job: u32,
}

impl Identity {
    pub(super) fn of(instance: &InstanceRoute, job: u32) -> Self {
        Self {
            namespace: (v4_bits(instance.namespace), v6_address(instance.namespace)),
            instance: (v4_bits(instance.instance), v6_address(instance.instance)),
            job,
        }
    }

    fn of_record(backend: &Backend) -> Self {
        Self {
            namespace: backend.namespace,
            instance: backend.instance,
            job: backend.job,
        }
    }
}

/// The backends that a job had before it is set again.
pub(super) struct Before<'a> {
    members: &'a [Member],
    orphans: &'a [BackendRef],
    /// Where the next number is expected.
    next: usize,
    /// What was made since: a job may list an instance twice.
    made: Vec<BackendRef>,
    /// Where there are many, by what they are.
    by_identity: Option<HashMap<Identity, BackendRef>>,
}

/// So many records are looked through faster than hashed.
const FEW: usize = 32;

impl<'a> Before<'a> {
    pub(super) fn new(members: &'a [Member], orphans: &'a [BackendRef]) -> Self {
        Self {
            members,
            orphans,
            next: 0,
            made: Vec::new(),
            by_identity: None,
        }
    }

    /// The instance with this number, if it still is what it was, and its record.
    pub(super) fn with_number(
        &mut self,
        region: &Region,
        number: u32,
        identity: &Identity,
    ) -> Option<(Member, Backend)> {
        let expected = self.members.get(self.next).map(|m| m.number);
        if expected != Some(number) {
            self.next = self.members.partition_point(|m| m.number < number);
        }
        let from = self.members.get(self.next..)?;
        for (n, member) in from.iter().take_while(|m| m.number == number).enumerate() {
            let backend = region.backend(member.reference)?;
            if Identity::of_record(&backend) == *identity {
                self.next += n + 1;
                return Some((*member, backend));
            }
        }
        None
    }

    /// The backend that is this, whatever its number.
    pub(super) fn with_identity(
        &mut self,
        region: &Region,
        identity: &Identity,
    ) -> Option<BackendRef> {
        let known = self.members.len() + self.orphans.len() + self.made.len();
        let members = self.members.iter().map(|m| m.reference);
        let all = members.chain(self.orphans.iter().chain(&self.made).copied());
        let mut all = all.filter_map(|r| Some((Identity::of_record(&region.backend(r)?), r)));
        if known <= FEW {
            return all.find(|(other, _)| other == identity).map(|(_, r)| r);
        }
        let known = self.by_identity.get_or_insert_with(|| all.collect());
        known.get(identity).copied()
    }

    /// This one was made just now.
    pub(super) fn add(&mut self, identity: Identity, reference: BackendRef) {
        self.made.push(reference);
        if let Some(known) = &mut self.by_identity {
            known.insert(identity, reference);
        }
    }

    /// Whether sets of these members are the sets that were.
    pub(super) fn turns_like(&self, members: &[Member]) -> bool {
        let turn = |m: &Member| (m.reference, m.weight, m.draining);
        members.iter().map(turn).eq(self.members.iter().map(turn))
    }
}

/// The addresses of a record that are there.
pub(super) fn both((v4, v6): (u32, Address)) -> impl Iterator<Item = Address> {
    let v4 = (v4 != 0).then(|| Address::from_v4_bits(v4));
    v4.into_iter().chain((!v6.is_unspecified()).then_some(v6))
}

/// The same as a pair.
pub(super) fn pair((v4, v6): (u32, Address)) -> Pair {
    Pair {
        v4: (v4 != 0).then(|| v4.into()),
        v6: (!v6.is_unspecified()).then(|| v6.0.into()),
    }
}

impl Controller {
    /// Sets the meaning of an address; the one that it had.
    pub(in crate::control) fn set_route(
        &mut self,
        address: Address,
        route: Route,
    ) -> Result<Option<Route>, CommandError> {
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
        Ok(old.map(Route::from_word))
    }

    pub(in crate::control) fn remove_route(&mut self, address: Address) {
        if let Some((_, cell)) = self.tables.routes.remove(&self.tables.arena, address) {
            self.retire(cell, 1);
        }
    }

    /// Finds again what an earlier process knew. Local backends are nowhere until their containers are attached.
    pub(in crate::control) fn take_over(&mut self) {
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
            match self.tables.region.backend(reference) {
                Some(backend) => {
                    if let Location::Local(_) = backend.location {
                        self.tables.region.update_backend(
                            reference,
                            Location::Nowhere,
                            backend.draining,
                            backend.load,
                        );
                    }
                    self.orphans.entry(backend.job).or_default().push(reference);
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
    pub(super) fn count_probed(&mut self, job: &Job, add: bool) {
        if !job.services.iter().any(|s| s.policy.by_distance()) {
            return;
        }
        for member in job.members.iter().filter(|m| m.host != HERE) {
            if add {
                *self.probed.entry(member.host).or_default() += 1;
            } else if let Some(count) = self.probed.get_mut(&member.host) {
                *count -= 1;
                if *count == 0 {
                    self.probed.remove(&member.host);
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

    /// Whether a member is said to run where it was said to.
    pub(super) fn is_said_at(&self, member: Member, host: SocketAddr) -> bool {
        if member.host == HERE {
            return self.said.get(&member.reference) == Some(&host);
        }
        let known = self.tables.region.host(member.host);
        known == Some((Address::from(host.ip()), host.port()))
    }

    /// Where a member is said to run.
    pub(super) fn said_at(&self, member: Member) -> Option<SocketAddr> {
        if member.host == HERE {
            return self.said.get(&member.reference).copied();
        }
        let (address, port) = self.tables.region.host(member.host)?;
        Some(SocketAddr::new(address.to_ip(), port))
    }

    /// A member of which only weight, load and whether it drains may be new.
    pub(super) fn refresh(
        &self,
        member: Member,
        backend: &Backend,
        instance: &InstanceRoute,
    ) -> Member {
        let load = instance.load.unwrap_or(0);
        if backend.number != instance.number {
            // A job may name one backend under two numbers; the last one counts.
            let region = &self.tables.region;
            region.number_backend(member.reference, instance.number);
        }
        if backend.draining != instance.draining || backend.load != load {
            self.tables.region.update_backend(
                member.reference,
                backend.location,
                instance.draining,
                load,
            );
        }
        Member {
            weight: instance.weight,
            draining: instance.draining,
            ..member
        }
    }

    /// Gives an instance its backend: the one that it had, or else a new one.
    pub(super) fn place(
        &mut self,
        instance: &InstanceRoute,
        identity: &Identity,
        found: Option<BackendRef>,
    ) -> Result<Member, CommandError> {
        let (location, host) = match self.local_slot(instance.namespace) {
            Some(slot) => (Location::Local(slot), HERE),
            None => {
                let host = self.host_number(instance.host)?;
                (Location::Host(host), host)
            }
        };
        let load = instance.load.unwrap_or(0);
        let region = &self.tables.region;
        let reference = if let Some(reference) = found {
            region.update_backend(reference, location, instance.draining, load);
            region.number_backend(reference, instance.number);
            reference
        } else {
            let id = self.take_backend()?;
            let backend = Backend {
                location,
                namespace: identity.namespace,
                instance: identity.instance,
                draining: instance.draining,
                load,
                job: identity.job,
                number: instance.number,
            };
            let published = self.tables.region.publish_backend(id, &backend);
            published
                .ok_or_else(|| full("the backend table is damaged; restart the Net Manager"))?
        };
        if host == HERE {
            self.said.insert(reference, instance.host);
        } else if !self.said.is_empty() {
            self.said.remove(&reference);
        }
        Ok(Member {
            reference,
            host,
            number: instance.number,
            weight: instance.weight,
            draining: instance.draining,
        })
    }

    /// A backend that no job names any more. Named twice, by a job that lists an instance twice or as an orphan too, it
    /// is given back once.
    pub(super) fn remove_backend(&mut self, reference: BackendRef) {
        let Some(backend) = self.tables.region.backend(reference) else {
            return;
        };
        for address in both(backend.instance) {
            if self.tables.route(address) == Some(Route::Instance(reference.id)) {
                self.remove_route(address);
            }
        }
        for address in both(backend.namespace) {
            if self.tables.route(address) == Some(Route::Namespace(reference.id)) {
                self.remove_route(address);
            }
        }
        self.tables.region.remove_backend(reference);
        self.tables.count_departure();
        if !self.said.is_empty() {
            self.said.remove(&reference);
        }
        self.dirty = true;
        self.rest(Resting::Backend(reference.id));
    }
}
