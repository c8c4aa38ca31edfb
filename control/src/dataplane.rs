//! The real data plane behind [`Forwarding`], and how its configuration follows from ours.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dataplane::{Config, Handle, Idle, Uplink};

use crate::config::{IdleMode, NetConfig, TunConfig, UplinkChoice};
use crate::forwarding::{
    Attachment, BackendLine, Capture, CaptureOptions, CommandError, FlowLine, Forwarding,
    JobRoutes, Loads, NextHop, Pair, PeerLine, PortLine, RouteLine, Stats, Subnet, Trace,
    TraceFilter,
};
use crate::host;
use crate::netlink::Netlink;

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

/// What the data plane is started with.
///
/// # Errors
/// The uplink's interface is not known; the text says what to set.
pub async fn config(instance: &str, net: &NetConfig, tun: &TunConfig) -> Result<Config, String> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let workers = net
        .dataplane
        .workers
        .unwrap_or(if cores < 4 { 1 } else { 2 });
    let uplink = match &net.dataplane.uplink {
        UplinkChoice::Socket => Uplink::Socket,
        UplinkChoice::Ethdev { devargs, interface } => {
            let interface = match interface.clone().or_else(|| net.default_interface.clone()) {
                Some(interface) => interface,
                None => default_interface().await?,
            };
            Uplink::Ethdev {
                devargs: with_interface(devargs, &interface, workers),
                interface,
            }
        }
    };
    let idle = net.dataplane.idle.unwrap_or(if cores < 4 {
        IdleMode::Backoff
    } else {
        IdleMode::Spin
    });
    Ok(Config {
        instance: instance.to_owned(),
        workers,
        worker_cpus: Vec::new(),
        idle: match idle {
            IdleMode::Spin => Idle::Spin,
            IdleMode::Backoff => Idle::Backoff,
        },
        uplink,
        tunnel_port: tun.tunnel_port,
        host_interface: tun.host_interface.clone(),
        mtu: tun.mtu,
        packets: dataplane::PACKETS_PER_WORKER,
        instances: dataplane::INSTANCES,
        flows: net.dataplane.flows,
        hugepage_mb: net.dataplane.hugepage_mb,
        namespace: dataplane::namespace_cookie(),
        shared_dir: PathBuf::from(SHARED_DIR),
    })
}

/// The device arguments for a kernel interface's PMD, whose queues must be asked for: one pair for each worker. What an
/// operator wrote out stays as it is.
fn with_interface(devargs: &str, interface: &str, workers: usize) -> String {
    if !devargs.contains("{interface}") {
        return devargs.to_owned();
    }
    let queues = match devargs.split_once(',') {
        _ if workers < 2 => String::new(),
        Some((name, _)) if name.starts_with("net_af_packet") => format!(",qpairs={workers}"),
        Some((name, _)) if name.starts_with("net_af_xdp") => format!(",queue_count={workers}"),
        _ => String::new(),
    };
    devargs.replace("{interface}", interface) + &queues
}

async fn default_interface() -> Result<String, String> {
    let netlink = Netlink::open().map_err(|error| format!("netlink: {error}"))?;
    match host::default_interface(&netlink).await {
        Ok(Some(interface)) => Ok(interface),
        Ok(None) => Err("there is no default route to tell the uplink's interface; name it in netcfg.json, as in \"Uplink\": \"af_packet:eth0\"".to_owned()),
        Err(error) => Err(error.to_string()),
    }
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_interface_gets_a_pair_of_queues_for_each_worker() {
        let of = |devargs, workers| with_interface(devargs, "eth1", workers);
        let packet = "net_af_packet0,iface={interface}";
        assert_eq!(of(packet, 1), "net_af_packet0,iface=eth1");
        assert_eq!(of(packet, 4), "net_af_packet0,iface=eth1,qpairs=4");
        assert_eq!(
            of("net_af_xdp0,iface={interface}", 2),
            "net_af_xdp0,iface=eth1,queue_count=2"
        );
        assert_eq!(of("0000:01:00.0", 4), "0000:01:00.0");
    }
}
