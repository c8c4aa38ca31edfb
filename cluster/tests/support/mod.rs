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

use std::time::{Duration, Instant};

pub use bench::Bench;
pub use node::{Node, announcement, count};
pub use root::{Call, Mood, Root, job};
pub use servers::{Folder, Process, certificates, cli, folder, free_port, mosquitto, redis};

/// The job that most tests are about.
pub const APP: &str = "app1.test.server.test";

/// Everything happens within this, or the test fails.
pub const DEADLINE: Duration = Duration::from_secs(20);

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
