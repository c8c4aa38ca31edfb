//! Whether a run is worse than an earlier one.
//!
//! Only ratios to peers are compared: both sides of a ratio ran on the same machine in the same minute, so it may be held
//! against one from another machine and another day. How much worse is worse follows from how far the rounds of both runs
//! lie apart.

use std::fmt::Write as _;

use anyhow::{Result, ensure};

use crate::results::{Better, Measured, OURS, Results};
use crate::targets::has_ceiling;

/// No ratio is known better.
const LEAST_TOLERANCE: f64 = 0.05;
/// Of a ratio of one round, of which nobody knows how far others would lie apart.
const UNKNOWN_TOLERANCE: f64 = 0.25;
/// What varies more says nothing; half as much is worse in any case.
const MOST_TOLERANCE: f64 = 0.5;

/// How a ratio came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// No worse.
    Kept,
    /// Better than the tolerance explains.
    Rose,
    /// Worse than the tolerance explains.
    Fell,
    /// There is none now, and ours is to blame.
    Lost(String),
    /// There is none now, for another reason.
    Unmeasured(String),
}

/// A ratio then and now.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The figure.
    pub key: String,
    /// Ours by whose.
    pub peer: String,
    /// Medians, now if there is one.
    pub then: f64,
    /// The same of the new run.
    pub now: Option<f64>,
    /// How much it may lie off, as a share.
    pub tolerance: f64,
    /// How it came out.
    pub outcome: Outcome,
}

impl Row {
    /// Whether this is a reason to refuse a change.
    #[must_use]
    pub fn is_bad(&self) -> bool {
        matches!(self.outcome, Outcome::Fell | Outcome::Lost(_))
    }
}

fn tolerance(then: &Measured, now: &Measured) -> f64 {
    let of = |measured: &Measured| match measured.rounds.len() {
        0 | 1 => UNKNOWN_TOLERANCE,
        _ => measured.half_range(),
    };
    (of(then) + of(now)).clamp(LEAST_TOLERANCE, MOST_TOLERANCE)
}

/// Every ratio of the older run, beside the newer one's.
///
/// # Errors
/// When the runs cannot be compared: with the remedy.
pub fn compare(then: &Results, now: &Results) -> Result<Vec<Row>> {
    ensure!(
        has_ceiling(&then.machine) == has_ceiling(&now.machine),
        "the older run had {} cores and this one {}: with fewer than 4, nodes and generator share them, and ratios are \
         others. Measure a baseline on a machine like this one (scripts/perf lab --full)",
        then.machine.cores,
        now.machine.cores
    );
    ensure!(
        then.settings.generator == now.settings.generator,
        "the older run's loads came from {} and this one's from {}: measure with the same --generator, or measure a \
         baseline again",
        then.settings.generator,
        now.settings.generator
    );
    ensure!(
        then.settings.cpu_latency == now.settings.cpu_latency,
        "one run had --cpu-latency and the other not, or another one: round trips differ by it. Measure with the same"
    );
    let mut rows = Vec::new();
    for old in &then.figures {
        let key = old.key();
        let new = now.figures.iter().find(|figure| figure.key() == key);
        for (peer, before) in &old.ratios {
            let after = new.and_then(|figure| figure.ratios.get(peer));
            let tolerance = after.map_or(LEAST_TOLERANCE, |after| tolerance(before, after));
            let outcome = match after {
                Some(after) => {
                    let change = match old.better {
                        Better::Higher => after.median / before.median,
                        Better::Lower => before.median / after.median,
                    };
                    match change {
                        change if change < 1.0 - tolerance => Outcome::Fell,
                        change if change > 1.0 / (1.0 - tolerance) => Outcome::Rose,
                        _ => Outcome::Kept,
                    }
                }
                None => match new {
                    None => {
                        let why = now.skipped.get(&old.case).map(String::as_str);
                        Outcome::Unmeasured(why.unwrap_or("not measured in this run").to_owned())
                    }
                    Some(new) if !new.values.contains_key(OURS) => {
                        let why = new.missing.get(OURS).map(String::as_str);
                        Outcome::Lost(why.unwrap_or("ours has no value").to_owned())
                    }
                    Some(new) => {
                        let why = new.missing.get(peer).cloned();
                        let why = why.or_else(|| now.peers.get(peer).cloned().flatten());
                        Outcome::Unmeasured(why.unwrap_or_else(|| "the peer has no value".into()))
                    }
                },
            };
            rows.push(Row {
                key: key.clone(),
                peer: peer.clone(),
                then: before.median,
                now: after.map(|after| after.median),
                tolerance,
                outcome,
            });
        }
    }
    ensure!(
        rows.iter()
            .any(|row| row.now.is_some() || matches!(row.outcome, Outcome::Lost(_))),
        "the two runs have no ratio in common: run the same cases with the same peers"
    );
    Ok(rows)
}

/// For people: what fell first.
#[must_use]
pub fn table(rows: &[Row]) -> String {
    let mut rows: Vec<&Row> = rows.iter().collect();
    rows.sort_by_key(|row| !row.is_bad());
    let mut text = String::new();
    for row in rows {
        let lead = format!("{:<34} ours by {:<8}", row.key, row.peer);
        let _ = match (&row.outcome, row.now) {
            (Outcome::Unmeasured(why), _) => {
                writeln!(
                    text,
                    "{lead} {:>8.2} ->        -  not compared: {why}",
                    row.then
                )
            }
            (Outcome::Lost(why), _) => {
                writeln!(text, "{lead} {:>8.2} ->        -  LOST: {why}", row.then)
            }
            (outcome, now) => writeln!(
                text,
                "{lead} {:>8.2} -> {:>8.2}  {} (tolerance {:.0} %)",
                row.then,
                now.unwrap_or_default(),
                match outcome {
                    Outcome::Fell => "FELL",
                    Outcome::Rose => "rose",
                    _ => "kept",
                },
                row.tolerance * 100.0
            ),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::results::tests::{run, values};
    use crate::results::{Figure, Values};

    fn with(case: &str, better: Better, values: &Values) -> Results {
        run(vec![Figure::new(case, "rate", "1/s", better, values)])
    }

    fn steady(ours: f64, kernel: f64) -> Values {
        values(&[
            (OURS, &[ours * 0.99, ours, ours * 1.01]),
            ("kernel", &[kernel, kernel, kernel]),
        ])
    }

    #[test]
    fn a_machine_that_is_twice_as_fast_changes_nothing() {
        let old = with("tcp", Better::Higher, &steady(10.0, 12.0));
        let new = with("tcp", Better::Higher, &steady(20.0, 24.0));
        let rows = compare(&old, &new).unwrap();
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].outcome, Outcome::Kept);
    }

    #[test]
    fn a_ratio_that_fell_is_named() {
        let old = with("tcp", Better::Higher, &steady(10.0, 10.0));
        let new = with("tcp", Better::Higher, &steady(8.0, 10.0));
        let rows = compare(&old, &new).unwrap();
        assert_eq!(rows[0].outcome, Outcome::Fell);
        assert!(rows[0].is_bad());
        assert!(table(&rows).contains("tcp/rate"), "{}", table(&rows));
        assert!(table(&rows).contains("FELL"));
        // The same change of a time is an improvement.
        let old = with("rtt", Better::Lower, &steady(10.0, 10.0));
        let new = with("rtt", Better::Lower, &steady(8.0, 10.0));
        assert_eq!(compare(&old, &new).unwrap()[0].outcome, Outcome::Rose);
        assert_eq!(compare(&new, &old).unwrap()[0].outcome, Outcome::Fell);
    }

    #[test]
    fn what_varies_much_may_lie_off_much() {
        let wide = values(&[(OURS, &[7.0, 10.0, 13.0]), ("kernel", &[10.0, 10.0, 10.0])]);
        let old = with("udp", Better::Higher, &wide);
        let new = with("udp", Better::Higher, &steady(8.0, 10.0));
        assert_eq!(compare(&old, &new).unwrap()[0].outcome, Outcome::Kept);
        // But not by more than half.
        let new = with("udp", Better::Higher, &steady(4.0, 10.0));
        assert_eq!(compare(&old, &new).unwrap()[0].outcome, Outcome::Fell);
    }

    #[test]
    fn a_missing_peer_is_no_fall_and_our_own_failure_is() {
        let old = with("tcp", Better::Higher, &steady(10.0, 10.0));
        let mut new = with("tcp", Better::Higher, &values(&[(OURS, &[10.0])]));
        // Another figure, so that the runs have something in common.
        let other = Figure::new("udp", "rate", "1/s", Better::Higher, &steady(1.0, 1.0));
        let mut old = old;
        old.figures.push(other.clone());
        new.figures.push(other);
        new.figures[0].missing = BTreeMap::from([("kernel".to_owned(), "no nft".to_owned())]);
        let rows = compare(&old, &new).unwrap();
        assert_eq!(rows[0].outcome, Outcome::Unmeasured("no nft".into()));
        assert!(!rows.iter().any(Row::is_bad));
        new.figures[0].values.clear();
        new.figures[0].missing = BTreeMap::from([(OURS.to_owned(), "it ended".to_owned())]);
        let rows = compare(&old, &new).unwrap();
        assert_eq!(rows[0].outcome, Outcome::Lost("it ended".into()));
        assert!(rows[0].is_bad());
    }

    #[test]
    fn runs_that_have_nothing_in_common_are_refused() {
        let old = with("tcp", Better::Higher, &steady(10.0, 10.0));
        let new = with("udp", Better::Higher, &steady(10.0, 10.0));
        assert!(compare(&old, &new).is_err());
        let mut new = with("tcp", Better::Higher, &steady(10.0, 10.0));
        new.machine.cores = 64;
        let error = compare(&old, &new).unwrap_err().to_string();
        assert!(error.contains("64"), "{error}");
    }

    #[test]
    fn runs_with_other_loads_or_wake_ups_are_not_compared() {
        let old = with("udp", Better::Higher, &steady(10.0, 12.0));
        let mut new = old.clone();
        new.settings.generator = "something else".into();
        let error = compare(&old, &new).unwrap_err().to_string();
        assert!(error.contains("--generator"), "{error}");
        let mut new = old.clone();
        new.settings.cpu_latency = Some(0);
        let error = compare(&old, &new).unwrap_err().to_string();
        assert!(error.contains("--cpu-latency"), "{error}");
    }
}
