//! Table queries, which register the caller's interest.

use axum::Json;
use axum::extract::{Path, State};
use protocol::root_http::CallerQuery;
use protocol::{Job, JobName};

use super::AppState;
use super::answer::ApiError;
use super::caller::From;
use super::refusal::{Malformed, Unavailable, Unknown};
use crate::store::Key;

/// By name, `_` for `.`.
#[utoipa::path(get, path = "/api/net/service/{name}/instances", tag = "net", params(("name" = String, Path, description = "Name of the job, `_` for `.`", example = "app_test_web_prod"), CallerQuery), responses((status = 200, description = "The job", body = Job), Malformed, Unknown, Unavailable))]
pub(crate) async fn by_name(
    state: State<AppState>,
    caller: From,
    Path(text): Path<String>,
) -> Result<Json<Job>, ApiError> {
    answer(state, caller, name_key(&text)?).await
}

/// By Service IP, Instance IP or namespace IP; IPv4 with `_` for `.`.
#[utoipa::path(get, path = "/api/net/service/ip/{ip}/instances", tag = "net", params(("ip" = String, Path, description = "The address; IPv4 with `_` for `.`", example = "10_30_0_1"), CallerQuery), responses((status = 200, description = "The job", body = Job), Malformed, Unknown, Unavailable))]
pub(crate) async fn by_address(
    state: State<AppState>,
    caller: From,
    Path(text): Path<String>,
) -> Result<Json<Job>, ApiError> {
    answer(state, caller, address_key(&text)?).await
}

pub(super) fn name_key(text: &str) -> Result<Key, ApiError> {
    JobName::from_path_segment(text)
        .map(Key::Name)
        .map_err(ApiError::bad_request)
}

pub(super) fn address_key(text: &str) -> Result<Key, ApiError> {
    protocol::address::parse_path_segment(text)
        .map(Key::Address)
        .map_err(ApiError::bad_request)
}

async fn answer(
    State(state): State<AppState>,
    From(caller): From,
    key: Key,
) -> Result<Json<Job>, ApiError> {
    let found = state.store.resolve(&key, Some(&caller)).await?;
    state.note_seen(found.clusters);
    Ok(Json(found.job))
}
