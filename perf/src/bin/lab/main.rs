//! Everything beside everything: our system and what a user would pick instead, with targets, plots and a gate.
//!
//! One run lays all peers, has them take turns in each measurement, and writes what it found; perf/README.md says what the
//! cases are and how to read them.

#![forbid(unsafe_code)]

mod bench;
mod busy;
mod changes;
mod facts;
mod gate;
mod generator;
mod page;
mod plan;
mod plots;
mod print;
mod probe;
mod progress;
mod results;
mod search;
mod soak;
mod targets;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, ValueEnum as _};
use perf::ways::{Cores, Field, Idle, Laid, Nodes, PEERS, Peer, Settings};

use bench::Bench;
use generator::Generator;
use plan::{Case, Pace};
use progress::Progress;
use results::{Results, SCHEMA};

/// Our system beside what a user would pick instead: throughput, latency, cost, and what holds while things change.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// A first look, in less than three minutes (the default)
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// For figures that are kept: an hour or two
    #[arg(long)]
    full: bool,
    /// Cases to run; all of the mode's if none is named
    #[arg(long, value_delimiter = ',', value_enum)]
    cases: Vec<Case>,
    /// Whom to measure: with fewer, fewer ratios. All if none is named, without the steered kernel's way in --quick
    #[arg(long, value_delimiter = ',', value_parser = PEERS.map(Peer::name))]
    peers: Vec<String>,
    /// Interleaved rounds, instead of the mode's
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: Option<u16>,
    /// Seconds of one measurement, instead of the mode's
    #[arg(long, value_parser = seconds)]
    seconds: Option<f64>,
    /// Flows of the soak, instead of the mode's
    #[arg(long, value_parser = clap::value_parser!(u64).range(10..))]
    flows: Option<u64>,
    /// Who sends datagrams
    #[arg(long, value_enum, default_value = "pktgen")]
    generator: Generator,
    /// How our workers wait: on the ports' descriptors (backoff) or polling without pause (spin)
    #[arg(long, default_value = "backoff", value_parser = ["backoff", "spin"])]
    idle: String,
    /// Have our nodes keep idle cores from taking more µs to wake (Dataplane.CpuLatency): for the whole machine, so for
    /// all peers
    #[arg(long, value_name = "US", value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    cpu_latency: Option<u32>,
    /// Whether a node has a core of its own (apart), or the scheduler decides (shared)
    #[arg(long, default_value = "apart", value_parser = ["apart", "shared"])]
    cores: String,
    /// Compare the ratios with those of an earlier run, and fail when one fell
    #[arg(long, value_name = "BASELINE.json")]
    gate: Option<PathBuf>,
    /// With --gate: compare this run, which was made before, instead of making one
    #[arg(long, value_name = "RESULTS.json", requires = "gate")]
    against: Option<PathBuf>,
    /// Draw the page of this run, which was made before, again, and make none
    #[arg(long, value_name = "RESULTS.json", conflicts_with_all = ["gate", "full", "quick"])]
    page: Option<PathBuf>,
    /// Where results go
    #[arg(long, value_name = "FOLDER", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/results"))]
    results: PathBuf,
    /// Print the results as JSON
    #[arg(long, conflicts_with = "markdown")]
    json: bool,
    /// Print a table for a README
    #[arg(long)]
    markdown: bool,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.2..=600.0).contains(&seconds) => Ok(seconds),
        _ => Err("a number of seconds from 0.2 to 600 is wanted".into()),
    }
}

/// What starting all and ending it takes.
const LAYING: Duration = Duration::from_secs(15);

fn read(path: &Path) -> Result<Results> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    Results::parse(&text).with_context(|| path.display().to_string())
}

impl Arguments {
    fn settings(&self) -> Settings {
        Settings {
            idle: match self.idle.as_str() {
                "spin" => Idle::Spin,
                _ => Idle::Backoff,
            },
            cores: match self.cores.as_str() {
                "shared" => Cores::Shared,
                _ => Cores::Apart,
            },
            cpu_latency: self.cpu_latency,
            ..Settings::default()
        }
    }

    fn pace(&self) -> Pace {
        let mut pace = match self.full {
            true => Pace::full(self.seconds, self.rounds),
            false => Pace::quick(self.seconds, self.rounds),
        };
        // Who names the cases wants all of them.
        if !self.cases.is_empty() {
            pace.limit = None;
        }
        pace.flows = self.flows.unwrap_or(pace.flows);
        pace
    }

    fn peers(&self) -> Vec<Peer> {
        let asked = |peer: &Peer| match self.peers.is_empty() {
            true => self.full || *peer != Peer::Steered,
            false => self.peers.iter().any(|asked| asked == peer.name()),
        };
        PEERS.into_iter().filter(asked).collect()
    }

    fn cases(&self) -> (Vec<Case>, BTreeMap<String, String>) {
        let mut skipped = BTreeMap::new();
        let mut cases = Vec::new();
        for &case in Case::value_variants() {
            let asked = self.cases.contains(&case);
            if asked || (self.cases.is_empty() && (self.full || case.is_quick())) {
                cases.push(case);
            } else if self.cases.is_empty() {
                skipped.insert(
                    case.name(),
                    "--quick leaves it out: name it, or --full".into(),
                );
            } else {
                skipped.insert(case.name(), "not asked for".into());
            }
        }
        (cases, skipped)
    }
}

/// Measures everything that is asked for.
fn measure(arguments: &Arguments) -> Result<Results> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "network namespaces and packet sockets need root rights: run this as root"
    );
    let started = facts::now();
    let pace = arguments.pace();
    let (cases, skipped) = arguments.cases();
    let peers = arguments.peers();
    let settings = arguments.settings();
    let thought: Duration = cases
        .iter()
        .map(|&case| pace.thought(case, peers.len()) * u32::from(pace.rounds_of(case)))
        .sum();
    let progress = Progress::begin(thought + LAYING, pace.limit, arguments.json);
    let lay = |settings: Settings, progress: &Progress| {
        Field::lay(&peers, settings, |text| progress.say(text))
    };
    let first = cases
        .first()
        .map_or(settings.offloads, |case| case.offloads());
    let settings = Settings {
        offloads: first,
        ..settings
    };
    let field = lay(settings, &progress)?;
    let mut absent = BTreeMap::new();
    for peer in PEERS {
        let laid = field.peers().iter().find(|laid| laid.name() == peer.name());
        absent.insert(peer.name().to_owned(), why_absent(laid));
    }
    let mut bench = Some(Bench::new(
        field,
        settings,
        arguments.generator,
        pace,
        progress,
    ));
    if let Some(bench) = &mut bench {
        bench.progress.done(LAYING);
        bench.skipped = skipped;
    }
    let mut failed = None;
    for case in cases {
        let Some(mut now) = bench.take() else { break };
        if case.offloads() != now.settings.offloads {
            let peers = now.field.peers().len();
            if !now
                .progress
                .has_time_for(LAYING + now.pace.thought(case, peers))
            {
                let why = "no time left in --quick: name the case, or run --full";
                now.skipped.insert(case.name(), why.into());
                bench = Some(now);
                continue;
            }
            now = now.on_another_field(|settings, progress| lay(settings, progress), case)?;
        }
        let outcome = now.run(case);
        bench = Some(now);
        if let Err(error) = outcome {
            failed = Some(error);
            break;
        }
    }
    let bench = bench.context("no field stands")?;
    let machine = facts::Machine::here();
    bench.progress.end();
    let (field, progress, figures, skipped) = bench.finish();
    let down = field.down();
    // After a signal its thread takes all down and ends the process.
    journeys::signals::let_it_finish();
    if let Some(error) = failed {
        return Err(error);
    }
    down?;
    let mut results = Results {
        schema: SCHEMA,
        started,
        took_seconds: progress.elapsed().as_secs_f64(),
        settings: results::Settings {
            mode: if arguments.full { "full" } else { "quick" }.into(),
            rounds: pace.rounds,
            seconds: pace.seconds,
            generator: arguments.generator.describe().into(),
            idle: arguments.idle.clone(),
            cpu_latency: arguments.cpu_latency,
            cores: arguments.cores.clone(),
        },
        machine,
        peers: absent,
        figures,
        skipped,
        targets: Vec::new(),
    };
    results.targets = targets::judge(&results);
    Ok(results)
}

/// Why a peer is nowhere.
fn why_absent(laid: Option<&Laid>) -> Option<String> {
    let Some(laid) = laid else {
        return Some("not asked for".into());
    };
    let whys = Nodes::BOTH.map(|nodes| laid.absent(nodes));
    match whys {
        [Some(one), Some(_)] => Some(one.to_owned()),
        _ => None,
    }
}

/// Writes the results, the page, its plots, and the table; answers where, without the ending.
fn write(results: &Results, folder: &Path) -> Result<PathBuf> {
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let name = results.started.replace(':', "");
    let base = folder.join(name);
    let put = |ending: &str, text: &str| -> Result<()> {
        let path = base.with_extension(ending);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    };
    put("json", &(serde_json::to_string_pretty(results)? + "\n"))?;
    draw(results, &base)?;
    Ok(base)
}

/// Writes all that follows from the results.
fn draw(results: &Results, base: &Path) -> Result<()> {
    let put = |path: PathBuf, text: &str| -> Result<()> {
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    };
    put(base.with_extension("html"), &page::html(results)?)?;
    put(base.with_extension("md"), &page::markdown(results))?;
    for (name, svg) in page::plots(results)? {
        put(base.with_extension(format!("{name}.svg")), &svg)?;
    }
    Ok(())
}

fn gate(baseline: &Path, results: &Results) -> Result<ExitCode> {
    let rows = gate::compare(&read(baseline)?, results)?;
    print!("{}", gate::table(&rows));
    let bad = rows.iter().filter(|row| row.is_bad()).count();
    if bad == 0 {
        println!("no ratio fell");
        return Ok(ExitCode::SUCCESS);
    }
    println!("{bad} of {} ratios fell", rows.len());
    Ok(ExitCode::FAILURE)
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    if let Some(path) = &arguments.page {
        let results = read(path)?;
        draw(&results, &path.with_extension(""))?;
        println!("{}", path.with_extension("html").display());
        return Ok(ExitCode::SUCCESS);
    }
    // A baseline that cannot be read is known before hours have passed.
    if let Some(baseline) = &arguments.gate {
        read(baseline)?;
    }
    if let (Some(baseline), Some(path)) = (&arguments.gate, &arguments.against) {
        return gate(baseline, &read(path)?);
    }
    let results = measure(&arguments)?;
    let base = write(&results, &arguments.results)?;
    if arguments.json {
        println!("{}", serde_json::to_string(&results)?);
    } else if arguments.markdown {
        print!("{}", page::markdown(&results));
    } else {
        print!("{}", print::table(&results));
        println!("\n{}.json, .html, .md and .svg", base.display());
    }
    match &arguments.gate {
        Some(baseline) => gate(baseline, &results),
        None => Ok(ExitCode::SUCCESS),
    }
}
