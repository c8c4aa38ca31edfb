//! How much one root does with one Redis that syncs every write: `cargo bench -p
//! root-service-manager`. Prints one line a workload; ends with an error if an answer is not 200.
//!
//! Plain sockets with keep-alive, so that the load generator takes little of the cores it shares.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::needless_pass_by_value,
    reason = "a benchmark ends at the first thing that is not as it should be"
)]

#[path = "../tests/contract/stage.rs"]
#[allow(dead_code, reason = "shared with the contract tests")]
mod stage;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use stage::{Redis, Root, id};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const CONNECTIONS: u32 = 64;
const JOBS: u32 = 2_000;
const INSTANCES: u32 = 10;
const QUERIES: u32 = 60_000;

async fn exchange(socket: &mut TcpStream, buffer: &mut Vec<u8>, request: &str) {
    socket.write_all(request.as_bytes()).await.unwrap();
    buffer.clear();
    loop {
        let read = socket.read_buf(buffer).await.unwrap();
        assert_ne!(read, 0, "closed");
        let text = String::from_utf8_lossy(buffer);
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        assert!(head.starts_with("HTTP/1.1 200"), "{text}");
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .unwrap();
        if body.len() >= length.parse::<usize>().unwrap() {
            return;
        }
    }
}

async fn run(
    redis: &Redis,
    what: &str,
    port: u16,
    count: u32,
    request: impl Fn(u32) -> String + Send + Sync + 'static,
) {
    redis.ask::<()>(&["CONFIG", "RESETSTAT"]).await;
    let next = Arc::new(AtomicU32::new(0));
    let request = Arc::new(request);
    let start = Instant::now();
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..CONNECTIONS {
        let (next, request) = (Arc::clone(&next), Arc::clone(&request));
        workers.spawn(async move {
            let mut socket = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            socket.set_nodelay(true).unwrap();
            let mut buffer = Vec::with_capacity(8192);
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return;
                }
                exchange(&mut socket, &mut buffer, &request(number)).await;
            }
        });
    }
    workers.join_all().await;
    let seconds = start.elapsed().as_secs_f64();
    let stats: String = redis.ask(&["INFO", "commandstats"]).await;
    let script = stats
        .lines()
        .find(|line| line.starts_with("cmdstat_evalsha"))
        .and_then(|line| line.split("usec_per_call=").nth(1)?.split(',').next())
        .unwrap_or("?");
    println!(
        "{what}: {count} in {seconds:.2} s = {:.0} /s ({script} µs in Redis each)",
        f64::from(count) / seconds
    );
}

fn post(path: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: root\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: root\r\n\r\n")
}

#[tokio::main]
async fn main() {
    let redis = Redis::start().await;
    let root = Root::start(&redis, &[]).await;
    let port = root.port;
    root.register("c1", 9).await;
    run(&redis, "service deploys", port, JOBS, |n| {
        let body = stage::service_body(n, serde_json::json!({}));
        post("/api/net/service/deploy", &body.to_string())
    })
    .await;
    run(&redis, "instance deploys", port, JOBS * INSTANCES, |n| {
        let (job, number) = (id(n / INSTANCES), n % INSTANCES);
        post(
            "/api/net/instance/deploy",
            &format!(r#"{{"_id":"{job}","instance_number":{number},"cluster_id":"c1"}}"#),
        )
    })
    .await;
    run(&redis, "deploy statuses", port, JOBS * INSTANCES, |n| {
        let (job, number) = (id(n / INSTANCES), n % INSTANCES);
        let nsip = format!("10.18.{}.{}", n / 250 % 250, n % 250);
        post(
            "/api/net/service/net_deploy_status",
            &format!(
                r#"{{"job_id":"{job}","instances":[{{"instance_number":{number},"namespace_ip":"{nsip}","host_ip":"192.0.2.1","host_port":50103}}]}}"#
            ),
        )
    })
    .await;
    run(&redis, "table queries by name", port, QUERIES, |n| {
        get(&format!(
            "/api/net/service/app_test_s{}_test/instances",
            n % JOBS
        ))
    })
    .await;
    run(&redis, "table queries by address", port, QUERIES, |n| {
        // The first JOBS addresses were handed out to the services, in some order.
        let index = n % JOBS;
        get(&format!(
            "/api/net/service/ip/10_30_{}_{}/instances",
            index / 254,
            index % 254
        ))
    })
    .await;
    run(&redis, "subnetworks", port, 10_000, |_| {
        get("/api/net/subnet")
    })
    .await;
}
