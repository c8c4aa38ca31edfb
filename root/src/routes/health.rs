//! Signs of life for whoever supervises this process.

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;

use super::AppState;
use super::answer::ApiError;
use super::refusal::Unavailable;

/// The process answers.
#[utoipa::path(get, path = "/healthz", tag = "operation", responses((status = 200, description = "`ok`", body = String, content_type = "text/plain")))]
pub(crate) async fn alive() -> &'static str {
    "ok"
}

/// Redis answers and the store is ours. The JWT key matters to netinfo alone.
#[utoipa::path(get, path = "/readyz", tag = "operation", responses((status = 200, description = "Ready, and what is missing for netinfo", body = String, content_type = "text/plain"), Unavailable))]
pub(crate) async fn ready(State(state): State<AppState>) -> Result<&'static str, ApiError> {
    state.store.prepare().await.map_err(ApiError::unavailable)?;
    Ok(if state.jwt.is_ready() {
        "ready"
    } else {
        "ready, except for netinfo: the JWT generator has not given its key yet"
    })
}

/// Prometheus text.
#[utoipa::path(get, path = "/metrics", tag = "operation", responses((status = 200, description = "Prometheus text", body = String, content_type = "text/plain"), Unavailable))]
pub(crate) async fn metrics(State(state): State<AppState>) -> Result<impl IntoResponse, ApiError> {
    let overview = state.store.overview().await?;
    let text = state.metrics.text(&overview) + &state.requests.text();
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4")], text))
}
