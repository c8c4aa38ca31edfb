//! Jobs as people see them: addresses with their policies, and the instances behind them with where they live.

use std::collections::BTreeMap;
use std::net::IpAddr;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use super::App;
use super::show::failed;
use crate::forwarding::{BackendLine, CommandError, ServiceCounts};
use crate::node::Refusal;

/// One job whose routes are known here.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct JobView {
    /// Its name.
    pub job: String,
    /// Its Service IPs.
    pub services: Vec<ServicesOfPolicy>,
    /// Its running instances.
    pub instances: Vec<InstanceView>,
    /// Seconds since a packet last used it, or since it became known.
    pub idle_seconds: Option<u64>,
}

/// The addresses of one policy.
#[derive(Debug, Serialize, Deserialize)]
pub struct ServicesOfPolicy {
    /// The policy.
    pub policy: String,
    /// The addresses that are dialled.
    pub addresses: Vec<IpAddr>,
    /// Flows opened.
    pub opened: u64,
    /// Live flows.
    pub live: u64,
    /// Packets, both directions.
    pub packets: u64,
    /// Packets refused for want of an instance.
    pub refused: u64,
}

/// One instance.
#[derive(Debug, Serialize, Deserialize)]
pub struct InstanceView {
    /// Its number.
    pub instance: u32,
    /// Namespace IPs.
    pub addresses: Vec<IpAddr>,
    /// `local`, `not attached`, or the tunnel endpoint of its node.
    pub via: String,
    /// Whether it is on this node.
    pub local: bool,
    /// Its share in round robin.
    pub weight: u8,
    /// Keeps its flows and gets no new ones.
    pub draining: bool,
    /// Flows that its node reported.
    pub load: u32,
    /// Live flows that this node has opened to it.
    pub live: u64,
    /// Seconds since a packet of this node last used it; none if no packet has.
    pub idle_seconds: Option<u64>,
}

impl From<BackendLine> for InstanceView {
    fn from(line: BackendLine) -> Self {
        Self {
            instance: line.instance,
            addresses: line.namespace.iter().collect(),
            local: line.via == "local",
            via: line.via,
            weight: line.weight,
            draining: line.draining,
            load: line.load,
            live: line.live,
            idle_seconds: line.idle.map(|idle| idle.as_secs()),
        }
    }
}

impl From<ServiceCounts> for ServicesOfPolicy {
    fn from(counts: ServiceCounts) -> Self {
        Self {
            policy: counts.policy.to_owned(),
            addresses: counts.addresses,
            opened: counts.opened,
            live: counts.live,
            packets: counts.packets,
            refused: counts.refused,
        }
    }
}

pub(super) async fn services(State(app): State<App>) -> Result<Response, Refusal> {
    let forwarding = app.node.forwarding();
    let (services, backends, idle) = tokio::task::spawn_blocking(move || {
        Ok::<_, CommandError>((
            forwarding.stats()?.services,
            forwarding.backends()?,
            forwarding.job_idle()?,
        ))
    })
    .await
    .map_err(failed)?
    .map_err(failed)?;
    let mut jobs: BTreeMap<String, JobView> = BTreeMap::new();
    for (job, idle) in idle {
        jobs.entry(job).or_default().idle_seconds = Some(idle.as_secs());
    }
    for counts in services {
        let job = jobs.entry(counts.job.clone()).or_default();
        job.services.push(counts.into());
    }
    for line in backends {
        let job = jobs.entry(line.job.clone()).or_default();
        job.instances.push(line.into());
    }
    let views: Vec<JobView> = jobs
        .into_iter()
        .map(|(job, mut view)| {
            view.instances.sort_by_key(|instance| instance.instance);
            JobView { job, ..view }
        })
        .collect();
    Ok(axum::Json(views).into_response())
}
