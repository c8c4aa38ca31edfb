//! Error answers: a status, and `{"message": …}` that says what to do.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use protocol::root_http::ErrorMessage;

use crate::jwt::TokenError;
use crate::store::StoreError;

/// An answer that is no success.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    message: String,
}

#[allow(
    clippy::needless_pass_by_value,
    reason = "callers hand over text or an error alike"
)]
impl ApiError {
    fn new(status: StatusCode, message: impl ToString) -> Self {
        Self {
            status,
            message: message.to_string(),
        }
    }

    /// 400.
    pub(crate) fn bad_request(message: impl ToString) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// 404.
    pub(crate) fn not_found(message: impl ToString) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// 405.
    pub(crate) fn method_not_allowed(message: impl ToString) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, message)
    }

    /// 413.
    pub(crate) fn too_large(message: impl ToString) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    }

    /// 503.
    pub(crate) fn unavailable(message: impl ToString) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
    }

    /// Turns 404 into 400, where the contract says so for an unknown id.
    pub(crate) fn unknown_is_bad_request(mut self) -> Self {
        if self.status == StatusCode::NOT_FOUND {
            self.status = StatusCode::BAD_REQUEST;
        }
        self
    }

    /// Turns an unknown caller's 400 into 404, where the contract says so.
    pub(crate) fn unknown_caller_is_not_found(error: StoreError) -> Self {
        let not_found = matches!(error, StoreError::UnknownCaller);
        let mut answer = Self::from(error);
        if not_found {
            answer.status = StatusCode::NOT_FOUND;
        }
        answer
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let status = match &error {
            StoreError::Redis(cause) if cause.is_temporary() => StatusCode::SERVICE_UNAVAILABLE,
            StoreError::Redis(_) | StoreError::Damaged(_) => StatusCode::INTERNAL_SERVER_ERROR,
            StoreError::Schema { .. } | StoreError::Exhausted(_) => StatusCode::SERVICE_UNAVAILABLE,
            StoreError::UnknownJob(_)
            | StoreError::UnknownInstance(_)
            | StoreError::UnknownSubnet => StatusCode::NOT_FOUND,
            StoreError::UnknownCaller | StoreError::Taken { .. } | StoreError::Refused(_) => {
                StatusCode::BAD_REQUEST
            }
        };
        if status == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!(%error, "a request failed");
        }
        Self::new(status, error)
    }
}

impl From<TokenError> for ApiError {
    fn from(error: TokenError) -> Self {
        let status = match &error {
            TokenError::NoKey => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::UNAUTHORIZED,
        };
        Self::new(status, error)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = ErrorMessage {
            message: self.message,
        };
        (self.status, Json(body)).into_response()
    }
}
