//! Two nodes through the kernel's ports, beside nftables with VXLAN and testpmd on `af_packet` in the same run.
//!
//! Containers are network namespaces, links are veth pairs, and the same programs measure every peer and look at what
//! arrives. Peers take turns, and medians of the rounds and of their ratios are reported: machines like the one this
//! runs on are shared and noisy.

#![forbid(unsafe_code)]

mod report;

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use clap::{Parser, ValueEnum};
use perf::Spread;
use perf::ways::ours::Ours;
use perf::ways::{
    Field, Idle, Laid, Means, Nodes, Peer, RoundTrips, Sending, Settings, Way, kernel, ours,
    testpmd,
};

use report::{Check, Report, Row};

/// Throughput and round trips between containers, beside the kernel and testpmd.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Cases to run; all of them if none is named
    #[arg(value_enum)]
    cases: Vec<Case>,
    /// Interleaved rounds of each case
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    pairs: u16,
    /// How long each measurement takes
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    seconds: f64,
    /// Whom to measure: with fewer, fewer ratios
    #[arg(long, value_delimiter = ',', default_values_t = PEERS.map(str::to_owned), value_parser = PEERS)]
    peers: Vec<String>,
    /// How our workers wait: on the ports' descriptors (backoff) or polling without pause (spin)
    #[arg(long, default_value = "backoff", value_parser = ["backoff", "spin"])]
    idle: String,
    /// Print JSON, whatever standard output is
    #[arg(long)]
    json: bool,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.2..=600.0).contains(&seconds) => Ok(seconds),
        _ => Err("a number of seconds from 0.2 to 600 is wanted".into()),
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Case {
    OneTcp,
    TwoTcp,
    #[value(name = "one-udp64")]
    OneUdp64,
    #[value(name = "two-udp64")]
    TwoUdp64,
    #[value(name = "one-rtt-p99")]
    OneRttP99,
    #[value(name = "two-rtt-p99")]
    TwoRttP99,
    #[value(name = "idle-250")]
    Idle250,
    #[value(name = "active-250")]
    Active250,
}

impl Case {
    fn name(self) -> String {
        self.to_possible_value()
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    }
}

/// Containers of a crowd.
const CROWD: usize = 250;
/// Datagrams that a container of a crowd hands over by one system call.
const CROWD_BURST: usize = 16;

const OURS: &str = ours::NAME;
const KERNEL: &str = kernel::NAME;
const TESTPMD: &str = testpmd::NAME;
const PEERS: [&str; 3] = [OURS, KERNEL, TESTPMD];
const KINDS: [Peer; 3] = [Peer::Ours, Peer::Kernel, Peer::Testpmd];

/// Everything that is measured.
struct Bench {
    arguments: Arguments,
    /// Why a peer has no value for some round of the case.
    failed: BTreeMap<&'static str, String>,
    field: Field,
}

const NOT_ASKED: &str = "not asked for";

fn asked(arguments: &Arguments, peer: &str) -> bool {
    arguments.peers.iter().any(|asked| asked == peer)
}

/// Values by peer and round.
type Values<T> = BTreeMap<&'static str, BTreeMap<u16, T>>;

impl Bench {
    fn up(arguments: Arguments) -> Result<Bench> {
        // Ours is here in any case: what is measured of others is measured beside it.
        let peers: Vec<_> = KINDS
            .into_iter()
            .filter(|&peer| peer == Peer::Ours || asked(&arguments, peer.name()))
            .collect();
        let settings = Settings {
            idle: match arguments.idle.as_str() {
                "spin" => Idle::Spin,
                _ => Idle::Backoff,
            },
            ..Settings::default()
        };
        let field = Field::lay(&peers, settings, |text| say(&arguments, text))?;
        let bench = Bench {
            arguments,
            failed: BTreeMap::new(),
            field,
        };
        let awake = bench.laid(Peer::Ours)?.wake(Nodes::Two)?;
        bench.ours()?.aside.wait(bench.field.means())?;
        drop(awake);
        Ok(bench)
    }

    fn ours(&self) -> Result<&Ours> {
        self.field.ours().context("our system")
    }

    fn laid(&self, peer: Peer) -> Result<&Laid> {
        self.field.peer(peer).context("a peer that was laid")
    }

    /// Measures all peers on one node (0) or across two (1), in turn, a different one first each time.
    fn rounds<T>(
        &mut self,
        case: Case,
        nodes: Nodes,
        measure: impl Fn(&Way, Means<'_>) -> Result<T>,
    ) -> Result<Values<T>> {
        let means = self.field.means();
        let mut values: Values<T> = BTreeMap::new();
        self.failed.clear();
        for round in 0..self.arguments.pairs {
            for laid in self.field.turn(round.into()) {
                let peer = laid.name();
                if !asked(&self.arguments, peer) || laid.absent(nodes).is_some() {
                    continue;
                }
                say(
                    &self.arguments,
                    &format!(
                        "{} round {} of {}: {peer}",
                        case.name(),
                        round + 1,
                        self.arguments.pairs
                    ),
                );
                let value = laid.wake(nodes).and_then(|way| measure(&way, means));
                match value {
                    Ok(value) => {
                        values.entry(peer).or_default().insert(round, value);
                    }
                    // A peer's failure is its own; ours is that of the run.
                    Err(error) if peer != OURS && !journeys::signals::interrupted() => {
                        self.failed.insert(peer, format!("{error:#}"));
                    }
                    Err(error) => {
                        return Err(error.context(format!("{} of {peer}", case.name())));
                    }
                }
            }
        }
        Ok(values)
    }

    fn missing(&self) -> BTreeMap<&'static str, String> {
        let left_out = PEERS
            .into_iter()
            .filter(|peer| !asked(&self.arguments, peer))
            .map(|peer| (peer, NOT_ASKED.to_owned()));
        let absent = self
            .field
            .peers()
            .iter()
            .filter_map(|laid| Some((laid.name(), laid.absent(Nodes::One)?.to_owned())));
        left_out.chain(self.failed.clone()).chain(absent).collect()
    }

    fn row(
        &self,
        case: Case,
        unit: &'static str,
        values: &Values<f64>,
        checks: Vec<Option<Check>>,
    ) -> Row {
        let spread: BTreeMap<_, _> = values
            .iter()
            .map(|(&peer, values)| (peer, Spread::of(values.values().copied().collect())))
            .collect();
        let median = |peer| spread.get(peer).map(|spread: &Spread| spread.median);
        Row {
            case: case.name(),
            ours: median(OURS).unwrap_or(0.0),
            kernel: median(KERNEL),
            testpmd: median(TESTPMD),
            unit,
            missing: self.missing(),
            spread,
            further: BTreeMap::new(),
            // Without the peer there is nothing to reach.
            checks: checks.into_iter().flatten().collect(),
        }
    }

    fn run(&mut self, case: Case) -> Result<Row> {
        let seconds = self.arguments.seconds;
        let nodes = match case {
            Case::TwoTcp | Case::TwoUdp64 | Case::TwoRttP99 => Nodes::Two,
            _ => Nodes::One,
        };
        match case {
            Case::OneTcp | Case::TwoTcp => {
                let values = self.rounds(case, nodes, |way, means| way.tcp(means, seconds))?;
                let target = match nodes {
                    Nodes::One => 0.85,
                    Nodes::Two => 0.7,
                };
                let check = Check::at_least("by the kernel's", ratios(&values, KERNEL), target);
                Ok(self.row(case, "Gbit/s", &values, vec![check]))
            }
            Case::OneUdp64 | Case::TwoUdp64 => {
                let values = self.rounds(case, nodes, |way, means| {
                    way.udp(means, seconds, &Sending::ALL)
                })?;
                let check = match nodes {
                    Nodes::One => Check::at_least("by testpmd's", ratios(&values, TESTPMD), 0.9),
                    Nodes::Two => Check::at_least("by the kernel's", ratios(&values, KERNEL), 1.2),
                };
                Ok(self.row(case, "datagrams/s", &values, vec![check]))
            }
            Case::OneRttP99 | Case::TwoRttP99 => self.round_trips(case, nodes),
            Case::Idle250 => self.idle(case),
            Case::Active250 => self.active(case),
        }
    }

    fn round_trips(&mut self, case: Case, nodes: Nodes) -> Result<Row> {
        let seconds = self.arguments.seconds;
        let means = self.field.means();
        let way = self.laid(Peer::Ours)?.wake(nodes)?;
        let most = way.udp(means, seconds, &Sending::ALL)?;
        drop(way);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a rate
        let load = (most / 2.0).round() as u64;
        let values = self.rounds(case, nodes, |way, means| {
            Ok([
                way.round_trips(means, seconds, 0)?,
                way.round_trips(means, seconds, load)?,
            ])
        })?;
        let each = |of: fn(&[RoundTrips; 2]) -> f64| -> Values<f64> {
            let of = |values: &BTreeMap<u16, [RoundTrips; 2]>| {
                values
                    .iter()
                    .map(|(&round, value)| (round, of(value)))
                    .collect()
            };
            values
                .iter()
                .map(|(&peer, values)| (peer, of(values)))
                .collect()
        };
        let idle = each(|[idle, _]| idle.p99);
        let loaded = each(|[_, loaded]| loaded.p99);
        let target = match nodes {
            Nodes::One => 1.2,
            Nodes::Two => 1.5,
        };
        let checks = vec![
            Check::at_most("idle, by the kernel's", ratios(&idle, KERNEL), target),
            Check::at_most(
                "half load, by the kernel's",
                ratios(&loaded, KERNEL),
                target,
            ),
        ];
        let mut row = self.row(case, "us", &idle, checks);
        let load = format!("at {load} datagrams/s");
        for (what, values) in [
            ("p50 idle".to_owned(), each(|[idle, _]| idle.p50)),
            (format!("p50 {load}"), each(|[_, loaded]| loaded.p50)),
            (format!("p99 {load}"), loaded),
        ] {
            let spreads = values
                .into_iter()
                .map(|(peer, values)| (peer, Spread::of(values.into_values().collect())));
            row.further.insert(what, spreads.collect());
        }
        Ok(row)
    }

    fn gather(&mut self) -> Result<()> {
        let arguments = &self.arguments;
        let (_awake, ours) = self.field.ours_mut()?;
        ours.gather(CROWD, |count| {
            if count % 25 == 0 {
                say(
                    arguments,
                    &format!("deploying: {count} of {CROWD} containers"),
                );
            }
        })
    }

    /// The first node with a crowd that does nothing, beside the second one, which has none.
    fn idle(&mut self, case: Case) -> Result<Row> {
        self.gather()?;
        let seconds = self.arguments.seconds;
        let (mut share, mut with, mut without) = (Vec::new(), Vec::new(), Vec::new());
        let (laid, aside) = (self.laid(Peer::Ours)?, &self.ours()?.aside);
        let _both = laid.wake(Nodes::Two)?;
        let first = laid.lane(Nodes::One).map_err(|why| anyhow!("{why}"))?;
        let means = self.field.means();
        for round in 0..self.arguments.pairs {
            say(
                &self.arguments,
                &format!(
                    "{} round {} of {}",
                    case.name(),
                    round + 1,
                    self.arguments.pairs
                ),
            );
            let (start, before) = (Instant::now(), first.cpu_time()?);
            std::thread::sleep(Duration::from_secs_f64(seconds));
            let used = first.cpu_time()?.saturating_sub(before);
            share.push(used.as_secs_f64() / start.elapsed().as_secs_f64() * 100.0);
            let mut measures = [(&first.way, &mut with), (aside, &mut without)];
            if round % 2 == 1 {
                measures.reverse();
            }
            for (way, values) in measures {
                values.push(way.udp(means, seconds, &Sending::ALL)?);
            }
        }
        let ratios = with
            .iter()
            .zip(&without)
            .map(|(with, without)| with / without);
        let checks = vec![
            Check::at_most("% of a core while all are idle", share.clone(), 1.0),
            Check::at_least("busy one: by a node without them", ratios.collect(), 0.95),
        ];
        let mut row = self.row(case, "% of core", &numbered(share), checks);
        for (what, values) in [
            ("datagrams/s of the busy one", with),
            ("on a node without them", without),
        ] {
            let of = BTreeMap::from([(OURS, Spread::of(values))]);
            row.further.insert(what.into(), of);
        }
        row.missing = alone(
            "an idle container costs it nothing, and it has no ports of its own",
            "it polls, and has room for 32 ports",
        );
        Ok(row)
    }

    /// A crowd that sends to one instance, beside one of it alone.
    fn active(&mut self, case: Case) -> Result<Row> {
        self.gather()?;
        let seconds = self.arguments.seconds;
        let sending = |inside| Sending {
            rate: 0,
            burst: CROWD_BURST,
            inside,
        };
        let kinds = [
            sending(self.ours()?.crowd()),
            sending(vec![self.ours()?.client()]),
        ];
        let way = self.laid(Peer::Ours)?.wake(Nodes::One)?;
        let (mut all, mut one) = (Vec::new(), Vec::new());
        for round in 0..self.arguments.pairs {
            say(
                &self.arguments,
                &format!(
                    "{} round {} of {}",
                    case.name(),
                    round + 1,
                    self.arguments.pairs
                ),
            );
            let mut measures = [(&kinds[0], &mut all), (&kinds[1], &mut one)];
            if round % 2 == 1 {
                measures.reverse();
            }
            for (sending, values) in measures {
                values.push(way.udp(self.field.means(), seconds, sending)?);
            }
        }
        let ratios = all.iter().zip(&one).map(|(all, one)| all / one);
        let checks = vec![Check::at_least("by one active", ratios.collect(), 0.8)];
        let mut row = self.row(case, "datagrams/s", &numbered(all), checks);
        let of = BTreeMap::from([(OURS, Spread::of(one))]);
        row.further.insert("one active".into(), of);
        row.missing = alone("it is compared with itself", "it has room for 32 ports");
        Ok(row)
    }
}

fn alone(kernel: &str, testpmd: &str) -> BTreeMap<&'static str, String> {
    BTreeMap::from([(KERNEL, kernel.to_owned()), (TESTPMD, testpmd.to_owned())])
}

/// Ours by a peer's, round by round.
fn ratios(values: &Values<f64>, peer: &str) -> Vec<f64> {
    let (Some(ours), Some(theirs)) = (values.get(OURS), values.get(peer)) else {
        return Vec::new();
    };
    let of = |(round, ours): (&u16, &f64)| Some(ours / theirs.get(round)?);
    ours.iter().filter_map(of).collect()
}

/// Of ours alone.
fn numbered(values: Vec<f64>) -> Values<f64> {
    BTreeMap::from([(OURS, (0..).zip(values).collect())])
}

/// Progress, for a person who waits.
fn say(arguments: &Arguments, text: &str) {
    let mut to = std::io::stderr();
    if to.is_terminal() {
        let _ = write!(to, "\r\x1b[K{text}");
        let _ = to.flush();
    } else if !arguments.json && !text.is_empty() {
        let _ = writeln!(to, "{text}");
    }
}

/// Runs the cases; after a failure what came before it is reported all the same.
fn measure(bench: &mut Bench) -> (Report, Result<()>) {
    let cases = match bench.arguments.cases[..] {
        [] => Case::value_variants().to_vec(),
        ref some => some.to_vec(),
    };
    let mut rows = Vec::new();
    let mut outcome = Ok(());
    for case in cases {
        match bench.run(case) {
            Ok(row) => rows.push(row),
            Err(error) => {
                outcome = Err(error);
                break;
            }
        }
    }
    say(&bench.arguments, "");
    let report = Report {
        rounds: bench.arguments.pairs.into(),
        seconds: bench.arguments.seconds,
        waiting: match bench.arguments.idle.as_str() {
            "spin" => "nothing: they poll (--idle=spin)".into(),
            _ => "descriptors (--idle=backoff)".into(),
        },
        cores: perf::ways::cores(),
        rows,
    };
    (report, outcome)
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    ensure!(
        nix::unistd::geteuid().is_root(),
        "network namespaces and packet sockets need root rights: run this as root"
    );
    let json = arguments.json;
    let mut bench = Bench::up(arguments)?;
    let (report, outcome) = measure(&mut bench);
    let down = bench.field.down();
    // After a signal its thread takes all down and ends the process.
    journeys::signals::let_it_finish();
    if json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        report::print(&report);
    }
    outcome.and(down)
}
