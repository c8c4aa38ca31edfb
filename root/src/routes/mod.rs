//! The HTTP interface (contract section 2), one module per resource.

mod answer;
mod body;
mod caller;
mod changes;
mod cluster;
mod docs;
mod health;
mod host;
mod instance;
mod interest;
mod netinfo;
mod overview;
mod refusal;
mod service;
mod subnet;
mod table;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{Method, Uri};
use axum::routing::{delete, get, post};

use manager_http::Requests;

use crate::jwt::Verifier;
use crate::live::Live;
use crate::metrics::Metrics;
use crate::notify::Notifier;
use crate::store::Store;

use answer::ApiError;

/// What every handler may use.
#[derive(Clone)]
pub(crate) struct AppState {
    /// The state.
    pub(crate) store: Store,
    /// Delivery of notifications.
    pub(crate) notifier: Arc<Notifier>,
    /// Tokens.
    pub(crate) jwt: Arc<Verifier>,
    /// Counters of requests.
    pub(crate) requests: Arc<Requests>,
    /// Other counters.
    pub(crate) metrics: Arc<Metrics>,
    /// Changes, for those who look.
    pub(crate) live: Arc<Live>,
    /// When clusters were last noted as alive.
    pub(crate) seen: Arc<caller::Seen>,
}

/// Every route.
pub(crate) fn router(state: AppState) -> Router {
    Router::new()
        .route("/api/net/cluster", post(cluster::register))
        .route("/api/net/service/deploy", post(service::deploy))
        .route("/api/net/service/net_deploy_status", post(instance::status))
        .route("/api/net/service/{id}", delete(service::delete))
        .route("/api/net/service/{name}/instances", get(table::by_name))
        .route("/api/net/service/ip/{ip}/instances", get(table::by_address))
        .route("/api/net/instance/deploy", post(instance::deploy))
        .route("/api/net/{id}/{number}", delete(instance::delete))
        .route("/api/net/{id}/{number}/drain", post(instance::drain))
        .route("/api/net/interest/{job}", delete(interest::delete))
        .route("/api/net/host", post(host::allocate))
        .route("/api/net/subnet", get(subnet::take).head(unknown_method))
        .route("/api/net/subnet/{address}", delete(subnet::give_back))
        .route("/api/net/changes", get(changes::since))
        .route(
            "/api/pubnet/service/netinfo/available-ip",
            get(netinfo::next_available),
        )
        .route(
            "/api/pubnet/service/netinfo/available-ip/",
            get(netinfo::next_available),
        )
        .route(
            "/api/pubnet/service/netinfo/available-ip/{count}",
            get(netinfo::available),
        )
        .route(
            "/api/pubnet/service/netinfo/ip/{ip}",
            get(netinfo::by_address),
        )
        .route("/api/pubnet/service/netinfo/{name}", get(netinfo::by_name))
        .route("/api/net/overview", get(overview::read))
        .route("/api/net/overview/events", get(overview::events))
        .route("/", get(overview::page))
        .route("/docs/openapi.json", get(docs::description))
        .route("/api/docs", get(manager_http::docs::page))
        .route("/api/docs/", get(manager_http::docs::page))
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(health::metrics))
        .fallback(unknown_path)
        .method_not_allowed_fallback(unknown_method)
        .layer(axum::middleware::from_fn(manager_http::known_route))
        // The server has a limit of its own, which is a setting.
        .layer(DefaultBodyLimit::disable())
        .with_state(state)
}

async fn unknown_path(uri: Uri) -> ApiError {
    ApiError::not_found(format!("nothing is at {}", uri.path()))
}

async fn unknown_method(method: Method, uri: Uri) -> ApiError {
    ApiError::method_not_allowed(format!("{} does not take {method}", uri.path()))
}
