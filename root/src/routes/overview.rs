//! The page for people at `/`, and what it reads. The page itself holds nothing worth protecting;
//! what it shows comes from below `/api/net/`, where a token may be asked for.

use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{Html, IntoResponse};
use futures_util::Stream;
use manager_http::docs::POLICY;
use protocol::root_http::Overview;
use serde::Deserialize;

use super::AppState;
use super::answer::ApiError;
use super::refusal::{Malformed, Unavailable};

/// The page.
pub(crate) async fn page() -> impl IntoResponse {
    (
        [
            (CONTENT_SECURITY_POLICY, POLICY),
            (CACHE_CONTROL, "no-cache"),
        ],
        Html(include_str!("../page/index.html")),
    )
}

/// Query parameters.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub(crate) struct Search {
    /// Part of a job's name; without it, the jobs that changed last.
    #[param(value_type = Option<String>, pattern = "^[a-zA-Z0-9.]{0,128}$")]
    q: String,
}

/// Clusters and jobs, for people.
#[utoipa::path(get, path = "/api/net/overview", tag = "operation", params(Search), responses((status = 200, description = "Clusters, and up to 300 jobs", body = Overview), Malformed, Unavailable))]
pub(crate) async fn read(
    State(state): State<AppState>,
    Query(search): Query<Search>,
) -> Result<Json<Overview>, ApiError> {
    let text = search.q.trim();
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '.';
    if text.len() > 128 || !text.chars().all(plain) {
        return Err(ApiError::bad_request(
            "q must be part of a job's name: letters, digits and dots",
        ));
    }
    Ok(Json(state.store.browse(text).await?))
}

/// Says when the overview changed: an event `change` each time, by server-sent events.
#[utoipa::path(get, path = "/api/net/overview/events", tag = "operation", responses((status = 200, description = "Events without end", body = String, content_type = "text/event-stream")))]
pub(crate) async fn events(
    State(state): State<AppState>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let listener = state.live.listen();
    let changes = futures_util::stream::unfold(listener, async |mut listener| {
        listener.changed().await.ok()?;
        let pulse = listener.borrow_and_update().clone()?;
        Some((Ok(Event::default().event("change").data(pulse)), listener))
    });
    Sse::new(changes).keep_alive(KeepAlive::new().interval(Duration::from_secs(10)))
}
