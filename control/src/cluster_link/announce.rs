//! What the cluster must know of this node's instances, until it shows that it does.
//!
//! An MQTT acknowledgement is not delivery (contract section 3): `deployed` is delivered once the instance shows in a
//! table query with our address, `undeployed` once it no longer does.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use protocol::mqtt::TableQueryResult;
use protocol::pacing::jittered;

use crate::forwarding::Pair;
use crate::state::Departure;

/// How long a departure is repeated where nobody confirms it (a reference cluster never does).
const DEPARTURE_REPEATED: Duration = Duration::from_secs(600);
const FIRST_WAIT: Duration = Duration::from_secs(2);
const REPEAT: Duration = Duration::from_secs(60);

/// An instance: job and number.
pub type Instance = (String, u32);

struct Present {
    namespace: Pair,
    confirmed: bool,
    wait: Duration,
    due: Instant,
}

struct Gone {
    namespace: Pair,
    until: Instant,
    wait: Duration,
    /// How often it is said before an answer that does not show it counts: on a new connection the cluster may listen
    /// only after us, and one that keeps no list of its own never shows anything.
    owed: u8,
    due: Instant,
}

/// One message to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    pub job: String,
    pub number: u32,
    pub namespace: Pair,
    pub deployed: bool,
}

/// The announcements of one node.
#[derive(Default)]
pub struct Announcements {
    present: BTreeMap<Instance, Present>,
    gone: BTreeMap<Instance, Gone>,
}

impl Announcements {
    /// An instance is here.
    pub fn arrive(&mut self, instance: Instance, namespace: Pair, now: Instant) {
        self.gone.remove(&instance);
        self.present.insert(
            instance,
            Present {
                namespace,
                confirmed: false,
                wait: FIRST_WAIT,
                due: now,
            },
        );
    }

    /// An instance left.
    pub fn leave(&mut self, instance: Instance, namespace: Pair, now: Instant) {
        self.present.remove(&instance);
        self.gone.insert(
            instance,
            Gone {
                namespace,
                until: now + DEPARTURE_REPEATED,
                wait: FIRST_WAIT,
                owed: 0,
                due: now,
            },
        );
    }

    /// The connection is new, or our address is: everything is said again.
    pub fn repeat_all(&mut self, now: Instant) {
        for present in self.present.values_mut() {
            present.confirmed = false;
            present.wait = FIRST_WAIT;
            present.due = now;
        }
        for gone in self.gone.values_mut() {
            // While there was no connection nobody could hear it.
            gone.until = now + DEPARTURE_REPEATED;
            gone.wait = FIRST_WAIT;
            gone.owed = 2;
            gone.due = now;
        }
    }

    /// Compares with a table query's answer for one job.
    pub fn observe(&mut self, result: &TableQueryResult, host: Option<std::net::IpAddr>) {
        let shown = |number: u32, namespace: Pair| {
            result.instance_list.iter().any(|entry| {
                let instance = &entry.instance;
                let same = match namespace.v4 {
                    Some(v4) => instance.namespace_ip == Some(v4),
                    None => instance.namespace_ip_v6 == namespace.v6,
                };
                instance.instance_number == number
                    && same
                    && (host.is_none() || instance.host_ip.map(|ip| ip.to_canonical()) == host)
            })
        };
        for ((job, number), present) in &mut self.present {
            if *job == result.app_name && shown(*number, present.namespace) {
                present.confirmed = true;
            }
        }
        self.gone.retain(|(job, number), gone| {
            gone.owed > 0 || *job != result.app_name || shown(*number, gone.namespace)
        });
    }

    /// What is to be said now.
    pub fn due(&mut self, now: Instant) -> Vec<Due> {
        let mut due = Vec::new();
        self.gone.retain(|_, gone| now < gone.until);
        for ((job, number), gone) in &mut self.gone {
            if gone.due <= now {
                gone.due = now + jittered(gone.wait);
                gone.wait = (gone.wait * 2).min(REPEAT);
                gone.owed = gone.owed.saturating_sub(1);
                due.push(Due {
                    job: job.clone(),
                    number: *number,
                    namespace: gone.namespace,
                    deployed: false,
                });
            }
        }
        for ((job, number), present) in &mut self.present {
            if present.due <= now {
                present.due = now
                    + jittered(if present.confirmed {
                        REPEAT
                    } else {
                        present.wait
                    });
                present.wait = (present.wait * 2).min(REPEAT);
                due.push(Due {
                    job: job.clone(),
                    number: *number,
                    namespace: present.namespace,
                    deployed: true,
                });
            }
        }
        due
    }

    /// When something is due next.
    pub fn next_due(&self) -> Option<Instant> {
        self.present
            .values()
            .map(|present| present.due)
            .chain(self.gone.values().map(|gone| gone.due))
            .min()
    }

    /// Instances here.
    pub fn present(&self) -> impl Iterator<Item = &Instance> {
        self.present.keys()
    }

    /// Instances that left, which the cluster may still show.
    pub fn departures(&self) -> impl Iterator<Item = Departure> {
        self.gone.iter().map(|((job, number), gone)| Departure {
            job: job.clone(),
            number: *number,
            v4: gone.namespace.v4,
            v6: gone.namespace.v6,
        })
    }

    /// Whether the cluster has shown that it knows the instance to be here.
    pub fn is_confirmed(&self, instance: &Instance) -> bool {
        self.present
            .get(instance)
            .is_some_and(|present| present.confirmed)
    }

    /// Whether a job has an instance here.
    pub fn has_job(&self, job: &str) -> bool {
        self.present.keys().any(|(name, _)| name == job)
    }

    /// The job of a local namespace IP.
    pub fn job_at(&self, address: std::net::IpAddr) -> Option<&str> {
        self.present
            .iter()
            .find(|(_, present)| present.namespace.iter().any(|own| own == address))
            .map(|((job, _), _)| job.as_str())
    }

    /// Announcements that nobody confirmed yet.
    pub fn unconfirmed(&self) -> usize {
        self.present
            .values()
            .filter(|present| !present.confirmed)
            .count()
            + self.gone.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> Pair {
        Pair::new(
            Some("10.18.0.2".parse().unwrap()),
            Some("fc00::2".parse().unwrap()),
        )
    }

    fn answer(text: &str) -> TableQueryResult {
        serde_json::from_str(text).unwrap()
    }

    const SHOWN: &str = r#"{"app_name":"a.b.c.d","query_key":"a.b.c.d","instance_list":[{"instance_number":0,"namespace_ip":"10.18.0.2","namespace_ip_v6":"fc00::2","host_ip":"192.0.2.1","host_port":50103,"service_ip":[]}]}"#;
    const EMPTY: &str = r#"{"app_name":"a.b.c.d","query_key":"a.b.c.d","instance_list":[]}"#;

    #[test]
    fn an_arrival_is_repeated_until_it_shows() {
        let mut announcements = Announcements::default();
        let mut now = Instant::now();
        let start = now;
        announcements.arrive(("a.b.c.d".into(), 0), pair(), now);
        let host = Some("192.0.2.1".parse().unwrap());
        let mut said = 0;
        while now < start + Duration::from_secs(30) {
            said += announcements.due(now).len();
            announcements.observe(&answer(EMPTY), host);
            now = announcements.next_due().unwrap();
        }
        assert!((3..=6).contains(&said), "{said}");
        announcements.due(now);
        announcements.observe(&answer(SHOWN), host);
        assert_eq!(announcements.unconfirmed(), 0);
        announcements.repeat_all(now);
        assert_eq!(announcements.due(now).len(), 1);
        assert!(announcements.next_due().unwrap() < now + Duration::from_secs(4));
    }

    #[test]
    fn an_arrival_under_an_old_address_is_not_confirmed() {
        let mut announcements = Announcements::default();
        announcements.arrive(("a.b.c.d".into(), 0), pair(), Instant::now());
        announcements.observe(&answer(SHOWN), Some("192.0.2.2".parse().unwrap()));
        assert_eq!(announcements.unconfirmed(), 1);
    }

    #[test]
    fn a_departure_is_repeated_until_it_no_longer_shows_and_not_for_ever() {
        let mut announcements = Announcements::default();
        let now = Instant::now();
        announcements.arrive(("a.b.c.d".into(), 0), pair(), now);
        announcements.leave(("a.b.c.d".into(), 0), pair(), now);
        assert!(announcements.due(now).iter().all(|due| !due.deployed));
        announcements.observe(&answer(SHOWN), None);
        assert_eq!(announcements.unconfirmed(), 1);
        announcements.observe(&answer(EMPTY), None);
        assert_eq!(announcements.unconfirmed(), 0);
        announcements.leave(("a.b.c.d".into(), 0), pair(), now);
        assert!(announcements.due(now + DEPARTURE_REPEATED).is_empty());
    }

    #[test]
    fn a_departure_outlives_an_outage_of_any_length() {
        let mut announcements = Announcements::default();
        let now = Instant::now();
        announcements.leave(("a.b.c.d".into(), 0), pair(), now);
        let after = now + 10 * DEPARTURE_REPEATED;
        announcements.repeat_all(after);
        assert_eq!(announcements.due(after).len(), 1);
        assert_eq!(announcements.departures().count(), 1);
        assert!(announcements.due(after + DEPARTURE_REPEATED).is_empty());
        assert_eq!(announcements.departures().count(), 0);
    }

    #[test]
    fn a_departure_is_said_twice_on_a_new_connection_whatever_the_cluster_shows() {
        let mut announcements = Announcements::default();
        let mut now = Instant::now();
        announcements.leave(("a.b.c.d".into(), 0), pair(), now);
        announcements.repeat_all(now);
        for _ in 0..2 {
            announcements.observe(&answer(EMPTY), None);
            now = announcements.next_due().unwrap();
            assert_eq!(announcements.due(now).len(), 1);
        }
        announcements.observe(&answer(EMPTY), None);
        assert_eq!(announcements.unconfirmed(), 0);
    }
}
