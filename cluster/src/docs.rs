//! The description of the HTTP interface, generated from its handlers.

use std::sync::LazyLock;

use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use manager_http::docs::Refusals;
use protocol::root_http::ErrorMessage;
use utoipa::{IntoResponses, OpenApi};

use crate::http;

/// 400.
#[derive(IntoResponses)]
#[response(status = 400, description = "Malformed; the message says why")]
pub(crate) struct Malformed(#[allow(dead_code, reason = "for the description alone")] ErrorMessage);

/// 503.
#[derive(IntoResponses)]
#[response(
    status = 503,
    description = "Redis (or the root, where it is asked) is not there"
)]
pub(crate) struct Unavailable(
    #[allow(dead_code, reason = "for the description alone")] ErrorMessage,
);

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Oakestra Net cluster service manager",
        description = "What the root and the cluster orchestrator ask of a cluster; nodes speak MQTT. Every error carries a message.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    paths(
        http::deploy,
        http::undeploy,
        http::update,
        http::alive,
        http::ready,
        http::metrics
    ),
    modifiers(&Refusals)
)]
struct Description;

/// OpenAPI 3.
pub(crate) async fn description() -> impl IntoResponse {
    static TEXT: LazyLock<String> =
        LazyLock::new(|| Description::openapi().to_json().unwrap_or_default());
    ([(CONTENT_TYPE, "application/json")], TEXT.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_described() {
        let router = include_str!("http.rs").split("fn routes").nth(1).unwrap();
        let description = Description::openapi();
        let none: [&str; 0] = [];
        assert_eq!(manager_http::docs::differences(&description, router), none);
        assert_eq!(description.paths.paths.len(), 6);
    }
}
