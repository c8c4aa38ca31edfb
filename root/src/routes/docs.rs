//! The description of this interface, for programs and for people: generated from the handlers, so
//! that it says what they do. The page loads nothing from elsewhere, so it works where there is no
//! way out.

use std::sync::LazyLock;

use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::{Html, IntoResponse};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{Modify, OpenApi};

use super::{
    changes, cluster, health, host, instance, interest, netinfo, overview, service, subnet, table,
};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Oakestra Net root service manager",
        description = "Addresses, table queries and notifications of Oakestra Net. Every error carries a message.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    paths(
        cluster::register,
        service::deploy,
        service::delete,
        instance::deploy,
        instance::delete,
        instance::drain,
        instance::status,
        table::by_name,
        table::by_address,
        interest::delete,
        host::allocate,
        subnet::take,
        subnet::give_back,
        changes::since,
        netinfo::by_name,
        netinfo::by_address,
        netinfo::next_available,
        netinfo::available,
        overview::read,
        overview::events,
        health::alive,
        health::ready,
        health::metrics,
    ),
    modifiers(&Token)
)]
struct Description;

/// The bearer token of netinfo.
struct Token;

impl Modify for Token {
    fn modify(&self, description: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        description
            .components
            .get_or_insert_default()
            .add_security_scheme("token", scheme);
    }
}

/// OpenAPI 3.
pub(crate) async fn description() -> impl IntoResponse {
    static TEXT: LazyLock<String> =
        LazyLock::new(|| Description::openapi().to_json().unwrap_or_default());
    ([(CONTENT_TYPE, "application/json")], TEXT.as_str())
}

/// A page that shows it.
pub(crate) async fn page() -> impl IntoResponse {
    (
        [(CONTENT_SECURITY_POLICY, overview::POLICY)],
        Html(include_str!("../docs/page.html")),
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The router and the description list the same; what is for people alone is not in it.
    #[test]
    fn every_route_is_described() {
        let source = include_str!("mod.rs");
        let router = source.split("pub(crate) fn router").nth(1).unwrap();
        let text: String = router.chars().filter(|c| !c.is_whitespace()).collect();
        let mut routes = BTreeSet::new();
        for route in text.split(".route(\"").skip(1) {
            let (path, rest) = route.split_once('"').unwrap();
            let method = rest.trim_start_matches(',').split('(').next().unwrap();
            if !path.ends_with('/') && !["/", "/docs/openapi.json", "/api/docs"].contains(&path) {
                routes.insert(format!("{method} {path}"));
            }
        }
        let description = serde_json::to_value(Description::openapi()).unwrap();
        let mut described = BTreeSet::new();
        for (path, methods) in description["paths"].as_object().unwrap() {
            for method in methods.as_object().unwrap().keys() {
                described.insert(format!("{method} {path}"));
            }
        }
        assert_eq!(routes, described);
        assert!(routes.len() > 20);
    }
}
