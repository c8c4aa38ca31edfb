//! Our side: the data plane as it runs on a node, with devices that replay a capture and swallow what is sent.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use dataplane::{
    AccessKind, Attachment, Config, Dataplane, Handle, Idle, NextHop, Pair, Stats, Subnet, Uplink,
};
use serde::{Deserialize, Serialize};

use crate::{plan, sample};

/// What is measured.
#[derive(Clone, Debug, clap::Args, Serialize, Deserialize)]
pub struct Job {
    /// Captures to replay, one for each worker
    #[arg(long, value_delimiter = ',')]
    pub captures: Vec<std::path::PathBuf>,
    /// From the tunnel to the container, and not from the container to the tunnel
    #[arg(long)]
    pub inward: bool,
    /// Flows in the captures
    #[arg(long)]
    pub flows: u32,
    /// Flows that the table holds
    #[arg(long)]
    pub table: usize,
    /// Route updates a second while measuring, and instances loaded beforehand
    #[arg(long, default_value_t = 0)]
    pub updates: u32,
    /// Instances of further jobs that are loaded beforehand
    #[arg(long, default_value_t = 0)]
    pub instances: u32,
    /// CPUs of the workers
    #[arg(long, value_delimiter = ',')]
    pub cpus: Vec<usize>,
    /// How long to measure, in milliseconds
    #[arg(long)]
    pub milliseconds: u64,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Measured {
    /// Packets a second that left.
    pub pps: f64,
    /// Cycles of the workers for each.
    pub cycles_per_packet: f64,
    /// Flows opened a second.
    pub flows_per_second: f64,
    /// Packets that did not leave.
    pub lost: u64,
    /// Route updates a second that were made.
    pub updates_per_second: f64,
}

fn total(counts: &[dataplane::Count], name: &str) -> u64 {
    counts
        .iter()
        .filter(|count| count.name == name)
        .map(|count| count.packets)
        .sum()
}

fn sent(stats: &Stats, inward: bool) -> u64 {
    total(&stats.sent, if inward { "access" } else { "tunnel" })
}

fn dropped(stats: &Stats) -> u64 {
    stats.drops.iter().map(|count| count.packets).sum()
}

fn start(job: &Job) -> Result<Dataplane> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).context("a network namespace")?;
    let uplink = match (job.inward, job.captures.first()) {
        (true, Some(capture)) => {
            format!("net_pcap0,rx_pcap={},infinite_rx=1", capture.display())
        }
        _ => "net_null0,no-rx=1".to_owned(),
    };
    // What a replaying device keeps back, and what is under way.
    let packets = job.flows + 16_384;
    let config = Config {
        instance: format!("perf-{}", std::process::id()),
        workers: job.cpus.len(),
        worker_cpus: job.cpus.clone(),
        idle: Idle::Spin,
        uplink: Uplink::Ethdev {
            devargs: uplink,
            interface: "lo".to_owned(),
        },
        tunnel_port: plan::TUNNEL_PORT,
        host_interface: "oakperf".to_owned(),
        mtu: 1450,
        packets,
        flows: job.table,
        instances: (job.instances as usize + (1 << 17)).next_power_of_two(),
        hugepage_mb: None,
        namespace: dataplane::namespace_cookie(),
        shared_dir: "/dev/shm".into(),
    };
    Dataplane::start(&config, Box::new(|_| {})).context("starting the data plane")
}

fn lay(handle: &Handle, job: &Job) -> Result<()> {
    let gateway = Pair::new(Some("10.18.0.1".parse()?), Some("fc00::1".parse()?));
    handle.set_subnets(vec![Subnet {
        v4: Some("10.18.0.0".parse()?),
        v6: Some("fc00::".parse()?),
        gateway,
    }])?;
    for n in 0..plan::HOSTS {
        let hop = NextHop {
            source: plan::OWN.into(),
            source_mac: plan::UPLINK_MAC,
            next_mac: plan::NEXT_MAC,
            mtu: Some(1500),
        };
        handle.set_next_hop(plan::host(n).into(), hop)?;
    }
    handle.set_job(plan::own_job(u32::try_from(job.cpus.len())?))?;
    for n in 0..plan::SERVICES {
        handle.set_job(plan::job(n, &[]))?;
    }
    let further = job.instances / plan::INSTANCES;
    for n in plan::SERVICES..plan::SERVICES + further {
        handle.set_job(plan::far_job(n))?;
    }
    Ok(())
}

fn attach(handle: &Handle, job: &Job) -> Result<()> {
    let containers = u32::try_from(job.cpus.len())?;
    for (number, n) in (0..containers).zip(1..) {
        let devargs = match job.captures.get(n - 1) {
            Some(capture) if !job.inward => {
                format!("net_pcap{n},rx_pcap={},infinite_rx=1", capture.display())
            }
            _ => format!("net_null{n},no-rx=1"),
        };
        handle.attach(Attachment {
            port: AccessKind::Ethdev { devargs },
            mac: plan::CONTAINER_MAC,
            namespace: plan::container(number),
            job: "bench.perf.client.default".to_owned(),
            number,
        })?;
    }
    Ok(())
}

/// Runs one measurement in this process, which must not have run another.
///
/// # Errors
/// When the data plane does not start, or what leaves is not what should.
pub fn run(job: &Job) -> Result<Measured> {
    ensure!(!job.captures.is_empty(), "no capture is named");
    let dataplane = start(job)?;
    let handle = dataplane.handle();
    lay(&handle, job)?;
    attach(&handle, job)?;
    warm_up(&handle, job)?;
    let churn = (job.updates > 0).then(|| Churn::begin(handle.clone(), job.updates));
    let before = handle.stats()?;
    let (begin, cycles) = (Instant::now(), dpdk::cycles());
    std::thread::sleep(Duration::from_millis(job.milliseconds));
    let after = handle.stats()?;
    let (seconds, cycles) = (begin.elapsed().as_secs_f64(), dpdk::cycles() - cycles);
    let updates = churn.map_or(Ok(0), Churn::end)?;
    let packets = sent(&after, job.inward) - sent(&before, job.inward);
    ensure!(packets > 0, "nothing left: {after:?}");
    let opened = total(&after.events, "flows_opened") - total(&before.events, "flows_opened");
    // Where flows must be given up, or instances go, a flow may go elsewhere.
    let affinity = job.updates == 0 && job.table >= job.flows as usize;
    sample::check(&handle, job.inward, affinity).context("a look at what leaves")?;
    #[allow(clippy::cast_precision_loss)] // rates
    let measured = Measured {
        pps: packets as f64 / seconds,
        cycles_per_packet: cycles as f64 * job.cpus.len() as f64 / packets as f64,
        flows_per_second: opened as f64 / seconds,
        lost: dropped(&after) - dropped(&before),
        updates_per_second: updates as f64 / seconds,
    };
    dataplane.remove();
    Ok(measured)
}

// Until every flow is open and has been seen twice.
fn warm_up(handle: &Handle, job: &Job) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let stats = handle.stats()?;
        if sent(&stats, job.inward) > 4 * u64::from(job.flows) + 100_000 {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("the flows do not open: {stats:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A thread that changes routes at a rate: instances of the far jobs come and go, and so does one instance in ten of the
/// services that packets go to.
struct Churn {
    stop: std::sync::Arc<std::sync::atomic::AtomicBool>,
    thread: std::thread::JoinHandle<Result<u64>>,
}

impl Churn {
    fn begin(handle: Handle, rate: u32) -> Self {
        use std::sync::atomic::{AtomicBool, Ordering};
        let stop = std::sync::Arc::new(AtomicBool::new(false));
        let seen = std::sync::Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let begin = Instant::now();
            let mut made = 0u64;
            let mut away = HashSet::new();
            while !seen.load(Ordering::Relaxed) {
                let due = begin.elapsed().as_micros() * u128::from(rate) / 1_000_000;
                if u128::from(made) >= due {
                    std::thread::sleep(Duration::from_micros(100));
                    continue;
                }
                // Each call says an instance away, or back: one update.
                let n = u32::try_from(made / 2 % u64::from(plan::SERVICES))?;
                let less: &[u32] = if away.insert(n) { &[9] } else { &[] };
                if less.is_empty() {
                    away.remove(&n);
                }
                handle.set_job(plan::job(n, less))?;
                made += 1;
            }
            Ok(made)
        });
        Self { stop, thread }
    }

    fn end(self) -> Result<u64> {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        match self.thread.join() {
            Ok(made) => made,
            Err(_) => bail!("the thread that changes routes ended badly"),
        }
    }
}
