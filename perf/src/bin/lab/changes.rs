//! Routes that change 1,000 times a second while the highest lossless rate passes: the packets lost by that, as the time
//! for which so many were not carried (*effective blocked time*).
//!
//! The changes come the way that they do in production: a node announces instances at other addresses, the cluster
//! manager writes that down and publishes it, and the node that carries the packets, which has an interest in these
//! jobs, reads their tables again.
//!
//! On a small machine broker and managers take processor time from the nodes. That is not what is asked, so beside each
//! trial stands one with as many changes of jobs that the node has no interest in, and the rate is one at which these
//! cost no packet.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::Path;
use std::process::ChildStdin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use journeys::namespace::Namespace;
use journeys::process::{Launch, Process};
use journeys::run::Stage;
use journeys::services::BROKER_PORT;
use journeys::topology::Topology;
use serde_json::json;

use crate::bench::Bench;
use crate::plan::Case;
use crate::probe::{Counted, Load, Probe, Traffic};
use crate::results::{Better, Figure, OURS, Values};
use crate::search::lower_until;

/// The manager joins changes of one job that come close together, so there are many.
const JOBS: u8 = 40;
const INSTANCES: u8 = 2;
/// In the names of the jobs that the client dials.
const DIALLED: &str = "dialled";
/// Addresses of a node's subnetwork, a power of two; those that it gives to containers last are taken here.
const SUBNETWORK: u32 = 64;
const FIRST: u32 = 32;
const ADDRESSES: u32 = 30;
/// A second.
const CHANGES: u32 = 1_000;
/// Where fewer changes a second than this come through, the packets take all processor time: the rate is lowered as after
/// a loss.
const PUBLISHED: f64 = 100.0;
/// Changes that wait are through when none was published for this; at the latest after that.
const QUIET: Duration = Duration::from_millis(300);
const SETTLED: Duration = Duration::from_secs(15);
/// So often it is lowered; a machine that loses even then shows it in the figure.
const SLOWER_AT_MOST: u32 = 12;
/// As many at a time as a millisecond's sleep is worth.
const TOGETHER: u32 = 5;

/// What changes.
struct Jobs {
    kind: &'static str,
    names: Vec<String>,
    addresses: Vec<IpAddr>,
    host: String,
    /// Of the second node: nothing else is believed of it.
    subnetwork: Ipv4Addr,
    /// Of the program that publishes each line.
    input: ChildStdin,
    made: u32,
    #[allow(dead_code)] // its process is the run's
    publisher: Process,
    subscriber: Process,
}

/// What a trial with changes saw.
struct Seen {
    counted: Counted,
    /// Changes a second that the cluster manager published.
    published: f64,
}

/// Measures ours.
///
/// # Errors
/// When the jobs cannot be deployed or nothing passes.
pub fn measure(bench: &mut Bench, case: Case) -> Result<()> {
    let found = bench.lossless()?;
    let way = bench.our_way()?;
    let mut load = Load {
        traffic: Traffic::Datagrams,
        rate: found,
        flows: 1,
        seconds: bench.pace.seconds.max(1.0),
        by: bench.generator,
    };
    bench.progress.say("churn: deploying what changes");
    let subnetwork = subnetwork_of(&way.server)?;
    let (mut others, mut jobs) = {
        let (_awake, ours) = bench.field.ours_mut()?;
        (
            Jobs::deploy(ours.topology_mut(), subnetwork, "other")?,
            Jobs::deploy(ours.topology_mut(), subnetwork, DIALLED)?,
        )
    };
    let mut blocked = Values::new();
    let mut lost = Values::new();
    let mut quiet = Values::new();
    let mut rates = Values::new();
    let mut published = Values::new();
    for round in 0..bench.pace.rounds_of(case) {
        if !bench.another(case, round, 1) {
            break;
        }
        bench
            .progress
            .say(&format!("churn, round {}: {}/s", round + 1, load.rate));
        let (_awake, ours) = bench.field.ours_mut()?;
        let probe = Probe {
            way: &way,
            means: ours.means(),
        };
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss
        )] // a rate
        let (_, without) = lower_until(
            load.rate as f64,
            SLOWER_AT_MOST,
            |rate| {
                load.rate = (rate as u64).max(1);
                others.change_during(&way.client, || probe.load(&load))
            },
            |seen| seen.counted.lost == 0.0 && seen.published >= PUBLISHED,
        )?;
        let with = jobs.change_during(&way.client, || probe.load(&load))?;
        let keep = |values: &mut Values, value: f64| {
            values.entry(OURS.into()).or_default().insert(round, value);
        };
        keep(&mut quiet, without.counted.lost);
        keep(&mut rates, with.counted.offered_per_second());
        keep(&mut lost, with.counted.lost);
        let time = with.counted.lost / with.counted.offered_per_second();
        keep(&mut blocked, time * 1000.0);
        keep(&mut published, with.published);
        let step = bench.pace.thought(case, 1);
        bench.progress.done(step);
    }
    for (name, unit, better, values) in [
        ("blocked", "ms", Better::Lower, &blocked),
        ("lost", "datagrams", Better::Lower, &lost),
        (
            "lost beside changes elsewhere",
            "datagrams",
            Better::Lower,
            &quiet,
        ),
        ("rate", "datagrams/s", Better::Higher, &rates),
        ("changes published", "1/s", Better::Higher, &published),
    ] {
        bench
            .figures
            .push(Figure::new(&case.name(), name, unit, better, values));
    }
    Ok(())
}

impl Jobs {
    fn deploy(topology: &mut Topology, subnetwork: Ipv4Addr, kind: &'static str) -> Result<Jobs> {
        let mut names = Vec::new();
        let mut services = Vec::new();
        for number in 0..JOBS {
            let name = format!("lab.test.{kind}{number}.default");
            let (service, _none) = topology.deploy(&name, &[])?;
            for instance in 0..INSTANCES {
                topology
                    .orchestrator()
                    .deploy_instance(&service, instance.into())?;
            }
            names.push(name);
            services.push(service);
        }
        let node = topology.nodes.get(1).context("a second node")?;
        let host = node.underlay.to_string();
        let id = node.id.clone();
        let client = |name: &str, program: &str, arguments: &[&str]| {
            Launch::new(
                name,
                Path::new(program),
                &topology.cluster.namespace,
                Stage::Workload,
            )
            .args(["-h", &topology.broker.address.to_string()])
            .args(["-p", &BROKER_PORT.to_string()])
            .args(arguments.iter().copied())
            .start(topology.run())
        };
        let announced = format!("nodes/{id}/net/service/deployed");
        let mut publisher = client(
            &format!("changes-{kind}"),
            "mosquitto_pub",
            &["-t", &announced, "-q", "1", "-l"],
        )?;
        let subscriber = client(
            &format!("changes-{kind}-seen"),
            "mosquitto_sub",
            &["-t", "jobs/+/updates_available", "-F", "%t"],
        )?;
        let mut jobs = Jobs {
            kind,
            names,
            addresses: Vec::new(),
            host,
            subnetwork,
            input: publisher.stdin().context("the publisher's input")?,
            made: 0,
            publisher,
            subscriber,
        };
        // Each once, so that all of them run.
        for _ in 0..u32::from(JOBS) * u32::from(INSTANCES) {
            jobs.announce()?;
        }
        let wanted: Vec<_> = services
            .iter()
            .map(|service| (service, usize::from(INSTANCES)))
            .collect();
        let tables = topology.wait_running(&wanted)?;
        jobs.addresses = tables.iter().map(|table| table.service_ip).collect();
        Ok(jobs)
    }

    /// The next instance is at another address now.
    fn announce(&mut self) -> Result<()> {
        let (job, instance, address) = place(self.made);
        let name = self.names.get(job).context("a job")?;
        let line = json!({
            "appname": name, "status": "DEPLOYED", "instance_number": instance,
            "nsip": Ipv4Addr::from(u32::from(self.subnetwork) + address), "host_ip": self.host, "host_port": "50103",
        });
        self.made += 1;
        writeln!(self.input, "{line}").context("the publisher has ended")
    }

    /// Changes routes while `measure` runs. A packet a second to each job that is dialled keeps the client's node interested.
    fn change_during(
        &mut self,
        client: &Namespace,
        measure: impl FnOnce() -> Result<Counted>,
    ) -> Result<Seen> {
        self.show_interest(client)?;
        let published = self.published()?;
        let begun = Instant::now();
        let end = AtomicBool::new(false);
        let measured = std::thread::scope(|scope| {
            let changing = scope.spawn(|| -> Result<()> {
                let (begun, first) = (Instant::now(), self.made);
                while !end.load(Ordering::Relaxed) {
                    let due = Duration::from_secs(1) * (self.made - first) / CHANGES;
                    if let Some(early) = due.checked_sub(begun.elapsed()) {
                        std::thread::sleep(early);
                    }
                    for _ in 0..TOGETHER {
                        self.announce()?;
                    }
                    if (self.made - first).is_multiple_of(CHANGES) {
                        self.show_interest(client)?;
                    }
                }
                Ok(())
            });
            let measured = measure();
            end.store(true, Ordering::Relaxed);
            match changing.join() {
                Ok(changed) => changed.and(measured),
                Err(_) => bail!("the thread that changes routes panicked"),
            }
        })?;
        let time = begun.elapsed().as_secs_f64();
        #[allow(clippy::cast_precision_loss)] // some thousands
        let published = (self.published()? - published) as f64 / time;
        ensure!(
            published > 0.0 || self.kind != DIALLED,
            "the cluster manager published no change: {}",
            self.subscriber.last_words()
        );
        self.settle()?;
        Ok(Seen {
            counted: measured,
            published,
        })
    }

    /// Waits until what the broker and the manager had not come to is through: it is not part of another trial.
    fn settle(&mut self) -> Result<()> {
        let deadline = Instant::now() + SETTLED;
        let (mut seen, mut since) = (0, Instant::now());
        while since.elapsed() < QUIET && Instant::now() < deadline {
            std::thread::sleep(QUIET / 10);
            let now = self.subscriber.output()?.len();
            if now != seen {
                (seen, since) = (now, Instant::now());
            }
        }
        Ok(())
    }

    fn show_interest(&self, client: &Namespace) -> Result<()> {
        if self.kind != DIALLED {
            return Ok(());
        }
        client.enter(|| -> Result<()> {
            for address in &self.addresses {
                let socket = UdpSocket::bind("0.0.0.0:0")?;
                socket.send_to(b"?", (*address, 9))?;
            }
            Ok(())
        })?
    }

    /// Changes that the nodes were told of so far.
    fn published(&mut self) -> Result<usize> {
        self.subscriber.check_running()?;
        let seen = self.subscriber.output()?;
        Ok(seen
            .lines()
            .filter(|line| line.contains(&format!(".{}", self.kind)))
            .count())
    }
}

/// The subnetwork of the node that a container is on, by the container's own address.
fn subnetwork_of(container: &Namespace) -> Result<Ipv4Addr> {
    let told = container.ip(&["-4", "-oneline", "address", "show", "scope", "global"])?;
    let address = told.split_whitespace().skip_while(|word| *word != "inet");
    let address = address.skip(1).find_map(|word| word.split('/').next());
    let address: Ipv4Addr = address
        .and_then(|address| address.parse().ok())
        .with_context(|| format!("no address in {told:?}"))?;
    Ok(Ipv4Addr::from(u32::from(address) & !(SUBNETWORK - 1)))
}

/// Job, instance, and the last part of its address in a change.
fn place(number: u32) -> (usize, u32, u32) {
    let (jobs, instances) = (u32::from(JOBS), u32::from(INSTANCES));
    let job = usize::try_from(number % jobs).unwrap_or(0);
    let time = number / (jobs * instances);
    (job, number / jobs % instances, FIRST + time % ADDRESSES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_moves_an_instance_elsewhere() {
        let all = u32::from(JOBS) * u32::from(INSTANCES);
        for number in 0..all {
            let (before, after) = (place(number), place(number + all));
            assert_eq!((before.0, before.1), (after.0, after.1));
            assert_ne!(before.2, after.2);
        }
        let mut first: Vec<_> = (0..all).map(place).collect();
        first.sort_unstable();
        first.dedup();
        assert_eq!(first.len(), all as usize, "each instance once");
    }
}
