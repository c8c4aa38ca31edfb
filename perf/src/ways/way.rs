//! From one container to another, however the packets get there, and what passes on the way. The same programs measure
//! every peer, and look at what arrives: a way that delivers something else has no rate.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use journeys::deadline::wait_for;
use journeys::measure::{BULK_PORT, ECHO_PORT};
use journeys::namespace::Namespace;
use journeys::process::{Launch, Process};
use journeys::run::{Run, Stage};
use journeys::services::Programs;
use serde_json::Value;

/// The port that datagrams are counted on.
const COUNT_PORT: u16 = 9002;
/// What starting, ending and warming up may take beside the measurement.
const PATIENCE: f64 = 20.0;
/// A load runs so much longer than what is measured under it.
const AROUND: f64 = 0.6;

/// What is still under way of an earlier load must not be taken for this one's.
static TAG: AtomicU16 = AtomicU16::new(1);

/// What owns the processes of a measurement.
#[derive(Clone, Copy)]
pub struct Means<'a> {
    /// The run.
    pub run: &'a Run,
    /// The programs.
    pub programs: &'a Programs,
}

/// From a container to an address behind which another one is.
#[derive(Clone, Debug)]
pub struct Way {
    /// Tells its logs from others'.
    pub name: String,
    /// The client's namespace.
    pub client: Namespace,
    /// The server's.
    pub server: Namespace,
    /// What the client dials.
    pub target: IpAddr,
    /// The core of the client's programs and the one of the server's; all cores where there is none.
    pub cores: [Option<usize>; 2],
}

/// Round trips, in microseconds.
#[derive(Clone, Copy, Debug)]
pub struct RoundTrips {
    /// Half are faster.
    pub p50: f64,
    /// One of a hundred is slower.
    pub p99: f64,
}

/// How datagrams are sent.
#[derive(Clone, Debug)]
pub struct Sending {
    /// A second; 0 for as many as go.
    pub rate: u64,
    /// By one system call.
    pub burst: usize,
    /// From the namespaces of these processes in turn instead of the way's client.
    pub inside: Vec<u32>,
}

impl Sending {
    /// As many as go, from one client.
    pub const ALL: Sending = Sending {
        rate: 0,
        burst: 64,
        inside: Vec::new(),
    };
}

impl Way {
    /// A program of the workload at the client's end.
    #[must_use]
    pub fn at_client(&self, means: Means<'_>, what: &str) -> Launch {
        self.launch(means, &self.client, what)
            .on_core(self.cores[0])
    }

    /// A program of the workload at the server's end.
    #[must_use]
    pub fn at_server(&self, means: Means<'_>, what: &str) -> Launch {
        self.launch(means, &self.server, what)
            .on_core(self.cores[1])
    }

    fn launch(&self, means: Means<'_>, inside: &Namespace, what: &str) -> Launch {
        let name = format!("{}-{what}", self.name);
        let program = means.programs.path("workload");
        Launch::new(&name, &program, inside, Stage::Workload).args([what])
    }

    fn at(&self, port: u16) -> [String; 2] {
        [
            "--target".into(),
            SocketAddr::new(self.target, port).to_string(),
        ]
    }

    /// Starts the server of bulk transfers and echoes where a way of a peer leads.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn serve(&self, means: Means<'_>) -> Result<Process> {
        self.at_server(means, "serve")
            .args(["--instance", "0"])
            .start(means.run)
    }

    /// Waits until an echo comes back.
    ///
    /// # Errors
    /// When none does.
    pub fn wait(&self, means: Means<'_>) -> Result<()> {
        wait_for(
            &format!("the way {}", self.name),
            Duration::from_secs(15),
            || {
                let echo = self
                    .at_client(means, "echo")
                    .args(self.at(ECHO_PORT))
                    .args(["--from", "64", "--to", "64"]);
                let report = report(echo.start(means.run)?, 5.0)?;
                ensure!(
                    report["lost"].as_array().is_some_and(Vec::is_empty),
                    "{report}"
                );
                Ok(Some(()))
            },
        )
    }

    /// One TCP stream: Gbit/s received.
    ///
    /// # Errors
    /// When something else arrives than was sent.
    pub fn tcp(&self, means: Means<'_>, seconds: f64) -> Result<f64> {
        let stream = self
            .at_client(means, "stream")
            .args(self.at(BULK_PORT))
            .args(["--seconds".into(), seconds.to_string()]);
        let report = report(stream.start(means.run)?, seconds)?;
        number(&report, "gbit_s")
    }

    /// Datagrams of 64 bytes: received a second.
    ///
    /// # Errors
    /// When something else arrives than was sent, or in another order.
    pub fn udp(&self, means: Means<'_>, seconds: f64, sending: &Sending) -> Result<f64> {
        let (count, blast) = self.start_load(means, seconds, sending)?;
        self.end_load(count, blast, seconds, sending)
    }

    /// Round trips of 64-byte datagrams, half a millisecond between them; under a load of so many datagrams a second
    /// from the same client to the same server.
    ///
    /// # Errors
    /// When an echo is not what was sent, or one of a hundred is lost.
    pub fn round_trips(&self, means: Means<'_>, seconds: f64, load: u64) -> Result<RoundTrips> {
        let sending = Sending {
            rate: load,
            // What a program sends that does not send all at once.
            burst: 8,
            inside: Vec::new(),
        };
        let around = seconds + AROUND;
        let loaded = match load {
            0 => None,
            _ => Some(self.start_load(means, around, &sending)?),
        };
        if loaded.is_some() {
            std::thread::sleep(Duration::from_secs_f64(AROUND / 2.0));
        }
        let trips = self
            .at_client(means, "round-trips")
            .args(self.at(ECHO_PORT))
            .args(["--seconds".into(), seconds.to_string()]);
        let report = report(trips.start(means.run)?, seconds)?;
        if let Some((count, blast)) = loaded {
            self.end_load(count, blast, around, &sending)?;
        }
        let (answered, lost) = (number(&report, "answered")?, number(&report, "lost")?);
        ensure!(
            answered > 0.0 && lost * 100.0 <= answered,
            "{}: {lost} echoes were lost and {answered} came",
            self.name
        );
        Ok(RoundTrips {
            p50: number(&report, "p50_us")?,
            p99: number(&report, "p99_us")?,
        })
    }

    fn start_load(
        &self,
        means: Means<'_>,
        seconds: f64,
        sending: &Sending,
    ) -> Result<(Process, Process)> {
        let tag = [
            "--tag".into(),
            TAG.fetch_add(1, Ordering::Relaxed).to_string(),
        ];
        let count = self
            .at_server(means, "count")
            .args(tag.clone())
            .args(["--port".into(), COUNT_PORT.to_string()])
            .args(["--seconds".into(), seconds.to_string()])
            .start(means.run)?;
        // Before it is bound, what comes is refused and not counted.
        wait_for("the counter's port", Duration::from_secs(5), || {
            let filter = format!("sport = :{COUNT_PORT}");
            let bound = self.server.command("ss", &["-Hlun", &filter])?;
            Ok((!bound.trim().is_empty()).then_some(()))
        })?;
        let from = match sending.inside[..] {
            [] => &self.client,
            _ => &Namespace::Own,
        };
        let mut blast = self
            .launch(means, from, "blast")
            .on_core(self.cores[0])
            .args(tag)
            .args(self.at(COUNT_PORT))
            // Longer than what is counted and its warming up.
            .args(["--seconds".into(), (seconds + 0.5).to_string()])
            .args(["--rate".into(), sending.rate.to_string()])
            .args(["--burst".into(), sending.burst.to_string()]);
        if !sending.inside.is_empty() {
            let inside: Vec<_> = sending.inside.iter().map(u32::to_string).collect();
            blast = blast.args(["--inside".into(), inside.join(",")]);
        }
        Ok((count, blast.start(means.run)?))
    }

    fn end_load(
        &self,
        count: Process,
        blast: Process,
        seconds: f64,
        sending: &Sending,
    ) -> Result<f64> {
        let counted = report(count, seconds)?;
        report(blast, seconds)?;
        let [rate, received, wrong, late, senders] =
            ["per_second", "received", "wrong", "late", "senders"].map(|key| number(&counted, key));
        let (received, senders) = (received?, senders?);
        ensure!(received > 0.0, "{}: nothing arrived", self.name);
        ensure!(wrong? == 0.0, "{}: not what was sent: {counted}", self.name);
        // A sender that the scheduler moves to another core may pass itself by.
        ensure!(
            late? <= received / 100.0,
            "{}: out of order: {counted}",
            self.name
        );
        #[allow(clippy::cast_precision_loss)] // hundreds
        let expected = sending.inside.len().max(1) as f64;
        ensure!(
            senders == expected,
            "{}: datagrams of {senders} senders came, {expected} send",
            self.name
        );
        rate
    }
}

/// What a program of the workload reports that ends after so many seconds.
///
/// # Errors
/// When it fails or takes much longer.
pub fn report(mut process: Process, seconds: f64) -> Result<Value> {
    let output = process.finish(Duration::from_secs_f64(seconds + PATIENCE))?;
    serde_json::from_str(&output).with_context(|| format!("no report: {output:?}"))
}

fn number(report: &Value, key: &str) -> Result<f64> {
    report[key]
        .as_f64()
        .with_context(|| format!("no {key} in {report}"))
}
