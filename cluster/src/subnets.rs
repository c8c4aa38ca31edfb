//! Subnetworks of nodes: given by the root, remembered per node, given back.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use protocol::mqtt::{SubnetMethod, SubnetRequest, SubnetResult};
use protocol::root_http::Subnet;
use protocol::topic::NodeTopic;

use crate::cluster::Cluster;
use crate::jobs::PullError;
use crate::root_client::GivenBack;
use crate::store::StoreError;

/// How often the root is asked for one node before the node's own repetition is left to it.
const ATTEMPTS: u32 = 5;
/// A root without memory may hand out what nodes own; so many are skipped in one go.
const SKIPPED: u32 = 1024;

/// Handles a node's request; what needs the root runs in a task of its own.
///
/// # Errors
/// Redis is away.
pub async fn handle(
    cluster: &Arc<Cluster>,
    node: &str,
    request: SubnetRequest,
) -> Result<(), StoreError> {
    match request.method {
        SubnetMethod::Delete => {
            let count = cluster.store.subnet_delete(node, request.address).await?;
            tracing::info!(node, count, "subnetworks given back");
        }
        SubnetMethod::Get => {
            let have = request.have;
            if let Some(subnet) = cluster.store.subnet_get(node, have.as_deref()).await? {
                answer(cluster, node, &subnet).await;
                return Ok(());
            }
            let (cluster, node) = (Arc::clone(cluster), node.to_owned());
            tokio::spawn(async move { fetch(&cluster, &node, have.as_deref()).await });
        }
    }
    Ok(())
}

async fn fetch(cluster: &Cluster, node: &str, have: Option<&[Ipv4Addr]>) {
    let mut pause = Duration::from_millis(250);
    for attempt in 1..=ATTEMPTS {
        match assign(cluster, node, have).await {
            Ok(subnet) => {
                tracing::info!(node, subnet = ?subnet.subnet_addr, "subnetwork given");
                answer(cluster, node, &subnet).await;
                return;
            }
            Err(error) => {
                tracing::warn!(node, attempt, %error, "no subnetwork for the node yet");
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
        }
    }
}

async fn assign(
    cluster: &Cluster,
    node: &str,
    have: Option<&[Ipv4Addr]>,
) -> Result<Subnet, PullError> {
    for _ in 0..SKIPPED {
        let fresh = cluster.root.subnet().await?;
        if let Some(subnet) = cluster.store.subnet_assign(node, &fresh, have).await? {
            return Ok(subnet);
        }
        tracing::warn!(subnet = ?fresh.subnet_addr, "the root handed out a subnetwork that a node owns");
    }
    Err(PullError::Root(crate::root_client::RootError::Malformed {
        what: "/api/net/subnet".to_owned(),
        reason: format!("{SKIPPED} subnetworks in a row belong to nodes already"),
    }))
}

async fn answer(cluster: &Cluster, node: &str, subnet: &Subnet) {
    let result = SubnetResult {
        address: subnet.subnet_addr,
        addressv6: subnet.subnet_addr_v6,
    };
    cluster
        .publisher
        .send_json(NodeTopic::SubnetResult.of(node), &result)
        .await;
}

/// Gives `<v4> <v6>` back to the root, or onto our own free list where the root takes none.
///
/// # Errors
/// The root or Redis is away.
pub async fn give_back(cluster: &Cluster, pair: &str) -> Result<(), PullError> {
    let Some(v4) = pair
        .split_once(' ')
        .and_then(|(v4, _)| v4.parse::<Ipv4Addr>().ok())
    else {
        return Ok(());
    };
    match cluster.root.give_back(v4).await? {
        GivenBack::Taken => {}
        GivenBack::NotSupported => {
            let rest = cluster.config.address_rest;
            cluster.store.subnet_rest(pair, rest).await?;
        }
    }
    Ok(())
}
