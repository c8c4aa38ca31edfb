//! A packet generator on DPDK: flows, rates, latency, loss, and the search for the highest rate that passes.

#![forbid(unsafe_code)]

mod options;

use std::fs::File;
use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser as _;
use dpdk::{Eal, EalError, EalOptions, Memory};
use net::Address;
use net::ethernet::Mac;
use pktgen::draw::mix;
use pktgen::export;
use pktgen::neighbour::Own;
use pktgen::pace::Rate;
use pktgen::profile::{Profile, Speed};
use pktgen::report::{Report, search_table};
use pktgen::run::{Prepared, Progress, Settings, Wires, run};
use pktgen::search::{Goal, Limits, Outcome, Search};
use pktgen::wire::{self, Wire};
use serde::Serialize;

use options::{Arguments, Both, Command, Exporting, Machine, Out, Searching, SinkOnly};

impl Machine {
    /// By default from the first CPU on; a sink of its own takes the last, so that a generator beside it is not in its way.
    fn cpus(&self, ends: usize, last: bool) -> Result<Vec<usize>> {
        ensure!(
            self.cpus.len() <= 2,
            "--cpus takes one CPU for both ends, or one for each"
        );
        if !self.cpus.is_empty() {
            return Ok(self.cpus.iter().copied().take(ends).collect());
        }
        let allowed = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0))
            .context("the CPUs of this process")?;
        let cpus: Vec<usize> = (0..nix::sched::CpuSet::count())
            .filter(|cpu| allowed.is_set(*cpu).unwrap_or(false))
            .collect();
        if last {
            return Ok(cpus.last().copied().into_iter().collect());
        }
        let count = if cpus.len() >= 4 { ends } else { 1 };
        Ok(cpus.into_iter().take(count).collect())
    }

    fn start(&self, ports: &[&str], mtu: u16, last: bool) -> Result<Eal> {
        let wires = u32::try_from(ports.len()).unwrap_or(2);
        let needed = self.memory.unwrap_or_else(|| wire::megabytes(wires, mtu));
        let options = EalOptions {
            file_prefix: format!("pktgen-{}", std::process::id()),
            workers: self
                .cpus(ports.len(), last)?
                .into_iter()
                .map(|cpu| vec![cpu])
                .collect(),
            memory: Memory::NoHuge { megabytes: needed },
            pci_allow: ports
                .iter()
                .filter(|port| wire::is_pci(port))
                .map(|port| (*port).to_owned())
                .collect(),
            ..EalOptions::default()
        };
        if !self.no_huge && self.memory.is_none() {
            let huge = EalOptions {
                memory: Memory::Hugepages { dir: None },
                ..options.clone()
            };
            match Eal::init(huge) {
                Err(EalError::NoHugetlbfs | EalError::NoHugepages | EalError::Permission(_)) => {}
                other => {
                    return other.context("with hugepages (--no-huge takes ordinary memory)");
                }
            }
        }
        Ok(Eal::init(options)?)
    }

    /// What --rx answers for.
    fn own(&self, profile: &Profile) -> Own {
        let mut own = Own::default();
        if !self.answer_arp {
            return own;
        }
        for address in &self.address {
            own.add((*address).into(), 1);
        }
        if own.is_empty() {
            own.add(
                profile.destination.address.into(),
                profile.destination.count,
            );
        }
        own
    }
}

fn open(devargs: &str, mtu: u16, own: Own) -> Result<Wire> {
    let wire = Wire::open(devargs, mtu, own)?;
    if !wire.wait_for_link(Duration::from_secs(5)) {
        eprintln!("pktgen: the link of {} is down; going on", wire.name());
    }
    Ok(wire)
}

/// Does something in a network namespace: a socket that is opened there stays there.
fn inside<T>(namespace: Option<&Path>, action: impl FnOnce() -> Result<T>) -> Result<T> {
    let Some(namespace) = namespace else {
        return action();
    };
    let path = match namespace.components().count() {
        1 => Path::new("/run/netns").join(namespace),
        _ => namespace.to_owned(),
    };
    let file = |path: &Path| {
        File::open(path).with_context(|| format!("the network namespace {}", path.display()))
    };
    let back = file(Path::new("/proc/thread-self/ns/net"))?;
    let enter = |file: File| nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET);
    enter(file(&path)?)
        .with_context(|| format!("entering the network namespace {}, as root", path.display()))?;
    let done = action();
    enter(back).context("leaving a network namespace")?;
    done
}

/// Ports, opened, and whom frames are for.
fn wires(out: &Out, machine: &Machine, profile: &Profile) -> Result<(Wires, Mac)> {
    let mut sources = Own::default();
    if machine.answer_arp {
        sources.add(profile.source.address.into(), profile.source.count);
    }
    let mut tx = inside(out.tx_netns.as_deref(), || {
        open(&out.tx, profile.mtu, sources)
    })?;
    let mut rx = match &out.rx {
        Some(rx) => Some(inside(out.rx_netns.as_deref(), || {
            open(rx, profile.mtu, machine.own(profile))
        })?),
        None => None,
    };
    let source = Address::from(profile.source.address);
    let mac = if let Some(mac) = out.gateway_mac {
        mac
    } else if let Some(gateway) = out.gateway {
        ensure!(
            gateway.is_ipv4() == profile.source.address.is_ipv4(),
            "--gateway {gateway} is not of the family of the source, {}",
            profile.source.address
        );
        tx.resolve(gateway.into(), source, rx.as_mut(), ASKING)?
    } else if let Some(rx) = &rx {
        rx.mac()
    } else if profile.destination.count == 1 {
        tx.resolve(profile.destination.address.into(), source, None, ASKING)?
    } else {
        bail!("there are several destinations and no gateway: give --gateway or --gateway-mac")
    };
    let wires = match rx {
        Some(rx) => Wires::Two { tx, rx },
        None if out.reflect => Wires::Reflected(tx),
        None => Wires::Out(tx),
    };
    Ok((wires, mac))
}

/// How long to ask for a MAC address.
const ASKING: Duration = Duration::from_secs(5);

/// A line on a terminal, once a second.
struct Line {
    shown: Option<Instant>,
    before: (u64, u64),
    terminal: bool,
}

impl Line {
    fn new() -> Self {
        Self {
            shown: None,
            before: (0, 0),
            terminal: std::io::stderr().is_terminal(),
        }
    }

    #[allow(clippy::cast_precision_loss)] // For people.
    fn show(&mut self, progress: &Progress) {
        if !self.terminal {
            return;
        }
        let Some(shown) = self.shown else {
            self.shown = Some(Instant::now());
            return;
        };
        let passed = shown.elapsed();
        if passed < Duration::from_secs(1) {
            return;
        }
        let now = (
            progress.sent.load(Ordering::Relaxed),
            progress.received.load(Ordering::Relaxed),
        );
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / passed.as_secs_f64();
        eprint!(
            "\r\x1b[Ksent {} ({:.0}/s), received {} ({:.0}/s)",
            now.0,
            rate(now.0, self.before.0),
            now.1,
            rate(now.1, self.before.1)
        );
        self.before = now;
        self.shown = Some(Instant::now());
    }

    fn clear(&self) {
        if self.terminal && self.shown.is_some() {
            eprint!("\r\x1b[K");
        }
    }
}

fn interruptible() -> Result<Arc<Progress>> {
    let progress = Arc::new(Progress::default());
    let mut signals = signal_hook::iterator::Signals::new([
        signal_hook::consts::SIGINT,
        signal_hook::consts::SIGTERM,
    ])
    .context("watching for signals")?;
    let stopped = Arc::clone(&progress);
    std::thread::spawn(move || {
        for _ in signals.forever() {
            stopped.stop.store(true, Ordering::Relaxed);
        }
    });
    Ok(progress)
}

fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .context("writing the result")
}

fn print_report(report: &Report, json: bool) -> Result<()> {
    if json {
        return print(&format!("{}\n", serde_json::to_string(report)?));
    }
    print(&report.table(std::io::stdout().is_terminal()))
}

fn settings(machine: &Machine, seed: u64, destination: Mac, bucket: u64) -> Settings {
    Settings {
        destination,
        run: mix(seed ^ mix(machine.run)),
        verify: machine.verify,
        depth: Duration::from_millis(bucket.min(60_000)),
        drain: Duration::from_millis(machine.drain),
        nap: Duration::from_micros(machine.nap),
    }
}

fn send(both: &Both) -> Result<()> {
    let prepared = Prepared::new(both.traffic.profile()?)?;
    let profile = &prepared.profile;
    let ports: Vec<&str> = std::iter::once(both.out.tx.as_str())
        .chain(both.out.rx.as_deref())
        .collect();
    let progress = interruptible()?;
    let eal = both.machine.start(&ports, profile.mtu, false)?;
    let (wires, mac) = wires(&both.out, &both.machine, profile)?;
    let settings = settings(&both.machine, profile.seed, mac, both.out.bucket);
    let mut line = Line::new();
    let (wires, report) = run(&eal, wires, &prepared, settings, &progress, |progress| {
        line.show(progress);
    })?;
    line.clear();
    print_report(&report, both.machine.json)?;
    drop(wires);
    drop(eal);
    Ok(())
}

fn receive(sink: &SinkOnly) -> Result<()> {
    let prepared = Prepared::new(sink.traffic.profile()?)?;
    let profile = &prepared.profile;
    let progress = interruptible()?;
    let eal = sink.machine.start(&[&sink.rx], profile.mtu, true)?;
    let wire = open(&sink.rx, profile.mtu, sink.machine.own(profile))?;
    let settings = settings(&sink.machine, profile.seed, Mac([0; 6]), 0);
    let mut line = Line::new();
    let (wires, report) = run(
        &eal,
        Wires::In(wire),
        &prepared,
        settings,
        &progress,
        |progress| line.show(progress),
    )?;
    line.clear();
    print_report(&report, sink.machine.json)?;
    drop(wires);
    drop(eal);
    Ok(())
}

/// The result of a search.
#[derive(Serialize)]
struct Found {
    outcomes: Vec<Outcome>,
    trials: Vec<Tried>,
}

#[derive(Serialize)]
struct Tried {
    asked_packets_per_second: f64,
    seconds: f64,
    sent: u64,
    lost: u64,
    preliminary: bool,
}

fn search(searching: &Searching) -> Result<()> {
    let both = &searching.both;
    ensure!(
        both.out.rx.is_some() || both.out.reflect,
        "a search counts what arrives: give --rx, or --reflect"
    );
    let base = both.traffic.profile()?;
    ensure!(
        searching.trial >= 0.01 && searching.trial <= 3600.0,
        "--trial takes 0.01 to 3600 seconds"
    );
    let limits = Limits {
        duration: Duration::from_secs_f64(searching.trial),
        max_trials: searching.max_trials,
        ..Limits::new(searching.min, searching.max)
    };
    let goals = searching.loss.iter().map(|&loss| Goal {
        trials: searching.trials,
        precision: searching.precision,
        ..Goal::with_loss(loss)
    });
    let mut search = Search::new(limits, goals)?;
    let mut prepared = Prepared::new(base)?;
    let ports: Vec<&str> = std::iter::once(both.out.tx.as_str())
        .chain(both.out.rx.as_deref())
        .collect();
    let progress = interruptible()?;
    let eal = both.machine.start(&ports, prepared.profile.mtu, false)?;
    let (mut wires, mac) = wires(&both.out, &both.machine, &prepared.profile)?;
    let terminal = std::io::stderr().is_terminal();
    let mut tried = Vec::new();
    while let Some(trial) = search.next() {
        prepared.profile.rate = Speed(Rate::Packets(trial.rate));
        prepared.profile.duration = trial.duration.as_secs_f64();
        let mut settings = settings(&both.machine, prepared.profile.seed, mac, both.out.bucket);
        // What is still under way from the last trial is not counted in this one.
        settings.run = mix(settings.run ^ u64::from(search.trials()));
        let (back, report) = run(&eal, wires, &prepared, settings, &progress, |_| {})?;
        wires = back;
        ensure!(!progress.stop.load(Ordering::Relaxed), "interrupted");
        let (Some(sent), Some(lost)) = (report.sent, report.lost) else {
            bail!("a trial had no result");
        };
        search.record(&trial, sent.packets, lost.packets);
        if terminal {
            let (offered, loss) = (sent.packets_per_second, lost.ratio * 100.0);
            eprintln!(
                "{:>12.0} asked, {offered:>12.0} offered, {loss:.4} % lost",
                trial.rate
            );
        }
        tried.push(Tried {
            asked_packets_per_second: trial.rate,
            seconds: trial.duration.as_secs_f64(),
            sent: sent.packets,
            lost: lost.packets,
            preliminary: trial.is_preliminary(),
        });
    }
    let outcomes = search.results();
    if both.machine.json {
        let found = Found {
            outcomes,
            trials: tried,
        };
        print(&format!("{}\n", serde_json::to_string(&found)?))?;
    } else {
        print(&search_table(&outcomes, std::io::stdout().is_terminal()))?;
    }
    drop(wires);
    drop(eal);
    Ok(())
}

fn write_export(exporting: &Exporting) -> Result<()> {
    let profile = exporting.traffic.profile()?;
    profile.check()?;
    let exported = export::write(&profile, exporting.to);
    for note in &exported.notes {
        eprintln!("pktgen: {note}");
    }
    match &exporting.output {
        Some(path) => std::fs::write(path, exported.text)
            .with_context(|| format!("writing {}", path.display())),
        None => print(&exported.text),
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match &arguments.command {
        Command::Run(both) => send(both),
        Command::Sink(sink) => receive(sink),
        Command::Search(searching) => search(searching),
        Command::Export(exporting) => write_export(exporting),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pktgen: {error:#}");
            ExitCode::FAILURE
        }
    }
}
