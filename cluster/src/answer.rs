//! From the root's copy and the nodes' announcements to the answer of a table query.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use protocol::mqtt::{TableEntry, TableQueryResult};
use protocol::{Instance, Job};
use serde::Deserialize;

/// What a node announced of one instance, as `local:<job>` keeps it (see `keys`).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct LocalRecord {
    /// The node that announced it.
    pub node: String,
    /// Namespace IP, IPv4.
    #[serde(default, with = "protocol::address::or_empty")]
    pub nsip: Option<Ipv4Addr>,
    /// Namespace IP, IPv6.
    #[serde(default, with = "protocol::address::or_empty")]
    pub nsip6: Option<Ipv6Addr>,
    /// Tunnel endpoint.
    #[serde(default, with = "protocol::address::or_empty")]
    pub host: Option<IpAddr>,
    /// Tunnel port.
    #[serde(default)]
    pub port: Option<u16>,
    /// When it was announced.
    pub ticket: u64,
    /// When the root had been told of it.
    #[serde(default)]
    pub reported: Option<u64>,
    /// Whether it is gone.
    #[serde(default)]
    pub gone: bool,
}

impl LocalRecord {
    /// Whether it says more than a copy that was asked for at `copy_ticket`: until the root was
    /// told, and a copy was pulled after that.
    fn overrides(&self, copy_ticket: u64) -> bool {
        self.reported.is_none_or(|reported| copy_ticket < reported)
    }
}

/// A job as this cluster knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The root's copy.
    pub job: Arc<Job>,
    /// When it was asked for.
    pub ticket: u64,
    /// What nodes announced.
    pub locals: BTreeMap<u32, LocalRecord>,
    /// Live flows.
    pub loads: BTreeMap<u32, u64>,
}

impl Held {
    /// The instances that packets can reach.
    pub fn running(&self) -> Vec<Instance> {
        self.job
            .instance_list
            .iter()
            .map(|instance| self.overlay(instance))
            .filter(Instance::is_running)
            .collect()
    }

    fn overlay(&self, instance: &Instance) -> Instance {
        let mut instance = instance.clone();
        let number = instance.instance_number;
        if let Some(local) = self.locals.get(&number)
            && local.overrides(self.ticket)
        {
            let keep = !local.gone;
            instance.namespace_ip = local.nsip.filter(|_| keep);
            instance.namespace_ip_v6 = local.nsip6.filter(|_| keep);
            instance.host_ip = local.host.filter(|_| keep);
            instance.host_port = local.port.filter(|_| keep);
        }
        if let Some(load) = self.loads.get(&number) {
            instance.load = Some(*load);
        }
        instance
    }

    /// Whether an address is one of the job's: Service IP, Instance IP or namespace IP.
    pub fn has(&self, address: IpAddr) -> bool {
        let either = |v4: Option<Ipv4Addr>, v6: Option<Ipv6Addr>| {
            v4.map(IpAddr::V4) == Some(address) || v6.map(IpAddr::V6) == Some(address)
        };
        self.job
            .service_ip_list
            .iter()
            .any(|ip| either(ip.address, ip.address_v6))
            || self
                .job
                .instance_list
                .iter()
                .map(|instance| self.overlay(instance))
                .any(|instance| {
                    either(instance.instance_ip, instance.instance_ip_v6)
                        || either(instance.namespace_ip, instance.namespace_ip_v6)
                })
    }

    /// What nodes would see change: everything but loads, which have no news of their own.
    pub fn view(&self) -> (Vec<protocol::ServiceIp>, Vec<Instance>) {
        let mut instances = self.running();
        for instance in &mut instances {
            instance.load = None;
        }
        (self.job.service_ip_list.clone(), instances)
    }

    /// The answer to the question `query_key`.
    pub fn answer(&self, query_key: &str) -> TableQueryResult {
        TableQueryResult {
            app_name: self.job.job_name.to_string(),
            query_key: query_key.to_owned(),
            instance_list: self
                .running()
                .into_iter()
                .map(|instance| TableEntry::new(instance, &self.job.service_ip_list))
                .collect(),
        }
    }
}

/// The answer when nobody knows the job: the name as it was asked, which is empty for an address.
pub fn unknown(asked_name: &str, query_key: &str) -> TableQueryResult {
    TableQueryResult {
        app_name: asked_name.to_owned(),
        query_key: query_key.to_owned(),
        instance_list: Vec::new(),
    }
}

/// Addresses by which the copy is found: Service and Instance IPs, and the namespace IPs that the
/// root knows.
pub fn addresses(job: &Job) -> Vec<String> {
    let mut all = Vec::new();
    let mut add = |v4: Option<Ipv4Addr>, v6: Option<Ipv6Addr>| {
        all.extend(v4.map(|address| address.to_string()));
        all.extend(v6.map(|address| address.to_string()));
    };
    for ip in &job.service_ip_list {
        add(ip.address, ip.address_v6);
    }
    for instance in &job.instance_list {
        add(instance.instance_ip, instance.instance_ip_v6);
        add(instance.namespace_ip, instance.namespace_ip_v6);
    }
    all.sort_unstable();
    all.dedup();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(reported: Option<u64>, gone: bool) -> Held {
        let job = Job::from_answer(
            br#"{"_id":"cccccccccccccccccccccc02","job_name":"a.b.c.d",
              "service_ip_list":[{"IpType":"RR","Address":"10.30.0.1","Address_v6":"fdff:2000::1"}],
              "instance_list":[
                {"instance_number":0,"instance_ip":"10.30.0.2","instance_ip_v6":"fdff::2","cluster_id":"c1"},
                {"instance_number":1,"instance_ip":"10.30.0.3","instance_ip_v6":"fdff::3","cluster_id":"c2",
                 "namespace_ip":"10.18.9.2","namespace_ip_v6":"fc00::902","host_ip":"192.0.2.9","host_port":"50103"}]}"#,
        )
        .unwrap()
        .unwrap();
        let local = LocalRecord {
            node: "n1".into(),
            nsip: Some("10.18.0.2".parse().unwrap()),
            nsip6: Some("fc00::2".parse().unwrap()),
            host: Some("192.0.2.10".parse().unwrap()),
            port: Some(50103),
            ticket: 5,
            reported,
            gone,
        };
        Held {
            job: Arc::new(job),
            ticket: 10,
            locals: BTreeMap::from([(0, local)]),
            loads: BTreeMap::from([(0, 7)]),
        }
    }

    #[test]
    fn an_announcement_counts_before_the_root_knows_of_it() {
        let running = held(None, false).running();
        assert_eq!(running.len(), 2);
        assert_eq!(running[0].namespace_ip.unwrap().to_string(), "10.18.0.2");
        assert_eq!(running[0].load, Some(7));
    }

    #[test]
    fn a_copy_pulled_after_the_report_is_the_whole_truth() {
        assert_eq!(held(Some(9), false).running().len(), 1);
        assert_eq!(held(Some(11), false).running().len(), 2);
    }

    #[test]
    fn an_instance_that_left_stays_away_while_the_copy_is_older() {
        let mut held = held(None, true);
        let instance = &mut Arc::make_mut(&mut held.job).instance_list[0];
        instance.namespace_ip = Some("10.18.0.2".parse().unwrap());
        instance.host_ip = Some("192.0.2.10".parse().unwrap());
        instance.host_port = Some(50103);
        assert_eq!(held.running().len(), 1);
        assert!(!held.has("10.18.0.2".parse().unwrap()));
    }

    #[test]
    fn addresses_are_compared_as_addresses() {
        let held = held(None, false);
        for text in [
            "10.30.0.1",
            "fdff:2000:0:0:0:0:0:1",
            "FDFF::0003",
            "10.18.0.2",
            "fc00::902",
            "::ffff:10.30.0.2",
        ] {
            assert!(held.has(protocol::address::parse(text).unwrap()), "{text}");
        }
        assert!(!held.has("10.30.0.9".parse().unwrap()));
    }

    #[test]
    fn the_answer_has_the_contracts_shape() {
        let answer = serde_json::to_value(held(None, false).answer("10.30.0.1")).unwrap();
        assert_eq!(answer["query_key"], "10.30.0.1");
        let entry = &answer["instance_list"][1];
        assert_eq!(entry["host_port"], 50103);
        assert_eq!(
            entry["service_ip"],
            serde_json::json!([
                {"IpType":"RR","Address":"10.30.0.1","Address_v6":"fdff:2000::1"},
                {"IpType":"instance_ip","Address":"10.30.0.3","Address_v6":"fdff::3"}
            ])
        );
    }
}
