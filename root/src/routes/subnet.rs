//! Worker subnetworks.

use axum::Json;
use axum::extract::{Path, State};
use protocol::root_http::Subnet;

use super::AppState;
use super::answer::ApiError;

/// Hands one out, never the same twice while it is in use.
pub(crate) async fn take(State(state): State<AppState>) -> Result<Json<Subnet>, ApiError> {
    Ok(Json(state.store.take_subnet().await?))
}

/// Takes one back.
pub(crate) async fn give_back(
    State(state): State<AppState>,
    Path(text): Path<String>,
) -> Result<&'static str, ApiError> {
    let address = protocol::address::parse_path_segment(&text).map_err(ApiError::bad_request)?;
    state.store.return_subnet(address).await?;
    Ok("subnetwork given back")
}
