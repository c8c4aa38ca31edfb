//! Calling another manager: plain or by TLS, with the token, every step within a time limit.
//!
//! Redirects are not followed and no proxy is used: a token goes to nobody but the manager that is set.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower::Service;

use crate::Guard;

/// A connection must stand by then.
const CONNECT: Duration = Duration::from_secs(2);
/// Shorter than any server keeps an idle connection.
const IDLE: Duration = Duration::from_secs(20);
/// An answer is not longer: a job with a hundred thousand instances fits.
const MOST: usize = 64 << 20;

/// Why a call gave no answer.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct CallError(String);

/// An answer, whatever its status.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The body.
    pub body: Bytes,
}

/// Calls managers. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    inner: legacy::Client<Connector, Full<Bytes>>,
    authorization: Option<HeaderValue>,
    within: Duration,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Client").finish_non_exhaustive()
    }
}

impl Client {
    /// A client whose calls take no longer than `within`. `https` URLs need a TLS configuration; the
    /// guard's token is shown to whoever is called.
    #[must_use]
    pub fn new(tls: Option<Arc<ClientConfig>>, guard: &Guard, within: Duration) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT));
        let connector = Connector {
            tcp,
            tls: tls.map(TlsConnector::from),
        };
        Self {
            inner: legacy::Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(IDLE)
                .build(connector),
            authorization: guard.authorization(),
            within,
        }
    }

    /// Sends a request, with a JSON body if there is one.
    ///
    /// # Errors
    /// No answer came in time; the other side may have done what it was asked.
    pub async fn send(
        &self,
        method: Method,
        url: &str,
        json: Option<Vec<u8>>,
    ) -> Result<Answer, CallError> {
        let mut request = Request::builder().method(method).uri(url);
        if json.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        if let Some(token) = &self.authorization {
            request = request.header(AUTHORIZATION, token);
        }
        let request = request
            .body(Full::from(json.unwrap_or_default()))
            .map_err(|error| CallError(format!("{url} is no URL: {error}")))?;
        let call = async {
            let answer = self
                .inner
                .request(request)
                .await
                .map_err(|error| CallError(innermost(&error)))?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), MOST)
                .collect()
                .await
                .map_err(|error| CallError(innermost(&*error)))?
                .to_bytes();
            Ok(Answer { status, body })
        };
        tokio::time::timeout(self.within, call)
            .await
            .unwrap_or_else(|_| Err(CallError(format!("no answer within {:?}", self.within))))
    }
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[derive(Clone)]
struct Connector {
    tcp: HttpConnector,
    tls: Option<TlsConnector>,
}

type Fault = Box<dyn std::error::Error + Send + Sync>;

impl Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = Fault;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Fault>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        self.tcp.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let https = uri.scheme_str() == Some("https");
        let host = uri.host().unwrap_or_default();
        let host = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let tls = self.tls.clone();
        let tcp = self.tcp.call(uri);
        Box::pin(async move {
            let stream = tcp.await?.into_inner();
            if !https {
                return Ok(TokioIo::new(Stream::Plain(stream)));
            }
            let tls = tls.ok_or("TLS is not set up for this call")?;
            let name = ServerName::try_from(host)?;
            let handshake = tokio::time::timeout(CONNECT, tls.connect(name, stream));
            Ok(TokioIo::new(Stream::Tls(Box::new(handshake.await??))))
        })
    }
}

/// A connection to a manager.
enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
