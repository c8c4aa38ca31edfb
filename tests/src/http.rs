//! A small HTTP/1.1 client: one request per connection, over TCP from any namespace or a unix
//! socket, every answer within a time.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::namespace::Namespace;

/// The callers of this system give up after 10 s (contract, sections 2 and 4).
pub const LIMIT: Duration = Duration::from_secs(10);

/// Where requests go.
#[derive(Debug, Clone)]
pub enum Server {
    /// A TCP address as seen from a namespace.
    Tcp(Namespace, SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}

/// A status and what came with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Errors
    /// When it is none.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("no JSON: {:?}", self.body))
    }

    /// The answer, if its status is 200.
    ///
    /// # Errors
    /// On any other status: with the body.
    pub fn ok(self, what: &str) -> Result<Answer> {
        if self.status != 200 {
            bail!("{what}: status {}: {}", self.status, self.body.trim());
        }
        Ok(self)
    }
}

impl Server {
    /// Sends a request with an optional JSON body.
    ///
    /// # Errors
    /// Without a whole answer in time.
    pub fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Answer> {
        let body = body.map(Value::to_string).unwrap_or_default();
        self.request_text(method, path, &body)
    }

    /// Sends a request whose body may be anything.
    ///
    /// # Errors
    /// Without a whole answer in time.
    pub fn request_text(&self, method: &str, path: &str, body: &str) -> Result<Answer> {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let answer = match self {
            Server::Tcp(namespace, address) => {
                let stream = namespace.connect(*address, LIMIT)?;
                stream.set_read_timeout(Some(LIMIT))?;
                exchange(stream, &request)
            }
            Server::Unix(path) => {
                let stream = connect_unix(path)?;
                stream.set_read_timeout(Some(LIMIT))?;
                exchange(stream, &request)
            }
        };
        answer.with_context(|| format!("{method} {path}"))
    }

    /// POST with a JSON body.
    ///
    /// # Errors
    /// Without a whole answer in time.
    pub fn post(&self, path: &str, body: &Value) -> Result<Answer> {
        self.request("POST", path, Some(body))
    }

    /// GET.
    ///
    /// # Errors
    /// Without a whole answer in time.
    pub fn get(&self, path: &str) -> Result<Answer> {
        self.request("GET", path, None)
    }
}

fn connect_unix(path: &Path) -> Result<UnixStream> {
    UnixStream::connect(path).with_context(|| format!("connecting to {}", path.display()))
}

fn exchange(mut stream: impl Read + Write, request: &str) -> Result<Answer> {
    stream
        .write_all(request.as_bytes())
        .context("sending the request")?;
    let mut bytes = Vec::new();
    stream
        .read_to_end(&mut bytes)
        .context("reading the answer")?;
    parse(&bytes)
}

fn parse(bytes: &[u8]) -> Result<Answer> {
    let end = bytes
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .context("the answer ends within its header")?;
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    let body = &bytes[end + 4..];
    let status = head
        .split_whitespace()
        .nth(1)
        .and_then(|status| status.parse().ok())
        .context("the answer has no status")?;
    let body = if head.contains("transfer-encoding: chunked") {
        chunks(body)?
    } else {
        body.to_vec()
    };
    Ok(Answer {
        status,
        body: String::from_utf8_lossy(&body).into_owned(),
    })
}

fn chunks(mut rest: &[u8]) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = rest
            .windows(2)
            .position(|pair| pair == b"\r\n")
            .context("a chunk is cut off")?;
        let size = String::from_utf8_lossy(&rest[..line]);
        let size = usize::from_str_radix(size.trim(), 16).context("a chunk without a size")?;
        if size == 0 {
            return Ok(body);
        }
        let start = line + 2;
        let chunk = rest
            .get(start..start + size)
            .context("a chunk is cut off")?;
        body.extend_from_slice(chunk);
        rest = rest.get(start + size + 2..).context("a chunk is cut off")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_and_chunked_answers_are_read() {
        let answer = parse(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 3\r\n\r\nwhy").unwrap();
        assert_eq!(
            answer,
            Answer {
                status: 400,
                body: "why".into()
            }
        );
        let answer = parse(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n",
        )
        .unwrap();
        assert_eq!(answer.body, "abcd");
    }

    #[test]
    fn a_cut_answer_is_an_error() {
        assert!(parse(b"HTTP/1.1 200 OK\r\n").is_err());
        assert!(parse(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nabc").is_err());
    }
}
