//! `DELETE /api/net/interest/<job_name>`.

use axum::extract::{Path, State};
use protocol::JobName;
use protocol::root_http::CallerQuery;

use super::AppState;
use super::answer::ApiError;
use super::caller::From;
use super::refusal::{Malformed, Unavailable, Unknown};

/// Drops the calling cluster's interest. A reference node names addresses here too; no interest
/// is in one, so nothing changes then.
#[utoipa::path(delete, path = "/api/net/interest/{job}", tag = "net", params(("job" = String, Path, description = "Name of the job; for an address nothing changes"), CallerQuery), responses((status = 200, description = "`deregistered`", body = String, content_type = "text/plain"), Malformed, Unknown, Unavailable))]
pub(crate) async fn delete(
    State(state): State<AppState>,
    From(caller): From,
    Path(text): Path<String>,
) -> Result<&'static str, ApiError> {
    let job = if protocol::address::parse_path_segment(&text).is_ok() {
        None
    } else {
        let job = text
            .parse()
            .or_else(|error| JobName::from_path_segment(&text).map_err(|_| error))
            .map_err(ApiError::bad_request)?;
        Some(job)
    };
    state
        .store
        .drop_interest(&caller, job.as_ref())
        .await
        .map_err(ApiError::unknown_caller_is_not_found)?;
    Ok("deregistered")
}
