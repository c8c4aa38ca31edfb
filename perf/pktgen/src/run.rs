//! A run: who polls what, on which lcore, until when.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use dpdk::{Eal, LaunchError};
use net::ethernet::Mac;

use crate::clock;
use crate::frame::Template;
use crate::generator::{Generator, Sent, Timing};
use crate::plan::{Flows, Plan};
use crate::profile::{Profile, ProfileError};
use crate::report::Report;
use crate::sink::Sink;
use crate::wire::Wire;

/// The ports of a run.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // Moved twice a run.
pub enum Wires {
    /// Out by one, in by another.
    Two {
        /// Out.
        tx: Wire,
        /// In.
        rx: Wire,
    },
    /// Out and back in by the same, because something reflects.
    Reflected(Wire),
    /// Out only.
    Out(Wire),
    /// In only.
    In(Wire),
}

/// What a run needs besides ports and profile.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Whom frames are for.
    pub destination: Mac,
    /// Tells the run's packets from others'.
    pub run: u64,
    /// Check transport checksums on arrival.
    pub verify: bool,
    /// How far behind the schedule may be and still be made up for.
    pub depth: Duration,
    /// How long after the last packet to wait for those under way.
    pub drain: Duration,
    /// How long a worker that does both ends of two wires sleeps when there is nothing to do; zero: not at all.
    pub nap: Duration,
}

/// Seen from outside while it runs.
#[derive(Debug, Default)]
pub struct Progress {
    /// Packets sent, that count.
    pub sent: AtomicU64,
    /// Packets received, that count.
    pub received: AtomicU64,
    /// Set to end it early.
    pub stop: AtomicBool,
    /// The sending end is through.
    ended: AtomicBool,
    /// The receiving end polls.
    ready: AtomicBool,
}

/// Why there was no run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The profile.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// The histogram.
    #[error("no histogram: {0}")]
    Histogram(#[from] hdrhistogram::CreationError),
    /// An lcore.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// It ended badly.
    #[error("the worker ended without a result, as the lines above say")]
    Worker,
}

/// A profile with its plan worked out, which a million flows take a moment for.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// As given.
    pub profile: Profile,
    plan: Plan,
}

impl Prepared {
    /// Checks a profile and lays out its plan.
    ///
    /// # Errors
    /// When the profile cannot be as it is.
    pub fn new(profile: Profile) -> Result<Self, ProfileError> {
        let plan = Plan::new(&profile)?;
        Ok(Self { profile, plan })
    }

    /// Bytes of a frame on average.
    #[must_use]
    pub fn mean_size(&self) -> f64 {
        self.plan.sizes().mean()
    }

    fn flows(&self) -> Flows {
        self.plan.flows().clone()
    }
}

/// A generator with its wire, or the other end.
struct Sending {
    wire: Wire,
    generator: Generator,
}

struct Receiving {
    wire: Wire,
    sink: Sink,
}

/// What the lcores hand back.
#[derive(Default)]
struct Ended {
    wire_out: Option<Wire>,
    wire_in: Option<Wire>,
    sent: Option<(Sent, Box<[u64]>)>,
    sink: Option<Sink>,
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Checked: below 2^48 ns.
fn nanoseconds(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}

/// Runs a profile once, and gives the wires back for the next run. With two wires and two workers each end has its own
/// lcore; else one does both.
///
/// # Errors
/// When an lcore is busy or missing, or ends badly; the wires are closed then.
pub fn run(
    eal: &Eal,
    wires: Wires,
    prepared: &Prepared,
    settings: Settings,
    progress: &Arc<Progress>,
    mut watch: impl FnMut(&Progress),
) -> Result<(Wires, Report), RunError> {
    let profile = &prepared.profile;
    let timing = Timing {
        warm_up: nanoseconds(profile.warm_up),
        duration: nanoseconds(profile.duration),
        depth: u64::try_from(settings.depth.as_nanos()).unwrap_or(u64::MAX >> 20),
    };
    let drain = u64::try_from(settings.drain.as_nanos()).unwrap_or(u64::MAX);
    progress.ended.store(false, Ordering::Release);
    progress.ready.store(false, Ordering::Release);
    progress.sent.store(0, Ordering::Relaxed);
    progress.received.store(0, Ordering::Relaxed);
    let generator = |wire: &Wire| {
        let macs = (wire.mac(), settings.destination);
        let largest = prepared.plan.sizes().largest();
        let template = Template::new(
            profile.protocol,
            profile.is_v6(),
            macs,
            largest,
            settings.run,
            wire.finishes_checksums(),
        );
        // The sinks are warm a moment later.
        let start = clock::now() + 2_000_000;
        let plan = prepared.plan.clone();
        Generator::new(
            plan,
            template,
            profile.rate.0,
            timing,
            wire.pool().clone(),
            start,
        )
    };
    let sink = || Sink::new(prepared.flows(), settings.run, settings.verify);

    let (report, results) = mpsc::channel::<Ended>();
    let mut workers = Vec::new();
    let two = eal.workers() > 1;
    match wires {
        Wires::Two { tx, rx } if two => {
            let (seen, done) = (Arc::clone(progress), report.clone());
            let end = Receiving {
                wire: rx,
                sink: sink()?,
            };
            workers.push(eal.launch(1, move || {
                let _gone = done.send(receive(end, &seen, drain, None));
            })?);
            while !progress.ready.load(Ordering::Acquire) {
                std::thread::sleep(Duration::from_millis(1));
            }
            let (seen, done) = (Arc::clone(progress), report);
            let begin = Sending {
                generator: generator(&tx),
                wire: tx,
            };
            workers.push(eal.launch(0, move || {
                let _gone = done.send(send(begin, &seen));
            })?);
        }
        Wires::Two { tx, rx } => {
            let (seen, done) = (Arc::clone(progress), report);
            let end = Receiving {
                wire: rx,
                sink: sink()?,
            };
            let begin = Sending {
                generator: generator(&tx),
                wire: tx,
            };
            workers.push(eal.launch(0, move || {
                let _gone = done.send(both(begin, end, &seen, drain, settings.nap));
            })?);
        }
        Wires::Reflected(wire) => {
            let (seen, done, sink) = (Arc::clone(progress), report, sink()?);
            let begin = Sending {
                generator: generator(&wire),
                wire,
            };
            workers.push(eal.launch(0, move || {
                let _gone = done.send(reflected(begin, sink, &seen, drain));
            })?);
        }
        Wires::Out(wire) => {
            let (seen, done) = (Arc::clone(progress), report);
            let begin = Sending {
                generator: generator(&wire),
                wire,
            };
            workers.push(eal.launch(0, move || {
                let _gone = done.send(send(begin, &seen));
            })?);
        }
        Wires::In(wire) => {
            let (seen, done) = (Arc::clone(progress), report);
            let end = Receiving {
                wire,
                sink: sink()?,
            };
            let until = timing.warm_up.saturating_add(timing.duration);
            progress.ended.store(true, Ordering::Release);
            workers.push(eal.launch(0, move || {
                let _gone = done.send(receive(end, &seen, drain, Some(until)));
            })?);
        }
    }
    while !workers.iter().all(dpdk::Worker::is_finished) {
        watch(progress);
        std::thread::sleep(Duration::from_millis(5));
    }
    for worker in workers {
        worker.join().map_err(|_| RunError::Worker)?;
    }
    let mut ended = Ended::default();
    while let Ok(one) = results.try_recv() {
        ended.wire_out = ended.wire_out.or(one.wire_out);
        ended.wire_in = ended.wire_in.or(one.wire_in);
        ended.sent = ended.sent.or(one.sent);
        ended.sink = ended.sink.or(one.sink);
    }
    let report = Report::new(
        prepared,
        &prepared.flows(),
        ended.sent.as_ref(),
        ended.sink.as_ref(),
    );
    let wires = match (ended.wire_out, ended.wire_in) {
        (Some(tx), Some(rx)) => Wires::Two { tx, rx },
        (Some(wire), None) if ended.sink.is_some() => Wires::Reflected(wire),
        (Some(wire), None) => Wires::Out(wire),
        (None, Some(wire)) => Wires::In(wire),
        (None, None) => return Err(RunError::Worker),
    };
    Ok((wires, report))
}

impl Ended {
    fn sending(sending: Sending) -> Self {
        Self {
            sent: Some((
                sending.generator.sent(),
                sending.generator.services().into(),
            )),
            wire_out: Some(sending.wire),
            ..Self::default()
        }
    }
}

fn publish(progress: &Progress, sending: &Sending) {
    progress
        .sent
        .store(sending.generator.sent().packets, Ordering::Relaxed);
}

/// Sends until it is through; what arrives here is answered or dropped, so that nothing piles up.
fn send(mut begin: Sending, progress: &Progress) -> Ended {
    while !begin.generator.finished() && !progress.stop.load(Ordering::Relaxed) {
        let now = clock::now();
        if begin.generator.step(&mut begin.wire.tx, now) {
            publish(progress, &begin);
        }
        begin.wire.poll(None);
    }
    publish(progress, &begin);
    progress.ended.store(true, Ordering::Release);
    Ended::sending(begin)
}

/// When a sink may stop.
struct Drain {
    nanoseconds: u64,
    since: Option<u64>,
}

impl Drain {
    /// Whether everything that was sent is here, or has had its time.
    fn over(&mut self, sink: &Sink, progress: &Progress, now: u64) -> bool {
        if !progress.ended.load(Ordering::Acquire) {
            return false;
        }
        let ended = *self.since.get_or_insert(now);
        let complete = sink.tally().received() >= progress.sent.load(Ordering::Relaxed);
        // As long as some still come, up to ten times as long.
        let quiet = now.saturating_sub(sink.last().max(ended)) > self.nanoseconds;
        (complete && now.saturating_sub(ended) > self.nanoseconds / 10)
            || quiet
            || now.saturating_sub(ended) > self.nanoseconds.saturating_mul(10)
    }
}

/// Receives until what was sent is here; or, with nobody sending, for a time.
fn receive(mut end: Receiving, progress: &Progress, drain: u64, only: Option<u64>) -> Ended {
    let mut drain = Drain {
        nanoseconds: drain,
        since: None,
    };
    let begin = clock::now();
    progress.ready.store(true, Ordering::Release);
    let mut round = 0u32;
    loop {
        let got = end.wire.poll(Some(&mut end.sink));
        // The clock is looked at now and then, sooner when there is nothing else to do.
        round = round.wrapping_add(if got > 0 { 1 } else { 16 });
        if round < 1024 {
            continue;
        }
        round = 0;
        progress
            .received
            .store(end.sink.tally().received(), Ordering::Relaxed);
        let now = clock::now();
        let over = match only {
            Some(until) => now - begin > until,
            None => drain.over(&end.sink, progress, now),
        };
        if over || progress.stop.load(Ordering::Relaxed) {
            break;
        }
    }
    Ended {
        wire_in: Some(end.wire),
        sink: Some(end.sink),
        ..Ended::default()
    }
}

/// Both ends on one lcore.
fn both(
    mut begin: Sending,
    mut end: Receiving,
    progress: &Progress,
    drain: u64,
    nap: Duration,
) -> Ended {
    let mut drain = Drain {
        nanoseconds: drain,
        since: None,
    };
    loop {
        let now = clock::now();
        let sent = begin.generator.step(&mut begin.wire.tx, now);
        let got = end.wire.poll(Some(&mut end.sink));
        begin.wire.poll(None);
        if tick(
            &begin,
            &end.sink,
            progress,
            sent || got > 0,
            &mut drain,
            now,
        ) {
            break;
        }
        if !nap.is_zero() && !sent && got == 0 {
            std::thread::sleep(nap);
        }
    }
    Ended {
        wire_in: Some(end.wire),
        sink: Some(end.sink),
        ..Ended::sending(begin)
    }
}

/// Both ends on one port.
fn reflected(mut begin: Sending, mut sink: Sink, progress: &Progress, drain: u64) -> Ended {
    let mut drain = Drain {
        nanoseconds: drain,
        since: None,
    };
    loop {
        let now = clock::now();
        let sent = begin.generator.step(&mut begin.wire.tx, now);
        let got = begin.wire.poll(Some(&mut sink));
        if tick(&begin, &sink, progress, sent || got > 0, &mut drain, now) {
            break;
        }
    }
    Ended {
        sink: Some(sink),
        ..Ended::sending(begin)
    }
}

/// Publishes what happened; whether it is over.
#[inline]
fn tick(
    begin: &Sending,
    sink: &Sink,
    progress: &Progress,
    busy: bool,
    drain: &mut Drain,
    now: u64,
) -> bool {
    if busy {
        publish(progress, begin);
        progress
            .received
            .store(sink.tally().received(), Ordering::Relaxed);
    }
    if begin.generator.finished() {
        progress.ended.store(true, Ordering::Release);
    }
    progress.stop.load(Ordering::Relaxed) || drain.over(sink, progress, now)
}
