//! Requests over the daemon's unix socket: with one answer, or with one that goes on.

use std::path::Path;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

/// Why the daemon gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is no socket.
    #[error(
        "no Net Manager answers at {0}: there is no such socket; start it with `systemctl start netmanager`, or name another socket with --socket"
    )]
    Absent(String),
    /// There is a socket, and nobody listens.
    #[error(
        "no Net Manager answers at {0}: the connection was refused, so it has ended without removing its socket; `NetManager logs` says why, `systemctl start netmanager` starts it"
    )]
    Down(String),
    /// We may not ask.
    #[error(
        "{0} may not be opened: no permission; run this as root (sudo), or as a member of the socket's group (SocketGroup in netcfg.json)"
    )]
    Forbidden(String),
    /// Something else is in the way.
    #[error("{0}: {1}; name the Net Manager's socket with --socket")]
    Unusable(String, std::io::Error),
    /// It answered with an error.
    #[error("{0}")]
    Refused(String),
    /// The conversation broke off.
    #[error("the Net Manager did not answer as expected: {0}")]
    Broken(String),
}

/// An answer that goes on.
pub struct Following {
    body: Incoming,
    connection: JoinHandle<hyper::Result<()>>,
    // While it is there, the connection is not at its end.
    _sender: SendRequest<Full<Bytes>>,
}

impl Following {
    /// The next piece; none at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(ClientError::Broken(error.to_string())),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// Sends a request whose answer goes on.
pub async fn follow(socket: &Path, path: &str) -> Result<Following, ClientError> {
    let (response, connection, sender) = send(socket, Method::GET, path).await?;
    let status = response.status();
    let body = response.into_body();
    if status.is_success() {
        return Ok(Following {
            body,
            connection,
            _sender: sender,
        });
    }
    let refusal = text(body).await;
    connection.abort();
    Err(refused(refusal?))
}

/// Sends one request and answers its body.
pub async fn ask(socket: &Path, method: Method, path: &str) -> Result<String, ClientError> {
    let (response, connection, _sender) = send(socket, method, path).await?;
    let status = response.status();
    let body = text(response.into_body()).await;
    connection.abort();
    let body = body?;
    if status.is_success() {
        return Ok(body);
    }
    Err(refused(body))
}

async fn text(body: Incoming) -> Result<String, ClientError> {
    let body = body
        .collect()
        .await
        .map_err(|error| ClientError::Broken(error.to_string()))?;
    Ok(String::from_utf8_lossy(&body.to_bytes()).into_owned())
}

/// What an answer that is no success says.
fn refused(body: String) -> ClientError {
    let message = serde_json::from_str::<serde_json::Value>(&body)
        .ok()
        .and_then(|value| value.get("message")?.as_str().map(str::to_owned));
    ClientError::Refused(message.unwrap_or(body))
}

type Sent = (
    Response<Incoming>,
    JoinHandle<hyper::Result<()>>,
    SendRequest<Full<Bytes>>,
);

async fn send(socket: &Path, method: Method, path: &str) -> Result<Sent, ClientError> {
    let shown = socket.display().to_string();
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::PermissionDenied => ClientError::Forbidden(shown),
            std::io::ErrorKind::NotFound => ClientError::Absent(shown),
            std::io::ErrorKind::ConnectionRefused => ClientError::Down(shown),
            _ => ClientError::Unusable(shown, error),
        })?;
    let broken = |error: &dyn std::fmt::Display| ClientError::Broken(error.to_string());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| broken(&error))?;
    let connection = tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "netmanager")
        .body(Full::<Bytes>::default())
        .map_err(|error| broken(&error))?;
    let response = sender
        .send_request(request)
        .await
        .map_err(|error| broken(&error))?;
    Ok((response, connection, sender))
}
