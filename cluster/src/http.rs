//! The HTTP interface (contract section 3).

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use protocol::JobName;
use protocol::cluster_http::{Deployment, JobUpdate};
use protocol::root_http::ErrorMessage;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cluster::Cluster;
use crate::docs::{self, Malformed, Unavailable};
use crate::jobs::{self, PullError};
use crate::keys::task;
use crate::root_client::{Key, RootError};
use crate::store::StoreError;

/// Callers give up after 10 s: they get an answer before.
const ANSWER_WITHIN: Duration = Duration::from_secs(8);

/// An error answer: a status and `{"message": …}`.
pub(crate) struct Failure(StatusCode, String);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Self(status, message) = self;
        (status, axum::Json(ErrorMessage { message })).into_response()
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
    }
}

/// All routes.
pub fn routes(cluster: Arc<Cluster>) -> Router {
    Router::new()
        .route("/api/net/deployment", post(deploy))
        .route("/api/net/deployment/{job_name}", delete(undeploy))
        .route("/api/net/job/update", post(update))
        .route("/healthz", get(alive))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/docs/openapi.json", get(docs::description))
        .route("/api/docs", get(manager_http::docs::page))
        .route("/api/docs/", get(manager_http::docs::page))
        .fallback(async || Failure(StatusCode::NOT_FOUND, "no such path".to_owned()))
        .method_not_allowed_fallback(async || {
            Failure(
                StatusCode::METHOD_NOT_ALLOWED,
                "no such method here".to_owned(),
            )
        })
        .layer(axum::middleware::from_fn(manager_http::known_route))
        // The server has a limit of its own, which is a setting.
        .layer(DefaultBodyLimit::disable())
        .with_state(cluster)
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(body)
        .map_err(|error| Failure(StatusCode::BAD_REQUEST, format!("malformed body: {error}")))
}

/// Pull a job from the root and keep it; a root that cannot be asked is asked again later.
#[utoipa::path(post, path = "/api/net/deployment", tag = "net", request_body = Deployment, responses(
    (status = 200, description = "`job stored succesfully`", body = String, content_type = "text/plain"),
    (status = 500, description = "The root does not know the job", body = ErrorMessage),
    Malformed, Unavailable))]
pub(crate) async fn deploy(
    State(cluster): State<Arc<Cluster>>,
    body: Bytes,
) -> Result<&'static str, Failure> {
    let Deployment { job_name } = read(&body)?;
    cluster.store.ping().await?;
    let key = Key::Name(job_name.clone());
    let pulled = tokio::time::timeout(ANSWER_WITHIN, jobs::pull(&cluster, &key, None)).await;
    match pulled {
        Ok(Ok(Some(_))) => Ok("job stored succesfully"),
        Ok(Ok(None)) => Err(Failure(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("the root does not know the job {job_name}"),
        )),
        Ok(Err(PullError::Store(error))) => Err(error.into()),
        Ok(Err(PullError::Root(error))) => {
            // The caller does not repeat it: we do.
            cluster
                .store
                .owe(&task::refresh(&job_name), "", Duration::ZERO)
                .await?;
            let status = match error {
                RootError::Unreachable { .. } => StatusCode::SERVICE_UNAVAILABLE,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            };
            Err(Failure(status, error.to_string()))
        }
        Err(_) => Err(Failure(
            StatusCode::SERVICE_UNAVAILABLE,
            "the root is slow".to_owned(),
        )),
    }
}

/// Undeploy every instance of a job and forget it.
#[utoipa::path(delete, path = "/api/net/deployment/{job_name}", tag = "net",
    params(("job_name" = JobName, Path, description = "Name of the job")), responses(
    (status = 200, description = "`job deleted`", body = String, content_type = "text/plain"),
    Malformed, Unavailable))]
pub(crate) async fn undeploy(
    State(cluster): State<Arc<Cluster>>,
    Path(job_name): Path<String>,
) -> Result<&'static str, Failure> {
    let job_name: JobName =
        job_name
            .parse()
            .map_err(|error: protocol::job_name::JobNameError| {
                Failure(StatusCode::BAD_REQUEST, error.to_string())
            })?;
    let instances = cluster.store.delete_deployment(&job_name).await?;
    tracing::info!(job = %job_name, instances, "deployment deleted");
    Ok("job deleted")
}

/// Hear from the root that a job changed. Only writes down that the copy is to be refreshed: the
/// root waits for this answer.
#[utoipa::path(post, path = "/api/net/job/update", tag = "net", request_body = JobUpdate, responses(
    (status = 200, description = "`update notification received`", body = String, content_type = "text/plain"),
    Malformed, Unavailable))]
pub(crate) async fn update(
    State(cluster): State<Arc<Cluster>>,
    body: Bytes,
) -> Result<&'static str, Failure> {
    let update: JobUpdate = read(&body)?;
    if !update.is_valid() {
        return Err(Failure(
            StatusCode::BAD_REQUEST,
            format!("instance_number {} is below -1", update.instance_number),
        ));
    }
    let known = match (&update.epoch, update.revision) {
        (Some(epoch), Some(revision)) => {
            jobs::is_known(&cluster, &update.job_name, epoch, revision).await?
        }
        _ => false,
    };
    if !known {
        cluster
            .store
            .owe(
                &task::refresh(&update.job_name),
                update.kind.as_str(),
                Duration::ZERO,
            )
            .await?;
    }
    Ok("update notification received")
}

/// The process answers.
#[utoipa::path(get, path = "/healthz", tag = "operation", responses(
    (status = 200, description = "`ok`", body = String, content_type = "text/plain")))]
pub(crate) async fn alive() -> &'static str {
    "ok"
}

/// What the manager reaches.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct Reach {
    /// Its Redis: always, or the answer is 503.
    redis: bool,
    /// The MQTT broker.
    mqtt: bool,
    /// The root.
    root: bool,
}

/// Redis answers; whether broker and root do is in the answer.
#[utoipa::path(get, path = "/readyz", tag = "operation", responses(
    (status = 200, description = "Requests are taken", body = Reach), Unavailable))]
pub(crate) async fn ready(
    State(cluster): State<Arc<Cluster>>,
) -> Result<axum::Json<Reach>, Failure> {
    cluster.store.ping().await?;
    Ok(axum::Json(Reach {
        redis: true,
        mqtt: cluster.metrics.mqtt_connected.get() == 1,
        root: !cluster.root.is_away(),
    }))
}

/// Counters.
#[utoipa::path(get, path = "/metrics", tag = "operation", responses(
    (status = 200, description = "Prometheus text", body = String, content_type = "text/plain")))]
pub(crate) async fn metrics(State(cluster): State<Arc<Cluster>>) -> impl IntoResponse {
    let kind = (header::CONTENT_TYPE, "text/plain; version=0.0.4");
    ([kind], cluster.metrics.render() + &cluster.requests.text())
}
