//! One measurement on one way: a load and what arrives of it, echoes under it, connections.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use journeys::deadline::wait_for;
use journeys::measure::{ECHO_PORT, HTTP_PORT};
use journeys::process::Process;
use perf::ways::{Means, Way, report};
use pktgen::frame::Step;
use serde_json::Value;

use crate::generator::{self, Generator};

/// The port that datagrams are counted on.
const COUNT_PORT: u16 = 9002;
/// What may wait at the sink while the scheduler has it sleep: that it sleeps is no loss of who carries the datagrams.
const BUFFER: usize = 64 << 20;
/// A load runs so much longer than what is measured under it.
const AROUND: f64 = 0.8;
/// Datagrams handed over by one system call: as many as a sender collects that sends as fast as it can, and as a program
/// of requests does.
const MANY: usize = 64;
const FEW: usize = 16;

/// Far from those of other loads on the same port.
static TAG: AtomicU16 = AtomicU16::new(0x8000);

/// What is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Traffic {
    /// Datagrams of 64 bytes.
    Datagrams,
    /// Segments that open a flow, use it, and close it. Only pktgen has them.
    ShortFlows,
}

/// Segments of a short flow.
#[allow(clippy::cast_precision_loss)] // few
pub const SEGMENTS: f64 = Step::ALL.len() as f64;

impl Traffic {
    /// Flows that a load of one kind has open at a time.
    #[must_use]
    pub fn at_a_time(self) -> u16 {
        match self {
            Traffic::Datagrams => 1,
            Traffic::ShortFlows => 1000,
        }
    }
}

/// A load of small packets.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// What they are.
    pub traffic: Traffic,
    /// A second; 0 for as many as go.
    pub rate: u64,
    /// At a time, each from a port of its own.
    pub flows: u16,
    /// For how long it is counted.
    pub seconds: f64,
    /// Who sends it.
    pub by: Generator,
}

/// What came of a load.
#[derive(Clone, Copy, Debug)]
pub struct Counted {
    /// Datagrams that came.
    pub received: f64,
    /// Datagrams that were sent between those that came, and did not come.
    pub lost: f64,
    /// By the sink's clock.
    pub seconds: f64,
}

impl Counted {
    /// A second.
    #[must_use]
    pub fn received_per_second(&self) -> f64 {
        self.received / self.seconds
    }

    /// A second.
    #[must_use]
    pub fn offered_per_second(&self) -> f64 {
        (self.received + self.lost) / self.seconds
    }

    /// As a share.
    #[must_use]
    pub fn loss(&self) -> f64 {
        self.lost / (self.received + self.lost).max(1.0)
    }
}

/// Round trips, µs.
#[derive(Clone, Copy, Debug)]
pub struct Trips {
    /// Half are faster.
    pub p50: f64,
    /// Nine of ten are.
    pub p90: f64,
    /// 99 of 100 are.
    pub p99: f64,
    /// What was lost of the load beside them, as a share; 0 without one.
    pub load_lost: f64,
}

/// Connections that were opened, used for one request, and closed.
#[derive(Clone, Copy, Debug)]
pub struct Connections {
    /// All that went well.
    pub count: f64,
    /// All that did not.
    pub failed: f64,
    /// A second.
    pub per_second: f64,
    /// From opening to the end, µs.
    pub p99: f64,
}

/// A way to measure on.
#[derive(Clone, Copy)]
pub struct Probe<'a> {
    /// The way.
    pub way: &'a Way,
    /// What owns the processes.
    pub means: Means<'a>,
}

/// A load under way.
pub enum Running {
    /// By programs on sockets.
    Sockets {
        /// The sink.
        count: Process,
        /// The sender.
        blast: Process,
        /// What it was started for.
        seconds: f64,
    },
    /// Both ends in one.
    Pktgen {
        /// It.
        process: Process,
        /// What it was started for.
        seconds: f64,
    },
}

impl Probe<'_> {
    fn target(&self, port: u16) -> [String; 2] {
        let target = SocketAddr::new(self.way.target, port);
        ["--target".into(), target.to_string()]
    }

    /// Starts a load; what is counted begins a little after the first datagram.
    ///
    /// # Errors
    /// When a program cannot be started.
    pub fn begin(&self, load: &Load) -> Result<Running> {
        let tag = TAG.fetch_add(1, Ordering::Relaxed);
        let seconds = load.seconds;
        if load.by == Generator::Pktgen {
            let process = generator::begin(self.way, self.means, load, tag)?;
            return Ok(Running::Pktgen { process, seconds });
        }
        ensure!(
            load.traffic == Traffic::Datagrams,
            "only pktgen sends short flows"
        );
        let tag = tag.to_string();
        let mut count = self
            .way
            .at_server(self.means, "count")
            .args(["--tag", &tag, "--port", &COUNT_PORT.to_string()])
            .args(["--seconds", &seconds.to_string()])
            .args(["--buffer", &BUFFER.to_string()])
            .start(self.means.run)?;
        // Before it is bound, what comes is refused and not counted.
        wait_for("the sink's port", Duration::from_secs(5), || {
            count.check_running()?;
            let filter = format!("sport = :{COUNT_PORT}");
            let bound = self.way.server.command("ss", &["-Hlun", &filter])?;
            Ok((!bound.trim().is_empty()).then_some(()))
        })?;
        let burst = if load.rate == 0 { MANY } else { FEW };
        let blast = self
            .way
            .at_client(self.means, "blast")
            .args(self.target(COUNT_PORT))
            .args(["--tag", &tag, "--rate", &load.rate.to_string()])
            .args(["--burst", &burst.to_string()])
            .args(["--flows", &load.flows.to_string()])
            // Longer than what is counted and its warming up.
            .args(["--seconds", &(seconds + 0.5).to_string()])
            .start(self.means.run)?;
        Ok(Running::Sockets {
            count,
            blast,
            seconds,
        })
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When nothing arrived, or not what was sent.
    pub fn end(&self, running: Running) -> Result<Counted> {
        let counted = match running {
            Running::Pktgen { process, seconds } => generator::end(process, seconds),
            Running::Sockets {
                count,
                blast,
                seconds,
            } => {
                let counted = report(count, seconds)?;
                report(blast, seconds)?;
                counted_of(&counted)
            }
        };
        counted.with_context(|| format!("the load on {}", self.way.name))
    }

    /// One load.
    ///
    /// # Errors
    /// Those of beginning and of ending it.
    pub fn load(&self, load: &Load) -> Result<Counted> {
        self.end(self.begin(load)?)
    }

    /// Echoes of 64-byte datagrams, one after the other, under a load of so many a second.
    ///
    /// # Errors
    /// When one is not what was sent, or one of a hundred is lost.
    pub fn round_trips(&self, seconds: f64, rate: u64, by: Generator) -> Result<Trips> {
        let load = Load {
            traffic: Traffic::Datagrams,
            rate,
            flows: 1,
            seconds: seconds + AROUND,
            by,
        };
        let running = match rate {
            0 => None,
            _ => Some(self.begin(&load)?),
        };
        if running.is_some() {
            std::thread::sleep(Duration::from_secs_f64(AROUND / 2.0));
        }
        let trips = self
            .way
            .at_client(self.means, "round-trips")
            .args(self.target(ECHO_PORT))
            .args(["--seconds", &seconds.to_string()])
            .start(self.means.run)?;
        let told = report(trips, seconds)?;
        let load_lost = match running {
            Some(running) => self.end(running)?.loss(),
            None => 0.0,
        };
        let (answered, lost) = (number(&told, "answered")?, number(&told, "lost")?);
        ensure!(
            answered > 0.0 && lost * 100.0 <= answered,
            "{lost} echoes were lost and {answered} came"
        );
        Ok(Trips {
            p50: number(&told, "p50_us")?,
            p90: number(&told, "p90_us")?,
            p99: number(&told, "p99_us")?,
            load_lost,
        })
    }

    /// Connections one after the other on several threads, for a time, or until so many (if not 0) have begun.
    ///
    /// # Errors
    /// When none goes well.
    pub fn connections(&self, seconds: f64, count: u64) -> Result<Connections> {
        let client = self
            .way
            .at_client(self.means, "connections")
            .args(self.target(HTTP_PORT))
            .args(["--seconds", &seconds.to_string()])
            .args(["--count", &count.to_string()])
            .start(self.means.run)?;
        let told = report(client, seconds)?;
        let opened = number(&told, "connections")?;
        ensure!(opened > 0.0, "no connection: {}", told["first_failure"]);
        Ok(Connections {
            count: opened,
            failed: number(&told, "failed")?,
            per_second: number(&told, "per_second")?,
            p99: number(&told, "p99_us")?,
        })
    }
}

fn counted_of(told: &Value) -> Result<Counted> {
    let counted = Counted {
        received: number(told, "received")?,
        lost: number(told, "lost")?,
        seconds: number(told, "seconds")?,
    };
    ensure!(counted.received > 0.0, "nothing arrived");
    ensure!(number(told, "wrong")? == 0.0, "not what was sent: {told}");
    // A sender that the scheduler moves to another core may pass itself by.
    ensure!(
        number(told, "late")? <= counted.received / 100.0,
        "out of order: {told}"
    );
    Ok(counted)
}

/// A number of a report.
pub fn number(told: &Value, key: &str) -> Result<f64> {
    told[key]
        .as_f64()
        .with_context(|| format!("no {key} in {told}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_arrived_changed_or_disordered_is_no_rate() {
        let told = |wrong: u64, late: u64, received: u64| {
            counted_of(
                &json!({"received": received, "lost": 100, "seconds": 2.0, "wrong": wrong, "late": late}),
            )
        };
        let counted = told(0, 9, 900).unwrap();
        assert_eq!(counted.received_per_second(), 450.0);
        assert_eq!(counted.offered_per_second(), 500.0);
        assert_eq!(counted.loss(), 0.1);
        for (wrong, late, received) in [(1, 0, 900), (0, 10, 900), (0, 0, 0)] {
            assert!(
                told(wrong, late, received).is_err(),
                "{wrong} {late} {received}"
            );
        }
    }
}
