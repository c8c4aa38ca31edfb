//! The description of this interface: generated from the handlers, so that it says what they do.

use std::sync::LazyLock;

use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use manager_http::docs::Refusals;
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
    modifiers(&Token, &Refusals)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_described() {
        let router = include_str!("mod.rs").split("fn router").nth(1).unwrap();
        let description = Description::openapi();
        let none: [&str; 0] = [];
        assert_eq!(manager_http::docs::differences(&description, router), none);
        assert!(description.paths.paths.len() > 20);
    }
}
