//! `GET /api/net/changes`: what a cluster missed.

use axum::Json;
use axum::extract::{Query, State};
use protocol::root_http::{CallerQuery, Changes};
use serde::Deserialize;

use super::AppState;
use super::answer::ApiError;
use super::caller::From;
use super::refusal::{Malformed, Unavailable};

/// Query parameters.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub(crate) struct Since {
    /// The revision up to which the caller knows; 0 without it.
    #[param(value_type = Option<u64>)]
    since: Option<String>,
    /// The epoch that the revision is of; this one without it.
    epoch: Option<String>,
}

/// Jobs of the caller's interest that changed since a revision.
#[utoipa::path(get, path = "/api/net/changes", tag = "net", params(Since, CallerQuery), responses((status = 200, description = "Names of the jobs", body = Changes), Malformed, Unavailable))]
pub(crate) async fn since(
    State(state): State<AppState>,
    From(caller): From,
    query: Result<Query<Since>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Changes>, ApiError> {
    let Query(query) = query.map_err(|error| ApiError::bad_request(error.body_text()))?;
    let since = match query.since.as_deref() {
        None | Some("") => 0,
        Some(text) => text.parse().map_err(|_| {
            ApiError::bad_request(format!("since=`{text}` is not a revision: a number from 0"))
        })?,
    };
    // Who names no epoch trusts that it is still the same.
    let epoch = query.epoch.as_deref().unwrap_or("*");
    let (changes, clusters) = state.store.changes(&caller, since, epoch).await?;
    state.note_seen(clusters);
    Ok(Json(changes))
}
