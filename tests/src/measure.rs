//! What a container sees of the others: pings, HTTP answers, iperf3.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::container::Container;
use crate::deadline::wait_for;
use crate::process::Process;
use crate::run::Run;
use crate::services::Programs;

/// The port of the instances' HTTP server.
pub const HTTP_PORT: u16 = 80;
/// The port of the instances' bulk transfer.
pub const BULK_PORT: u16 = 9000;
/// The port of the instances' UDP echo.
pub const ECHO_PORT: u16 = 7;
const IPERF_PORT: u16 = 5201;

/// Round trips in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RoundTrip {
    /// Half are faster.
    pub p50: u64,
    /// One of a hundred is slower.
    pub p99: u64,
}

/// What 300 requests met.
#[derive(Debug, Clone, Default)]
pub struct Spread {
    /// Sent.
    pub requests: u64,
    /// Not answered, or wrongly.
    pub failures: u64,
    /// Answers of each instance.
    pub per_instance: BTreeMap<u32, u64>,
    /// The reason of the first failure.
    pub first_failure: Option<String>,
}

/// A container to measure from.
#[derive(Debug)]
pub struct Observer<'a> {
    /// Where.
    pub container: &'a mut Container,
    /// The run that owns its processes.
    pub run: &'a Run,
    /// The programs.
    pub programs: &'a Programs,
}

impl Observer<'_> {
    /// Pings `count` times, every `interval`.
    ///
    /// # Errors
    /// When one echo is lost.
    pub fn ping(&mut self, to: IpAddr, count: u32, interval: Duration) -> Result<RoundTrip> {
        let seconds = interval.as_secs_f64().to_string();
        let output = self
            .container
            .launch("ping", Path::new("ping"))
            .args([
                "-n",
                "-c",
                &count.to_string(),
                "-i",
                &seconds,
                "-W",
                "2",
                &to.to_string(),
            ])
            .env("LC_ALL", "C")
            .start(self.run)?
            .finish(interval * count + Duration::from_secs(15))
            .with_context(|| format!("ping from {} to {to}", self.container.name()))?;
        let (times, received) = echoes(&output);
        ensure!(
            received == count,
            "{received} of {count} pings to {to} were answered:\n{output}"
        );
        Ok(round_trip(times))
    }

    /// Sends HTTP requests, a connection each, one after the other.
    ///
    /// # Errors
    /// When the client cannot run; failed requests are counted, not an error.
    pub fn requests(&mut self, to: IpAddr, count: u32) -> Result<Spread> {
        let target = SocketAddr::new(to, HTTP_PORT).to_string();
        let report = self.workload(
            "get",
            &["--target", &target, "--count", &count.to_string()],
            60,
        )?;
        let per_instance = report["per_instance"]
            .as_object()
            .context("no per_instance")?;
        Ok(Spread {
            requests: report["requests"].as_u64().context("no requests")?,
            failures: report["failures"].as_u64().context("no failures")?,
            per_instance: per_instance
                .iter()
                .map(|(instance, count)| Ok((instance.parse()?, count.as_u64().unwrap_or(0))))
                .collect::<Result<_>>()?,
            first_failure: report["first_failure"].as_str().map(str::to_owned),
        })
    }

    /// Starts the requester that runs until its standard input closes.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn poll(&mut self, to: IpAddr, connections: u32) -> Result<Process> {
        self.container
            .launch("poll", &self.programs.path("workload"))
            .args([
                "poll",
                "--target",
                &SocketAddr::new(to, HTTP_PORT).to_string(),
            ])
            .args(["--connections", &connections.to_string()])
            .start(self.run)
    }

    /// Runs a client of the `workload` program and answers its report.
    ///
    /// # Errors
    /// When it fails or takes longer than `seconds`.
    pub fn workload(&mut self, what: &str, arguments: &[&str], seconds: u64) -> Result<Value> {
        let output = self
            .container
            .launch(what, &self.programs.path("workload"))
            .args([what])
            .args(arguments.iter().copied())
            .start(self.run)?
            .finish(Duration::from_secs(seconds))?;
        serde_json::from_str(&output).with_context(|| format!("no report: {output:?}"))
    }

    /// TCP by iperf3 to a server in another container: received Mbit/s.
    ///
    /// # Errors
    /// When iperf3 fails.
    pub fn iperf_tcp(&mut self, to: IpAddr, seconds: u32) -> Result<f64> {
        let report = self.iperf(to, seconds, &[])?;
        let rate = report["end"]["sum_received"]["bits_per_second"].as_f64();
        let rate = rate.context("iperf3 tells no rate")? / 1e6;
        ensure!(rate > 0.0, "no TCP data passed to {to}");
        Ok(rate)
    }

    /// 64-byte UDP datagrams as fast as iperf3 can, to a server in another container: received
    /// packets a second.
    ///
    /// # Errors
    /// When iperf3 fails or nothing arrives.
    pub fn iperf_udp(&mut self, to: IpAddr, seconds: u32) -> Result<f64> {
        let report = self.iperf(to, seconds, &["-u", "-b", "0", "-l", "64"])?;
        let sum = &report["end"]["sum"];
        let number = |key: &str| {
            sum[key]
                .as_f64()
                .with_context(|| format!("iperf3 tells no {key}"))
        };
        let rate = (number("packets")? - number("lost_packets")?) / number("seconds")?;
        ensure!(rate > 0.0, "no UDP datagram passed to {to}");
        Ok(rate)
    }

    fn iperf(&mut self, to: IpAddr, seconds: u32, flags: &[&str]) -> Result<Value> {
        let output = self
            .container
            .launch("iperf3", Path::new("iperf3"))
            .args(["-c", &to.to_string(), "-p", &IPERF_PORT.to_string()])
            .args([
                "-t",
                &seconds.to_string(),
                "--connect-timeout",
                "3000",
                "-J",
            ])
            .args(flags.iter().copied())
            .start(self.run)?
            .finish(Duration::from_secs(u64::from(seconds) + 15))
            .with_context(|| format!("iperf3 from {} to {to}", self.container.name()))?;
        let report: Value = serde_json::from_str(&output).context("iperf3's report is no JSON")?;
        if let Some(error) = report["error"].as_str() {
            bail!("iperf3 to {to}: {error}");
        }
        Ok(report)
    }
}

/// Starts an iperf3 server in a container and waits until it listens.
///
/// # Errors
/// When it does not come up.
pub fn iperf_server(container: &mut Container, run: &Run) -> Result<Process> {
    let mut server = container
        .launch("iperf3-server", Path::new("iperf3"))
        .args(["-s", "-p", &IPERF_PORT.to_string()])
        .start(run)?;
    let namespace = container.namespace();
    wait_for("the iperf3 server", Duration::from_secs(5), || {
        server.check_running()?;
        // A connection would be taken for a test: look at the socket table instead.
        let listening = namespace.command("ss", &["-Hltn", &format!("sport = :{IPERF_PORT}")])?;
        Ok((!listening.trim().is_empty()).then_some(()))
    })?;
    Ok(server)
}

/// Times in microseconds of each echo, and how many there were.
fn echoes(output: &str) -> (Vec<u64>, u32) {
    let mut times = Vec::new();
    for line in output.lines().filter(|line| !line.contains("DUP!")) {
        let time = line
            .split("time=")
            .nth(1)
            .and_then(|rest| rest.split(' ').next());
        if let Some(milliseconds) = time.and_then(|time| time.parse::<f64>().ok()) {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            times.push((milliseconds * 1000.0).round() as u64);
        }
    }
    let count = u32::try_from(times.len()).unwrap_or(u32::MAX);
    (times, count)
}

fn round_trip(mut times: Vec<u64>) -> RoundTrip {
    times.sort_unstable();
    let at = |percent: usize| {
        let place = (times.len() * percent).div_ceil(100).saturating_sub(1);
        times.get(place).copied().unwrap_or(0)
    };
    RoundTrip {
        p50: at(50),
        p99: at(99),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pings_are_read_without_duplicates() {
        let output = "64 bytes from 10.30.0.1: icmp_seq=1 ttl=64 time=0.123 ms\n\
                      64 bytes from 10.30.0.1: icmp_seq=1 ttl=64 time=0.400 ms (DUP!)\n\
                      64 bytes from 10.30.0.1: icmp_seq=2 ttl=64 time=1.5 ms\n";
        assert_eq!(echoes(output), (vec![123, 1500], 2));
    }

    #[test]
    fn percentiles_are_values_that_were_seen() {
        let times = (1..=100).collect();
        assert_eq!(round_trip(times), RoundTrip { p50: 50, p99: 99 });
        assert_eq!(round_trip(vec![7]), RoundTrip { p50: 7, p99: 7 });
        assert_eq!(round_trip(Vec::new()), RoundTrip::default());
    }
}
