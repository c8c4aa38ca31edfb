//! What carrying a packet costs the whole machine, whoever does it: a worker's thread, a softirq, or a process that was
//! interrupted by one. Measured as what is not left over: `leftover` turns round on every core at the lowest priority
//! (`SCHED_IDLE`), and counts the time that nobody took from it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use journeys::deadline::wait_for;
use journeys::namespace::{Namespace, Plug, cable};
use journeys::process::{Launch, Process};
use journeys::run::Stage;
use perf::ways::{Means, Way, cores};

use crate::generator::Generator;
use crate::probe::{Load, Probe, Traffic};

/// Datagrams a second: what every peer can carry.
pub const RATE: u64 = 30_000;
/// A machine that is so busy, as a share of all cores, has no room to show a difference.
const FULL: f64 = 0.95;
const NOT_IDLE: &str = "no core of this machine was idle: what a packet costs cannot be told";
/// Until the load is there.
const BEFORE: Duration = Duration::from_millis(400);

/// What is left of each core.
struct Leftovers(Vec<Process>);

impl Leftovers {
    fn begin(means: Means<'_>) -> Result<Leftovers> {
        let program = means.programs.built("leftover")?;
        let mut all = Leftovers(Vec::new());
        for core in 0..cores() {
            let process = Launch::new(
                &format!("leftover{core}"),
                Path::new("chrt"),
                &Namespace::Own,
                Stage::Workload,
            )
            .args(["--idle", "0", &program.display().to_string()])
            .on_core(Some(core))
            .start(means.run)?;
            all.0.push(process);
        }
        for process in &mut all.0 {
            let begun = wait_for("what is left of a core", Duration::from_secs(2), || {
                process.check_running()?;
                Ok((!process.output()?.is_empty()).then_some(()))
            });
            process.check_running()?;
            // It has not even come to its first line.
            begun.context(NOT_IDLE)?;
        }
        Ok(all)
    }

    /// How many cores others took meanwhile.
    fn end(mut self) -> Result<f64> {
        let mut taken = 0.0;
        for process in &mut self.0 {
            process.kill()?;
            taken += account(&process.output()?).context(NOT_IDLE)?;
        }
        Ok(taken)
    }
}

impl Drop for Leftovers {
    fn drop(&mut self) {
        for process in &mut self.0 {
            // One that does not end even so ends with the run.
            let _ = process.kill();
        }
    }
}

/// The share that was taken between the first line and the last.
fn account(text: &str) -> Option<f64> {
    // The last may be torn.
    let whole = text.get(..=text.rfind('\n')?)?;
    let read = |line: &str| -> Option<(f64, f64)> {
        let (time, left) = line.split_once(' ')?;
        Some((time.parse().ok()?, left.parse().ok()?))
    };
    let mut lines = whole.lines();
    let (begin, first) = read(lines.next()?)?;
    let (end, last) = read(lines.next_back()?)?;
    Some(1.0 - (last - first) / (end - begin))
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
        traffic: Traffic::Datagrams,
        rate: RATE,
        flows: 1,
        seconds: seconds + 2.0 * BEFORE.as_secs_f64(),
        // A packet at a time, as programs send; what polls is never idle.
        by: Generator::Sockets,
    })?;
    std::thread::sleep(BEFORE);
    let measured = Leftovers::begin(probe.means).and_then(|leftovers| {
        std::thread::sleep(Duration::from_secs_f64(seconds));
        leftovers.end()
    });
    // Whatever came of it, the load's port is free for the next one.
    let counted = probe.end(load);
    let (taken, counted) = (measured?, counted?);
    #[allow(clippy::cast_precision_loss)] // RATE is small
    let wanted = RATE as f64;
    ensure!(
        counted.received_per_second() >= wanted * 0.9,
        "only {:.0} of {RATE} datagrams a second arrived",
        counted.received_per_second()
    );
    #[allow(clippy::cast_precision_loss)] // few
    let all = cores() as f64;
    ensure!(taken < all * FULL, NOT_IDLE);
    Ok(taken * 1e6 / counted.received_per_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_left_was_taken() {
        let text = "1000 500\n2000000 1000500\n5001000 3000500\n5002000 30005";
        assert_eq!(account(text), Some(0.4));
        assert_eq!(account("torn"), None);
        assert_eq!(account("1 1\n"), None);
    }
}
