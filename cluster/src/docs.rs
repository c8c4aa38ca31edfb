//! The description of the HTTP interface, generated from its handlers, and the page that shows it.
//! Nothing is loaded from elsewhere.

use std::sync::LazyLock;

use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::{Html, IntoResponse};
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
    )
)]
struct Description;

/// OpenAPI 3.
pub(crate) async fn description() -> impl IntoResponse {
    static TEXT: LazyLock<String> =
        LazyLock::new(|| Description::openapi().to_json().unwrap_or_default());
    ([(CONTENT_TYPE, "application/json")], TEXT.as_str())
}

/// A page that shows it; the root's, which shows any description.
pub(crate) async fn page() -> impl IntoResponse {
    const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    (
        [(CONTENT_SECURITY_POLICY, POLICY)],
        Html(include_str!("../../root/src/docs/page.html")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_described() {
        let source = include_str!("http.rs");
        let router = source.split("pub fn routes").nth(1).unwrap();
        let text: String = router.chars().filter(|c| !c.is_whitespace()).collect();
        let routes: Vec<String> = text
            .split(".route(\"")
            .skip(1)
            .map(|route| {
                let (path, rest) = route.split_once('"').unwrap();
                let method = rest.trim_start_matches(',').split('(').next().unwrap();
                format!("{method} {path}")
            })
            .filter(|route| !route.ends_with("docs") && !route.contains("openapi"))
            .collect();
        let description = serde_json::to_value(Description::openapi()).unwrap();
        for route in &routes {
            let (method, path) = route.split_once(' ').unwrap();
            assert!(description["paths"][path][method].is_object(), "{route}");
        }
        assert_eq!(
            description["paths"].as_object().unwrap().len(),
            routes.len()
        );
    }
}
