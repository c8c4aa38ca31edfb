//! One request over the daemon's unix socket.

use std::path::Path;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

/// Why the daemon gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "no Net Manager answers at {0} ({1}); start it with `systemctl start netmanager`, or name another socket with --socket"
    )]
    Down(String, std::io::Error),
    /// We may not ask.
    #[error("{0} may not be opened; run this as root or as a member of the socket's group")]
    Forbidden(String),
    /// It answered with an error.
    #[error("{0}")]
    Refused(String),
    /// The conversation broke off.
    #[error("the Net Manager did not answer as expected: {0}")]
    Broken(String),
}

/// Sends one request and answers its body.
pub async fn ask(socket: &Path, method: Method, path: &str) -> Result<String, ClientError> {
    let shown = socket.display().to_string();
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::PermissionDenied => ClientError::Forbidden(shown),
            _ => ClientError::Down(shown, error),
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
    let status = response.status();
    let body = response
        .into_body()
        .collect()
        .await
        .map_err(|error| broken(&error))?
        .to_bytes();
    connection.abort();
    let body = String::from_utf8_lossy(&body).into_owned();
    if status.is_success() {
        return Ok(body);
    }
    let message = serde_json::from_str::<serde_json::Value>(&body)
        .ok()
        .and_then(|value| value.get("message")?.as_str().map(str::to_owned));
    Err(ClientError::Refused(message.unwrap_or(body)))
}
