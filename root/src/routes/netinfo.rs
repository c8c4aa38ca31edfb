//! What the dashboard reads: netinfo behind a token, and free addresses.

use std::net::IpAddr;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use protocol::root_http::{AvailableIps, NetInfo, NetInfoInstance};
use protocol::{IpType, Job, ServiceIp};
use serde::Deserialize;

use super::AppState;
use super::answer::ApiError;
use super::refusal::{Malformed, Unauthorized, Unavailable, Unknown};
use super::table::{address_key, name_key};
use crate::store::Key;

/// Addresses in one answer at most.
const MOST: u32 = 1000;

/// By name.
#[utoipa::path(get, path = "/api/pubnet/service/netinfo/{name}", tag = "pubnet", security(("token" = [])), params(("name" = String, Path, description = "Name of the job, `_` for `.`")), responses((status = 200, description = "The service", body = NetInfo), Malformed, Unauthorized, Unknown, Unavailable))]
pub(crate) async fn by_name(
    State(state): State<AppState>,
    headers: HeaderMap,
    Path(text): Path<String>,
) -> Result<Json<NetInfo>, ApiError> {
    let_in(&state, &headers).await?;
    look_up(&state, name_key(&text)?).await
}

/// By address.
#[utoipa::path(get, path = "/api/pubnet/service/netinfo/ip/{ip}", tag = "pubnet", security(("token" = [])), params(("ip" = String, Path, description = "The address; IPv4 with `_` for `.`")), responses((status = 200, description = "The service", body = NetInfo), Malformed, Unauthorized, Unknown, Unavailable))]
pub(crate) async fn by_address(
    State(state): State<AppState>,
    headers: HeaderMap,
    Path(text): Path<String>,
) -> Result<Json<NetInfo>, ApiError> {
    let_in(&state, &headers).await?;
    look_up(&state, address_key(&text)?).await
}

async fn let_in(state: &AppState, headers: &HeaderMap) -> Result<(), ApiError> {
    let authorization = headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    Ok(state.jwt.check(authorization).await?)
}

async fn look_up(state: &AppState, key: Key) -> Result<Json<NetInfo>, ApiError> {
    let found = state.store.resolve(&key, None).await?;
    Ok(Json(net_info(found.job)))
}

fn net_info(job: Job) -> NetInfo {
    NetInfo {
        service_job_id: job.id.clone(),
        id: job.id,
        application_id: job.application_id,
        app_ns: job.app_ns,
        app_name: job.app_name,
        service_ns: job.service_ns,
        service_name: job.service_name,
        service_ip_list: job.service_ip_list,
        instance_list: job
            .instance_list
            .into_iter()
            .map(|instance| NetInfoInstance {
                cluster_id: instance.cluster_id,
                instance_number: instance.instance_number,
                instance_ip: instance.instance_ip,
                instance_ip_v6: instance.instance_ip_v6,
            })
            .collect(),
    }
}

/// Query parameters.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub(crate) struct Family {
    /// Family of the addresses: 4 (so without it) or 6.
    #[param(pattern = "^[46]$")]
    v: Option<String>,
}

/// The next free address.
#[utoipa::path(get, path = "/api/pubnet/service/netinfo/available-ip", tag = "pubnet", params(Family), responses((status = 200, description = "One address", body = AvailableIps), Malformed, Unavailable))]
pub(crate) async fn next_available(
    State(state): State<AppState>,
    Query(family): Query<Family>,
) -> Result<Json<AvailableIps>, ApiError> {
    list(&state, 1, &family).await
}

/// The next free addresses.
#[utoipa::path(get, path = "/api/pubnet/service/netinfo/available-ip/{count}", tag = "pubnet", params(("count" = u32, Path, description = "How many", minimum = 1, maximum = 1000), Family), responses((status = 200, description = "Addresses", body = AvailableIps), Malformed, Unavailable))]
pub(crate) async fn available(
    State(state): State<AppState>,
    Path(count): Path<String>,
    Query(family): Query<Family>,
) -> Result<Json<AvailableIps>, ApiError> {
    let count = count
        .parse()
        .ok()
        .filter(|count| (1..=MOST).contains(count))
        .ok_or_else(|| {
            ApiError::bad_request(format!("`{count}` must be a number from 1 to {MOST}"))
        })?;
    list(&state, count, &family).await
}

async fn list(
    state: &AppState,
    count: u32,
    family: &Family,
) -> Result<Json<AvailableIps>, ApiError> {
    let v6 = match family.v.as_deref() {
        None | Some("" | "4") => false,
        Some("6") => true,
        Some(other) => {
            return Err(ApiError::bad_request(format!("v=`{other}` must be 4 or 6")));
        }
    };
    let free = state.store.available(v6, count).await?;
    let entries = free.into_iter().map(|address| match address {
        IpAddr::V4(v4) => ServiceIp {
            ip_type: IpType::Other("IPv4".to_owned()),
            address: Some(v4),
            address_v6: None,
        },
        IpAddr::V6(v6) => ServiceIp {
            ip_type: IpType::Other("IPv6".to_owned()),
            address: None,
            address_v6: Some(v6),
        },
    });
    Ok(Json(AvailableIps {
        available_service_ips: entries.collect(),
    }))
}
