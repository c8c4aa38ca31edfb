//! A node's life: attaching containers, one by one and fifty at once; the first packet to a service; what it costs idle.
//!
//! The whole system runs, in namespaces on this machine; what is measured is what the NodeEngine and a container see.

mod cluster;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use cluster::{Place, Session};
use journeys::http::Server;
use journeys::measure::ECHO_PORT;
use journeys::namespace::Namespace;
use journeys::node::Uplink;
use journeys::orchestrator::Table;
use journeys::process::{Launch, Process};
use journeys::run::Stage;
use journeys::services::BROKER_PORT;
use journeys::topology::{Plan, Topology};
use serde_json::{Value, json};

/// Containers that are deployed at once, and that an idle node has.
const CROWD: usize = 50;
/// Deploys side by side while the rate is measured. The NodeEngine makes one at a time.
const SIDE_BY_SIDE: usize = 2;
const CLIENT: &str = "perf.test.client.default";

#[derive(Parser)]
struct Options {
    /// Deploys, one after the other, whose times are counted.
    #[arg(long, default_value_t = 200)]
    deploys: usize,
    /// Services whose first packet is timed.
    #[arg(long, default_value_t = 20)]
    services: u8,
    /// Seconds that the idle node is looked at.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// A figure and what it is to be; both in its unit.
struct Figure {
    name: &'static str,
    unit: &'static str,
    value: f64,
    /// The limit, and whether the figure is to be above it.
    limit: Option<(f64, bool)>,
}

impl Figure {
    fn at_most(name: &'static str, unit: &'static str, value: f64, limit: f64) -> Self {
        let limit = Some((limit, false));
        Self {
            name,
            unit,
            value,
            limit,
        }
    }

    fn told(name: &'static str, unit: &'static str, value: f64) -> Self {
        let limit = None;
        Self {
            name,
            unit,
            value,
            limit,
        }
    }

    fn holds(&self) -> bool {
        self.limit
            .is_none_or(|(limit, above)| (self.value >= limit) == above || self.value == limit)
    }

    fn line(&self) -> String {
        let target = match self.limit {
            None => String::new(),
            Some((limit, above)) => format!(
                "{} {limit:.1}: {}",
                if above { "at least" } else { "at most" },
                if self.holds() { "held" } else { "MISSED" }
            ),
        };
        format!(
            "{:<44} {:>9.2} {:<5} {target}",
            self.name, self.value, self.unit
        )
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The value that a share of all stays below.
fn quantile(times: &mut [Duration], share: f64) -> f64 {
    times.sort_unstable();
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "a place in a list of some hundred"
    )]
    let place = ((times.len() as f64 * share) as usize).min(times.len().saturating_sub(1));
    times.get(place).copied().map_or(f64::NAN, milliseconds)
}

fn idle(topology: &Topology, number: usize) -> Result<Process> {
    let name = format!("idle{number}");
    Launch::new(
        &name,
        Path::new("sleep"),
        &Namespace::Fresh,
        Stage::Workload,
    )
    .args(["3600"])
    .start(topology.run())
}

/// One call of the NodeEngine's; how long until its answer.
fn call(node: &Server, path: &str, pid: u32, number: usize) -> Result<Duration> {
    let body = json!({"pid": pid, "serviceName": "perf.test.crowd.default", "instanceNumber": number, "portMappings": ""});
    let asked = Instant::now();
    let answer = node.post(path, &body)?;
    let took = asked.elapsed();
    answer.ok(path)?;
    Ok(took)
}

fn deploy(node: &Server, pid: u32, number: usize) -> Result<Duration> {
    call(node, "/container/deploy", pid, number)
}

fn undeploy(node: &Server, pid: u32, number: usize) -> Result<Duration> {
    call(node, "/container/undeploy", pid, number)
}

/// Attaching: one after the other, as fast as it goes, and fifty at once. They stay.
fn attach(topology: &Topology, pids: &[u32], count: usize) -> Result<Vec<Figure>> {
    let node = topology.nodes[0].server();
    let (mut attached, mut detached) = (Vec::new(), Vec::new());
    for round in 0..count {
        let pid = pids[round % pids.len()];
        attached.push(deploy(&node, pid, round % pids.len())?);
        detached.push(undeploy(&node, pid, round % pids.len())?);
    }
    let begun = Instant::now();
    let deployed: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..SIDE_BY_SIDE)
            .map(|thread| {
                let node = node.clone();
                scope.spawn(move || -> Result<usize> {
                    let mut deployed = 0;
                    for (number, pid) in pids.iter().enumerate().skip(thread).step_by(SIDE_BY_SIDE)
                    {
                        deploy(&node, *pid, number)?;
                        deployed += 1;
                    }
                    Ok(deployed)
                })
            })
            .collect();
        let counts = threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or(Ok(0)));
        counts.sum::<Result<usize>>()
    })?;
    let sustained = begun.elapsed();
    for (number, pid) in pids.iter().enumerate() {
        undeploy(&node, *pid, number)?;
    }
    let mut together: Vec<Duration> = std::thread::scope(|scope| {
        let threads: Vec<_> = pids
            .iter()
            .enumerate()
            .map(|(number, pid)| {
                let node = node.clone();
                scope.spawn(move || deploy(&node, *pid, number))
            })
            .collect();
        let times = threads.into_iter().map(|thread| {
            thread
                .join()
                .map_err(|_| anyhow::anyhow!("a thread panicked"))?
        });
        times.collect::<Result<_>>()
    })?;
    #[allow(clippy::cast_precision_loss, reason = "fifty")]
    let rate = deployed as f64 / sustained.as_secs_f64();
    Ok(vec![
        Figure::told("attach, half of them", "ms", quantile(&mut attached, 0.5)),
        Figure::at_most(
            "attach, 99 of 100",
            "ms",
            quantile(&mut attached, 0.99),
            50.0,
        ),
        Figure::told("detach, 99 of 100", "ms", quantile(&mut detached, 0.99)),
        Figure {
            name: "attached in a second",
            unit: "/s",
            value: rate,
            limit: Some((30.0, true)),
        },
        Figure::at_most(
            "fifty at once, the slowest",
            "ms",
            quantile(&mut together, 1.0),
            2000.0,
        ),
    ])
}

/// A session with the broker, from one of the nodes.
fn session(topology: &Topology, node: usize, id: &str) -> Result<Session> {
    let target = SocketAddr::new(IpAddr::V4(topology.broker.address), BROKER_PORT);
    let inside = &topology.nodes[node].namespace;
    Session::open(inside.connect(target, Duration::from_secs(5))?, id)
}

/// Datagrams that are echoed, a new source port for each round: how much longer the first takes than the next ones.
fn delay(to: Ipv4Addr) -> Result<Duration> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    socket.connect((to, ECHO_PORT))?;
    let echo = || -> Result<Duration> {
        let sent = Instant::now();
        socket.send(b"first")?;
        let length = socket
            .recv(&mut [0; 16])
            .with_context(|| format!("the echo of the first packet to {to}"))?;
        ensure!(length == 5, "another's echo");
        Ok(sent.elapsed())
    };
    let first = echo()?;
    let next = (0..5).map(|_| echo()).collect::<Result<Vec<_>>>()?;
    Ok(first.saturating_sub(next.into_iter().min().unwrap_or_default()))
}

/// The first datagram to a service that the node does not know and the cluster does.
fn first_packets(topology: &mut Topology, count: u8) -> Result<Vec<Figure>> {
    let (far, _instances) = topology.deploy("perf.test.far.default", &[1])?;
    let (own, client) = topology.deploy_client(CLIENT, 0)?;
    let tables = topology.wait_running(&[(&far, 1), (&own, 1)])?;
    // The node tells the cluster of both, and what it is told in answer is at an end before the other cluster answers.
    let IpAddr::V4(known) = tables[0].service_ip else {
        bail!("a service without an IPv4 address");
    };
    client.container.namespace().enter(|| delay(known))??;
    let place = |table: &Table, node: usize| -> Result<Place> {
        let instance = table.instances.first().context("no instance")?;
        Ok(Place {
            namespace_ip: instance.namespace_ip.to_string(),
            instance_ip: instance.instance_ip.to_string(),
            host_ip: topology.nodes[node].underlay.to_string(),
        })
    };
    let (server, caller) = (place(&tables[0], 1)?, place(&tables[1], 0)?);
    // What the managers take for an answer is their own benchmark's.
    for manager in &mut topology.processes {
        if manager.name() == "cluster" {
            manager.kill()?;
        }
    }
    let mut broker = session(topology, 0, "pings")?.pings(200)?;
    let broker = quantile(&mut broker, 0.5);
    let mut cluster = session(topology, 0, "cluster")?;
    cluster.listen()?;
    std::thread::spawn(move || cluster.answer(&caller, &server));
    let mut extra = client.container.namespace().enter(|| {
        (1..=count)
            .map(|number| delay(Ipv4Addr::new(10, 30, 200, number)))
            .collect::<Result<Vec<_>>>()
    })??;
    let limit = 2.0 * broker + 5.0;
    Ok(vec![
        Figure::told("round trip to the broker", "ms", broker),
        Figure::told(
            "first packet's delay, half of them",
            "ms",
            quantile(&mut extra, 0.5),
        ),
        Figure::at_most(
            "first packet's delay, 9 of 10",
            "ms",
            quantile(&mut extra, 0.9),
            limit,
        ),
    ])
}

/// Processor time of a process so far, in ticks of which there are a hundred in a second.
fn ticks(pid: u32) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = text.rsplit_once(')').context("no process")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let number =
        |place: usize| -> Result<u64> { Ok(fields.get(place).context("a short line")?.parse()?) };
    Ok(number(11)? + number(12)?)
}

/// What a node with fifty containers takes while nothing passes.
fn at_rest(topology: &mut Topology, seconds: u64) -> Result<Vec<Figure>> {
    let pid = topology.nodes[0].process()?.pid();
    let status = topology.nodes[0].server().get("/status")?.json()?;
    let attached = status["containers"].as_array().map_or(0, Vec::len);
    ensure!(attached > CROWD, "only {attached} containers are attached");
    let before = ticks(pid)?;
    std::thread::sleep(Duration::from_secs(seconds));
    let spent = ticks(pid)? - before;
    let memory = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kilobytes = |key: &str| -> f64 {
        let line = memory.lines().find(|line| line.starts_with(key));
        let word = line.and_then(|line| line.split_whitespace().nth(1));
        word.and_then(|word| word.parse().ok()).unwrap_or(f64::NAN)
    };
    #[allow(clippy::cast_precision_loss, reason = "some hundred at most")]
    let share = spent as f64 / seconds as f64;
    Ok(vec![
        Figure::at_most("idle, share of one core", "%", share, 2.0),
        Figure::told(
            "resident, tables and packets included",
            "MB",
            kilobytes("VmRSS:") / 1024.0,
        ),
        // The flow table is a shared file.
        Figure::at_most(
            "resident without the flow table",
            "MB",
            (kilobytes("VmRSS:") - kilobytes("RssShmem:")) / 1024.0,
            150.0,
        ),
    ])
}

fn run(options: &Options) -> Result<Vec<Figure>> {
    let mut topology = Topology::registered(Plan {
        nodes: 2,
        uplink: Uplink::Socket,
    })?;
    let processes: Vec<Process> = (0..CROWD)
        .map(|number| idle(&topology, number))
        .collect::<Result<_>>()?;
    let pids: Vec<u32> = processes.iter().map(Process::pid).collect();
    let mut figures = attach(&topology, &pids, options.deploys)?;
    figures.extend(first_packets(&mut topology, options.services)?);
    figures.extend(at_rest(&mut topology, options.seconds)?);
    Ok(figures)
}

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    let figures = run(&options)?;
    if options.json {
        let figures: Vec<Value> = figures
            .iter()
            .map(|figure| {
                json!({"name": figure.name, "unit": figure.unit, "value": figure.value,
                    "limit": figure.limit.map(|(limit, _)| limit), "held": figure.holds()})
            })
            .collect();
        println!("{}", serde_json::to_string_pretty(&figures)?);
    } else {
        for figure in &figures {
            println!("{}", figure.line());
        }
    }
    let held = figures.iter().all(Figure::holds);
    Ok(if held {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
