//! Worker subnetworks.

use axum::Json;
use axum::extract::{Path, State};
use protocol::root_http::Subnet;

use super::AppState;
use super::answer::ApiError;
use super::refusal::{Malformed, Unavailable, Unknown};

/// Hands one out, never the same twice while it is in use.
#[utoipa::path(get, path = "/api/net/subnet", tag = "net", responses((status = 200, description = "The subnetwork", body = Subnet), Unavailable))]
pub(crate) async fn take(State(state): State<AppState>) -> Result<Json<Subnet>, ApiError> {
    Ok(Json(state.store.take_subnet().await?))
}

/// Takes one back.
#[utoipa::path(delete, path = "/api/net/subnet/{address}", tag = "net", params(("address" = String, Path, description = "First address of the subnetwork, IPv4 or IPv6", example = "10.18.0.0")), responses((status = 200, description = "Given back", body = String, content_type = "text/plain"), Malformed, Unknown, Unavailable))]
pub(crate) async fn give_back(
    State(state): State<AppState>,
    Path(text): Path<String>,
) -> Result<&'static str, ApiError> {
    let address = protocol::address::parse_path_segment(&text).map_err(ApiError::bad_request)?;
    state.store.return_subnet(address).await?;
    Ok("subnetwork given back")
}
