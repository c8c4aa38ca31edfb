//! Millions of flows opened and closed: none may fail, and what the nodes hold may not grow once they are warm.
//!
//! Short flows come from pktgen at the highest rate that ours carries without loss, found by a search before: three
//! segments each, and every one that does not arrive is counted. After each part of them real connections with a request
//! are opened, so that what the flows left behind is seen to harm nobody; what is lost of these is seen as a segment that
//! one of their ends had to send again. A tail loss probe (RFC 8985) sends one again on suspicion, which is often wrong
//! where processes wait for a core: it counts where it repaired something. With the generator on sockets all flows are
//! such connections.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use perf::ways::Way;
use serde_json::Value;

use crate::bench::Bench;
use crate::generator::Generator;
use crate::plan::Case;
use crate::probe::{Load, Probe, SEGMENTS, Traffic};
use crate::results::{Better, Figure, OURS, Values};
use crate::search::{SLOWER, lower_until};

/// The flows come in so many parts; memory is looked at after each.
const PARTS: u16 = 10;
/// Nothing ends a part's connections before they are through but this, seconds.
const PATIENCE: f64 = 3600.0;
/// Connections after each part of short flows.
const CONNECTIONS: u64 = 1000;
/// For so long the rate must pass before the soak, s, as RFC 2544 has trials of throughput last; a shorter trial comes
/// first, since most rates that do not hold show it at once. After a part of the soak that loses something the rate is
/// lowered again.
const HOLDS: [f64; 2] = [4.0, 60.0];
/// So often it is lowered at most before; a way that loses even then shows it in the figure.
const SLOWER_AT_MOST: u32 = 15;

/// What all parts came to.
#[derive(Default)]
struct Sum {
    opened: f64,
    failed: f64,
    lost: f64,
    retransmitted: f64,
    /// Flows a second, by part.
    rates: Values,
    /// Of all nodes, MB, by part.
    memory: Vec<f64>,
}

/// Measures ours.
///
/// # Errors
/// When no flow goes through.
pub fn measure(bench: &mut Bench, case: Case) -> Result<()> {
    let way = bench.our_way()?;
    let flows = bench.pace.flows;
    #[allow(clippy::cast_precision_loss)] // ten million
    let part = (flows / u64::from(PARTS)).max(1) as f64;
    let step = bench.pace.thought(case, 1) / u32::from(PARTS);
    let short = bench.generator == Generator::Pktgen;
    let mut rate = match short {
        true => rate_that_holds(bench, &way)?,
        false => 0.0,
    };
    let mut sum = Sum::default();
    let before = lost_in_nodes(bench)?;
    for number in 0..PARTS {
        let said = format!("soak, {:.0} of {flows} flows", f64::from(number) * part);
        let (_awake, ours) = bench.field.ours_mut()?;
        let probe = Probe {
            way: &way,
            means: ours.means(),
        };
        if short {
            bench
                .progress
                .say(&format!("{said}, {:.0} a second", rate / SEGMENTS));
            let lost = sum.short_flows(&probe, number, part, rate)?;
            if lost > 0.0 {
                rate *= SLOWER;
            }
            sum.connections(&probe, CONNECTIONS)?;
        } else {
            bench.progress.say(&said);
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a count
            let per_second = sum.connections(&probe, part as u64)?;
            sum.rate(number, per_second);
        }
        let mut held = 0.0;
        for node in &mut ours.topology_mut().nodes {
            held += resident(node.process()?.pid())?;
        }
        sum.memory.push(held);
        bench.progress.done(step);
    }
    let growth = growth(&sum.memory).context("memory was not looked at")?;
    let one = |value: f64| Values::from([(OURS.into(), [(0, value)].into())]);
    for (name, unit, value) in [
        ("flows", "flows", sum.opened),
        ("failed", "connections", sum.failed),
        ("lost", "packets", sum.lost),
        ("retransmitted", "segments", sum.retransmitted),
        ("growth", "%", growth),
        ("memory", "MB", sum.memory.last().copied().unwrap_or(0.0)),
    ] {
        let better = match name {
            "flows" => Better::Higher,
            _ => Better::Lower,
        };
        let figure = Figure::new(&case.name(), name, unit, better, &one(value));
        bench.figures.push(figure);
    }
    if sum.lost > 0.0 {
        let after = lost_in_nodes(bench)?;
        for (place, count) in after {
            let count = count - before.get(&place).copied().unwrap_or(0.0);
            if count > 0.0 {
                let name = format!("lost at {place}");
                let figure =
                    Figure::new(&case.name(), &name, "packets", Better::Lower, &one(count));
                bench.figures.push(figure);
            }
        }
    }
    let rate = Figure::new(&case.name(), "rate", "flows/s", Better::Higher, &sum.rates);
    bench.figures.push(rate);
    if flows < 1_000_000 {
        bench.skipped.insert(
            format!("{}, all of it", case.name()),
            format!("{flows} flows were opened, --full opens 10 million"),
        );
    }
    Ok(())
}

/// The highest rate of segments of short flows that passes for a while without loss.
fn rate_that_holds(bench: &mut Bench, way: &Way) -> Result<f64> {
    let found = bench.lossless_short_flows()?;
    #[allow(clippy::cast_precision_loss)] // ten million
    let all = bench.pace.flows as f64;
    let trial = |rate: f64| {
        bench.progress.say(&format!(
            "soak: whether {:.0} a second hold",
            rate / SEGMENTS
        ));
        let (_awake, ours) = bench.field.ours_mut()?;
        let probe = Probe {
            way,
            means: ours.means(),
        };
        let mut lost = 0.0;
        for seconds in HOLDS {
            let flows = (rate * seconds / SEGMENTS).min(all);
            lost = Sum::default().short_flows(&probe, 0, flows, rate)?;
            if lost > 0.0 {
                break;
            }
        }
        Ok(lost)
    };
    let (rate, _lost) = lower_until(found, SLOWER_AT_MOST, trial, |lost| *lost == 0.0)?;
    Ok(rate)
}

/// What our nodes count of packets that they lost, by where: drops by reason, and what sockets had no room for.
fn lost_in_nodes(bench: &mut Bench) -> Result<BTreeMap<String, f64>> {
    let mut lost = BTreeMap::new();
    let (_awake, ours) = bench.field.ours_mut()?;
    for node in &ours.topology().nodes {
        let status = node.server().get("/status")?.ok("the status")?.json()?;
        add_losses(&status["dataplane"], &mut lost);
    }
    Ok(lost)
}

fn add_losses(dataplane: &Value, lost: &mut BTreeMap<String, f64>) {
    let mut add = |place: String, count: &Value| {
        *lost.entry(place).or_default() += count.as_f64().unwrap_or(0.0);
    };
    for (reason, count) in dataplane["drops"].as_object().into_iter().flatten() {
        add(reason.clone(), count);
    }
    for port in dataplane["ports"].as_array().into_iter().flatten() {
        let role = port["role"].as_str().unwrap_or_default();
        for (name, count) in port["counts"].as_object().into_iter().flatten() {
            if name == "kernel_drops" || name.starts_with("tx_") {
                add(format!("{role} {name}"), count);
            }
        }
    }
}

impl Sum {
    fn rate(&mut self, part: u16, rate: f64) {
        let rates = self.rates.entry(OURS.into()).or_default();
        rates.insert(part, rate);
    }

    /// So many short flows, at `rate` segments a second; answers how many segments did not arrive.
    fn short_flows(&mut self, probe: &Probe<'_>, part: u16, flows: f64, rate: f64) -> Result<f64> {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a rate
        let whole = rate as u64;
        let counted = probe.load(&Load {
            traffic: Traffic::ShortFlows,
            rate: whole,
            flows: Traffic::ShortFlows.at_a_time(),
            seconds: flows * SEGMENTS / rate,
            by: Generator::Pktgen,
        })?;
        self.opened += (counted.received + counted.lost) / SEGMENTS;
        self.lost += counted.lost;
        self.rate(part, counted.offered_per_second() / SEGMENTS);
        Ok(counted.lost)
    }

    /// So many connections; answers how many a second.
    fn connections(&mut self, probe: &Probe<'_>, count: u64) -> Result<f64> {
        let before = Again::of(probe.way)?;
        let connections = probe.connections(PATIENCE, count)?;
        let after = Again::of(probe.way)?;
        self.opened += connections.count;
        self.failed += connections.failed;
        self.retransmitted += after.all - before.all;
        self.lost += after.lost - before.lost;
        Ok(connections.per_second)
    }
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
    fn losses_are_told_by_where_and_add_up_over_nodes() {
        let node = serde_json::json!({
            "drops": {"no_mbuf": 2, "not_ip": 0},
            "ports": [{"role": "access", "counts": {"received": 9, "kernel_drops": 3, "tx_too_big": 1}},
                {"role": "tunnel", "counts": {"sent": 8, "kernel_drops": 4}}],
        });
        let mut lost = BTreeMap::new();
        add_losses(&node, &mut lost);
        add_losses(&node, &mut lost);
        for (place, count) in [
            ("no_mbuf", 4.0),
            ("access kernel_drops", 6.0),
            ("access tx_too_big", 2.0),
            ("tunnel kernel_drops", 8.0),
        ] {
            assert_eq!(lost[place], count, "{place}");
        }
        assert!(!lost.contains_key("access received"));
    }

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
