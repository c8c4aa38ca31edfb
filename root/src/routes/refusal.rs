//! Answers that are no success, as the description of the interface names them. Their body is
//! always [`ErrorMessage`].

use protocol::root_http::ErrorMessage;
use utoipa::IntoResponses;

/// 400.
#[derive(IntoResponses)]
#[response(
    status = 400,
    description = "Malformed, or against the rules; the message says why"
)]
pub(crate) struct Malformed(#[allow(dead_code, reason = "for the description alone")] ErrorMessage);

/// 401.
#[derive(IntoResponses)]
#[response(status = 401, description = "No token, or one that is not accepted")]
pub(crate) struct Unauthorized(
    #[allow(dead_code, reason = "for the description alone")] ErrorMessage,
);

/// 404.
#[derive(IntoResponses)]
#[response(status = 404, description = "There is no such thing")]
pub(crate) struct Unknown(#[allow(dead_code, reason = "for the description alone")] ErrorMessage);

/// 503.
#[derive(IntoResponses)]
#[response(
    status = 503,
    description = "Redis (or what else is needed) is not there, or a pool has no free address"
)]
pub(crate) struct Unavailable(
    #[allow(dead_code, reason = "for the description alone")] ErrorMessage,
);
