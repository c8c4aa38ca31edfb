//! A load generator for HTTP: plain sockets that stay open, so that it takes little of the cores
//! that it shares with what it measures.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::figures::Latencies;

/// A store that is away comes back within this.
const PATIENCE: Duration = Duration::from_secs(60);

/// An answer.
pub struct Answer {
    pub status: u16,
    pub text: String,
}

/// A GET request.
pub fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: m\r\n\r\n")
}

/// A POST request with a JSON body.
pub fn post(path: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: m\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Length of the first answer in a buffer and its status, once all of it is there.
fn complete(buffer: &[u8]) -> Result<Option<(usize, u16)>> {
    let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = std::str::from_utf8(buffer.get(..end).unwrap_or_default())?;
    let mut lines = head.lines();
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1)?.parse().ok())
        .context("no status line")?;
    let length: usize = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .map_or(Ok(0), |(_, value)| value.trim().parse())?;
    Ok((buffer.len() >= end + 4 + length).then_some((end + 4 + length, status)))
}

/// One request on a connection of its own, blocking.
pub fn once(port: u16, request: &str) -> Result<Answer> {
    let mut socket = std::net::TcpStream::connect(("127.0.0.1", port))?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    socket.write_all(request.as_bytes())?;
    let mut buffer = Vec::new();
    let mut some = [0; 8192];
    loop {
        let read = socket.read(&mut some)?;
        ensure!(read > 0, "closed before the answer");
        buffer.extend(some.get(..read).unwrap_or_default());
        if let Some((length, status)) = complete(&buffer)? {
            let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default());
            let text = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
            return Ok(Answer {
                status,
                text: text.to_owned(),
            });
        }
    }
}

/// What a run gave.
pub struct Run {
    pub count: u32,
    pub seconds: f64,
    pub latencies: Latencies,
}

impl Run {
    /// Requests per second.
    pub fn rate(&self) -> f64 {
        f64::from(self.count) / self.seconds
    }
}

/// Sends a request and answers the status.
async fn exchange(socket: &mut TcpStream, buffer: &mut Vec<u8>, request: &str) -> Result<u16> {
    socket.write_all(request.as_bytes()).await?;
    buffer.clear();
    loop {
        ensure!(socket.read_buf(buffer).await? > 0, "the manager closed");
        match complete(buffer)? {
            None => {}
            Some((_, status @ (200 | 503))) => return Ok(status),
            Some(_) => bail!("{}", String::from_utf8_lossy(buffer)),
        }
    }
}

/// Sends `count` requests over so many connections, each as soon as its last one is answered; what
/// is answered 503 is sent again, as every caller does, and the wait counts.
///
/// # Errors
/// Another answer than 200, or 503 for longer than a minute.
pub async fn load(
    port: u16,
    connections: u32,
    count: u32,
    request: impl Fn(u32) -> String + Send + Sync + 'static,
) -> Result<Run> {
    let next = Arc::new(AtomicU32::new(0));
    let request = Arc::new(request);
    let start = Instant::now();
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..connections {
        let (next, request) = (Arc::clone(&next), Arc::clone(&request));
        workers.spawn(async move {
            let mut socket = TcpStream::connect(("127.0.0.1", port)).await?;
            socket.set_nodelay(true)?;
            let mut buffer = Vec::with_capacity(16 * 1024);
            let mut times = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return Ok(times);
                }
                let begin = Instant::now();
                while exchange(&mut socket, &mut buffer, &request(number)).await? == 503 {
                    let text = String::from_utf8_lossy(&buffer);
                    ensure!(begin.elapsed() < PATIENCE, "{text}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                times.push(begin.elapsed());
            }
        });
    }
    let mut latencies = Latencies::default();
    while let Some(times) = workers.join_next().await {
        latencies.extend(times??);
    }
    Ok(Run {
        count,
        seconds: start.elapsed().as_secs_f64(),
        latencies,
    })
}
