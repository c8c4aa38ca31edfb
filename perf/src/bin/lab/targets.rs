//! What is asked of a run, and whether it holds.
//!
//! Each row names a figure, whom it is compared with, and a factor. A row without its peer is skipped and says why: it is
//! neither reached nor missed.

use serde::{Deserialize, Serialize};

use crate::facts::Machine;
use crate::results::{Measured, OURS, Results};

/// With fewer cores the nodes, the generator and the sink share them, and testpmd, which polls, is one more peer; from so
/// many on it is the ceiling.
pub const CORES_FOR_A_CEILING: usize = 4;

/// The reference implementation's own figures, measured beforehand on a machine with 2 cores.
pub mod reference {
    /// TCP between two nodes, Gbit/s.
    pub const TCP_GBIT_S: f64 = 0.2;
    /// 64-byte UDP between two nodes, a second; 31,000 at best.
    pub const UDP_PER_SECOND: f64 = 18_000.0;
    /// Round trip between two nodes, µs: half are faster.
    pub const P50_US: f64 = 255.0;
    /// One of a hundred is slower.
    pub const P99_US: f64 = 455.0;
}

/// What a figure is held against.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Against {
    /// A peer's in the same round.
    Peer(&'static str),
    /// A number, and what it is.
    Figure(f64, &'static str),
}

/// On which machines a row counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Where {
    Everywhere,
    FewCores,
    ManyCores,
}

#[derive(Clone, Copy)]
struct Target {
    case: &'static str,
    figure: &'static str,
    against: Against,
    factor: f64,
    at_least: bool,
    place: Where,
}

const fn least(
    case: &'static str,
    figure: &'static str,
    peer: &'static str,
    factor: f64,
) -> Target {
    Target {
        case,
        figure,
        against: Against::Peer(peer),
        factor,
        at_least: true,
        place: Where::Everywhere,
    }
}

const fn most(case: &'static str, figure: &'static str, peer: &'static str, factor: f64) -> Target {
    Target {
        at_least: false,
        ..least(case, figure, peer, factor)
    }
}

const fn at(place: Where, target: Target) -> Target {
    Target { place, ..target }
}

const fn by(number: f64, what: &'static str, target: Target) -> Target {
    Target {
        against: Against::Figure(number, what),
        ..target
    }
}

const REFERENCE: &str = "the reference's own";

/// Names of cases and figures are those that the measures give.
const TARGETS: [Target; 26] = [
    at(
        Where::FewCores,
        least("one-udp64", "loss-0.1%", "testpmd", 0.9),
    ),
    at(
        Where::ManyCores,
        least("one-udp64", "loss-0.1%", "testpmd", 0.85),
    ),
    least("one-udp64", "loss-0.1%", "kernel", 1.5),
    least("one-udp64", "loss-0.1%", "ovs", 3.0),
    least("two-udp64", "loss-0.1%", "kernel", 1.2),
    least("two-udp64", "loss-0.1%", "floor", 3.0),
    least("two-udp64", "loss-0.1%", "ovs", 1.5),
    at(
        Where::ManyCores,
        least("two-udp64", "loss-0.1%", "testpmd", 0.85),
    ),
    least("two-tcp", "rate", "kernel", 0.7),
    least("two-tcp", "rate", "floor", 5.0),
    least("two-tcp", "rate", "ovs", 2.0),
    by(
        reference::TCP_GBIT_S,
        REFERENCE,
        least("two-tcp", "rate", "", 30.0),
    ),
    least("two-tcp-mtu", "rate", "testpmd", 0.85),
    least("two-tcp-mtu", "rate", "kernel", 1.0),
    most("two-rr", "idle p99", "kernel", 1.5),
    by(
        reference::P99_US,
        REFERENCE,
        most("two-rr", "idle p99", "", 0.4),
    ),
    most("two-rr", "half load p99", "kernel", 1.5),
    by(
        reference::P99_US,
        REFERENCE,
        most("two-rr", "half load p99", "", 0.4),
    ),
    least("two-connections", "rate", "floor", 2.0),
    least("two-connections", "rate", "kernel", 1.0),
    most("one-busy", "per packet", "kernel", 1.0),
    most("two-busy", "per packet", "kernel", 1.0),
    by(0.0, "none", most("churn", "blocked", "", 1.0)),
    by(0.0, "none", most("soak", "failed", "", 1.0)),
    by(0.0, "none", most("soak", "lost", "", 1.0)),
    // An allocator's page more or less is no growth.
    by(1.0, "one per cent", most("soak", "growth", "", 1.0)),
];

/// How a row came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It holds.
    Reached,
    /// It does not, or ours has no value.
    Missed,
    /// What it needs is not there.
    Skipped,
}

/// A row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The case.
    pub case: String,
    /// Which of its figures.
    pub figure: String,
    /// Whom or what it is compared with.
    pub against: String,
    /// What the ratio to a peer, or the figure itself, has to be.
    pub limit: f64,
    /// Whether that is the least, not the most.
    pub at_least: bool,
    /// What it is.
    pub value: Option<Measured>,
    /// Whether it is compared with a peer: the value is a ratio then.
    pub ratio: bool,
    /// How it came out.
    pub outcome: Outcome,
    /// Why it was skipped, or has no value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Every row of the table that counts on this machine.
#[must_use]
pub fn judge(results: &Results) -> Vec<Verdict> {
    let many = has_ceiling(&results.machine);
    TARGETS
        .iter()
        .filter(|target| match target.place {
            Where::Everywhere => true,
            Where::FewCores => !many,
            Where::ManyCores => many,
        })
        .map(|target| verdict(results, target))
        .collect()
}

/// Whether testpmd is a ceiling here.
#[must_use]
pub fn has_ceiling(machine: &Machine) -> bool {
    machine.cores >= CORES_FOR_A_CEILING
}

fn verdict(results: &Results, target: &Target) -> Verdict {
    let figure = results.figure(target.case, target.figure);
    let (against, limit, value) = match target.against {
        Against::Peer(peer) => (
            peer.to_owned(),
            target.factor,
            figure.and_then(|figure| figure.ratios.get(peer)),
        ),
        Against::Figure(number, what) => (
            what.to_owned(),
            target.factor * number,
            figure.and_then(|figure| figure.values.get(OURS)),
        ),
    };
    let holds = |value: &Measured| match target.at_least {
        true => value.median >= limit,
        false => value.median <= limit,
    };
    let (outcome, reason) = match value {
        Some(value) if holds(value) => (Outcome::Reached, None),
        Some(_) => (Outcome::Missed, None),
        None => absent(results, target),
    };
    Verdict {
        case: target.case.to_owned(),
        figure: target.figure.to_owned(),
        against,
        limit,
        at_least: target.at_least,
        value: value.cloned(),
        ratio: matches!(target.against, Against::Peer(_)),
        outcome,
        reason,
    }
}

/// Why there is no value. That ours could not be measured, where others were, is a miss.
fn absent(results: &Results, target: &Target) -> (Outcome, Option<String>) {
    let Some(figure) = results.figure(target.case, target.figure) else {
        let why = results.skipped.get(target.case).cloned();
        let why = why.unwrap_or_else(|| "not measured in this run".into());
        return (Outcome::Skipped, Some(why));
    };
    if !figure.values.contains_key(OURS) {
        let why = figure.missing.get(OURS);
        let why = why.map_or("it has no value", String::as_str);
        return (Outcome::Missed, Some(format!("ours: {why}")));
    }
    let Against::Peer(peer) = target.against else {
        return (Outcome::Skipped, None);
    };
    let why = figure.missing.get(peer).cloned();
    let why = why.or_else(|| results.peers.get(peer).cloned().flatten());
    let why = why.unwrap_or_else(|| "it has no value in a round that ours has one in".into());
    (Outcome::Skipped, Some(format!("{peer}: {why}")))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::results::tests::{run, values};
    use crate::results::{Better, Figure, Values};

    fn rate(case: &str, name: &str, values: &Values) -> Figure {
        Figure::new(case, name, "1/s", Better::Higher, values)
    }

    fn row<'a>(verdicts: &'a [Verdict], case: &str, figure: &str, against: &str) -> &'a Verdict {
        let found = verdicts.iter().find(|verdict| {
            verdict.case == case && verdict.figure == figure && verdict.against == against
        });
        found.unwrap_or_else(|| panic!("no row {case} {figure} {against}"))
    }

    #[test]
    fn rows_are_reached_missed_or_skipped_with_the_reason() {
        let figures = vec![
            rate(
                "two-udp64",
                "loss-0.1%",
                &values(&[
                    (OURS, &[130.0, 125.0, 90.0]),
                    ("kernel", &[100.0, 100.0, 100.0]),
                    ("floor", &[50.0, 50.0, 50.0]),
                ]),
            ),
            rate("two-tcp", "rate", &values(&[(OURS, &[6.5])])).without(&BTreeMap::from([(
                "kernel".to_owned(),
                "nft ended".to_owned(),
            )])),
            rate("two-connections", "rate", &values(&[("kernel", &[5.0])]))
                .without(&BTreeMap::from([(OURS.to_owned(), "refused".to_owned())])),
        ];
        let mut run = run(figures);
        run.skipped.insert("soak".into(), "not asked for".into());
        let verdicts = judge(&run);

        let kernel = row(&verdicts, "two-udp64", "loss-0.1%", "kernel");
        assert_eq!(kernel.outcome, Outcome::Reached);
        assert_eq!(kernel.value.as_ref().unwrap().median, 1.25);
        let floor = row(&verdicts, "two-udp64", "loss-0.1%", "floor");
        assert_eq!(floor.outcome, Outcome::Missed);
        let ovs = row(&verdicts, "two-udp64", "loss-0.1%", "ovs");
        assert_eq!(ovs.outcome, Outcome::Skipped);
        assert_eq!(ovs.reason.as_deref(), Some("ovs: not installed"));

        let reference = row(&verdicts, "two-tcp", "rate", REFERENCE);
        assert_eq!(reference.outcome, Outcome::Reached);
        assert!((reference.limit - 6.0).abs() < 1e-9 && !reference.ratio);
        let kernel = row(&verdicts, "two-tcp", "rate", "kernel");
        assert_eq!(kernel.reason.as_deref(), Some("kernel: nft ended"));

        let connections = row(&verdicts, "two-connections", "rate", "kernel");
        assert_eq!(connections.outcome, Outcome::Missed);
        assert_eq!(connections.reason.as_deref(), Some("ours: refused"));
        let soak = row(&verdicts, "soak", "failed", "none");
        assert_eq!(soak.outcome, Outcome::Skipped);
        assert_eq!(soak.reason.as_deref(), Some("not asked for"));
    }

    #[test]
    fn what_must_be_small_is_missed_when_it_is_large() {
        let lower = |case: &str, name: &str, values: &Values| {
            Figure::new(case, name, "us", Better::Lower, values)
        };
        let run = run(vec![
            lower(
                "two-rr",
                "idle p99",
                &values(&[(OURS, &[150.0, 160.0]), ("kernel", &[100.0, 100.0])]),
            ),
            lower("churn", "blocked", &values(&[(OURS, &[0.0])])),
            lower("soak", "failed", &values(&[(OURS, &[1.0])])),
        ]);
        let verdicts = judge(&run);
        let outcome =
            |case: &str, figure: &str, against: &str| row(&verdicts, case, figure, against).outcome;
        assert_eq!(outcome("two-rr", "idle p99", "kernel"), Outcome::Missed);
        assert_eq!(outcome("two-rr", "idle p99", REFERENCE), Outcome::Reached);
        assert_eq!(outcome("churn", "blocked", "none"), Outcome::Reached);
        assert_eq!(outcome("soak", "failed", "none"), Outcome::Missed);
    }

    #[test]
    fn testpmd_is_a_ceiling_where_there_are_cores() {
        let mut run = run(Vec::new());
        let testpmd = |run: &Results| -> Vec<(String, f64)> {
            let verdicts = judge(run);
            let rows = verdicts.into_iter();
            let rows = rows.filter(|row| row.against == "testpmd" && row.figure == "loss-0.1%");
            rows.map(|row| (row.case, row.limit)).collect()
        };
        run.machine.cores = 2;
        assert_eq!(testpmd(&run), [("one-udp64".to_owned(), 0.9)]);
        run.machine.cores = 4;
        let ceiling = [
            ("one-udp64".to_owned(), 0.85),
            ("two-udp64".to_owned(), 0.85),
        ];
        assert_eq!(testpmd(&run), ceiling);
    }
}
