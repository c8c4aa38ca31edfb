//! The node's HTTP interface, called as the NodeEngine calls it: by a program of its own, over the unix socket.

use std::sync::Arc;

use control::node::Node;
use serde_json::Value;
use tokio::sync::{Notify, watch};

/// A served socket; closed with the value.
pub struct Api {
    path: String,
    server: tokio::task::JoinHandle<()>,
    _close: watch::Sender<bool>,
}

impl Api {
    pub async fn serve(node: &Arc<Node>) -> Self {
        let socket = super::scratch("socket").join("nm.sock");
        let listener = control::socket::listen(&socket).await.unwrap();
        let (close, closing) = watch::channel(false);
        let router = control::http::router(Arc::clone(node), Arc::new(Notify::new()), closing);
        Self {
            path: socket.to_str().unwrap().to_owned(),
            server: tokio::spawn(async move {
                let _ = axum::serve(listener, router).await;
            }),
            _close: close,
        }
    }

    /// Status and answer of a POST; the answer is null where it is no JSON.
    pub async fn post(&self, path: &str, body: &str) -> (u16, Value) {
        let url = format!("http://x{path}");
        let output = tokio::process::Command::new("curl")
            .args(["-s", "-w", " %{http_code}", "--max-time", "15"])
            .args(["--unix-socket", &self.path, &url, "--data-binary", body])
            .output()
            .await
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let (body, status) = text.rsplit_once(' ').unwrap();
        (
            status.parse().unwrap(),
            serde_json::from_str(body).unwrap_or(Value::Null),
        )
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.server.abort();
    }
}
