//! The calls of the root and cluster orchestrators, and nothing else (contract, sections 2 and 3).

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::deadline::wait_for;
use crate::http::Server;
use crate::services::{CLUSTER_PORT, Seat};

/// The orchestrators of one root and one cluster.
#[derive(Debug, Clone)]
pub struct Orchestrator {
    /// The root service manager.
    pub root: Server,
    /// The cluster service manager.
    pub cluster: Server,
    /// The cluster's id at the root.
    pub cluster_id: String,
}

/// A service as the system manager knows it.
#[derive(Debug, Clone)]
pub struct Service {
    /// 24 hex digits.
    pub id: String,
    /// `app_name.app_ns.service_name.service_ns`.
    pub job: String,
}

/// What the table query says of a running job.
#[derive(Debug, Clone)]
pub struct Table {
    /// The round-robin Service IP.
    pub service_ip: IpAddr,
    /// The round-robin Service IP, IPv6.
    pub service_ip_v6: IpAddr,
    /// Instance number, Instance IP, namespace IP and host of each instance, by number.
    pub instances: Vec<Place>,
}

/// Where one instance is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The replica's number.
    pub number: u32,
    /// Its Instance IP.
    pub instance_ip: IpAddr,
    /// Its Instance IP, IPv6.
    pub instance_ip_v6: IpAddr,
    /// Its address in the worker's subnetwork.
    pub namespace_ip: IpAddr,
    /// Its worker's tunnel address.
    pub host: IpAddr,
}

impl Orchestrator {
    /// Registers the cluster at the root.
    ///
    /// # Errors
    /// Unless the root answers 200.
    pub fn register_cluster(&self, cluster: &Seat) -> Result<()> {
        let body = json!({
            "cluster_id": self.cluster_id,
            "cluster_address": cluster.address.to_string(),
            "cluster_port": CLUSTER_PORT,
        });
        self.root
            .post("/api/net/cluster", &body)?
            .ok("registering the cluster")
            .map(drop)
    }

    /// Deploys a service that may run any number of instances.
    ///
    /// # Errors
    /// Unless the root answers 200.
    pub fn deploy_service(&self, id: &str, job: &str) -> Result<Service> {
        let parts: Vec<_> = job.split('.').collect();
        let [app_name, app_ns, name, namespace] = parts[..] else {
            bail!("{job} has not four parts");
        };
        let descriptor = json!({
            "app_name": app_name, "app_ns": app_ns,
            "service_name": name, "service_ns": namespace,
            "microservice_name": name, "microservice_namespace": namespace,
        });
        let body = json!({"_id": id, "deployment_descriptor": descriptor});
        self.root
            .post("/api/net/service/deploy", &body)?
            .ok(&format!("deploying the service {job}"))?;
        Ok(Service {
            id: id.to_owned(),
            job: job.to_owned(),
        })
    }

    /// Deploys one instance at the root, then tells the cluster, as the orchestrators do just
    /// before the worker starts the container.
    ///
    /// # Errors
    /// Unless both answer 200.
    pub fn deploy_instance(&self, service: &Service, number: u32) -> Result<()> {
        let body =
            json!({"_id": service.id, "instance_number": number, "cluster_id": self.cluster_id});
        self.root
            .post("/api/net/instance/deploy", &body)?
            .ok(&format!("deploying instance {number} of {}", service.job))?;
        self.cluster
            .post("/api/net/deployment", &json!({"job_name": service.job}))?
            .ok(&format!("telling the cluster of {}", service.job))
            .map(drop)
    }

    /// Takes one instance out at the root; the workers learn of it by the cluster.
    ///
    /// # Errors
    /// Unless the root answers 200.
    pub fn undeploy_instance(&self, service: &Service, number: u32) -> Result<()> {
        self.root
            .request("DELETE", &format!("/api/net/{}/{number}", service.id), None)?
            .ok(&format!("undeploying instance {number} of {}", service.job))
            .map(drop)
    }

    /// Waits until the root knows where `count` instances of the job run.
    ///
    /// # Errors
    /// When it does not come to that in time.
    pub fn wait_running(&self, service: &Service, count: usize, limit: Duration) -> Result<Table> {
        let what = format!("{count} running instances of {} at the root", service.job);
        wait_for(&what, limit, || {
            let table = self.table(service)?;
            if table.instances.len() != count {
                bail!("there are {} now", table.instances.len());
            }
            Ok(Some(table))
        })
    }

    /// The job as the root sees it now, its running instances only.
    ///
    /// # Errors
    /// When the root does not answer, or with something else than the contract says.
    pub fn table(&self, service: &Service) -> Result<Table> {
        let name = service.job.replace('.', "_");
        let path = format!(
            "/api/net/service/{name}/instances?cluster_id={}",
            self.cluster_id
        );
        let job = self.root.get(&path)?.ok("the table query")?.json()?;
        table(&job).with_context(|| format!("the root's answer {job}"))
    }
}

fn table(job: &Value) -> Result<Table> {
    let addresses = job["service_ip_list"]
        .as_array()
        .and_then(|list| list.iter().find(|entry| entry["IpType"] == "RR"))
        .context("no round-robin Service IP")?;
    let mut instances = Vec::new();
    for entry in job["instance_list"]
        .as_array()
        .context("no instance_list")?
    {
        if entry["namespace_ip"].as_str().is_none_or(str::is_empty) {
            continue;
        }
        let number = entry["instance_number"]
            .as_u64()
            .context("no instance_number")?;
        instances.push(Place {
            number: u32::try_from(number)?,
            instance_ip: address(&entry["instance_ip"])?,
            instance_ip_v6: address(&entry["instance_ip_v6"])?,
            namespace_ip: address(&entry["namespace_ip"])?,
            host: address(&entry["host_ip"])?,
        });
    }
    instances.sort_by_key(|place| place.number);
    Ok(Table {
        service_ip: address(&addresses["Address"])?,
        service_ip_v6: address(&addresses["Address_v6"])?,
        instances,
    })
}

fn address(value: &Value) -> Result<IpAddr> {
    let text = value.as_str().context("an address is missing")?;
    text.parse()
        .with_context(|| format!("{text:?} is no address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_that_do_not_run_yet_are_left_out() {
        let job = json!({
            "service_ip_list": [{"IpType":"RR","Address":"10.30.0.1","Address_v6":"fdff:2000::1"}],
            "instance_list": [
                {"instance_number":1,"instance_ip":"10.30.0.3","instance_ip_v6":"fdff::3"},
                {"instance_number":0,"instance_ip":"10.30.0.2","instance_ip_v6":"fdff::2",
                 "namespace_ip":"10.18.0.2","namespace_ip_v6":"fc00::2","host_ip":"192.0.2.1","host_port":50103}]
        });
        let table = table(&job).unwrap();
        assert_eq!(table.instances.len(), 1);
        assert_eq!(
            table.instances[0].namespace_ip,
            IpAddr::from([10, 18, 0, 2])
        );
    }
}
