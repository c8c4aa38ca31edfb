//! Runs the cases: peers take turns in each round, another one first each time, and a peer's failure is its own.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use perf::ways::kernel::NAME as KERNEL;
use perf::ways::{Awake, Field, Nodes, Settings, Way};

use crate::busy;
use crate::generator::Generator;
use crate::plan::{Case, Pace};
use crate::probe::{Connections, Load, Probe, Traffic, Trips};
use crate::progress::Progress;
use crate::results::{Better, Figure, OURS, Values};
use crate::search::{Found, GOALS, PDR_LOSS, lower_until, search};
use crate::{changes, soak};

/// What a run measures with, and what it has found.
pub struct Bench {
    /// The field that stands, or none between two fields.
    pub field: Field,
    /// How it was laid.
    pub settings: Settings,
    /// Who sends datagrams.
    pub generator: Generator,
    /// How thorough.
    pub pace: Pace,
    /// For the person who waits.
    pub progress: Progress,
    /// Found so far.
    pub figures: Vec<Figure>,
    /// Not measured, and why.
    pub skipped: BTreeMap<String, String>,
    /// The highest rate with half a percent of loss between two nodes, by peer.
    pdr: BTreeMap<String, f64>,
    /// The highest without loss, ours.
    ndr: Option<f64>,
    alone: Option<Way>,
}

/// Values of peers by round, and why some have none.
struct Rounds<T> {
    values: BTreeMap<String, BTreeMap<u16, T>>,
    missing: BTreeMap<String, String>,
}

impl<T> Rounds<T> {
    /// One number of each value.
    fn each(&self, of: impl Fn(&T) -> f64) -> Values {
        let rounds = |rounds: &BTreeMap<u16, T>| {
            let values = rounds.iter().map(|(&round, value)| (round, of(value)));
            values.collect()
        };
        let values = self.values.iter();
        let values = values.map(|(peer, values)| (peer.clone(), rounds(values)));
        values.collect()
    }

    fn figure(
        &self,
        case: Case,
        name: &str,
        unit: &str,
        better: Better,
        of: impl Fn(&T) -> f64,
    ) -> Figure {
        Figure::new(&case.name(), name, unit, better, &self.each(of)).without(&self.missing)
    }
}

const PER_SECOND: &str = "datagrams/s";
/// So often a rate is lowered at most until it holds.
const SLOWER_AT_MOST: u32 = 8;

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a rate
fn whole(rate: f64) -> u64 {
    rate.round() as u64
}

impl Bench {
    /// Around a field.
    #[must_use]
    pub fn new(
        field: Field,
        settings: Settings,
        generator: Generator,
        pace: Pace,
        progress: Progress,
    ) -> Bench {
        Bench {
            field,
            settings,
            generator,
            pace,
            progress,
            figures: Vec::new(),
            skipped: BTreeMap::new(),
            pdr: BTreeMap::new(),
            ndr: None,
            alone: None,
        }
    }

    /// The same with a field for a case that needs other settings; the old one is taken down first.
    ///
    /// # Errors
    /// When the new field does not come up.
    pub fn on_another_field(
        self,
        lay: impl Fn(Settings, &Progress) -> Result<Field>,
        case: Case,
    ) -> Result<Bench> {
        let settings = Settings {
            offloads: case.offloads(),
            ..self.settings
        };
        self.field.down()?;
        let field = lay(settings, &self.progress)?;
        Ok(Bench {
            field,
            settings,
            alone: None,
            ..self
        })
    }

    /// What was found, and what is to be taken down.
    #[must_use]
    pub fn finish(self) -> (Field, Progress, Vec<Figure>, BTreeMap<String, String>) {
        (self.field, self.progress, self.figures, self.skipped)
    }

    fn there(&self, nodes: Nodes) -> Vec<&'static str> {
        let peers = self.field.peers().iter();
        let there = peers.filter(|laid| laid.absent(nodes).is_none());
        there.map(perf::ways::Laid::name).collect()
    }

    fn awake(&self, peer: &str, nodes: Nodes) -> Result<Awake<'_>> {
        let laid = self.field.peers().iter().find(|laid| laid.name() == peer);
        match laid {
            Some(laid) => laid.wake(nodes),
            None => bail!("{peer} is not here"),
        }
    }

    /// Measures on a peer's way, which is awake for as long.
    fn on<T>(
        &self,
        peer: &str,
        nodes: Nodes,
        measure: impl FnOnce(Probe<'_>) -> Result<T>,
    ) -> Result<T> {
        let way = self.awake(peer, nodes)?;
        measure(Probe {
            way: &way,
            means: self.field.means(),
        })
    }

    /// Runs a case.
    ///
    /// # Errors
    /// When the run is ended by a signal. Everything else is said in the results.
    pub fn run(&mut self, case: Case) -> Result<()> {
        let peers = self.there(case.nodes()).len();
        let step = self.pace.thought(case, peers);
        if !self.progress.has_time_for(step) {
            self.skipped.insert(
                case.name(),
                "no time left in --quick: name the case, or run --full".into(),
            );
            self.progress.done(step * self.pace.rounds_of(case).into());
            return Ok(());
        }
        let outcome = match case {
            Case::TwoUdp64 | Case::OneUdp64 => self.rates(case),
            Case::TwoTcp | Case::OneTcp | Case::TwoTcpMtu => self.tcp(case),
            Case::TwoRr => self.requests(case),
            Case::TwoConnections => self.connections(case),
            Case::TwoBusy | Case::OneBusy => self.busy(case),
            Case::Latency => self.latency(case),
            Case::Flows => self.flows(case),
            Case::Churn => changes::measure(self, case),
            Case::Soak => soak::measure(self, case),
            Case::Scaling => self.scaling(case),
        };
        match outcome {
            Err(error) if journeys::signals::interrupted() => Err(error),
            Err(error) => {
                self.skipped.insert(case.name(), format!("{error:#}"));
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Whether another round fits in; that it does not is said.
    pub fn another(&mut self, case: Case, round: u16, peers: usize) -> bool {
        let step = self.pace.thought(case, peers);
        if round == 0 || self.progress.has_time_for(step) {
            return true;
        }
        let rounds = self.pace.rounds_of(case);
        self.skipped.insert(
            format!("{}, rounds {} to {rounds}", case.name(), round + 1),
            "no time left in --quick".into(),
        );
        self.progress.done(step * u32::from(rounds - round));
        false
    }

    /// Measures all peers in turn.
    fn rounds<T>(
        &mut self,
        case: Case,
        measure: impl Fn(&str, Probe<'_>) -> Result<T>,
    ) -> Result<Rounds<T>> {
        let nodes = case.nodes();
        let mut rounds = Rounds {
            values: BTreeMap::new(),
            missing: BTreeMap::new(),
        };
        for laid in self.field.peers() {
            if let Some(why) = laid.absent(nodes) {
                let why = why.to_owned();
                rounds.missing.insert(laid.name().to_owned(), why);
            }
        }
        let peers = self.there(nodes);
        let all = self.pace.rounds_of(case);
        for round in 0..all {
            if !self.another(case, round, peers.len()) {
                break;
            }
            for turn in 0..peers.len() {
                let Some(&peer) = peers.get((usize::from(round) + turn) % peers.len()) else {
                    continue;
                };
                self.progress.say(&format!(
                    "{}, round {} of {all}: {peer}",
                    case.name(),
                    round + 1
                ));
                let value = self.on(peer, nodes, |probe| measure(peer, probe));
                match value {
                    Ok(value) => {
                        let values = rounds.values.entry(peer.to_owned()).or_default();
                        values.insert(round, value);
                    }
                    Err(error) if journeys::signals::interrupted() => return Err(error),
                    Err(error) => {
                        let why = format!("round {}: {error:#}", round + 1);
                        rounds.missing.insert(peer.to_owned(), why);
                    }
                }
            }
            self.progress.done(self.pace.thought(case, peers.len()));
        }
        Ok(rounds)
    }

    /// Searches once for all peers side by side.
    fn search(&self, case: Case, what: &str) -> Result<BTreeMap<String, Found>> {
        let peers = self.there(case.nodes());
        self.search_for(peers, case.nodes(), Traffic::Datagrams, what)
    }

    fn search_for(
        &self,
        peers: Vec<&'static str>,
        nodes: Nodes,
        traffic: Traffic,
        what: &str,
    ) -> Result<BTreeMap<String, Found>> {
        let flows = traffic.at_a_time();
        let mut trials = 0;
        search(peers, &self.pace.care, |peer, rate, seconds| {
            trials += 1;
            self.progress
                .say(&format!("{what}, trial {trials}: {peer} at {rate:.0}/s"));
            let load = Load {
                traffic,
                rate: whole(rate),
                flows,
                seconds,
                by: self.generator,
            };
            self.on(peer, nodes, |probe| probe.load(&load))
        })
    }

    /// The most segments of short flows a second that ours carries between two nodes without loss.
    ///
    /// # Errors
    /// When none pass so.
    pub fn lossless_short_flows(&self) -> Result<f64> {
        let found = self.search_for(
            vec![OURS],
            Nodes::Two,
            Traffic::ShortFlows,
            "the rate of short flows",
        )?;
        let found = found.get(OURS).cloned().unwrap_or_default();
        match (found.rates.get("ndr"), found.notes.get("ndr")) {
            (Some(&rate), _) if rate >= 1.0 => Ok(rate),
            (_, Some(note)) => bail!("no rate of short flows passed without loss: {note}"),
            (_, None) => bail!("no rate of short flows passed without loss"),
        }
    }

    fn rates(&mut self, case: Case) -> Result<()> {
        let peers = self.there(case.nodes()).len();
        let mut absent = BTreeMap::new();
        let mut notes: BTreeMap<&str, BTreeMap<String, String>> = BTreeMap::new();
        for laid in self.field.peers() {
            if let Some(why) = laid.absent(case.nodes()) {
                absent.insert(laid.name().to_owned(), why.to_owned());
            }
        }
        let mut values: BTreeMap<&str, Values> = BTreeMap::new();
        let all = self.pace.rounds_of(case);
        for round in 0..all {
            if !self.another(case, round, peers) {
                break;
            }
            let what = format!("{}, search {} of {all}", case.name(), round + 1);
            for (peer, found) in self.search(case, &what)? {
                for (goal, rate) in found.rates {
                    let goal = values.entry(goal).or_default();
                    goal.entry(peer.clone()).or_default().insert(round, rate);
                }
                for (goal, note) in found.notes {
                    notes.entry(goal).or_default().insert(peer.clone(), note);
                }
            }
            self.progress.done(self.pace.thought(case, peers));
        }
        for (goal, _) in GOALS {
            let none = Values::new();
            let values = values.get(goal).unwrap_or(&none);
            let figure = Figure::new(&case.name(), goal, PER_SECOND, Better::Higher, values);
            let mut missing = absent.clone();
            missing.append(notes.entry(goal).or_default());
            let figure = figure.without(&missing);
            if case == Case::TwoUdp64 {
                let medians = figure.values.iter();
                match goal {
                    "pdr" => {
                        self.pdr = medians
                            .map(|(peer, rate)| (peer.clone(), rate.median))
                            .collect();
                    }
                    "ndr" => self.ndr = figure.values.get(OURS).map(|rate| rate.median),
                    _ => {}
                }
            }
            self.figures.push(figure);
        }
        Ok(())
    }

    /// Each peer's PDR between two nodes, searched for if that was not done yet.
    fn pdr(&mut self) -> Result<BTreeMap<String, f64>> {
        if self.pdr.is_empty() {
            let found = self.search(Case::TwoUdp64, "the rates that loads are parts of")?;
            self.ndr = found
                .get(OURS)
                .and_then(|found| found.rates.get("ndr").copied());
            let pdr = found
                .into_iter()
                .filter_map(|(peer, found)| Some((peer, *found.rates.get("pdr")?)));
            self.pdr = pdr.collect();
        }
        Ok(self.pdr.clone())
    }

    /// Our highest lossless rate between two nodes.
    ///
    /// # Errors
    /// When there is none.
    pub fn lossless(&mut self) -> Result<u64> {
        self.pdr()?;
        match self.ndr {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a rate
            Some(rate) if rate >= 1.0 => Ok(rate as u64),
            _ => bail!("no rate of ours passed without loss"),
        }
    }

    fn tcp(&mut self, case: Case) -> Result<()> {
        let seconds = self.pace.seconds;
        let rates = self.rounds(case, |_, probe| probe.way.tcp(probe.means, seconds))?;
        let figure = rates.figure(case, "rate", "Gbit/s", Better::Higher, |rate| *rate);
        self.figures.push(figure);
        Ok(())
    }

    fn requests(&mut self, case: Case) -> Result<()> {
        let (seconds, by) = (self.pace.seconds, self.generator);
        let pdr = self.pdr()?;
        // One load for all, which both that are compared carry.
        let carried = [OURS, KERNEL].iter().filter_map(|peer| pdr.get(*peer));
        let half = carried.copied().reduce(f64::min).unwrap_or(0.0) / 2.0;
        let half = whole(half);
        // A peer that does not carry the load has its idle figures all the same.
        let trips = self.rounds(case, |_, probe| {
            let idle = probe.round_trips(seconds, 0, by)?;
            let loaded = probe.round_trips(seconds, half.max(1), by);
            Ok((idle, loaded.map_err(|error| format!("{error:#}"))))
        })?;
        for (name, of) in [
            ("idle p50", (|trips| trips.p50) as fn(&Trips) -> f64),
            ("idle p99", |trips| trips.p99),
        ] {
            let figure = trips.figure(case, name, "us", Better::Lower, |(idle, _)| of(idle));
            self.figures.push(figure);
        }
        for (name, of) in [
            ("half load p50", (|trips| trips.p50) as fn(&Trips) -> f64),
            ("half load p99", |trips| trips.p99),
        ] {
            let mut values = trips.each(|(_, loaded)| loaded.as_ref().map_or(f64::NAN, of));
            for rounds in values.values_mut() {
                // What is not finite has no JSON.
                rounds.retain(|_, value| value.is_finite());
            }
            let mut missing = trips.missing.clone();
            for (peer, rounds) in &trips.values {
                let why = rounds
                    .values()
                    .find_map(|(_, loaded)| loaded.as_ref().err());
                if let Some(why) = why {
                    let why = format!("at {half} datagrams/s: {why}");
                    missing.insert(peer.clone(), why);
                }
            }
            let figure = Figure::new(&case.name(), name, "us", Better::Lower, &values);
            self.figures.push(figure.without(&missing));
        }
        Ok(())
    }

    fn connections(&mut self, case: Case) -> Result<()> {
        let seconds = self.pace.seconds;
        let opened = self.rounds(case, |_, probe| probe.connections(seconds, 0))?;
        for (name, unit, better, of) in [
            (
                "rate",
                "connections/s",
                Better::Higher,
                (|c| c.per_second) as fn(&Connections) -> f64,
            ),
            ("p99", "us", Better::Lower, |c| c.p99),
            ("failed", "connections", Better::Lower, |c| c.failed),
        ] {
            self.figures
                .push(opened.figure(case, name, unit, better, of));
        }
        Ok(())
    }

    fn busy(&mut self, case: Case) -> Result<()> {
        let seconds = self.pace.seconds.max(1.0);
        let alone = match self.alone.take() {
            Some(alone) => alone,
            None => busy::cable_alone(self.field.means())?,
        };
        let costs = self.rounds(case, |_, probe| {
            let means = probe.means;
            // The generator and the sink where the peer's are.
            let way = Way {
                cores: probe.way.cores,
                ..alone.clone()
            };
            let bare = busy::per_packet(Probe { way: &way, means }, seconds)?;
            let whole = busy::per_packet(probe, seconds)?;
            ensure!(
                whole > bare,
                "{whole:.1} us a packet, generator and sink alone {bare:.1}: what else this machine does hides it"
            );
            Ok((whole - bare, bare))
        });
        self.alone = Some(alone);
        let costs = costs?;
        if let (None, Some(why)) = (costs.values.get(OURS), costs.missing.get(OURS)) {
            // The machine's fault, not ours.
            bail!("{why}");
        }
        let figure = costs.figure(case, "per packet", "us", Better::Lower, |cost| cost.0);
        self.figures.push(figure);
        let figure = costs.figure(case, "generator and sink", "us", Better::Lower, |cost| {
            cost.1
        });
        self.figures.push(figure);
        Ok(())
    }

    /// Each peer's PDR that holds with echoes beside it, which take processor time from the same cores.
    fn held_pdr(&mut self, case: Case) -> Result<BTreeMap<String, f64>> {
        let (seconds, by) = (self.pace.seconds, self.generator);
        let mut held = self.pdr()?;
        for (peer, rate) in &mut held {
            let (lower, _) = lower_until(
                *rate,
                SLOWER_AT_MOST,
                |rate| {
                    self.progress.say(&format!(
                        "{}: whether {peer} holds {rate:.0}/s",
                        case.name()
                    ));
                    let trips = self.on(peer, case.nodes(), |probe| {
                        probe.round_trips(seconds, whole(rate), by)
                    });
                    match trips {
                        Err(error) if journeys::signals::interrupted() => Err(error),
                        // Echoes that do not come, or a peer that fails: it does not hold, and the others go on.
                        outcome => Ok(outcome.ok()),
                    }
                },
                |trips| trips.is_some_and(|trips| trips.load_lost <= PDR_LOSS),
            )?;
            *rate = lower;
        }
        let values = held
            .iter()
            .map(|(peer, rate)| (peer.clone(), [(0, *rate)].into()));
        self.figures.push(Figure::new(
            &case.name(),
            "pdr beside echoes",
            PER_SECOND,
            Better::Higher,
            &values.collect(),
        ));
        Ok(held)
    }

    fn latency(&mut self, case: Case) -> Result<()> {
        let (seconds, by) = (self.pace.seconds, self.generator);
        let pdr = self.held_pdr(case)?;
        for &percent in self.pace.loads {
            let trips = self.rounds(case, |peer, probe| {
                let Some(pdr) = pdr.get(peer) else {
                    bail!("its PDR is not known");
                };
                let rate = pdr * f64::from(percent) / 100.0;
                probe.round_trips(seconds, whole(rate), by)
            })?;
            for (name, of) in [
                ("p50", (|trips| trips.p50) as fn(&Trips) -> f64),
                ("p90", |trips| trips.p90),
                ("p99", |trips| trips.p99),
            ] {
                let figure = trips.figure(case, name, "us", Better::Lower, of);
                self.figures.push(figure.at(percent.into()));
            }
        }
        Ok(())
    }

    fn flows(&mut self, case: Case) -> Result<()> {
        let (seconds, by) = (self.pace.seconds, self.generator);
        for flows in [1, 32, 1024] {
            let rates = self.rounds(case, |_, probe| {
                probe.load(&Load {
                    traffic: Traffic::Datagrams,
                    rate: 0,
                    flows,
                    seconds,
                    by,
                })
            })?;
            let figure = rates.figure(case, "rate", PER_SECOND, Better::Higher, |counted| {
                counted.received_per_second()
            });
            self.figures.push(figure.at(flows.into()));
        }
        Ok(())
    }

    /// Ours with one worker, two, and so on, as far as both nodes have cores of their own.
    fn scaling(&mut self, case: Case) -> Result<()> {
        let cores = perf::ways::cores();
        let most = u16::try_from(cores.saturating_sub(2) / 2).unwrap_or(1);
        if most < 2 {
            bail!(
                "{cores} cores: two nodes with two workers each, a generator and a sink need 6. On one core: scripts/perf \
                 pipeline two-workers"
            );
        }
        let seconds = self.pace.seconds;
        let mut workers = 1;
        while workers <= most {
            let mut values = Values::new();
            for round in 0..self.pace.rounds.min(3) {
                self.progress
                    .say(&format!("scaling: {workers} workers of each node"));
                let rate = self.with_workers(workers, seconds)?;
                values.entry(OURS.into()).or_default().insert(round, rate);
            }
            let figure = Figure::new(&case.name(), "rate", PER_SECOND, Better::Higher, &values);
            self.figures.push(figure.at(workers.into()));
            workers *= 2;
        }
        Ok(())
    }

    fn with_workers(&mut self, workers: u16, seconds: f64) -> Result<f64> {
        let way = self.our_way()?;
        let (_awake, ours) = self.field.ours_mut()?;
        for node in 0..ours.topology().nodes.len() {
            let topology = ours.topology_mut();
            topology.nodes[node].set_env("NETMANAGER_WORKERS", &workers.to_string());
            topology.nodes[node].set_core(None);
            topology.nodes[node]
                .process()?
                .stop(Duration::from_secs(10))?;
            topology.restart_node(node)?;
        }
        way.wait(ours.means())?;
        let probe = Probe {
            way: &way,
            means: ours.means(),
        };
        let counted = probe.load(&Load {
            traffic: Traffic::Datagrams,
            rate: 0,
            flows: 64,
            seconds,
            by: self.generator,
        })?;
        Ok(counted.received_per_second())
    }

    /// Our way between two nodes.
    ///
    /// # Errors
    /// When ours is not here.
    pub fn our_way(&self) -> Result<Way> {
        Ok(Way::clone(&*self.awake(OURS, Nodes::Two)?))
    }
}
