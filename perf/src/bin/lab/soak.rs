//! Millions of flows opened and closed: none may fail, and what the nodes hold may not grow once they are warm.
//!
//! A flow is a TCP connection with a request over it: it is opened and closed as flows are, and what is lost of it is seen
//! as a segment that one of its ends had to send again. A tail loss probe (RFC 8985) sends one again on suspicion, which is
//! often wrong where processes wait for a core: it counts where it repaired something.

use anyhow::{Context as _, Result};
use perf::ways::Way;

use crate::bench::Bench;
use crate::plan::Case;
use crate::probe::Probe;
use crate::results::{Better, Figure, OURS, Values};

/// The flows come in so many parts; memory is looked at after each.
const PARTS: u16 = 10;
/// Nothing ends a part before its flows are through but this, seconds.
const PATIENCE: f64 = 3600.0;

/// Measures ours.
///
/// # Errors
/// When no connection goes through.
pub fn measure(bench: &mut Bench, case: Case) -> Result<()> {
    let way = bench.our_way()?;
    let flows = bench.pace.flows;
    let part = (flows / u64::from(PARTS)).max(1);
    let step = bench.pace.thought(case, 1) / u32::from(PARTS);
    let (mut opened, mut failed) = (0.0, 0.0);
    let mut again = Again::default();
    let mut memory = Vec::new();
    let mut rates = Values::new();
    for number in 0..PARTS {
        bench.progress.say(&format!(
            "soak, {} of {flows} flows",
            u64::from(number) * part
        ));
        let (_awake, ours) = bench.field.ours_mut()?;
        let before = Again::of(&way)?;
        let probe = Probe {
            way: &way,
            means: ours.means(),
        };
        let connections = probe.connections(PATIENCE, part)?;
        opened += connections.count;
        failed += connections.failed;
        let after = Again::of(&way)?;
        again.all += after.all - before.all;
        again.lost += after.lost - before.lost;
        rates
            .entry(OURS.into())
            .or_default()
            .insert(number, connections.per_second);
        let mut held = 0.0;
        for node in &mut ours.topology_mut().nodes {
            held += resident(node.process()?.pid())?;
        }
        memory.push(held);
        bench.progress.done(step);
    }
    let growth = growth(&memory).context("memory was not looked at")?;
    let one = |value: f64| Values::from([(OURS.into(), [(0, value)].into())]);
    for (name, unit, value) in [
        ("flows", "flows", opened),
        ("failed", "flows", failed),
        ("lost", "segments", again.lost),
        ("retransmitted", "segments", again.all),
        ("growth", "%", growth),
        ("memory", "MB", memory.last().copied().unwrap_or(0.0)),
    ] {
        let better = match name {
            "flows" => Better::Higher,
            _ => Better::Lower,
        };
        let figure = Figure::new(&case.name(), name, unit, better, &one(value));
        bench.figures.push(figure);
    }
    let rate = Figure::new(&case.name(), "rate", "flows/s", Better::Higher, &rates);
    bench.figures.push(rate);
    if flows < 1_000_000 {
        bench.skipped.insert(
            format!("{}, all of it", case.name()),
            format!("--quick opens {flows} flows, --full 10 million"),
        );
    }
    Ok(())
}

/// From the median of the first third after the warm-up to the median of the last third, %.
fn growth(memory: &[f64]) -> Option<f64> {
    // The first part fills pools, tables and caches.
    let warm = memory.get(1..)?;
    let third = warm.len().div_ceil(3);
    let median = |values: &[f64]| {
        let mut values = values.to_vec();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    };
    let first = median(warm.get(..third)?)?;
    let last = median(warm.get(warm.len() - third..)?)?;
    Some((last / first - 1.0) * 100.0)
}

/// Memory of a process, MB. The flow table is a shared file of a fixed size that becomes resident as it is first used.
fn resident(pid: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"));
    let status = status.context("a Net Manager has ended")?;
    let kilobytes = |key: &str| -> Option<f64> {
        let line = status.lines().find(|line| line.starts_with(key))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    let (all, shared) = (kilobytes("VmRSS:"), kilobytes("RssShmem:"));
    Ok((all.context("VmRSS")? - shared.context("RssShmem")?) / 1024.0)
}

/// TCP segments that both ends of a way have sent again so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Again {
    all: f64,
    /// Without probes that found nothing lost.
    lost: f64,
}

impl Again {
    fn of(way: &Way) -> Result<Again> {
        let mut sum = Again::default();
        for inside in [&way.client, &way.server] {
            let read = |name: &str| {
                let path = format!("/proc/thread-self/net/{name}");
                inside.enter(move || std::fs::read_to_string(path))
            };
            let one = Again::read(&read("snmp")??, &read("netstat")??)
                .context("the kernel counts no segments that were sent again")?;
            sum.all += one.all;
            sum.lost += one.lost;
        }
        Ok(sum)
    }

    fn read(snmp: &str, netstat: &str) -> Option<Again> {
        let all = counter(snmp, "Tcp: ", "RetransSegs")?;
        let probes = counter(netstat, "TcpExt: ", "TCPLossProbes")?;
        let repaired = counter(netstat, "TcpExt: ", "TCPLossProbeRecovery")?;
        // A probe may also send what was never sent before.
        let lost = (all - probes + repaired).max(0.0);
        Some(Again { all, lost })
    }
}

fn counter(text: &str, group: &str, name: &str) -> Option<f64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(group));
    let place = lines
        .next()?
        .split_whitespace()
        .position(|other| other == name)?;
    lines.next()?.split_whitespace().nth(place)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_that_of_a_warm_process() {
        let flat = [50.0, 80.0, 81.0, 80.0, 81.0, 80.0, 81.0, 80.0, 81.0, 80.0];
        assert!(growth(&flat).unwrap().abs() < 1.5);
        let rising: Vec<f64> = (0..10).map(|n| 80.0 + f64::from(n)).collect();
        assert!(growth(&rising).unwrap() > 5.0);
        assert_eq!(growth(&[]), None);
    }

    #[test]
    fn segments_are_found_by_their_name_and_probes_for_nothing_are_not_losses() {
        let snmp =
            "Ip: Forwarding\nIp: 1\nTcp: RtoMin InSegs OutSegs RetransSegs\nTcp: 200 7 8 5\n";
        let netstat = "TcpExt: TCPLossProbes TCPLossProbeRecovery\nTcpExt: 4 1\n";
        let again = Again {
            all: 5.0,
            lost: 2.0,
        };
        assert_eq!(Again::read(snmp, netstat), Some(again));
        assert_eq!(Again::read("Udp: InDatagrams\nUdp: 1\n", netstat), None);
        assert!(resident(std::process::id()).unwrap() > 0.0);
    }
}
