//! Step 3: what the client sees of `web` and of the receivers for iperf3.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::voice::Voice;
use super::{Demo, Deployment, report::Report};
use crate::measure::{Observer, Spread, iperf_server};

const REQUESTS: u32 = 300;
const IPERF_SECONDS: u32 = 3;

pub(super) fn run(demo: &mut Demo, voice: &Voice, report: &mut Report) -> Result<()> {
    let topology = &demo.topology;
    let client = demo.client.as_mut().context("there is no client")?;
    let web = demo.web.as_ref().context("web is not deployed")?;
    let table = web.table()?;
    let mut observer = Observer {
        container: &mut client.container,
        run: topology.run(),
        programs: &topology.programs,
    };

    voice.progress("ping");
    let short = Duration::from_millis(20);
    observer.ping(table.service_ip, 5, short)?;
    for place in &table.instances {
        observer.ping(place.instance_ip, 5, short)?;
    }
    voice.detail(&format!(
        "{} and the {} Instance IPs answer pings",
        table.service_ip,
        table.instances.len()
    ));
    let far_node = std::net::IpAddr::V4(topology.nodes[1].underlay);
    let other = table.instances.iter().find(|place| place.host == far_node);
    let other = other.context("no instance on the other node")?;
    report.rtt = observer.ping(other.instance_ip, 300, Duration::from_millis(5))?;
    voice.detail(&format!(
        "round trip to the other node: p50 {} us, p99 {} us",
        report.rtt.p50, report.rtt.p99
    ));

    voice.progress("300 HTTP requests");
    let spread = observer.requests(table.service_ip, REQUESTS)?;
    report.requests = spread.requests;
    report.failures = spread.failures;
    report.per_instance.clone_from(&spread.per_instance);
    check_spread(&spread, table.instances.len())?;
    voice.detail(&format!(
        "{REQUESTS} requests, a connection each: {:?}",
        spread.per_instance
    ));

    let far = demo.far.as_mut().context("no receiver on the other node")?;
    let (tcp, udp) = iperf(&mut observer, far, voice, "across nodes")?;
    report.tcp_mbit_s = tcp;
    report.udp_pps = udp;
    let near = demo.near.as_mut().context("no receiver on the same node")?;
    let (tcp, udp) = iperf(&mut observer, near, voice, "within one node")?;
    report.tcp_mbit_s_near = tcp;
    report.udp_pps_near = udp;
    Ok(())
}

/// All answered, and by equal shares: one worker core owns all that one container opens, so no two
/// instances differ by more than one.
///
/// # Errors
/// Unless that holds.
pub fn check_spread(spread: &Spread, instances: usize) -> Result<()> {
    ensure!(
        spread.failures == 0,
        "{} of {} requests failed, the first: {}",
        spread.failures,
        spread.requests,
        spread.first_failure.as_deref().unwrap_or("no reason")
    );
    let counts = &spread.per_instance;
    let most = counts.values().max().copied().unwrap_or(0);
    let least = counts.values().min().copied().unwrap_or(0);
    ensure!(
        counts.len() == instances && most - least <= 1,
        "the answers are not spread evenly over {instances} instances: {counts:?}"
    );
    Ok(())
}

fn iperf(
    observer: &mut Observer<'_>,
    receiver: &mut Deployment,
    voice: &Voice,
    where_to: &str,
) -> Result<(f64, f64)> {
    let service_ip = receiver.table()?.service_ip;
    let container = &mut receiver.instances[0].container;
    let mut server = iperf_server(container, observer.run)?;
    voice.progress(&format!("iperf3 TCP {where_to}"));
    let tcp = observer.iperf_tcp(service_ip, IPERF_SECONDS)?;
    voice.detail(&format!(
        "iperf3 TCP to {service_ip}, {where_to}: {tcp:.0} Mbit/s"
    ));
    voice.progress(&format!("iperf3 UDP {where_to}"));
    let udp = observer.iperf_udp(service_ip, IPERF_SECONDS)?;
    voice.detail(&format!(
        "iperf3 UDP, 64 bytes, {where_to}: {udp:.0} packets/s"
    ));
    server.stop(Duration::from_secs(5))?;
    Ok((tcp, udp))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(counts: &[(u32, u64)], failures: u64) -> Spread {
        let requests = counts.iter().map(|(_, count)| count).sum::<u64>() + failures;
        let per_instance = counts.iter().copied().collect();
        Spread {
            requests,
            failures,
            per_instance,
            first_failure: None,
        }
    }

    #[test]
    fn an_uneven_or_failed_spread_does_not_hold() {
        assert!(check_spread(&spread(&[(0, 100), (1, 101), (2, 100)], 0), 3).is_ok());
        assert!(check_spread(&spread(&[(0, 99), (1, 101), (2, 100)], 0), 3).is_err());
        assert!(check_spread(&spread(&[(0, 150), (1, 150)], 0), 3).is_err());
        assert!(check_spread(&spread(&[(0, 100), (1, 100), (2, 99)], 1), 3).is_err());
    }
}
