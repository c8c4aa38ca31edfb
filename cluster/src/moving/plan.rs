//! What an import will write, checked as a whole.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use protocol::JobName;
use protocol::topic::is_valid_node_id;
use serde_json::{Value, json};

/// Which manager wrote a backup.
pub(super) const MANAGER: &str = "cluster-service-manager";
/// Problems that are listed; more are counted.
const LISTED: usize = 20;

/// Why an import cannot be.
#[derive(Debug, thiserror::Error)]
#[error("nothing was imported:\n  {}{}", .listed.join("\n  "), if *.more > 0 { format!("\n  and {more} more") } else { String::new() })]
pub struct Refused {
    listed: Vec<String>,
    more: usize,
}

/// Collects documents.
#[derive(Debug, Default)]
pub(super) struct Plan {
    documents: Vec<Value>,
    /// Subnetwork → who holds it.
    owners: HashMap<Ipv4Addr, String>,
    nodes: BTreeSet<String>,
    jobs: BTreeSet<String>,
    problems: Vec<String>,
    more: usize,
}

impl Plan {
    /// Adds a document; what contradicts others is told by [`Plan::check`].
    ///
    /// # Errors
    /// It is none of ours.
    pub(super) fn add(&mut self, document: &Value) -> Result<(), String> {
        if let Some(name) = document["job_name"].as_str() {
            return self.add_job(name, document);
        }
        if let Some(manager) = document["backup_of"].as_str() {
            return if manager == MANAGER {
                Ok(())
            } else {
                Err(format!("this is a backup of {manager}: import it there"))
            };
        }
        let node = document["_id"].as_str();
        if let (Some(node), Some(list)) = (node, document["subnets"].as_array()) {
            let pairs: Vec<(String, String)> = list
                .iter()
                .map(|pair| (text(&pair[0]), text(&pair[1])))
                .collect();
            return self.add_node(node, &pairs, document.get("host"));
        }
        if let (Some(node), Some(_)) = (node, document.get("node_subnet")) {
            let pair = (
                text(&document["node_subnet"]),
                text(&document["node_subnet_v6"]),
            );
            return self.add_node(node, &[pair], None);
        }
        match (document["type"].as_str(), document["subnet"].as_str()) {
            (Some(kind @ ("free_subnet" | "owed_subnet")), Some(subnet)) => {
                let (v4, v6) = subnet.split_once(' ').unwrap_or((subnet, ""));
                let Some(pair) = self.own(kind, v4, v6) else {
                    return Ok(());
                };
                let field = if kind == "free_subnet" { "free" } else { "owed" };
                self.documents.push(json!({ field: pair }));
                Ok(())
            }
            // A node that registered with the orchestrator and never asked for a subnetwork.
            (None, None) if document.get("node_info").is_some() => Ok(()),
            _ => Err(
                "it is no document of a cluster's collections nodes or jobs, and no line of a backup"
                    .to_owned(),
            ),
        }
    }

    fn problem(&mut self, text: String) {
        if self.problems.len() < LISTED {
            self.problems.push(text);
        } else {
            self.more += 1;
        }
    }

    /// Notes who holds a subnetwork; its text for the store.
    fn own(&mut self, who: &str, v4: &str, v6: &str) -> Option<String> {
        let parsed = (v4.trim().parse::<Ipv4Addr>(), v6.trim().parse::<Ipv6Addr>());
        let (Ok(v4), Ok(v6)) = parsed else {
            self.problem(format!("{who}: `{v4}` and `{v6}` are no subnetwork"));
            return None;
        };
        if protocol::address_plan::subnet_v4_index(v4).is_none() {
            self.problem(format!("{who}: {v4} starts no worker subnetwork"));
            return None;
        }
        if let Some(other) = self.owners.insert(v4, who.to_owned()) {
            self.problem(format!("{v4} belongs to {other} and to {who}"));
            return None;
        }
        Some(format!("{v4} {v6}"))
    }

    fn add_node(
        &mut self,
        node: &str,
        pairs: &[(String, String)],
        host: Option<&Value>,
    ) -> Result<(), String> {
        if !is_valid_node_id(node) {
            return Err(format!("`{node}` is not a node's id"));
        }
        if !self.nodes.insert(node.to_owned()) {
            self.problem(format!("node {node} is there twice"));
        }
        let mut kept = Vec::new();
        for (v4, v6) in pairs {
            if let Some(pair) = self.own(&format!("node {node}"), v4, v6) {
                kept.push(pair.split(' ').map(str::to_owned).collect::<Vec<_>>());
            }
        }
        let mut document = json!({"node": node, "subnets": kept});
        if let Some(host) = host.and_then(Value::as_str) {
            document["host"] = json!(host);
        }
        self.documents.push(document);
        Ok(())
    }

    fn add_job(&mut self, name: &str, document: &Value) -> Result<(), String> {
        let job: JobName = name
            .parse()
            .map_err(|error: protocol::job_name::JobNameError| error.to_string())?;
        if document.get("environment").is_some() || document.get("microservice_name").is_some() {
            return Err(
                "it belongs to a root: import it with root-service-manager, and here the cluster's own collections"
                    .to_owned(),
            );
        }
        if !self.jobs.insert(name.to_owned()) {
            self.problem(format!("job {name} is there twice"));
        }
        // The reference adds a node once more with each question.
        let interested: BTreeSet<&str> = list(&document["interested_nodes"])
            .filter_map(Value::as_str)
            .filter(|node| is_valid_node_id(node))
            .collect();
        let mut locals = BTreeMap::new();
        for instance in list(&document["instance_list"]) {
            if let (Some(number), Some(record)) =
                (instance["instance_number"].as_u64(), local(instance))
            {
                locals.insert(number.to_string(), record);
            }
        }
        for (number, record) in document["locals"].as_object().into_iter().flatten() {
            let is_live = record["gone"] != true;
            if number.parse::<u32>().is_err()
                || record["node"].as_str().is_none()
                || (is_live && !is_somewhere(record))
            {
                return Err(format!("job {name} has no instance `{number}` like this"));
            }
            if is_live {
                let mut record = record.clone();
                if let Some(fields) = record.as_object_mut() {
                    fields.retain(|field, _| {
                        ["node", "nsip", "nsip6", "host", "port"].contains(&field.as_str())
                    });
                }
                locals.insert(number.clone(), record);
            }
        }
        self.documents
            .push(json!({"job": job, "interested": interested, "locals": locals}));
        Ok(())
    }

    /// Looks at everything together.
    ///
    /// # Errors
    /// Whatever is wrong, up to a number of lines.
    pub(super) fn check(mut self) -> Result<Vec<Value>, Refused> {
        if self.documents.is_empty() {
            self.problem("the files hold no document".to_owned());
        }
        if !self.problems.is_empty() {
            return Err(Refused {
                listed: self.problems,
                more: self.more,
            });
        }
        Ok(self.documents)
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// Whether a record says where the instance is; the root takes no other.
fn is_somewhere(record: &Value) -> bool {
    let is_address = |field: &str| text(&record[field]).parse::<IpAddr>().is_ok();
    (is_address("nsip") || is_address("nsip6"))
        && is_address("host")
        && record["port"].as_u64().is_some_and(|port| port != 0)
}

/// What a node of this cluster announced: the reference notes it in the instance.
fn local(instance: &Value) -> Option<Value> {
    let node = instance["worker_id"]
        .as_str()
        .filter(|node| is_valid_node_id(node))?;
    let address = |field: &str| {
        instance[field]
            .as_str()
            .and_then(|text| text.parse::<IpAddr>().ok())
    };
    let port = match &instance["host_port"] {
        Value::String(text) => text.parse().ok(),
        other => other.as_u64().and_then(|port| u16::try_from(port).ok()),
    };
    let (nsip, nsip6) = (address("namespace_ip"), address("namespace_ip_v6"));
    if nsip.is_none() && nsip6.is_none() {
        return None;
    }
    let or_empty = |address: Option<IpAddr>| address.map_or_else(String::new, |ip| ip.to_string());
    Some(json!({
        "node": node,
        "nsip": or_empty(nsip),
        "nsip6": or_empty(nsip6),
        "host": address("host_ip")?.to_string(),
        "port": port.filter(|port: &u16| *port != 0)?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(documents: &[Value]) -> Result<Vec<Value>, String> {
        let mut plan = Plan::default();
        for document in documents {
            plan.add(document)?;
        }
        plan.check().map_err(|error| error.to_string())
    }

    #[test]
    fn a_reference_job_becomes_what_its_nodes_said() {
        let documents = plan(&[
            json!({"_id": "cccccccccccccccccccccc01", "job_name": "a.b.c.d",
            "status": "DEPLOYED", "service_ip_list": [], "interested_nodes": ["n1", "n2", "n1"],
            "instance_list": [
                {"instance_number": 0, "worker_id": "n1", "namespace_ip": "10.18.0.2", "namespace_ip_v6": "fc00::0002",
                 "host_ip": "192.0.2.1", "host_port": "50103"},
                {"instance_number": 1, "namespace_ip": "10.18.9.2", "host_ip": "192.0.2.9", "host_port": 50103}]}),
        ]);
        assert_eq!(
            documents.unwrap(),
            [
                json!({"job": "a.b.c.d", "interested": ["n1", "n2"], "locals": {"0":
                {"node": "n1", "nsip": "10.18.0.2", "nsip6": "fc00::2", "host": "192.0.2.1", "port": 50103}}})
            ]
        );
    }

    /// The root would never take them.
    #[test]
    fn instances_that_are_nowhere_are_left_out_or_refused() {
        let documents = plan(&[
            json!({"_id": "cccccccccccccccccccccc01", "job_name": "a.b.c.d",
            "status": "DEPLOYED", "service_ip_list": [], "instance_list": [
                {"instance_number": 0, "worker_id": "n1", "namespace_ip": "10.18.0.2", "host_ip": "192.0.2.1", "host_port": 0},
                {"instance_number": 1, "worker_id": "n1", "namespace_ip": "10.18.0.2", "host_ip": "", "host_port": 50103}]}),
        ]);
        assert_eq!(documents.unwrap()[0]["locals"], json!({}));
        let whole = json!({"node": "n1", "nsip": "10.18.0.2", "nsip6": "", "host": "192.0.2.1", "port": 50103});
        let backup = |record: &Value| json!({"job_name": "a.b.c.d", "interested_nodes": [], "locals": {"0": record}});
        let documents = plan(&[backup(&whole)]).unwrap();
        assert_eq!(documents[0]["locals"]["0"], whole);
        for (field, nothing) in [
            ("nsip", json!("")),
            ("host", json!("")),
            ("host", Value::Null),
            ("port", json!(0)),
            ("port", Value::Null),
        ] {
            let mut record = whole.clone();
            record[field] = nothing;
            let error = plan(&[backup(&record)]).unwrap_err();
            assert!(error.contains("no instance `0` like this"), "{error}");
        }
    }

    #[test]
    fn a_subnetwork_has_one_owner() {
        let node =
            |id: &str, v4: &str| json!({"_id": id, "node_subnet": v4, "node_subnet_v6": "fc00::"});
        let error = plan(&[node("n1", "10.18.0.0"), node("n2", "10.18.0.0")]).unwrap_err();
        assert!(
            error.contains("10.18.0.0 belongs to node n1 and to node n2"),
            "{error}"
        );
        let error = plan(&[node("n1", "10.18.0.1")]).unwrap_err();
        assert!(error.contains("starts no worker subnetwork"), "{error}");
        assert!(plan(&[]).unwrap_err().contains("no document"));
        assert!(plan(&[json!({"x": 1})]).is_err());
        assert!(plan(&[node("n1", "10.18.0.0"), node("n2", "10.18.0.64")]).is_ok());
    }
}
