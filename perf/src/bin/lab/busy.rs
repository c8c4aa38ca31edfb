//! What carrying a packet costs the whole machine, whoever does it: a worker's thread, a softirq, or a process that was
//! interrupted by one.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use journeys::namespace::{Namespace, Plug, cable};
use perf::ways::{Means, Way};

use crate::probe::{Load, Probe};

/// Datagrams a second: what every peer can carry.
pub const RATE: u64 = 30_000;
/// A machine that is so busy, as a share of all cores, has no room to show a difference.
const FULL: f64 = 0.95;
/// Until the load is there.
const BEFORE: Duration = Duration::from_millis(400);

/// Processor time of all cores so far that was not idle, in ticks of a hundredth of a second.
fn ticks() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/stat").context("reading /proc/stat")?;
    busy_of(&text).context("/proc/stat has no line of all cores")
}

fn busy_of(stat: &str) -> Option<u64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let fields: Vec<u64> = line
        .split_whitespace()
        .map_while(|word| word.parse().ok())
        .collect();
    // user nice system idle iowait irq softirq (steal and guests are others')
    let [user, nice, system, _, _, irq, softirq] = *fields.first_chunk::<7>()?;
    Some(user + nice + system + irq + softirq)
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
    let running = probe.begin(&Load {
        rate: RATE,
        flows: 1,
        seconds: seconds + 2.0 * BEFORE.as_secs_f64(),
    })?;
    std::thread::sleep(BEFORE);
    let (begin, before) = (Instant::now(), ticks()?);
    std::thread::sleep(Duration::from_secs_f64(seconds));
    let (time, after) = (begin.elapsed(), ticks()?);
    let counted = probe.end(running)?;
    #[allow(clippy::cast_precision_loss)] // RATE is small
    let wanted = RATE as f64;
    ensure!(
        counted.received_per_second() >= wanted * 0.9,
        "only {:.0} of {RATE} datagrams a second arrived",
        counted.received_per_second()
    );
    #[allow(clippy::cast_precision_loss)] // hundredths of a second
    let busy = (after - before) as f64 * 10_000.0;
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
    fn idle_waiting_and_stolen_time_is_not_busy() {
        let stat = "cpu  100 20 30 4000 500 6 7 8000 9 10\ncpu0 1 2 3 4 5 6 7 8 9 10\n";
        assert_eq!(busy_of(stat), Some(163));
        assert_eq!(busy_of("cpu0 1 2 3 4 5 6 7\n"), None);
        assert!(ticks().unwrap() > 0);
    }
}
