//! The real data plane behind [`Forwarding`], and how its configuration follows from ours.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dataplane::{Config, Handle, Idle};

use crate::config::{IdleMode, NetConfig, TunConfig};
use crate::forwarding::{
    Answer, Attachment, BackendLine, Capture, CaptureOptions, CommandError, FlowLine, Forwarding,
    JobRoutes, Loads, NextHop, Pair, PeerLine, PortLine, RouteLine, Stats, Subnet, Trace,
    TraceFilter,
};
use crate::uplink::{self, Chosen};

/// A tmpfs that every Linux has; flows that survive the process lie there.
const SHARED_DIR: &str = "/dev/shm";

/// Removes the flows of `instance`, for a node whose data plane does not run.
///
/// # Errors
/// The file that could not be removed, and why.
pub fn remove_flows(instance: &str) -> Result<(), (PathBuf, std::io::Error)> {
    let places = dataplane::mapping::places(Path::new(SHARED_DIR), instance);
    dataplane::mapping::remove(&places)
}

/// What the data plane is started with, and how its uplink came to be; `folder` is that of `netcfg.json`.
///
/// # Errors
/// The uplink that is asked for cannot be had; the text says what to do.
pub async fn config(
    instance: &str,
    net: &NetConfig,
    tun: &TunConfig,
    folder: &Path,
) -> Result<(Config, Chosen), String> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let workers = net
        .dataplane
        .workers
        .unwrap_or(if cores < 4 { 1 } else { 2 });
    let chosen = uplink::choose(net, workers, folder).await?;
    let idle = net.dataplane.idle.unwrap_or(if cores < 4 {
        IdleMode::Backoff
    } else {
        IdleMode::Spin
    });
    let config = Config {
        instance: instance.to_owned(),
        workers,
        worker_cpus: Vec::new(),
        idle: match idle {
            IdleMode::Spin => Idle::Spin,
            IdleMode::Backoff => Idle::Backoff,
        },
        uplink: chosen.uplink.clone(),
        tunnel_port: tun.tunnel_port,
        host_interface: tun.host_interface.clone(),
        host_port: net.dataplane.host_port.clone(),
        mtu: tun.mtu,
        packets: dataplane::PACKETS_PER_WORKER,
        instances: dataplane::INSTANCES,
        caught_zone: (net.dns.enabled && net.dns_intercept).then(|| net.dns.zone.clone()),
        flows: net.dataplane.flows,
        hugepage_mb: net.dataplane.hugepage_mb,
        namespace: dataplane::namespace_cookie(),
        shared_dir: PathBuf::from(SHARED_DIR),
    };
    Ok((config, chosen))
}

impl Forwarding for Handle {
    fn gateway_mac(&self) -> [u8; 6] {
        Self::gateway_mac(self)
    }
    fn host_interface_index(&self) -> u32 {
        Self::host_interface_index(self)
    }
    fn set_subnets(&self, subnets: Vec<Subnet>) -> Result<(), CommandError> {
        Self::set_subnets(self, subnets)
    }
    fn set_host_instance(&self, instance: Pair) -> Result<(), CommandError> {
        Self::set_host_instance(self, instance)
    }
    fn attach(&self, attachment: Attachment) -> Result<u32, CommandError> {
        Self::attach(self, attachment)
    }
    fn detach(&self, port: u32) -> Result<bool, CommandError> {
        Self::detach(self, port)
    }
    fn set_jobs(&self, jobs: Vec<JobRoutes>) -> Vec<Result<(), CommandError>> {
        Self::set_jobs(self, jobs)
    }
    fn forget_job(&self, job: &str) -> Result<(), CommandError> {
        Self::forget_job(self, job)
    }
    fn set_unresolvable(&self, address: IpAddr) -> Result<(), CommandError> {
        Self::set_unresolvable(self, address)
    }
    fn set_next_hop(&self, host: IpAddr, hop: NextHop) -> Result<(), CommandError> {
        Self::set_next_hop(self, host, hop)
    }
    fn stats(&self) -> Result<Stats, CommandError> {
        Self::stats(self)
    }
    fn routes(&self) -> Result<Vec<RouteLine>, CommandError> {
        Self::routes(self)
    }
    fn flows(&self, limit: usize) -> Result<Vec<FlowLine>, CommandError> {
        Self::flows(self, limit)
    }
    fn job_idle(&self) -> Result<Vec<(String, Duration)>, CommandError> {
        Self::job_idle(self)
    }
    fn ports(&self) -> Result<Vec<PortLine>, CommandError> {
        Self::ports(self)
    }
    fn backends(&self) -> Result<Vec<BackendLine>, CommandError> {
        Self::backends(self)
    }
    fn peers(&self) -> Result<Vec<PeerLine>, CommandError> {
        Self::peers(self)
    }
    fn capture(&self, options: CaptureOptions) -> Result<Capture, CommandError> {
        Self::capture(self, options)
    }
    fn trace(&self, filter: TraceFilter) -> Result<Trace, CommandError> {
        Self::trace(self, filter)
    }
    fn loads(&self) -> Result<Loads, CommandError> {
        Self::loads(self)
    }
    fn answer(&self, answer: Answer) {
        Self::answer(self, answer);
    }
}
