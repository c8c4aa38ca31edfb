//! How many connections open, serve one request and close in a second, and how long each takes.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::client::request;

/// One that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(5);

/// What one thread saw.
#[derive(Default)]
struct Seen {
    times: Vec<Duration>,
    failed: u64,
    first_failure: Option<String>,
}

/// Opens and closes connections, `parallel` at a time, until `time` is over or `count` (if not 0) have begun.
///
/// # Errors
/// Without a thread. What fails is counted.
pub fn open_and_close(
    target: SocketAddr,
    parallel: u16,
    time: Duration,
    count: u64,
) -> Result<Value> {
    ensure!(parallel > 0, "one connection at a time is the least");
    let begun = AtomicU64::new(0);
    let start = Instant::now();
    let seen: Vec<Seen> = std::thread::scope(|scope| {
        let client = || {
            let mut seen = Seen::default();
            while start.elapsed() < time {
                if count > 0 && begun.fetch_add(1, Ordering::Relaxed) >= count {
                    break;
                }
                let opened = Instant::now();
                match request(target, PATIENCE) {
                    Ok(_) => seen.times.push(opened.elapsed()),
                    Err(error) => {
                        seen.failed += 1;
                        seen.first_failure
                            .get_or_insert_with(|| format!("{error:#}"));
                    }
                }
            }
            seen
        };
        let threads: Vec<_> = (0..parallel).map(|_| scope.spawn(client)).collect();
        let joined = threads.into_iter().filter_map(|thread| thread.join().ok());
        joined.collect()
    });
    ensure!(seen.len() == usize::from(parallel), "a thread panicked");
    let seconds = start.elapsed().as_secs_f64();
    let failed: u64 = seen.iter().map(|seen| seen.failed).sum();
    let first_failure = seen.iter().find_map(|seen| seen.first_failure.clone());
    let mut times: Vec<Duration> = seen.into_iter().flat_map(|seen| seen.times).collect();
    times.sort_unstable();
    let at = |percent: usize| {
        let place = (times.len() * percent).div_ceil(100).saturating_sub(1);
        times.get(place).map(|time| time.as_nanos() as f64 / 1000.0)
    };
    #[allow(clippy::cast_precision_loss)] // some millions
    let per_second = times.len() as f64 / seconds;
    Ok(
        json!({"connections": times.len(), "failed": failed, "first_failure": first_failure, "seconds": seconds,
        "per_second": per_second, "p50_us": at(50), "p99_us": at(99)}),
    )
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn each_connection_is_counted_and_a_bad_answer_has_failed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            for n in 0..20 {
                let (mut stream, _) = listener.accept().unwrap();
                // All of it: a connection that is closed with something unread is reset.
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).unwrap();
                    request.push(byte[0]);
                }
                let body = if n % 10 == 9 { "no number" } else { "3" };
                let _ = write!(stream, "HTTP/1.1 200 OK\r\n\r\n{body}\n");
            }
        });
        let report = open_and_close(target, 2, Duration::from_secs(20), 20).unwrap();
        server.join().unwrap();
        assert_eq!(report["connections"], 18, "{report}");
        assert_eq!(report["failed"], 2, "{report}");
        assert!(report["p99_us"].as_f64() >= report["p50_us"].as_f64());
        assert!(report["per_second"].as_f64() > Some(0.0));
    }
}
