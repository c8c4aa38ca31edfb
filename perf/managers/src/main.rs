//! Root and cluster service managers with real Redis and Mosquitto: queries, deployments, route changes, restarts, memory.
//!
//! Everything runs on this machine, load generator included, with the shipped `redis.conf` (each
//! write on the disk before its answer) and `mosquitto.conf`.

#![forbid(unsafe_code)]

mod figures;
mod http;
mod mqtt;
mod nodes;
mod seed;
mod stage;

use std::io::IsTerminal as _;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use serde::Serialize;
use servers::Folder;
use tokio::io::AsyncWriteExt as _;

use figures::{Latencies, Row, number};
use nodes::Listeners;
use stage::{Broker, Limits, Manager, Redis};

/// Measures the service managers beside the targets that they are built for.
#[derive(Parser)]
#[command(name = "managers", version)]
struct Arguments {
    /// Parts to run: queries, deployments, changes, restart, memory
    #[arg(long, value_delimiter = ',', default_values_t = PARTS.map(str::to_owned))]
    parts: Vec<String>,
    /// Jobs in the store for queries and memory, ten instances each
    #[arg(long, default_value_t = 100_000)]
    jobs: u32,
    /// Simulated nodes
    #[arg(long, default_value_t = 1000)]
    nodes: u32,
    /// Connections of the HTTP load generator
    #[arg(long, default_value_t = 64)]
    connections: u32,
    /// Repetitions of which the median counts
    #[arg(long, default_value_t = 3)]
    repetitions: u32,
    /// Print JSON, whatever standard output is
    #[arg(long)]
    json: bool,
}

const PARTS: [&str; 5] = ["queries", "deployments", "changes", "restart", "memory"];
/// Queries of one node after a restart.
const ASKED: u32 = 50;
/// Jobs that restarted nodes ask for.
const SHARED_JOBS: u32 = 500;
/// Route changes that are measured.
const CHANGES: u32 = 40;

#[derive(Serialize)]
struct Report {
    cores: usize,
    /// One-minute load averages before and after: what else the machine was doing.
    load_before: f64,
    load_after: f64,
    rows: Vec<Row>,
}

struct Bench {
    arguments: Arguments,
    rows: Vec<Row>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    for part in &arguments.parts {
        ensure!(
            PARTS.contains(&part.as_str()),
            "`{part}` is none of {PARTS:?}"
        );
    }
    let json = arguments.json;
    let load_before = load()?;
    let mut bench = Bench {
        arguments,
        rows: Vec::new(),
    };
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(bench.run())?;
    let report = Report {
        cores: std::thread::available_parallelism()?.get(),
        load_before,
        load_after: load()?,
        rows: bench.rows,
    };
    if json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print(&report, std::io::stdout().is_terminal());
    }
    Ok(())
}

fn load() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/loadavg")?;
    Ok(text.split(' ').next().context("no load average")?.parse()?)
}

fn print(report: &Report, terminal: bool) {
    if !terminal {
        for row in &report.rows {
            println!(
                "{}\t{:.2}\t{}\t{}",
                row.name,
                row.value,
                row.unit,
                row.bound()
            );
        }
        println!("load_before\t{:.2}", report.load_before);
        println!("load_after\t{:.2}", report.load_after);
        return;
    }
    let width = report.rows.iter().map(|row| row.work.chars().count()).max();
    let width = width.unwrap_or_default();
    for row in &report.rows {
        let met = match row.met {
            None => "",
            Some(true) => "met",
            Some(false) => "MISSED",
        };
        println!(
            "{:width$}  {:>9} {:10} {:>9} {met}",
            row.work,
            number(row.value),
            row.unit,
            row.bound(),
        );
    }
    println!(
        "{} cores; load average {:.1} before, {:.1} after",
        report.cores, report.load_before, report.load_after
    );
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

impl Bench {
    fn wants(&self, part: &str) -> bool {
        self.arguments.parts.iter().any(|wanted| wanted == part)
    }

    /// Says what is being done, to a person who waits.
    fn say(&self, text: &str) {
        if !self.arguments.json && std::io::stderr().is_terminal() {
            eprintln!("{text} …");
        }
    }

    async fn run(&mut self) -> Result<()> {
        if self.wants("queries") || self.wants("memory") {
            self.full_store().await?;
        }
        if self.wants("deployments") {
            self.deployments().await?;
        }
        if self.wants("changes") {
            self.changes().await?;
        }
        if self.wants("restart") {
            self.restart(Limits::Shipped).await?;
            self.restart(Limits::Default).await?;
        }
        Ok(())
    }

    async fn full_store(&mut self) -> Result<()> {
        let jobs = self.arguments.jobs;
        self.say(&format!("filling a store with {jobs} jobs"));
        let folder = Folder::on_disk("seed")?;
        let file = folder.file("backup.json");
        seed::write(&file, jobs)?;
        let redis = Redis::start("root")?;
        Manager::import(&redis, &file)?;
        drop(folder);
        let root = Manager::root(&redis)?;
        root.register("c1", 9)?;
        if self.wants("queries") {
            self.queries(&root).await?;
        }
        if self.wants("memory") {
            self.memory(&root, &redis).await?;
        }
        Ok(())
    }

    async fn queries(&mut self, root: &Manager) -> Result<()> {
        const COUNT: u32 = 60_000;
        let (jobs, connections) = (self.arguments.jobs, self.arguments.connections);
        let mut rates = Vec::new();
        let mut bare = Vec::new();
        let mut latencies = Latencies::default();
        // The first round registers the cluster's interest in every job, the later ones find it.
        for round in 0..=self.arguments.repetitions {
            self.say(&format!("table queries, round {round}"));
            let count = if round == 0 { jobs } else { COUNT };
            let mut run = http::load(root.port, connections, count, move |n| {
                // Each job in turn, far apart; every other by its address.
                let job = if round == 0 {
                    n
                } else {
                    n.wrapping_mul(7919) % jobs
                };
                if n % 2 == 0 {
                    http::get(&format!("/api/net/service/app_test_s{job}_test/instances"))
                } else {
                    let ip = seed::service_ip(job);
                    http::get(&format!("/api/net/service/ip/{ip}/instances"))
                }
            })
            .await?;
            if round > 0 {
                rates.push(run.rate());
                latencies.extend(run.latencies.take());
                let idle = http::load(root.port, connections, COUNT, |_| http::get("/healthz"));
                bare.push(idle.await?.rate());
            }
        }
        let what = format!("table query at the root, {jobs} jobs × {}", seed::INSTANCES);
        self.rows.push(Row::least(
            "query_rate",
            what.clone(),
            median(rates),
            "requests/s",
            15_000.0,
        ));
        let p99 = latencies.percentile(0.99);
        self.rows.push(Row::most(
            "query_p99",
            format!("{what}, p99"),
            p99,
            "ms",
            10.0,
        ));
        let what = "beside it: GET /healthz of the same root".to_owned();
        self.rows.push(Row::beside(
            "healthz_rate",
            what,
            median(bare),
            "requests/s",
        ));
        Ok(())
    }

    async fn memory(&mut self, root: &Manager, root_redis: &Redis) -> Result<()> {
        let jobs = self.arguments.jobs;
        self.say(&format!("a cluster that holds {jobs} jobs"));
        let (broker, redis) = (Broker::start(Limits::Shipped)?, Redis::start("cluster")?);
        let cluster = Manager::cluster(&redis, &broker, root, root_redis)?;
        http::load(cluster.port, self.arguments.connections, jobs, |n| {
            let body = format!(r#"{{"job_name":"{}"}}"#, seed::job(n));
            http::post("/api/net/deployment", &body)
        })
        .await?;
        #[allow(clippy::cast_precision_loss, reason = "a number of bytes")]
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        let held = jobs * seed::INSTANCES;
        for (name, who, bytes) in [
            ("root_memory", "root", root.peak_memory()?),
            ("cluster_memory", "cluster", cluster.peak_memory()?),
        ] {
            let work = format!("memory of the {who} at {held} instances, peak");
            self.rows
                .push(Row::most(name, work, megabytes(bytes), "MB", 200.0));
        }
        for (name, who, bytes) in [
            ("root_redis_memory", "root", root_redis.peak_memory()?),
            ("cluster_redis_memory", "cluster", redis.peak_memory()?),
        ] {
            let work = format!("beside it: the {who}'s Redis");
            self.rows
                .push(Row::beside(name, work, megabytes(bytes), "MB"));
        }
        Ok(())
    }

    async fn deployments(&mut self) -> Result<()> {
        const SERVICES: u32 = 4_500;
        let connections = self.arguments.connections;
        let redis = Redis::start("deploy")?;
        let root = Manager::root(&redis)?;
        root.register("c1", 9)?;
        self.say("service deployments");
        http::load(root.port, connections, SERVICES, |n| {
            let body = format!(
                r#"{{"_id":"{}","deployment_descriptor":{{"app_name":"app","app_ns":"test","service_name":"s{n}","service_ns":"test","microservice_name":"s{n}","microservice_namespace":"test"}}}}"#,
                seed::id(n)
            );
            http::post("/api/net/service/deploy", &body)
        })
        .await?;
        let rounds = self.arguments.repetitions.max(1);
        let count = SERVICES * seed::INSTANCES / rounds;
        let (mut rates, mut bare) = (Vec::new(), Vec::new());
        let mut latencies = Latencies::default();
        for round in 0..rounds {
            self.say(&format!("instance deployments, round {round}"));
            let mut run = http::load(root.port, connections, count, move |n| {
                let n = round * count + n;
                let (job, instance) = (seed::id(n / seed::INSTANCES), n % seed::INSTANCES);
                let body =
                    format!(r#"{{"_id":"{job}","instance_number":{instance},"cluster_id":"c1"}}"#);
                http::post("/api/net/instance/deploy", &body)
            })
            .await?;
            rates.push(run.rate());
            latencies.extend(run.latencies.take());
            bare.push(bare_increments(&redis, connections)?);
        }
        let what = format!(
            "instance deploy, two addresses each, up to {} IPv4 addresses, appendfsync always",
            SERVICES * (seed::INSTANCES + 1)
        );
        self.rows.push(Row::least(
            "deploy_rate",
            what.clone(),
            median(rates),
            "requests/s",
            5_000.0,
        ));
        let p99 = latencies.percentile(0.99);
        self.rows
            .push(Row::beside("deploy_p99", format!("{what}, p99"), p99, "ms"));
        let what = "beside it: redis-benchmark, INCR on the same Redis".to_owned();
        self.rows
            .push(Row::beside("incr_rate", what, median(bare), "requests/s"));
        Ok(())
    }

    async fn changes(&mut self) -> Result<()> {
        let nodes = usize::try_from(self.arguments.nodes)?;
        self.say(&format!("route changes with {nodes} nodes"));
        let (root_redis, redis) = (Redis::start("root")?, Redis::start("cluster")?);
        fill(&root_redis, 1)?;
        let root = Manager::root(&root_redis)?;
        let broker = Broker::start(Limits::Shipped)?;
        let cluster = Manager::cluster(&redis, &broker, &root, &root_redis)?;
        deploy(&cluster, 1).await?;
        // One node asks, so that the cluster keeps the job.
        nodes::restart(broker.port, 1, |_| vec![seed::job(0)]).await?;
        let topic = format!("jobs/{}/updates_available", seed::job(0));
        let mut listeners = Listeners::connect(broker.port, nodes, &topic).await?;

        let (mut changed, mut bare) = (Latencies::default(), Latencies::default());
        let (_reader, mut publisher) =
            mqtt::Reader::open(broker.port, "publisher", "nobody/says/this").await?;
        for round in 0..=CHANGES {
            let body = format!(
                r#"{{"job_id":"{}","instances":[{{"instance_number":0,"namespace_ip_v6":"fc00::{:x}","host_ip":"192.0.2.1","host_port":50103}}]}}"#,
                seed::id(0),
                0x80 + round,
            );
            let since = Instant::now();
            http::load(root.port, 1, 1, move |_| {
                http::post("/api/net/service/net_deploy_status", &body)
            })
            .await?;
            let heard = listeners.all(since).await?;
            listeners.quiet(Duration::from_millis(300)).await;
            let since = Instant::now();
            let id = u16::try_from(round + 1)?;
            let message = mqtt::publish(&topic, id, br#"{"type":"DEPLOYMENT"}"#);
            publisher.write_all(&message).await?;
            let directly = listeners.all(since).await?;
            listeners.quiet(Duration::from_millis(100)).await;
            // The first round opens connections.
            if round > 0 {
                changed.extend(heard);
                bare.extend(directly);
            }
        }
        let what = format!("route change, root API → updates_available at {nodes} nodes");
        let p99 = changed.percentile(0.99);
        self.rows.push(Row::most(
            "change_p99",
            format!("{what}, p99"),
            p99,
            "ms",
            50.0,
        ));
        let p50 = changed.percentile(0.5);
        self.rows.push(Row::beside(
            "change_p50",
            format!("{what}, median"),
            p50,
            "ms",
        ));
        let what = "beside it: the broker's bare fan-out to as many, p99".to_owned();
        self.rows.push(Row::beside(
            "fan_out_p99",
            what,
            bare.percentile(0.99),
            "ms",
        ));
        Ok(())
    }

    async fn restart(&mut self, limits: Limits) -> Result<()> {
        let nodes = self.arguments.nodes;
        self.say(&format!("{nodes} nodes restart, limits {limits:?}"));
        let (root_redis, redis) = (Redis::start("root")?, Redis::start("cluster")?);
        fill(&root_redis, SHARED_JOBS)?;
        let root = Manager::root(&root_redis)?;
        let broker = Broker::start(limits)?;
        let cluster = Manager::cluster(&redis, &broker, &root, &root_redis)?;
        deploy(&cluster, SHARED_JOBS).await?;
        let outcome = nodes::restart(broker.port, nodes, |node| {
            (0..ASKED)
                .map(|n| seed::job((node * 17 + n) % SHARED_JOBS))
                .collect()
        })
        .await?;
        let wanted = u64::from(nodes * ASKED);
        ensure!(
            outcome.answered == wanted,
            "{} of {wanted} queries were answered",
            outcome.answered
        );
        #[allow(clippy::cast_precision_loss, reason = "a number of messages")]
        let repeated = (outcome.sent - wanted) as f64;
        let all = format!("{nodes} nodes restart, {ASKED} queries each, all answered");
        match limits {
            Limits::Shipped => {
                let work = format!("{all}, shipped mosquitto.conf");
                self.rows.push(Row::most(
                    "restart_seconds",
                    work,
                    outcome.seconds,
                    "s",
                    5.0,
                ));
                let work = "of those, queries that nodes repeated".to_owned();
                self.rows
                    .push(Row::beside("restart_repeated", work, repeated, "queries"));
            }
            Limits::Default => {
                let work = format!("{all}, Mosquitto's default limits");
                self.rows.push(Row::beside(
                    "restart_default_seconds",
                    work,
                    outcome.seconds,
                    "s",
                ));
                let work = "of those, queries that nodes repeated".to_owned();
                self.rows.push(Row::beside(
                    "restart_default_repeated",
                    work,
                    repeated,
                    "queries",
                ));
            }
        }
        Ok(())
    }
}

/// Fills an empty store.
fn fill(redis: &Redis, jobs: u32) -> Result<()> {
    let folder = Folder::on_disk("seed")?;
    let file = folder.file("backup.json");
    seed::write(&file, jobs)?;
    Manager::import(redis, &file)
}

/// Makes a cluster hold the first jobs.
async fn deploy(cluster: &Manager, jobs: u32) -> Result<()> {
    http::load(cluster.port, 16, jobs, |n| {
        let body = format!(r#"{{"job_name":"{}"}}"#, seed::job(n));
        http::post("/api/net/deployment", &body)
    })
    .await?;
    Ok(())
}

/// What Redis does with the same durability and nothing to think about.
fn bare_increments(redis: &Redis, connections: u32) -> Result<f64> {
    let output = Command::new("redis-benchmark")
        .args([
            "-p",
            &redis.port.to_string(),
            "-t",
            "incr",
            "-n",
            "30000",
            "--csv",
        ])
        .args(["-c", &connections.to_string()])
        .output()
        .context("redis-benchmark (Debian's redis-tools)")?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines()
        .find_map(|line| {
            line.strip_prefix("\"INCR\",\"")?
                .split('"')
                .next()?
                .parse()
                .ok()
        })
        .with_context(|| format!("redis-benchmark said {text}"))
}
