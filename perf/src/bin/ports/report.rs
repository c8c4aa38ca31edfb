//! What was measured, for people and for programs.

use std::collections::BTreeMap;

use perf::Spread;
use perf::paint::Paint;
use serde::Serialize;

/// A ratio, or a figure, and what is asked of it.
#[derive(Serialize)]
pub struct Check {
    /// What by what.
    pub what: String,
    /// Of the rounds, each by itself.
    #[serde(flatten)]
    pub value: Spread,
    /// What its median has to reach, or not to pass.
    pub target: f64,
    /// Whether that is the least that is asked for, not the most.
    pub at_least: bool,
    /// Whether it holds.
    pub reached: bool,
}

impl Check {
    /// At least so much; nothing without a value.
    pub fn at_least(what: &str, values: Vec<f64>, target: f64) -> Option<Check> {
        if values.is_empty() {
            return None;
        }
        let value = Spread::of(values);
        Some(Check {
            what: what.into(),
            value,
            target,
            at_least: true,
            reached: value.median >= target,
        })
    }

    /// At most so much; nothing without a value.
    pub fn at_most(what: &str, values: Vec<f64>, target: f64) -> Option<Check> {
        if values.is_empty() {
            return None;
        }
        let value = Spread::of(values);
        Some(Check {
            what: what.into(),
            value,
            target,
            at_least: false,
            reached: value.median <= target,
        })
    }
}

/// One figure of all peers.
#[derive(Serialize)]
pub struct Row {
    /// The case.
    pub case: String,
    /// Median of ours.
    pub ours: f64,
    /// Median of the kernel's.
    pub kernel: Option<f64>,
    /// Median of testpmd's.
    pub testpmd: Option<f64>,
    /// Unit of the three.
    pub unit: &'static str,
    /// Who is not measured, and why.
    pub missing: BTreeMap<&'static str, String>,
    /// From where to where their values go.
    pub spread: BTreeMap<&'static str, Spread>,
    /// Other figures of the same measurements, by name and peer.
    pub further: BTreeMap<String, BTreeMap<&'static str, Spread>>,
    /// What is asked of it.
    pub checks: Vec<Check>,
}

/// All of it.
#[derive(Serialize)]
pub struct Report {
    /// Interleaved rounds.
    pub rounds: usize,
    /// Seconds of each measurement.
    pub seconds: f64,
    /// How our workers wait.
    pub waiting: String,
    /// Cores of the machine.
    pub cores: usize,
    /// One row for each case.
    pub rows: Vec<Row>,
}

/// Prints a table, in colour on a terminal.
pub fn print(report: &Report) {
    let paint = Paint::of_stdout();
    println!(
        "{} rounds of {} s on {} cores; our workers wait on {}",
        report.rounds, report.seconds, report.cores, report.waiting
    );
    println!(
        "{}{:<14} {:>9} {:>9} {:>9}  {:<10} {:<34} {:>22}  target{}",
        paint.bold,
        "case",
        "ours",
        "kernel",
        "testpmd",
        "",
        "compared",
        "median (from to)",
        paint.plain
    );
    for row in &report.rows {
        let peer = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), short);
        let mut lead = format!(
            "{:<14} {:>9} {:>9} {:>9}  {:<10}",
            row.case,
            short(row.ours),
            peer(row.kernel),
            peer(row.testpmd),
            row.unit
        );
        for check in &row.checks {
            let (colour, verdict) = match check.reached {
                true => (paint.good, "reached"),
                false => (paint.bad, "missed"),
            };
            let sign = if check.at_least { ">=" } else { "<=" };
            println!(
                "{lead} {:<34} {colour}{:>22}  {sign} {} {verdict}{}",
                check.what,
                spread(&check.value),
                check.target,
                paint.plain
            );
            lead = " ".repeat(55);
        }
        if row.checks.is_empty() {
            println!("{lead}");
        }
        for (what, peers) in &row.further {
            let peers: Vec<_> = peers
                .iter()
                .map(|(peer, value)| format!("{peer} {}", spread(value)))
                .collect();
            println!(
                "{}    {what}: {}{}",
                paint.dim,
                peers.join(", "),
                paint.plain
            );
        }
        for (peer, why) in &row.missing {
            println!("{}    no {peer}: {why}{}", paint.dim, paint.plain);
        }
    }
}

fn spread(value: &Spread) -> String {
    format!(
        "{} ({} {})",
        short(value.median),
        short(value.least),
        short(value.most)
    )
}

/// Three digits or so.
fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100_000.0 => format!("{:.0}k", value / 1000.0),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
