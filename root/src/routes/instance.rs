//! Instances: deploy, drain, delete, and where they live.

use axum::extract::{Path, State};
use protocol::address_plan::is_semantic;
use protocol::root_http::{DeployInstance, DeployStatus, InstanceStatus};

use super::AppState;
use super::answer::ApiError;
use super::body::{Body, identifier, object_id};
use super::refusal::{Malformed, Unavailable, Unknown};

/// Gives an instance its addresses; again, it keeps them.
#[utoipa::path(post, path = "/api/net/instance/deploy", tag = "net", request_body = DeployInstance, responses((status = 200, description = "`Instance info added`", body = String, content_type = "text/plain"), Malformed, Unknown, Unavailable))]
pub(crate) async fn deploy(
    State(state): State<AppState>,
    Body(body): Body<DeployInstance>,
) -> Result<&'static str, ApiError> {
    let id = object_id(&body.id)?;
    let cluster_id = identifier("cluster_id", &body.cluster_id)?;
    if body.weight == Some(0) {
        return Err(ApiError::bad_request("weight must be 1 to 255"));
    }
    let (short, kicked) = state
        .store
        .deploy_instance(&id, body.instance_number, &cluster_id, body.weight)
        .await?;
    state.metrics.note_ipv4(short);
    state.notifier.kick(kicked);
    Ok("Instance info added")
}

/// The instance keeps its flows and gets no new ones.
#[utoipa::path(post, path = "/api/net/{id}/{number}/drain", tag = "net", params(("id" = String, Path, description = "Object id of the service", pattern = "^[0-9a-fA-F]{24}$"), ("number" = i64, Path, description = "Number of the replica, from 0", minimum = 0)), responses((status = 200, description = "`Instance draining`", body = String, content_type = "text/plain"), Malformed, Unknown, Unavailable))]
pub(crate) async fn drain(
    State(state): State<AppState>,
    Path((id, number)): Path<(String, String)>,
) -> Result<&'static str, ApiError> {
    let id = object_id(&id)?;
    let number = instance_number(&number)?
        .ok_or_else(|| ApiError::bad_request("name one instance to drain"))?;
    let kicked = state.store.drain_instance(&id, number).await?;
    state.notifier.kick(kicked);
    Ok("Instance draining")
}

/// Removes one instance, or with -1 all of them.
#[utoipa::path(delete, path = "/api/net/{id}/{number}", tag = "net", params(("id" = String, Path, description = "Object id of the service", pattern = "^[0-9a-fA-F]{24}$"), ("number" = i64, Path, description = "Number of the replica, from 0; -1 is all of them", minimum = -1)), responses((status = 200, description = "Gone", body = String, content_type = "text/plain"), Malformed, Unknown, Unavailable))]
pub(crate) async fn delete(
    State(state): State<AppState>,
    Path((id, number)): Path<(String, String)>,
) -> Result<&'static str, ApiError> {
    let id = object_id(&id)?;
    let number = instance_number(&number)?;
    let kicked = state.store.delete_instance(&id, number).await?;
    state.notifier.kick(kicked);
    Ok("Instance info cleared")
}

/// A cluster says where instances live, or withdraws them; where one entry is not whole, none is applied.
#[utoipa::path(post, path = "/api/net/service/net_deploy_status", tag = "net", request_body = DeployStatus, responses((status = 200, description = "`Status updated`", body = String, content_type = "text/plain"), Malformed, Unknown, Unavailable))]
pub(crate) async fn status(
    State(state): State<AppState>,
    Body(body): Body<DeployStatus>,
) -> Result<&'static str, ApiError> {
    let id = object_id(&body.job_id)?;
    let placed = |instance: &&InstanceStatus| !instance.is_withdrawal();
    for instance in body.instances.iter().filter(placed) {
        let missing = instance.missing();
        if !missing.is_empty() {
            return Err(ApiError::bad_request(format!(
                "instance {} has no {}; say where it is, or withdraw it with \"status\":\"UNDEPLOYED\"",
                instance.instance_number,
                missing.join(", no ")
            )));
        }
        let v4 = instance.namespace_ip.map(std::net::IpAddr::from);
        let v6 = instance.namespace_ip_v6.map(std::net::IpAddr::from);
        if let Some(address) = v4.into_iter().chain(v6).find(|ip| is_semantic(*ip)) {
            return Err(ApiError::bad_request(format!(
                "{address} is a Service or Instance IP, not a namespace IP"
            )));
        }
    }
    let kicked = state.store.set_deploy_status(&id, &body.instances).await?;
    state.notifier.kick(kicked);
    Ok("Status updated")
}

/// `None` for -1, which means all.
fn instance_number(text: &str) -> Result<Option<u32>, ApiError> {
    match text.parse::<i64>() {
        Ok(-1) => Ok(None),
        Ok(number) => u32::try_from(number).map(Some).map_err(drop),
        Err(_) => Err(()),
    }
    .map_err(|()| {
        ApiError::bad_request(format!(
            "`{text}` is not an instance number: 0 upwards, or -1 for all"
        ))
    })
}
