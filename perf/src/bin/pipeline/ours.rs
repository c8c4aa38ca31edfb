//! Our side: the data plane as it runs on a node, with devices that replay a capture and swallow what is sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use dataplane::{
    AccessKind, Attachment, Beside, CaptureOptions, CapturePort, Config, Dataplane, Handle, Idle,
    NextHop, Pair, Stats, Subnet, Uplink,
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
    /// Memory that an instance took, in bytes; 0 where only a few were loaded.
    pub bytes_per_instance: u64,
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

/// Keeps this thread, and what it starts but the workers, off the workers' CPUs, where there are others.
fn leave_to_workers(cpus: &[usize]) -> Result<()> {
    use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
    let own = nix::unistd::Pid::from_raw(0);
    let allowed = sched_getaffinity(own).context("the CPUs of this process")?;
    let mut others = CpuSet::new();
    let mut count = 0;
    for cpu in (0..CpuSet::count()).filter(|cpu| !cpus.contains(cpu)) {
        if allowed.is_set(cpu).unwrap_or(false) {
            others.set(cpu)?;
            count += 1;
        }
    }
    if count > 0 {
        sched_setaffinity(own, &others).context("leaving the workers' CPUs to them")?;
    }
    Ok(())
}

fn start(job: &Job) -> Result<Dataplane> {
    leave_to_workers(&job.cpus)?;
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
            beside: Beside::Copies,
        },
        tunnel_port: plan::TUNNEL_PORT,
        host_interface: "oakperf".to_owned(),
        host_port: dataplane::HostPort::Tap,
        mtu: 1450,
        packets,
        caught_zone: None,
        flows: job.table,
        instances: (job.instances as usize + (1 << 17)).next_power_of_two(),
        hugepage_mb: None,
        namespace: dataplane::namespace_cookie(),
        shared_dir: "/dev/shm".into(),
    };
    Dataplane::start(&config, Box::new(|_| {})).context("starting the data plane")
}

/// Sets all jobs; what their instances took, in bytes each.
fn lay(handle: &Handle, job: &Job) -> Result<u64> {
    let before = resident_kb()?;
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
    let all: Vec<u32> = (plan::SERVICES..plan::SERVICES + further).collect();
    for some in all.chunks(200) {
        for answer in handle.set_jobs(some.iter().map(|&n| plan::far_job(n)).collect()) {
            answer?;
        }
    }
    if job.instances == 0 {
        // What is there for any number of them would count too much.
        return Ok(0);
    }
    let grown = resident_kb()?.saturating_sub(before) * 1024;
    let each = grown / u64::from(plan::SERVICES * plan::INSTANCES + job.instances);
    // The mapping with the records is there from the start.
    Ok(each + dataplane::tables::region::BACKEND_WORDS as u64 * 8)
}

/// Kilobytes of this process's memory that are there, hugepages of mappings included.
fn resident_kb() -> Result<u64> {
    let status =
        std::fs::read_to_string("/proc/self/status").context("reading the memory in use")?;
    let of = |line: &str| line.split_whitespace().nth(1)?.parse::<u64>().ok();
    let lines = status.lines();
    let counted = lines.filter(|l| l.starts_with("VmRSS:") || l.starts_with("HugetlbPages:"));
    Ok(counted.filter_map(of).sum())
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
    let bytes_per_instance = lay(&handle, job)?;
    attach(&handle, job)?;
    warm_up(&handle, job)?;
    let churn = (job.updates > 0).then(|| Churn::begin(handle.clone(), job.updates));
    let before = handle.stats()?;
    let (begin, cycles) = (Instant::now(), dpdk::cycles());
    std::thread::sleep(Duration::from_millis(job.milliseconds));
    let after = handle.stats()?;
    let (seconds, cycles) = (begin.elapsed().as_secs_f64(), dpdk::cycles() - cycles);
    let made_meanwhile = churn.as_ref().map_or(0, Churn::made);
    if job.updates > 0 {
        watch_removed(&handle)?;
    }
    churn.map_or(Ok(()), Churn::end)?;
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
        updates_per_second: made_meanwhile as f64 / seconds,
        bytes_per_instance,
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

/// A thread that changes routes at a rate: one instance in ten of the services that packets go to is taken away and comes
/// back, service after service.
struct Churn {
    stop: Arc<AtomicBool>,
    made: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<Result<()>>,
}

impl Churn {
    fn begin(handle: Handle, rate: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let counted = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&counted);
        let thread = std::thread::spawn(move || {
            let begin = Instant::now();
            // The most that comes due within a millisecond.
            let most = u64::from(rate).div_ceil(1000);
            let mut made = 0u64;
            while !seen.load(Ordering::Relaxed) {
                let due = begin.elapsed().as_micros() * u128::from(rate) / 1_000_000;
                let due = u64::try_from(due)?.saturating_sub(made).min(most);
                if due < most / 2 {
                    std::thread::sleep(Duration::from_micros(200));
                    continue;
                }
                let update = |number: u64| -> Result<_> {
                    let n = u32::try_from(number % u64::from(CHURNED))?;
                    let away = (number / u64::from(CHURNED)).is_multiple_of(2);
                    Ok(plan::job(n, if away { &[9] } else { &[] }))
                };
                let updates: Result<Vec<_>> = (made..made + due).map(update).collect();
                for answer in handle.set_jobs(updates?) {
                    answer?;
                }
                made += due;
                count.store(made, Ordering::Relaxed);
            }
            Ok(())
        });
        Self {
            stop,
            made: counted,
            thread,
        }
    }

    /// Updates so far.
    fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }

    fn end(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.join() {
            Ok(ended) => ended,
            Err(_) => bail!("the thread that changes routes ended badly"),
        }
    }
}

/// Services that change all the time; the others lose an instance once, and it is watched that nothing goes there.
const CHURNED: u32 = plan::SERVICES - 10;
/// Batches of packets may be under way when an update has been answered.
const GRACE: Duration = Duration::from_millis(2);

/// Takes an instance that has flows from each of the services that do not churn, one after another and for good, and
/// looks at packets that leave afterwards: none may go there, and the flows must have gone elsewhere.
fn watch_removed(handle: &Handle) -> Result<()> {
    for n in CHURNED..plan::SERVICES {
        let gone = n % plan::INSTANCES;
        handle.set_job(plan::job(n, &[gone]))?;
        std::thread::sleep(GRACE);
        // It ends with the look: copies cost the worker time.
        let mut capture = handle.capture(CaptureOptions {
            port: Some(CapturePort::Uplink),
            snaplen: 128,
        })?;
        let mut seen = Vec::new();
        let deadline = Instant::now() + Duration::from_secs(20);
        while seen.len() < SAMPLE && Instant::now() < deadline {
            capture.read(&mut seen);
        }
        drop(capture);
        let mut others = 0;
        for packet in seen.iter().filter(|packet| packet.outgoing) {
            let Some(to) = plan::receiver(&packet.bytes) else {
                bail!("what leaves is not what should: {:02x?}", packet.bytes);
            };
            for (service, instance) in (CHURNED..=n).map(|s| (s, s % plan::INSTANCES)) {
                ensure!(
                    plan::namespace(service * plan::INSTANCES + instance).v4 != Some(to),
                    "a packet left for {to}, which was taken away before"
                );
            }
            let mut kept = (0..plan::INSTANCES).map(|i| plan::namespace(n * plan::INSTANCES + i));
            others += u32::from(kept.any(|pair| pair.v4 == Some(to)));
        }
        ensure!(
            others > 0,
            "no packet left for the other instances of service {n}"
        );
    }
    Ok(())
}

/// Packets looked at after each instance that was taken away: some of each of the services.
const SAMPLE: usize = 20_000;
