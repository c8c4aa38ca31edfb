//! Table queries, which register the caller's interest.

use axum::Json;
use axum::extract::{Path, State};
use protocol::{Job, JobName};

use super::AppState;
use super::answer::ApiError;
use super::caller::From;
use crate::store::Key;

/// By name, `_` for `.`.
pub(crate) async fn by_name(
    state: State<AppState>,
    caller: From,
    Path(text): Path<String>,
) -> Result<Json<Job>, ApiError> {
    answer(state, caller, name_key(&text)?).await
}

/// By Service IP, Instance IP or namespace IP; IPv4 with `_` for `.`.
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
