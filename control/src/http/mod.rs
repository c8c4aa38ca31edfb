//! The Net Manager's HTTP interface on its unix socket (contract section 4).
//!
//! Bodies are read as JSON whatever their content type says: the NodeEngine's client does not always say it.

mod capture;
mod metrics;
mod reload;
mod services;
mod show;
mod stream;
mod tcp;
mod trace;

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use protocol::node_http::{Deploy, Register, Undeploy};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::node::{Kind, Node, Refusal};
pub use reload::router as reload_router;
pub use services::{InstanceView, JobView};
pub use show::{FlowView, PeerView, RouteView};
pub use tcp::{guarded, listen_on};

#[derive(Serialize)]
struct Message {
    message: String,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let message = Message {
            message: self.message,
        };
        (status, axum::Json(message)).into_response()
    }
}

fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| Refusal {
        status: 400,
        message: format!("the body cannot be read: {error}"),
    })
}

fn done(message: &str) -> axum::Json<Message> {
    axum::Json(Message {
        message: message.to_owned(),
    })
}

async fn register(State(app): State<App>, body: Bytes) -> Result<axum::Json<Message>, Refusal> {
    let request: Register = read(&body)?;
    app.node.register(request).await?;
    Ok(done("registered"))
}

async fn deploy(app: App, body: Bytes, kind: Kind) -> Result<Response, Refusal> {
    let request: Deploy = read(&body)?;
    let deployed = app.node.deploy(request, kind).await?;
    Ok(axum::Json(deployed).into_response())
}

async fn deploy_container(State(app): State<App>, body: Bytes) -> Result<Response, Refusal> {
    deploy(app, body, Kind::Container).await
}

async fn deploy_unikernel(State(app): State<App>, body: Bytes) -> Result<Response, Refusal> {
    deploy(app, body, Kind::Unikernel).await
}

async fn undeploy(State(app): State<App>, body: Bytes) -> Result<axum::Json<Message>, Refusal> {
    let request: Undeploy = read(&body)?;
    app.node.undeploy(request).await?;
    Ok(done("undeployed"))
}

async fn status(State(app): State<App>) -> Response {
    axum::Json(app.node.status().await).into_response()
}

async fn purge(State(app): State<App>) -> axum::Json<Message> {
    app.node.purge().await;
    app.purged.notify_one();
    done("everything removed")
}

// Both read the body before they answer: a caller that is still writing it would else lose the answer with the
// connection.
async fn no_such_path(uri: Uri, _body: Bytes) -> Response {
    let message = format!(
        "there is no {} here; GET /status shows the node, POST /register and /container/deploy are the NodeEngine's",
        uri.path()
    );
    (StatusCode::NOT_FOUND, done(&message)).into_response()
}

async fn no_such_method(method: Method, uri: Uri, _body: Bytes) -> Response {
    let message = format!("{} does not take {method}", uri.path());
    (StatusCode::METHOD_NOT_ALLOWED, done(&message)).into_response()
}

/// What the handlers share.
#[derive(Clone)]
struct App {
    node: Arc<Node>,
    purged: Arc<tokio::sync::Notify>,
    closing: watch::Receiver<bool>,
}

/// The routes of the interface. `purged` is notified when `down --purge` has removed everything; answers that would go
/// on for ever end when `closing` becomes true.
pub fn router(
    node: Arc<Node>,
    purged: Arc<tokio::sync::Notify>,
    closing: watch::Receiver<bool>,
) -> Router {
    Router::new()
        .route("/register", post(register))
        .route("/container/deploy", post(deploy_container))
        .route("/container/undeploy", post(undeploy))
        .route("/docker/undeploy", post(undeploy))
        .route("/unikernel/deploy", post(deploy_unikernel))
        .route("/unikernel/undeploy", post(undeploy))
        .route("/status", get(status))
        .route("/routes", get(show::routes))
        .route("/flows", get(show::flows))
        .route("/services", get(services::services))
        .route("/peers", get(show::peers))
        .route("/metrics", get(metrics::metrics))
        .route("/capture", get(capture::capture))
        .route("/trace", get(trace::trace))
        .route("/down", post(purge))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .with_state(App {
            node,
            purged,
            closing,
        })
}
