//! `POST /api/net/cluster`.

use std::time::Duration;

use axum::extract::State;
use protocol::root_http::RegisterCluster;

use super::AppState;
use super::answer::ApiError;
use super::body::{Body, identifier};
use super::refusal::{Malformed, Unavailable};
use crate::store::{Cluster, known_text};

/// A host name is looked up for this long; notifications look it up again each time.
const LOOKUP: Duration = Duration::from_secs(2);

/// Registers a cluster, or updates it. Sent again at every start of a cluster.
#[utoipa::path(post, path = "/api/net/cluster", tag = "net", request_body = RegisterCluster, responses((status = 200, description = "`cluster registered`", body = String, content_type = "text/plain"), Malformed, Unavailable))]
pub(crate) async fn register(
    State(state): State<AppState>,
    Body(body): Body<RegisterCluster>,
) -> Result<&'static str, ApiError> {
    let id = identifier("cluster_id", &body.cluster_id)?;
    let address = known_text(&identifier("cluster_address", &body.cluster_address)?);
    if address.contains(['/', '@', '?', '#', ' ']) {
        return Err(ApiError::bad_request(
            "cluster_address must be an address or a host name",
        ));
    }
    let port = body
        .cluster_port
        .ok_or_else(|| ApiError::bad_request("cluster_port must be 1 to 65535"))?;
    let mut known_as = vec![address.clone()];
    // Callers are recognised by their source address, so a name is worth nothing by itself.
    let lookup = tokio::net::lookup_host((address.as_str(), port));
    if let Ok(Ok(found)) = tokio::time::timeout(LOOKUP, lookup).await {
        for peer in found {
            let text = peer.ip().to_canonical().to_string();
            if !known_as.contains(&text) {
                known_as.push(text);
            }
        }
    }
    let cluster = Cluster {
        id,
        address,
        port,
        known_as,
    };
    state.store.register_cluster(&cluster).await?;
    tracing::info!(
        cluster = cluster.id,
        address = cluster.address,
        port,
        "cluster registered"
    );
    state.notifier.kick(vec![cluster.id]);
    Ok("cluster registered")
}
