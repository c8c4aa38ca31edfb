//! What each message of a node does.

use std::net::IpAddr;
use std::sync::Arc;

use protocol::JobName;
use protocol::address_plan::is_semantic;
use protocol::job_name::is_valid_part;
use protocol::mqtt::{
    AddressChanged, HostRequest, HostResult, InterestRemove, Load, NodeStatus, ServiceStatus,
    SubnetRequest, TableQuery,
};
use protocol::topic::{NodeTopic, Topic, is_valid_node_id};
use serde::de::DeserializeOwned;

use crate::cluster::Cluster;
use crate::store::{Applied, StoreError};
use crate::{queries, subnets};

/// What became of a message.
pub enum Outcome {
    /// Its effect, if any, is in Redis.
    Committed,
    /// It cannot be read.
    Malformed(String),
    /// Redis did not take it.
    NotCommitted(StoreError),
}

impl StoreError {
    /// Whether the same message may be taken later.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Link(error) if error.is_temporary())
    }
}

enum Fault {
    Malformed(String),
    Store(StoreError),
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

fn read<T: DeserializeOwned>(payload: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(payload).map_err(|error| Fault::Malformed(error.to_string()))
}

fn job(name: &str) -> Result<JobName, Fault> {
    name.parse()
        .map_err(|error: protocol::job_name::JobNameError| Fault::Malformed(error.to_string()))
}

/// Handles one message.
pub async fn handle(cluster: &Arc<Cluster>, topic: &str, payload: &[u8]) -> Outcome {
    let Some(Topic::Node {
        node_id,
        topic: kind,
    }) = Topic::parse(topic)
    else {
        return Outcome::Malformed("not a topic of a node".to_owned());
    };
    if !is_valid_node_id(node_id) {
        return Outcome::Malformed("not a node's id".to_owned());
    }
    match dispatch(cluster, node_id, kind, payload).await {
        Ok(()) => Outcome::Committed,
        Err(Fault::Malformed(reason)) => Outcome::Malformed(reason),
        Err(Fault::Store(error)) => Outcome::NotCommitted(error),
    }
}

async fn dispatch(
    cluster: &Arc<Cluster>,
    node: &str,
    topic: NodeTopic,
    payload: &[u8],
) -> Result<(), Fault> {
    let store = &cluster.store;
    let applied = match topic {
        NodeTopic::Subnet => {
            subnets::handle(cluster, node, read::<SubnetRequest>(payload)?).await?;
            return Ok(());
        }
        NodeTopic::TableQuery => {
            queries::handle(cluster, node, read::<TableQuery>(payload)?).await?;
            return Ok(());
        }
        NodeTopic::HostRequest => {
            read::<HostRequest>(payload)?;
            let (cluster, node) = (Arc::clone(cluster), node.to_owned());
            tokio::spawn(async move { host(&cluster, &node).await });
            return Ok(());
        }
        NodeTopic::Deployed => {
            let status: ServiceStatus = read(payload)?;
            let job = job(&status.appname)?;
            if status.nsip.is_none() && status.nsipv6.is_none() {
                return Err(Fault::Malformed("neither nsip nor nsipv6".to_owned()));
            }
            let v4 = status.nsip.map(IpAddr::from);
            let v6 = status.nsipv6.map(IpAddr::from);
            if let Some(address) = v4.into_iter().chain(v6).find(|ip| is_semantic(*ip)) {
                return Err(Fault::Malformed(format!(
                    "{address} is a Service or Instance IP, not a namespace IP"
                )));
            }
            if status.host_ip.is_none() || status.host_port.is_none() {
                return Err(Fault::Malformed("no host_ip or host_port".to_owned()));
            }
            store.deployed(node, &job, &status).await?
        }
        NodeTopic::Undeployed => {
            let status: ServiceStatus = read(payload)?;
            let job = job(&status.appname)?;
            store.undeployed(node, &job, &status).await?
        }
        NodeTopic::AddressChanged => {
            let change: AddressChanged = read(payload)?;
            match job(&change.appname) {
                Ok(job) => store.address_changed(node, &job, &change).await?,
                // A reference node names the application alone.
                Err(fault) if !is_valid_part(&change.appname) => return Err(fault),
                Err(_) => {
                    let mut applied = Applied::Nothing;
                    for job in store.jobs_of_app(node, &change).await? {
                        applied = store.address_changed(node, &job, &change).await?;
                    }
                    applied
                }
            }
        }
        NodeTopic::InterestRemove => {
            let message: InterestRemove = read(payload)?;
            // A reference node also takes back addresses, which are no interest of their own here.
            if protocol::address::parse(&message.appname).is_ok() {
                return Ok(());
            }
            let job = job(&message.appname)?;
            store.interest_remove(node, &job, &message).await?
        }
        NodeTopic::Load => {
            let load: Load = read(payload)?;
            store.load(node, &load).await?;
            return Ok(());
        }
        NodeTopic::Status => {
            let NodeStatus { online } = read(payload)?;
            if store.node_status(node, online).await? {
                tracing::info!(node, online, "node status");
            }
            return Ok(());
        }
        NodeTopic::Information => {
            store.seen(node).await?;
            return Ok(());
        }
        NodeTopic::SubnetResult | NodeTopic::TableQueryResult | NodeTopic::HostResult => {
            return Err(Fault::Malformed(
                "an answer of a cluster manager".to_owned(),
            ));
        }
    };
    match applied {
        Applied::Late => cluster.metrics.mqtt_late_total.add(),
        Applied::Foreign => {
            cluster.metrics.mqtt_foreign_total.add();
            tracing::warn!(
                node,
                "refused: it announces an address of a subnetwork that it does not own"
            );
        }
        Applied::Changed | Applied::Nothing => {}
    }
    tracing::debug!(node, topic = topic.suffix(), ?applied, "message");
    Ok(())
}

/// Asks the root for the instance that stands for the node's own processes; while the root is
/// away, its last answer serves.
async fn host(cluster: &Cluster, node: &str) {
    let answer = match cluster.root.host(node).await {
        Ok(Some(answer)) => {
            let kept = match serde_json::to_string(&answer) {
                Ok(text) => cluster.store.keep_host(node, &text).await,
                Err(_) => Ok(()),
            };
            if let Err(error) = kept {
                tracing::debug!(node, %error, "answer not kept");
            }
            answer
        }
        // A reference root: the contract has no answer then.
        Ok(None) => return,
        Err(error) => {
            let kept = cluster.store.kept_host(node).await.ok().flatten();
            match kept.and_then(|text| serde_json::from_str::<HostResult>(&text).ok()) {
                Some(answer) => answer,
                None => {
                    tracing::warn!(node, %error, "no host instance for the node yet");
                    return;
                }
            }
        }
    };
    cluster
        .publisher
        .send_json(NodeTopic::HostResult.of(node), &answer)
        .await;
}
