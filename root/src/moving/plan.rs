//! What an import will write, checked as a whole: an address has one owner, a name and an id stand
//! for one service, and nothing lies outside the address plan.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use protocol::address_plan::{self, PoolV6};
use protocol::{Instance, Job, JobName, ServiceIp};
use serde_json::Value;

use super::document::{
    BackupDocument, ClusterDocument, Document, DocumentError, JobDocument, PoolDocument,
};
use crate::store::{known_text, stored};

/// Problems that are listed; more are counted.
const LISTED: usize = 20;
/// Addresses of an IPv6 pool that were handed out and belong to nobody are taken back up to this
/// many; the pools are vast, and the list is not.
const GAPS: u128 = 1_000_000;
/// The store counts a pool's addresses in floating point.
const LAST_INDEX: u128 = 1 << 53;

/// Whose address it is: a job, and -1 or the number of an instance.
type Owner = (u32, i64);

/// A job as the store will hold it.
#[derive(Debug)]
pub(super) struct PlannedJob {
    pub(super) name: JobName,
    pub(super) id: String,
    pub(super) revision: Option<u64>,
    /// Fields of the job's hash but for `id` and `rev`.
    pub(super) fields: Vec<(String, String)>,
}

/// A cluster as the store will hold it.
#[derive(Debug)]
pub(super) struct PlannedCluster {
    pub(super) address: String,
    pub(super) port: u16,
    pub(super) known: Vec<String>,
    pub(super) status: &'static str,
    pub(super) interests: Vec<String>,
    pub(super) gone: Vec<(String, u64)>,
}

/// Collects documents.
#[derive(Debug, Default)]
pub(super) struct Plan {
    jobs: Vec<PlannedJob>,
    by_name: HashMap<String, u32>,
    by_id: HashMap<String, u32>,
    owners: HashMap<IpAddr, Owner>,
    namespaces: HashMap<IpAddr, Owner>,
    clusters: BTreeMap<String, PlannedCluster>,
    next: BTreeMap<&'static str, u128>,
    free_subnets: HashSet<u32>,
    pools_seen: bool,
    backup: Option<BackupDocument>,
    problems: Vec<String>,
    more: usize,
}

/// A checked plan.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) jobs: Vec<PlannedJob>,
    /// Every address with its owner's text, sorted by the address's digits.
    pub(super) owners: Vec<(String, String)>,
    pub(super) clusters: BTreeMap<String, PlannedCluster>,
    /// Pool → first index never handed out.
    pub(super) next: BTreeMap<&'static str, u128>,
    /// Pool → addresses (or subnetwork indexes) that were handed out and belong to nobody.
    pub(super) resting: Vec<(&'static str, Vec<String>)>,
    pub(super) revision: u64,
}

impl fmt::Display for Ready {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let instances: usize = self
            .jobs
            .iter()
            .map(|job| {
                job.fields
                    .iter()
                    .filter(|(field, _)| field.starts_with('i'))
                    .count()
            })
            .sum();
        write!(
            out,
            "{} services with {instances} instances, {} clusters, {} subnetworks handed out",
            self.jobs.len(),
            self.clusters.len(),
            self.next.get("subnet").copied().unwrap_or_default(),
        )
    }
}

/// Why an import cannot be.
#[derive(Debug, thiserror::Error)]
#[error("nothing was imported:\n  {}{}", .listed.join("\n  "), if *.more > 0 { format!("\n  and {more} more") } else { String::new() })]
pub(super) struct Refused {
    listed: Vec<String>,
    more: usize,
}

impl Plan {
    /// Adds a document.
    ///
    /// # Errors
    /// It is none of ours. What contradicts other documents is told by [`Plan::check`], all of it
    /// at once.
    pub(super) fn add(
        &mut self,
        document: Value,
        source: &Arc<str>,
        number: usize,
    ) -> Result<(), DocumentError> {
        match Document::read(document)? {
            Document::Job(job) => self.add_job(*job, source, number),
            Document::Pool(pool) => self.add_pool(&pool),
            Document::Cluster(cluster) => self.add_cluster(cluster),
            Document::Backup(backup) => {
                if self.backup.replace(backup).is_some() {
                    self.problem("two backups cannot be imported together".to_owned());
                }
            }
        }
        Ok(())
    }

    fn problem(&mut self, text: String) {
        if self.problems.len() < LISTED {
            self.problems.push(text);
        } else {
            self.more += 1;
        }
    }

    fn add_job(&mut self, document: JobDocument, source: &str, number: usize) {
        let JobDocument { job, node } = document;
        let name = job.job_name.to_string();
        let id = job.id.to_ascii_lowercase();
        if id.len() != 24 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            self.problem(format!(
                "{source}, document {number}: {name} has the _id `{}`, which is not 24 hex digits",
                job.id
            ));
            return;
        }
        let Ok(index) = u32::try_from(self.jobs.len()) else {
            self.problem("more than 2^32 services".to_owned());
            return;
        };
        if self.by_name.insert(name.clone(), index).is_some() {
            self.problem(format!(
                "{source}, document {number}: {name} is there twice"
            ));
            return;
        }
        if let Some(other) = self.by_id.insert(id.clone(), index) {
            let other = self.name_of(other);
            self.problem(format!("the _id {id} stands for {other} and for {name}"));
        }
        let fields = self.fields(index, &job, node);
        self.jobs.push(PlannedJob {
            name: job.job_name,
            id,
            revision: job.revision,
            fields,
        });
    }

    fn fields(&mut self, index: u32, job: &Job, node: Option<String>) -> Vec<(String, String)> {
        let name = job.job_name.as_str();
        let mut fields = vec![("app".to_owned(), job.application_id.clone())];
        fields.extend(node.map(|node| ("node".to_owned(), node)));
        if job.application_id.chars().any(char::is_control) {
            self.problem(format!("{name}: applicationID holds control characters"));
        }
        for ip in &job.service_ip_list {
            let Some(pool) = PoolV6::of_policy(&ip.ip_type) else {
                let kind = ip.ip_type.as_str();
                self.problem(format!(
                    "{name} has a Service IP of the unknown type `{kind}`"
                ));
                continue;
            };
            let policy = format!("s{}", ip.ip_type.as_str());
            if fields.iter().any(|(field, _)| *field == policy) {
                self.problem(format!(
                    "{name} has two entries of type {}",
                    ip.ip_type.as_str()
                ));
                continue;
            }
            if let Some(v6) = ip.address_v6.filter(|v6| !pool.contains(*v6)) {
                self.problem(format!("{name}: {v6} lies outside the pool of its type"));
            }
            self.own_both(ip, (index, -1), name);
            fields.push((policy, stored::service_ip(ip)));
        }
        let mut numbers = HashSet::new();
        for instance in &job.instance_list {
            let number = instance.instance_number;
            if !numbers.insert(number) {
                self.problem(format!("{name} has two instances with the number {number}"));
                continue;
            }
            self.add_instance(index, name, instance);
            fields.push((format!("i{number}"), stored::instance(instance)));
        }
        fields
    }

    fn add_instance(&mut self, index: u32, name: &str, instance: &Instance) {
        let number = instance.instance_number;
        let owner = (index, i64::from(number));
        let here = format!("{name} instance {number}");
        if instance.cluster_id.chars().any(char::is_control) {
            self.problem(format!("{here}: cluster_id holds control characters"));
        }
        if let Some(v6) = instance.instance_ip_v6
            && !PoolV6::Instance.contains(v6)
            && !PoolV6::InstanceOverflow.contains(v6)
        {
            self.problem(format!(
                "{here}: {v6} lies outside the pool of Instance IPs"
            ));
        }
        if instance.instance_ip.is_none() && instance.instance_ip_v6.is_none() {
            self.problem(format!("{here} has no Instance IP"));
        }
        self.own_both(&instance.own_address(), owner, &here);
        for address in both(instance.namespace_ip, instance.namespace_ip_v6) {
            // The newest holder counts, as it does when nodes report.
            self.namespaces.insert(address, owner);
        }
    }

    fn own_both(&mut self, ip: &ServiceIp, owner: Owner, here: &str) {
        if let Some(v4) = ip.address.filter(|v4| v4.octets()[..2] != [10, 30]) {
            self.problem(format!("{here}: {v4} lies outside 10.30.0.0/16"));
        }
        for address in both(ip.address, ip.address_v6) {
            if let Some(other) = self.owners.insert(address, owner) {
                let other = self.describe(other);
                self.problem(format!(
                    "{address} belongs to {other} and to {here}: undeploy one of them, then export again"
                ));
            }
        }
    }

    fn name_of(&self, index: u32) -> String {
        usize::try_from(index)
            .ok()
            .and_then(|index| self.jobs.get(index))
            .map_or_else(|| "the same service".to_owned(), |job| job.name.to_string())
    }

    fn describe(&self, (job, instance): Owner) -> String {
        let name = self.name_of(job);
        if instance < 0 {
            name
        } else {
            format!("{name} instance {instance}")
        }
    }

    fn add_pool(&mut self, document: &PoolDocument) {
        self.pools_seen = true;
        let v4 = document.ipv4.map(Ipv4Addr::from);
        let v6 = document.ipv6.map(Ipv6Addr::from);
        let kind = document.kind.as_str();
        let (pool, index) = match (kind, v4, v6) {
            ("free_subnet_ip", Some(v4), _) => {
                match address_plan::subnet_v4_index(v4) {
                    Some(index) => {
                        self.free_subnets.insert(index);
                    }
                    None => self.problem(format!("{kind}: {v4} starts no worker subnetwork")),
                }
                return;
            }
            ("next_service_ip", Some(v4), _) => ("v4", semantic_next(v4)),
            ("next_subnet_ip", Some(v4), _) => ("subnet", subnet_next(v4)),
            ("next_subnet_ipv6", _, Some(v6)) => ("subnet", address_plan::subnet_v6_index(v6)),
            ("next_service_ipv6", _, Some(v6)) => ("instance6", PoolV6::Instance.index(v6)),
            ("next_rr_ipv6", _, Some(v6)) => ("RR6", PoolV6::RoundRobin.index(v6)),
            ("next_closest_ipv6", _, Some(v6)) => ("Closest6", PoolV6::Closest.index(v6)),
            ("next_underutilized_ipv6", _, Some(v6)) => {
                ("Underutilized6", PoolV6::Underutilized.index(v6))
            }
            // Whatever was handed out and has no owner rests: free lists say nothing more.
            _ if kind.starts_with("free_") => return,
            _ => {
                self.problem(format!("`{kind}` is no pool that this version knows"));
                return;
            }
        };
        let limit = match pool {
            "v4" => u128::from(address_plan::SEMANTIC_V4_COUNT),
            "subnet" => u128::from(address_plan::SUBNET_V4_COUNT),
            _ => LAST_INDEX,
        };
        match index.filter(|index| *index <= limit) {
            // One index serves both families of a subnetwork.
            Some(index) => {
                let next = self.next.entry(pool).or_default();
                *next = index.max(*next);
            }
            None => self.problem(format!(
                "`{kind}`: {} lies outside its pool",
                v4.map_or_else(
                    || v6.map_or_else(String::new, |v6| v6.to_string()),
                    |v4| v4.to_string()
                )
            )),
        }
    }

    fn add_cluster(&mut self, document: ClusterDocument) {
        let id = document.cluster_id.trim().to_owned();
        let address = known_text(&document.cluster_address);
        let Some(port) = document
            .cluster_port
            .filter(|_| !id.is_empty() && !address.is_empty())
        else {
            self.problem(format!("cluster `{id}` lacks its id, address or port"));
            return;
        };
        let mut known = document.known;
        if !known.contains(&address) {
            known.insert(0, address.clone());
        }
        let texts = [&id, &address].into_iter().chain(&known);
        if texts.flat_map(|text| text.chars()).any(char::is_control) {
            self.problem(format!(
                "cluster `{}` holds control characters",
                id.escape_debug()
            ));
            return;
        }
        let cluster = PlannedCluster {
            address,
            port,
            known,
            status: if document.status == "ERROR" {
                "ERROR"
            } else {
                "ACTIVE"
            },
            interests: document.interests,
            gone: document.gone,
        };
        if self.clusters.insert(id.clone(), cluster).is_some() {
            self.problem(format!("cluster {id} is there twice"));
        }
    }

    /// Looks at everything together.
    ///
    /// # Errors
    /// Whatever is wrong, up to a number of lines.
    pub(super) fn check(mut self) -> Result<Ready, Refused> {
        if !self.pools_seen && !self.jobs.is_empty() {
            self.problem(
                "the collection netcache is missing: without it, subnetworks and addresses that nodes hold would be handed out again".to_owned(),
            );
        }
        if self.jobs.is_empty() && self.clusters.is_empty() && !self.pools_seen {
            self.problem("the files hold no document".to_owned());
        }
        let subnets = self.next.get("subnet").copied().unwrap_or_default();
        if let Some(index) = self
            .free_subnets
            .iter()
            .find(|index| u128::from(**index) >= subnets)
        {
            let text = format!("the free subnetwork number {index} was never handed out");
            self.problem(text);
        }
        if !self.problems.is_empty() {
            return Err(Refused {
                listed: self.problems,
                more: self.more,
            });
        }
        let resting = self.resting();
        for (address, owner) in std::mem::take(&mut self.namespaces) {
            self.owners.entry(address).or_insert(owner);
        }
        let mut owners: Vec<(String, String)> = self
            .owners
            .iter()
            .map(|(address, (job, instance))| {
                let name = self.name_of(*job);
                let who = if *instance < 0 {
                    name
                } else {
                    format!("{name}/{instance}")
                };
                (stored::address(*address), who)
            })
            .collect();
        owners.sort_unstable();
        let named = &self.by_name;
        for cluster in self.clusters.values_mut() {
            // The reference keeps interests of services that are no more.
            cluster.interests.retain(|job| named.contains_key(job));
        }
        // A job without a revision (a reference's) gets one of its own.
        let mut revision = self.backup.as_ref().map_or(0, |backup| backup.revision);
        for job in &mut self.jobs {
            match job.revision {
                Some(own) => revision = revision.max(own),
                None => {
                    revision += 1;
                    job.revision = Some(revision);
                }
            }
        }
        Ok(Ready {
            jobs: self.jobs,
            owners,
            clusters: self.clusters,
            next: self.next,
            resting,
            revision,
        })
    }

    /// What was handed out once and has no owner now: it rests, and comes back.
    fn resting(&self) -> Vec<(&'static str, Vec<String>)> {
        let mut all = Vec::new();
        for (pool, next) in &self.next {
            let at: Box<dyn Fn(u128) -> Option<IpAddr>> = match *pool {
                "subnet" => continue,
                "v4" => Box::new(|index| {
                    address_plan::semantic_v4(u32::try_from(index).ok()?).map(IpAddr::V4)
                }),
                "instance6" => Box::new(|index| PoolV6::Instance.address(index).map(IpAddr::V6)),
                "Closest6" => Box::new(|index| PoolV6::Closest.address(index).map(IpAddr::V6)),
                "RR6" => Box::new(|index| PoolV6::RoundRobin.address(index).map(IpAddr::V6)),
                _ => Box::new(|index| PoolV6::Underutilized.address(index).map(IpAddr::V6)),
            };
            let owned = u128::try_from(self.owners.len()).unwrap_or_default();
            if *next > owned + GAPS {
                continue;
            }
            let gaps: Vec<String> = (0..*next)
                .filter_map(at)
                .filter(|address| !self.owners.contains_key(address))
                .map(stored::address)
                .collect();
            all.push((*pool, gaps));
        }
        let mut subnets: Vec<u32> = self.free_subnets.iter().copied().collect();
        subnets.sort_unstable();
        all.push(("subnet", subnets.iter().map(ToString::to_string).collect()));
        all
    }
}

fn both(v4: Option<Ipv4Addr>, v6: Option<Ipv6Addr>) -> impl Iterator<Item = IpAddr> {
    v4.map(IpAddr::V4).into_iter().chain(v6.map(IpAddr::V6))
}

/// Index of the first IPv4 address never handed out; the end of the pool is one further.
fn semantic_next(v4: Ipv4Addr) -> Option<u128> {
    if v4 == Ipv4Addr::new(10, 30, 254, 0) {
        return Some(address_plan::SEMANTIC_V4_COUNT.into());
    }
    address_plan::semantic_v4_index(v4).map(u128::from)
}

fn subnet_next(v4: Ipv4Addr) -> Option<u128> {
    if v4 == Ipv4Addr::new(10, 30, 0, 0) {
        return Some(address_plan::SUBNET_V4_COUNT.into());
    }
    address_plan::subnet_v4_index(v4).map(u128::from)
}

/// The document of a pool, for a backup; the reverse of what is read above.
pub(super) fn pool_document(pool: &str, next: u128) -> Option<PoolDocument> {
    let v4 = |kind: &str, address: Ipv4Addr| PoolDocument {
        kind: kind.to_owned(),
        ipv4: Some(address.octets()),
        ipv6: None,
    };
    let v6 = |kind: &str, pool: PoolV6| {
        Some(PoolDocument {
            kind: kind.to_owned(),
            ipv4: None,
            ipv6: Some(pool.address(next)?.octets()),
        })
    };
    match pool {
        "v4" => Some(v4(
            "next_service_ip",
            address_plan::semantic_v4(u32::try_from(next).ok()?)
                .unwrap_or(Ipv4Addr::new(10, 30, 254, 0)),
        )),
        "subnet" => Some(v4(
            "next_subnet_ip",
            address_plan::subnet_v4(u32::try_from(next).ok()?)
                .unwrap_or(Ipv4Addr::new(10, 30, 0, 0)),
        )),
        "instance6" => v6("next_service_ipv6", PoolV6::Instance),
        "RR6" => v6("next_rr_ipv6", PoolV6::RoundRobin),
        "Closest6" => v6("next_closest_ipv6", PoolV6::Closest),
        "Underutilized6" => v6("next_underutilized_ipv6", PoolV6::Underutilized),
        _ => None,
    }
}

/// The document of a resting subnetwork.
pub(super) fn free_subnet(index: u32) -> Option<PoolDocument> {
    Some(PoolDocument {
        kind: "free_subnet_ip".to_owned(),
        ipv4: Some(address_plan::subnet_v4(index)?.octets()),
        ipv6: None,
    })
}
