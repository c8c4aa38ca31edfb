//! Request bodies and parts of paths, with a reason when they are malformed.

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use serde::de::DeserializeOwned;

use super::answer::ApiError;

/// A JSON body, whatever its content type says.
pub(crate) struct Body<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let bytes = Bytes::from_request(request, state).await.map_err(|error| {
            match error.status().as_u16() {
                413 => ApiError::too_large("the body is too large"),
                _ => ApiError::bad_request(format!("the body cannot be read: {error}")),
            }
        })?;
        serde_json::from_slice(&bytes).map(Self).map_err(|error| {
            ApiError::bad_request(format!("the body is not as it should be: {error}"))
        })
    }
}

/// A service's object id: 24 hex digits, in lower case.
pub(crate) fn object_id(text: &str) -> Result<String, ApiError> {
    if text.is_empty() {
        return Err(ApiError::bad_request("_id is missing"));
    }
    if text.len() != 24 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(ApiError::bad_request(format!(
            "`{text}` is not an object id: 24 hex digits"
        )));
    }
    Ok(text.to_ascii_lowercase())
}

/// An identifier of a cluster or node: text without control characters.
pub(crate) fn identifier(what: &str, text: &str) -> Result<String, ApiError> {
    let text = text.trim();
    if text.is_empty() || text.len() > 128 || text.chars().any(char::is_control) {
        return Err(ApiError::bad_request(format!(
            "{what} must have 1 to 128 characters, none of them a control character"
        )));
    }
    Ok(text.to_owned())
}
