//! Serving: one task per connection, each within the limits.
//!
//! axum's own server takes any number of connections and waits on each for ever, so this one accepts by
//! itself. A connection that says nothing, or a request that does not come to its end, gives its place
//! up after a while.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, MatchedPath};
use axum::http::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, Request, Response, StatusCode};
use axum::response::IntoResponse as _;
use http_body_util::{BodyExt as _, Collected, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tower::Service as _;

use crate::limits::{Connections, Rate};
use crate::{Guard, Limits, Requests};

/// A connection may be silent for this long.
const IDLE: Duration = Duration::from_secs(75);
/// A TLS handshake takes no longer.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// A request is read and answered within this time (callers give up after 10 s).
const REQUEST: Duration = Duration::from_secs(30);
/// After a failed accept (no file descriptor left, mostly).
const PAUSE: Duration = Duration::from_millis(50);
/// An error's text is not longer.
const ERROR_BYTES: usize = 64 << 10;

struct Shared {
    app: Router,
    guard: Guard,
    limits: Limits,
    rate: Rate,
    tls: Option<TlsAcceptor>,
    requests: Arc<Requests>,
}

/// Serves until `stop` turns true; then finishes the open requests and returns.
pub async fn serve(
    listener: TcpListener,
    app: Router,
    guard: Guard,
    limits: Limits,
    tls: Option<Arc<ServerConfig>>,
    requests: Arc<Requests>,
    mut stop: watch::Receiver<bool>,
) {
    allow_files(limits.max_connections);
    let connections = Arc::new(Connections::default());
    let shared = Arc::new(Shared {
        app,
        guard,
        limits,
        rate: Rate::new(limits.max_requests_per_second),
        tls: tls.map(TlsAcceptor::from),
        requests,
    });
    let (open, mut all_closed) = mpsc::channel::<Infallible>(1);
    let mut complained: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            // An error means that the sender is gone: stop as well.
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "no connection accepted");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let source = peer.ip().to_canonical();
        let Some(slot) = connections.take(source, limits.max_connections) else {
            if complained.is_none_or(|at| at.elapsed() > Duration::from_secs(10)) {
                complained = Some(Instant::now());
                tracing::warn!(%source, most = limits.max_connections, "too many connections; closing new ones (MAX_CONNECTIONS)");
            }
            continue;
        };
        let (shared, stop, open) = (Arc::clone(&shared), stop.clone(), open.clone());
        tokio::spawn(async move {
            let _held = (slot, open);
            connection(stream, peer, &shared, stop).await;
        });
    }
    drop(open);
    // Nothing is ever sent: it ends with the last connection.
    let _ = all_closed.recv().await;
}

/// Each connection is a file, and many systems allow 1,024 of them unless a process asks for more.
fn allow_files(connections: usize) {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let wanted = u64::try_from(connections)
        .unwrap_or(u64::MAX)
        .saturating_add(512);
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft >= wanted {
            return Ok(true);
        }
        setrlimit(Resource::RLIMIT_NOFILE, wanted.min(hard), hard)?;
        Ok(hard >= wanted)
    });
    if raised != Ok(true) {
        tracing::warn!(
            wanted,
            "the system allows fewer open files than MAX_CONNECTIONS needs; raise the limit (ulimit -n, LimitNOFILE)"
        );
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    shared: &Arc<Shared>,
    stop: watch::Receiver<bool>,
) {
    // An answer is a packet of its own: held back for a later one it would cost 40 ms.
    let _ = stream.set_nodelay(true);
    let Some(acceptor) = &shared.tls else {
        return talk(stream, peer, false, shared, stop).await;
    };
    match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => {
            let certified = stream.get_ref().1.peer_certificates().is_some();
            talk(stream, peer, certified, shared, stop).await;
        }
        Ok(Err(error)) => tracing::debug!(%peer, %error, "no TLS session"),
        Err(_) => tracing::debug!(%peer, "the TLS handshake did not end in time"),
    }
}

async fn talk(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: SocketAddr,
    certified: bool,
    shared: &Arc<Shared>,
    mut stop: watch::Receiver<bool>,
) {
    let service = service_fn(|request: Request<Incoming>| {
        let shared = Arc::clone(shared);
        async move {
            let (start, method) = (Instant::now(), request.method().clone());
            let answer = answer(request, peer, certified, &shared).await;
            let route = answer.extensions().get::<MatchedPath>();
            shared
                .requests
                .count(&method, route, answer.status(), start.elapsed());
            Ok::<_, Infallible>(answer)
        }
    });
    let mut talk = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE)
            .serve_connection(TokioIo::new(stream), service)
    );
    tokio::select! {
        _ = talk.as_mut() => return,
        _ = stop.wait_for(|stop| *stop) => {}
    }
    talk.as_mut().graceful_shutdown();
    let _ = talk.await;
}

async fn answer(
    request: Request<Incoming>,
    peer: SocketAddr,
    certified: bool,
    shared: &Shared,
) -> Response<Body> {
    let source: IpAddr = peer.ip().to_canonical();
    if !shared.rate.allows(source, Instant::now()) {
        return refuse(
            StatusCode::TOO_MANY_REQUESTS,
            "too many requests from this address; the limit is MAX_REQUESTS_PER_SECOND",
        );
    }
    let headers = request.headers();
    if !shared
        .guard
        .lets_in(request.uri().path(), headers, certified)
    {
        let mut answer = refuse(StatusCode::UNAUTHORIZED, shared.guard.reason());
        let bearer = HeaderValue::from_static("Bearer");
        answer.headers_mut().insert(WWW_AUTHENTICATE, bearer);
        return answer;
    }
    let most = shared.limits.max_body_bytes;
    let mut request = request.map(|body| Body::new(Limited::new(body, most)));
    request.extensions_mut().insert(ConnectInfo(peer));
    let mut app = shared.app.clone();
    match tokio::time::timeout(REQUEST, app.call(request)).await {
        Ok(Ok(answer)) => in_json(answer).await,
        Ok(Err(never)) => match never {},
        Err(_) => refuse(
            StatusCode::REQUEST_TIMEOUT,
            "the request did not come to its end in time",
        ),
    }
}

fn refuse(status: StatusCode, message: &str) -> Response<Body> {
    let body = axum::Json(serde_json::json!({ "message": message }));
    (status, body).into_response()
}

/// What axum itself refuses comes as text: every error answer here is `{"message": …}`.
async fn in_json(answer: Response<Body>) -> Response<Body> {
    let status = answer.status();
    let is_json = answer
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    if is_json || !(status.is_client_error() || status.is_server_error()) {
        return answer;
    }
    let (head, body) = answer.into_parts();
    let extensions = head.extensions;
    let body = Limited::new(body, ERROR_BYTES).collect().await;
    let text = body.map_or_else(|_| Bytes::new(), Collected::to_bytes);
    let text = String::from_utf8_lossy(&text);
    let text = match text.trim() {
        "" => status.canonical_reason().unwrap_or("refused"),
        text => text,
    };
    let mut refused = refuse(status, text);
    *refused.extensions_mut() = extensions;
    refused
}
