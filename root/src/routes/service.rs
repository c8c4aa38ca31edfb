//! Services: deploy and delete.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use axum::extract::{Path, State};
use protocol::JobName;
use protocol::address_plan::PoolV6;
use protocol::job_name::is_valid_part;
use protocol::root_http::{DeployService, Descriptor};

use super::AppState;
use super::answer::ApiError;
use super::body::{Body, object_id};
use super::refusal::{Malformed, Unavailable};
use crate::store::{PolicyWish, Wish, WishedService};

/// Deploys a service; again, it changes nothing, and a new `_id` takes the name over.
#[utoipa::path(post, path = "/api/net/service/deploy", tag = "net", request_body = DeployService, responses((status = 200, description = "`Instance info added`", body = String, content_type = "text/plain"), Malformed, Unavailable))]
pub(crate) async fn deploy(
    State(state): State<AppState>,
    Body(body): Body<DeployService>,
) -> Result<&'static str, ApiError> {
    let service = read(&body)?;
    let short = state.store.deploy_service(&service).await?;
    state.metrics.note_ipv4(short);
    Ok("Instance info added")
}

/// Deletes a service without instances.
#[utoipa::path(delete, path = "/api/net/service/{id}", tag = "net", params(("id" = String, Path, description = "Object id of the service", pattern = "^[0-9a-fA-F]{24}$")), responses((status = 200, description = "`Service deleted`", body = String, content_type = "text/plain"), Malformed, Unavailable))]
pub(crate) async fn delete(
    State(state): State<AppState>,
    Path(id): Path<String>,
) -> Result<&'static str, ApiError> {
    let id = object_id(&id)?;
    state
        .store
        .delete_service(&id)
        .await
        .map_err(|error| ApiError::from(error).unknown_is_bad_request())?;
    Ok("Service deleted")
}

fn read(body: &DeployService) -> Result<WishedService, ApiError> {
    let id = object_id(&body.id)?;
    let descriptor = &body.deployment_descriptor;
    for (field, value) in [
        ("app_name", &descriptor.app_name),
        ("app_ns", &descriptor.app_ns),
        ("microservice_name", &descriptor.microservice_name),
        ("microservice_namespace", &descriptor.microservice_namespace),
        ("service_name", &descriptor.service_name),
        ("service_ns", &descriptor.service_ns),
    ] {
        if !is_valid_part(value) {
            return Err(ApiError::bad_request(format!(
                "{field} in the deployment descriptor must be 1 to 30 letters or digits, not `{value}`"
            )));
        }
    }
    let job = JobName::new(
        &descriptor.app_name,
        &descriptor.app_ns,
        &descriptor.service_name,
        &descriptor.service_ns,
    )
    .map_err(ApiError::bad_request)?;
    if job.is_host() {
        return Err(ApiError::bad_request(format!(
            "{job} has the form of a node's own name; choose another namespace"
        )));
    }
    if descriptor.application_id.chars().any(char::is_control) {
        return Err(ApiError::bad_request(
            "applicationID must not hold control characters",
        ));
    }
    let service = WishedService {
        id,
        job,
        application_id: descriptor.application_id.clone(),
        round_robin: read_round_robin(descriptor)?,
        closest: read_policy(
            ("closest_ip", &descriptor.closest_ip),
            ("closest_ip_v6", &descriptor.closest_ip_v6),
            PoolV6::Closest,
        )?,
        underutilized: read_policy(
            ("underutilized_ip", &descriptor.underutilized_ip),
            ("underutilized_ip_v6", &descriptor.underutilized_ip_v6),
            PoolV6::Underutilized,
        )?,
    };
    let mut chosen: Vec<Ipv4Addr> = [
        service.round_robin.v4,
        service.closest.v4,
        service.underutilized.v4,
    ]
    .into_iter()
    .filter_map(|wish| match wish {
        Wish::This(address) => Some(address),
        _ => None,
    })
    .collect();
    chosen.sort_unstable();
    if let Some(pair) = chosen.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(ApiError::bad_request(format!(
            "{} is asked for twice",
            pair[0]
        )));
    }
    Ok(service)
}

type Field<'a> = (&'a str, &'a Option<String>);

/// `RR_ip` and `RR_ip_v6` name an address; there is one in any case, so nothing else is asked.
fn read_round_robin(descriptor: &Descriptor) -> Result<PolicyWish, ApiError> {
    for (field, value) in [
        ("RR_ip", &descriptor.rr_ip),
        ("RR_ip_v6", &descriptor.rr_ip_v6),
    ] {
        if text_of(value) == Some("auto") {
            return Err(ApiError::bad_request(format!("{field} must be an address")));
        }
    }
    read_policy(
        ("RR_ip", &descriptor.rr_ip),
        ("RR_ip_v6", &descriptor.rr_ip_v6),
        PoolV6::RoundRobin,
    )
}

fn read_policy(v4: Field<'_>, v6: Field<'_>, pool: PoolV6) -> Result<PolicyWish, ApiError> {
    Ok(PolicyWish {
        v4: read_v4(v4)?,
        v6: read_v6(v6, pool)?,
    })
}

fn text_of(value: &Option<String>) -> Option<&str> {
    value
        .as_deref()
        .map(str::trim)
        .filter(|text| !text.is_empty())
}

fn read_v4((field, value): Field<'_>) -> Result<Wish<Ipv4Addr>, ApiError> {
    match text_of(value) {
        None => Ok(Wish::None),
        Some("auto") => Ok(Wish::Any),
        Some(text) => match protocol::address::parse(text) {
            Ok(IpAddr::V4(v4)) if v4.octets()[..2] == [10, 30] => Ok(Wish::This(v4)),
            _ => Err(ApiError::bad_request(format!(
                "{field} must be 10.30.x.y, not `{text}`"
            ))),
        },
    }
}

fn read_v6((field, value): Field<'_>, pool: PoolV6) -> Result<Wish<Ipv6Addr>, ApiError> {
    match text_of(value) {
        None => Ok(Wish::None),
        Some("auto") => Ok(Wish::Any),
        Some(text) => match protocol::address::parse(text) {
            Ok(IpAddr::V6(v6)) if pool.contains(v6) => Ok(Wish::This(v6)),
            _ => Err(ApiError::bad_request(format!(
                "{field} must lie in {}/{}, not `{text}`",
                pool.first(),
                protocol::address_plan::SEMANTIC_V6_PREFIX
            ))),
        },
    }
}
