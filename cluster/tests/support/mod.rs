//! A cluster of one's own: real Redis, real broker, the real manager, and a root that the test
//! plays itself.
#![allow(
    dead_code,
    unused_imports,
    clippy::missing_panics_doc,
    reason = "each test binary uses a part"
)]

mod bench;
mod node;
mod root;
mod servers;

use std::net::TcpListener;
use std::time::{Duration, Instant};

pub use bench::Bench;
pub use node::{Node, announcement, count};
pub use root::{Call, Mood, Root, job};
pub use servers::{Folder, Process, certificates, mosquitto, redis, redis_with};

/// The job that most tests are about.
pub const APP: &str = "app1.test.server.test";

/// Everything happens within this, or the test fails.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// A port that nothing listens on, below those that the kernel gives to outgoing connections: between this look and
/// the server's start, no connection of another test can take it.
pub fn free_port() -> u16 {
    use std::sync::atomic::{AtomicU16, Ordering};
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let begin = u16::try_from(std::process::id() % 10_000).unwrap();
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 21_000 + (begin + step) % 10_000;
        let bound =
            TcpListener::bind(("::", port)).or_else(|_| TcpListener::bind(("0.0.0.0", port)));
        if bound.is_ok() {
            return port;
        }
    }
}

/// Waits until a condition gives a value.
pub async fn eventually<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(start.elapsed() < DEADLINE, "did not happen: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
