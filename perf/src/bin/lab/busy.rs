//! What carrying a packet costs the whole machine, whoever does it: a worker's thread, a softirq, or a process that was
//! interrupted by one.

use std::collections::HashMap;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use journeys::namespace::{Namespace, Plug, cable};
use nix::unistd::Pid;
use perf::threads;
use perf::ways::{Means, Way};

use crate::generator::Generator;
use crate::probe::{Load, Probe};

/// Datagrams a second: what every peer can carry.
pub const RATE: u64 = 30_000;
/// A machine that is so busy, as a share of all cores, has no room to show a difference.
const FULL: f64 = 0.95;
/// Until the load is there.
const BEFORE: Duration = Duration::from_millis(400);

/// How long each thread of this machine, the kernel's own included, has been running, in nanoseconds. Unlike the times in
/// `/proc/stat`, which a clock samples a hundred times a second, these miss nothing that is shorter than a tick; an
/// interrupt counts for whom it interrupts, and for nobody on an idle core.
fn running() -> Result<HashMap<u32, u64>> {
    let mut times = HashMap::new();
    for process in fs::read_dir("/proc").context("reading /proc")?.flatten() {
        let pid = process
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
            .map(Pid::from_raw);
        // One that has just ended has no threads.
        times.extend(
            pid.and_then(|pid| threads::times(pid).ok())
                .unwrap_or_default(),
        );
    }
    ensure!(
        !times.is_empty(),
        "this kernel does not say how long threads have run (CONFIG_SCHED_INFO)"
    );
    Ok(times)
}

/// What all threads have run between two looks, ns. Who ended in between counts for nothing.
fn spent(before: &HashMap<u32, u64>, after: &HashMap<u32, u64>) -> u64 {
    let since =
        |(id, time): (&u32, &u64)| time.saturating_sub(before.get(id).copied().unwrap_or(0));
    after.iter().map(since).sum()
}

/// A generator and a sink with only a cable between them.
pub fn cable_alone(means: Means<'_>) -> Result<Way> {
    let [one, other] = [
        Namespace::create(means.run, "alone1")?,
        Namespace::create(means.run, "alone2")?,
    ];
    let plug = |namespace| Plug {
        namespace,
        interface: "eth0",
    };
    cable(plug(&one), plug(&other))?;
    one.ip(&["address", "add", "10.99.77.1/24", "dev", "eth0"])?;
    other.ip(&["address", "add", "10.99.77.2/24", "dev", "eth0"])?;
    Ok(Way {
        name: "alone".into(),
        client: one,
        server: other,
        target: [10, 99, 77, 2].into(),
        cores: [None; 2],
    })
}

/// Processor time of the whole machine for each datagram that arrives, µs.
///
/// # Errors
/// When more than a tenth of the load does not arrive.
pub fn per_packet(probe: Probe<'_>, seconds: f64) -> Result<f64> {
    let load = probe.begin(&Load {
        rate: RATE,
        flows: 1,
        seconds: seconds + 2.0 * BEFORE.as_secs_f64(),
        // A packet at a time, as programs send; what polls is never idle.
        by: Generator::Sockets,
    })?;
    std::thread::sleep(BEFORE);
    let (begin, before) = (Instant::now(), running()?);
    std::thread::sleep(Duration::from_secs_f64(seconds));
    let (time, after) = (begin.elapsed(), running()?);
    let counted = probe.end(load)?;
    #[allow(clippy::cast_precision_loss)] // RATE is small
    let wanted = RATE as f64;
    ensure!(
        counted.received_per_second() >= wanted * 0.9,
        "only {:.0} of {RATE} datagrams a second arrived",
        counted.received_per_second()
    );
    #[allow(clippy::cast_precision_loss)] // an hour of nanoseconds is exact
    let busy = spent(&before, &after) as f64 / 1e3;
    let cores = std::thread::available_parallelism().map_or(1.0, |cores| {
        f64::from(u32::try_from(cores.get()).unwrap_or(u32::MAX))
    });
    ensure!(
        busy < time.as_secs_f64() * 1e6 * cores * FULL,
        "no core of this machine was idle: what a packet costs cannot be told"
    );
    Ok(busy / (counted.received_per_second() * time.as_secs_f64()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ran_between_two_looks_is_counted_to_the_nanosecond() {
        let before = HashMap::from([(1, 100), (2, 50)]);
        let after = HashMap::from([(1, 160), (3, 7)]);
        assert_eq!(spent(&before, &after), 67);
        let before = running().unwrap();
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_millis(30) {
            std::hint::black_box(begin);
        }
        assert!(spent(&before, &running().unwrap()) > 1_000_000);
    }
}
