//! `POST /api/net/host`: a node's own processes as an instance.

use axum::Json;
use axum::extract::State;
use protocol::JobName;
use protocol::mqtt::HostResult;
use protocol::root_http::HostRequest;

use super::AppState;
use super::answer::ApiError;
use super::body::{Body, identifier};
use super::refusal::{Malformed, Unavailable};

/// Allocates once per node.
#[utoipa::path(post, path = "/api/net/host", tag = "net", request_body = HostRequest, responses((status = 200, description = "The instance", body = HostResult), Malformed, Unavailable))]
pub(crate) async fn allocate(
    State(state): State<AppState>,
    Body(body): Body<HostRequest>,
) -> Result<Json<HostResult>, ApiError> {
    let cluster_id = identifier("cluster_id", &body.cluster_id)?;
    let node_id = identifier("node_id", &body.node_id)?;
    let job = JobName::of_host(&cluster_id, &node_id).map_err(ApiError::bad_request)?;
    let host = state.store.host(&job, &cluster_id, &node_id).await?;
    state.metrics.note_ipv4(host.instance_ip.is_none());
    Ok(Json(host))
}
