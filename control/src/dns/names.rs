//! What is known of jobs, by name and by address: written by the link to the cluster, read by whoever answers.
//!
//! The link follows every job that it has told of here, so what is known stays true without asking again. What the
//! cluster does not know either is remembered for some seconds, so that a name that nobody has costs one question.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use protocol::mqtt::TableQueryResult;

use super::question::INSTANCE;
use crate::forwarding::{Pair, Policy};

/// How long an answer of the cluster that there is no such job counts.
pub const ABSENT: Duration = Duration::from_secs(3);
/// Names that nobody has, remembered at one time.
const ABSENT_NAMES: usize = 4096;

/// One job's addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobNames {
    /// Its name as the cluster spells it.
    pub job: String,
    /// Its Service IPs.
    pub services: BTreeMap<Policy, Pair>,
    /// The Instance IPs by number.
    pub instances: BTreeMap<u32, Pair>,
}

impl JobNames {
    fn of(result: &TableQueryResult) -> Self {
        let mut names = Self {
            job: result.app_name.clone(),
            ..Self::default()
        };
        for entry in &result.instance_list {
            let own = match entry.own_address() {
                Some(own) => Pair::new(own.address, own.address_v6),
                None => Pair::new(entry.instance.instance_ip, entry.instance.instance_ip_v6),
            };
            names.instances.insert(entry.instance.instance_number, own);
            for service in entry.service_ips() {
                let Some(policy) = Policy::of_type(service.ip_type.as_str()) else {
                    continue;
                };
                let addresses = Pair::new(service.address, service.address_v6);
                if addresses != Pair::default() {
                    names.services.insert(policy, addresses);
                }
            }
        }
        names
    }

    fn is_empty(&self) -> bool {
        self.services.is_empty() && self.instances.is_empty()
    }

    /// The name, below the zone, of an address of this job.
    fn name_of(&self, address: IpAddr) -> Option<String> {
        let is = |pair: &Pair| pair.iter().any(|own| own == address);
        let first = match self.services.iter().find(|(_, pair)| is(pair)) {
            Some((policy, _)) => format!("any.{}", policy.name()),
            None => {
                let (number, _) = self.instances.iter().find(|(_, pair)| is(pair))?;
                format!("{number}.{INSTANCE}")
            }
        };
        let mut parts = self.job.split('.');
        let (app, app_ns) = (parts.next()?, parts.next()?);
        let (service, service_ns) = (parts.next()?, parts.next()?);
        Some(format!("{first}.{service}.{service_ns}.{app}.{app_ns}"))
    }
}

#[derive(Default)]
struct Known {
    /// By the name in lower case: DNS does not tell cases apart, jobs do.
    jobs: HashMap<String, Vec<Arc<JobNames>>>,
    absent: HashMap<String, Instant>,
}

/// What is known, shared.
#[derive(Default)]
pub struct Names(Mutex<Known>);

impl Names {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces what is known of the job that an answer of the cluster is about.
    pub fn learn(&self, result: &TableQueryResult) {
        let names = JobNames::of(result);
        if names.is_empty() {
            return self.forget(&names.job);
        }
        let lower = names.job.to_ascii_lowercase();
        let mut known = self.known();
        known.absent.remove(&names.job);
        let spellings = known.jobs.entry(lower).or_default();
        spellings.retain(|other| other.job != names.job);
        spellings.push(Arc::new(names));
    }

    /// Forgets everything.
    pub fn clear(&self) {
        *self.known() = Known::default();
    }

    /// Forgets a job: nobody follows it any more, or it has no instance.
    pub fn forget(&self, job: &str) {
        let lower = job.to_ascii_lowercase();
        let mut known = self.known();
        if let Some(spellings) = known.jobs.get_mut(&lower) {
            spellings.retain(|other| other.job != job);
            if spellings.is_empty() {
                known.jobs.remove(&lower);
            }
        }
    }

    /// The cluster does not know this name, so spelled, or address.
    pub fn mark_absent(&self, key: &str) {
        let now = Instant::now();
        let mut known = self.known();
        if known.absent.len() >= ABSENT_NAMES {
            known.absent.retain(|_, until| *until > now);
        }
        if known.absent.len() < ABSENT_NAMES {
            known.absent.insert(key.to_owned(), now + ABSENT);
        }
    }

    /// Whether the cluster has said lately that nobody has this name or address.
    pub fn is_absent(&self, key: &str) -> bool {
        let known = self.known();
        let until = known.absent.get(key);
        until.is_some_and(|until| *until > Instant::now())
    }

    /// A job by name: as it is spelled, else in any case.
    pub fn find(&self, job: &str) -> Option<Arc<JobNames>> {
        let known = self.known();
        let spellings = known.jobs.get(&job.to_ascii_lowercase())?;
        let exact = spellings.iter().find(|names| names.job == job);
        exact.or(spellings.first()).cloned()
    }

    /// The name, below the zone, of a Service or Instance IP.
    pub fn name_of(&self, address: IpAddr) -> Option<String> {
        let known = self.known();
        let mut jobs = known.jobs.values().flatten();
        jobs.find_map(|names| names.name_of(address))
    }

    /// Whether names of known jobs lie below these labels, the rightmost last: `service_name … app_ns` or less.
    pub fn any_below(&self, labels: &[String]) -> bool {
        let known = self.known();
        known.jobs.keys().any(|job| {
            let parts: Vec<&str> = job.split('.').collect();
            let [app, app_ns, service, service_ns] = parts.as_slice() else {
                return false;
            };
            let whole = [service, service_ns, app, app_ns];
            labels.len() <= whole.len()
                && whole
                    .iter()
                    .rev()
                    .zip(labels.iter().rev())
                    .all(|(part, label)| part.eq_ignore_ascii_case(label))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(job: &str) -> TableQueryResult {
        serde_json::from_value(serde_json::json!({"app_name": job, "query_key": job, "instance_list": [
            {"instance_number": 2, "instance_ip": "10.30.0.2", "instance_ip_v6": "fdff::2", "cluster_id": "c",
             "service_ip": [
                {"IpType": "RR", "Address": "10.30.0.1", "Address_v6": "fdff:2000::1"},
                {"IpType": "Closest", "Address": "", "Address_v6": "fdff:1000::1"},
                {"IpType": "instance_ip", "Address": "10.30.0.2", "Address_v6": "fdff::2"}]}]}))
        .unwrap()
    }

    #[test]
    fn a_job_is_found_in_any_case_and_by_its_addresses_until_it_is_forgotten() {
        let names = Names::default();
        names.mark_absent("Video.prod.web.default");
        assert!(names.is_absent("Video.prod.web.default"));
        assert!(!names.is_absent("video.prod.web.default"));
        names.learn(&answer("Video.prod.web.default"));
        assert!(!names.is_absent("Video.prod.web.default"));
        let found = names.find("vIDEO.prod.web.default").unwrap();
        assert_eq!(found.job, "Video.prod.web.default");
        assert_eq!(found.services.len(), 2);
        assert_eq!(found.services[&Policy::Closest].v4, None);
        assert_eq!(
            names.name_of("10.30.0.1".parse().unwrap()).unwrap(),
            "any.rr.web.default.Video.prod"
        );
        assert_eq!(
            names.name_of("fdff::2".parse().unwrap()).unwrap(),
            "2.instance.web.default.Video.prod"
        );
        names.forget("Video.prod.web.default");
        assert!(names.find("Video.prod.web.default").is_none());
    }

    #[test]
    fn jobs_that_differ_in_case_alone_are_both_there() {
        let names = Names::default();
        names.learn(&answer("A.b.c.d"));
        names.learn(&answer("a.b.c.d"));
        assert_eq!(names.find("A.b.c.d").unwrap().job, "A.b.c.d");
        assert_eq!(names.find("a.b.c.d").unwrap().job, "a.b.c.d");
        names.forget("A.b.c.d");
        assert_eq!(names.find("A.b.c.d").unwrap().job, "a.b.c.d");
    }

    #[test]
    fn a_part_of_a_name_exists_where_a_known_job_lies_below_it() {
        let names = Names::default();
        names.learn(&answer("video.prod.web.default"));
        let below = |text: &str| {
            let labels: Vec<String> = text.split('.').map(str::to_owned).collect();
            names.any_below(&labels)
        };
        for part in [
            "prod",
            "Video.prod",
            "default.video.prod",
            "web.default.video.prod",
        ] {
            assert!(below(part), "{part}");
        }
        assert!(!below("video") && !below("other.prod") && !below("x.web.default.video.prod"));
    }

    #[test]
    fn what_nobody_has_is_remembered_in_bounded_room() {
        let names = Names::default();
        for n in 0..2 * ABSENT_NAMES {
            names.mark_absent(&n.to_string());
        }
        assert!(names.known().absent.len() <= ABSENT_NAMES);
    }
}
