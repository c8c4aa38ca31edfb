//! HTTP with a connection per request: who answered, how long it took, what failed.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

/// Sends `count` requests, one after the other.
pub fn get(target: SocketAddr, count: u32, limit: Duration) -> Value {
    let mut per_instance = BTreeMap::<u32, u32>::new();
    let mut failures = Vec::new();
    let mut latencies = Vec::new();
    for _ in 0..count {
        let start = Instant::now();
        match request(target, limit) {
            Ok(instance) => {
                *per_instance.entry(instance).or_default() += 1;
                latencies.push(start.elapsed().as_micros());
            }
            Err(error) => failures.push(format!("{error:#}")),
        }
    }
    latencies.sort_unstable();
    let percentile = |percent: usize| {
        latencies.get((latencies.len() * percent / 100).min(latencies.len().saturating_sub(1)))
    };
    json!({
        "requests": count,
        "failures": failures.len(),
        "first_failure": failures.first(),
        "per_instance": per_instance,
        "latency_us": {"p50": percentile(50), "p99": percentile(99)},
    })
}

/// Sends requests over `connections` at a time until standard input ends.
pub fn poll(target: SocketAddr, connections: u32, limit: Duration) -> Result<()> {
    let end = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..connections {
            scope.spawn(|| {
                while !end.load(Ordering::Relaxed) {
                    let start = now();
                    let outcome = match request(target, limit) {
                        Ok(instance) => instance.to_string(),
                        Err(error) => format!("failed: {error:#}"),
                    };
                    println!("{start} {} {outcome}", now());
                }
            });
        }
        let read = std::io::stdin().read_to_end(&mut Vec::new());
        end.store(true, Ordering::Relaxed);
        read.map(drop).context("waiting for the end")
    })
}

/// One request over a connection of its own: the instance that answered.
pub fn request(target: SocketAddr, limit: Duration) -> Result<u32> {
    let mut stream = TcpStream::connect_timeout(&target, limit).context("connecting")?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    write!(
        stream,
        "GET / HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n"
    )
    .context("sending")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("reading")?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("the answer is cut off")?;
    if !head.starts_with("HTTP/1.1 200") {
        bail!("the answer is not 200");
    }
    body.trim()
        .parse()
        .with_context(|| format!("{body:?} is no instance"))
}

fn now() -> u128 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_micros()
}
