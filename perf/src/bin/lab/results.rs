//! What a run found, as it is kept in `perf/results/<date>.json`: every value of every round, and what follows from them.
//!
//! Absolute figures are of one machine on one day. What outlasts both are ratios between peers that took turns in one
//! run, so a ratio is formed in each round and the median of these is what counts.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::facts::Machine;
use crate::targets::Verdict;

/// Version of the file's form; it grows when a field changes its meaning or goes.
pub const SCHEMA: u32 = 2;

/// The peer that all others are compared with.
pub const OURS: &str = "ours";

/// A run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// Version of this form.
    pub schema: u32,
    /// Begin, UTC, as in RFC 3339.
    pub started: String,
    /// Seconds from begin to end.
    pub took_seconds: f64,
    /// How it was measured.
    pub settings: Settings,
    /// Where.
    pub machine: Machine,
    /// Who was asked for; why one is not there.
    pub peers: BTreeMap<String, Option<String>>,
    /// What was measured.
    pub figures: Vec<Figure>,
    /// Cases that were not measured, and why; parts of cases likewise.
    pub skipped: BTreeMap<String, String>,
    /// What is asked, and whether it holds.
    pub targets: Vec<Verdict>,
}

/// How long and how often.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// `quick` or `full`.
    pub mode: String,
    /// Interleaved rounds, at most.
    pub rounds: u16,
    /// Seconds of one measurement.
    pub seconds: f64,
    /// What sends and counts datagrams.
    pub generator: String,
    /// How our workers wait.
    pub idle: String,
    /// Whether a node has a core of its own (`apart`) or not (`shared`).
    pub cores: String,
    /// The longest that an idle core may take to wake, µs, where a limit was set.
    #[serde(default)]
    pub cpu_latency: Option<u32>,
}

/// Which values are the good ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// A rate.
    Higher,
    /// A time, a cost.
    Lower,
}

/// One figure of one case, of all peers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// The case, such as `two-udp64`.
    pub case: String,
    /// Which of its figures, such as `ndr`.
    pub name: String,
    /// Where it lies on the horizontal axis of its plot, if it is one of a series.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<f64>,
    /// Of the values.
    pub unit: String,
    /// Which are good.
    pub better: Better,
    /// By peer.
    pub values: BTreeMap<String, Measured>,
    /// Ours by the peer's.
    pub ratios: BTreeMap<String, Measured>,
    /// Who has no value, or not in every round, and why.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub missing: BTreeMap<String, String>,
}

/// Values of the rounds, and what they come to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// By round.
    pub rounds: BTreeMap<u16, f64>,
    /// Half are smaller.
    pub median: f64,
    /// The smallest.
    pub least: f64,
    /// The largest.
    pub most: f64,
}

/// Values by peer and round.
pub type Values = BTreeMap<String, BTreeMap<u16, f64>>;

impl Measured {
    /// Nothing without a finite value.
    #[must_use]
    pub fn of(rounds: BTreeMap<u16, f64>) -> Option<Measured> {
        let mut sorted: Vec<f64> = rounds.values().copied().filter(|v| v.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let (least, most) = (*sorted.first()?, *sorted.last()?);
        let upper = *sorted.get(sorted.len() / 2)?;
        let lower = *sorted.get((sorted.len() - 1) / 2)?;
        Some(Measured {
            rounds,
            median: f64::midpoint(lower, upper),
            least,
            most,
        })
    }

    /// Half of the way from the least to the most, as a share of the median.
    #[must_use]
    pub fn half_range(&self) -> f64 {
        match self.median.abs() {
            median if median > 0.0 => (self.most - self.least) / 2.0 / median,
            _ => 0.0,
        }
    }
}

impl Figure {
    /// A figure with its ratios.
    #[must_use]
    pub fn new(case: &str, name: &str, unit: &str, better: Better, values: &Values) -> Figure {
        let measured = |(peer, rounds): (&String, &BTreeMap<u16, f64>)| {
            Some((peer.clone(), Measured::of(rounds.clone())?))
        };
        Figure {
            case: case.to_owned(),
            name: name.to_owned(),
            at: None,
            unit: unit.to_owned(),
            better,
            values: values.iter().filter_map(measured).collect(),
            ratios: ratios(values),
            missing: BTreeMap::new(),
        }
    }

    /// As a point of a series.
    #[must_use]
    pub fn at(mut self, at: f64) -> Figure {
        self.at = Some(at);
        self
    }

    /// With the reasons of who has no value.
    #[must_use]
    pub fn without(mut self, missing: &BTreeMap<String, String>) -> Figure {
        self.missing.clone_from(missing);
        self
    }

    /// What names it in a run and in another one.
    #[must_use]
    pub fn key(&self) -> String {
        match self.at {
            Some(at) => format!("{}/{}@{at}", self.case, self.name),
            None => format!("{}/{}", self.case, self.name),
        }
    }
}

/// Ours by each peer's, in each round that has both.
fn ratios(values: &Values) -> BTreeMap<String, Measured> {
    let Some(ours) = values.get(OURS) else {
        return BTreeMap::new();
    };
    let of = |(peer, theirs): (&String, &BTreeMap<u16, f64>)| {
        let of = |(&round, ours): (&u16, &f64)| {
            let theirs = theirs.get(&round).filter(|theirs| **theirs > 0.0)?;
            Some((round, ours / theirs)).filter(|(_, ratio)| ratio.is_finite())
        };
        let rounds = ours.iter().filter_map(of).collect();
        Some((peer.clone(), Measured::of(rounds)?))
    };
    let others = values.iter().filter(|(peer, _)| *peer != OURS);
    others.filter_map(of).collect()
}

impl Results {
    /// The figure of a case, outside a series.
    #[must_use]
    pub fn figure(&self, case: &str, name: &str) -> Option<&Figure> {
        self.figures
            .iter()
            .find(|figure| figure.case == case && figure.name == name && figure.at.is_none())
    }

    /// Reads a run.
    ///
    /// # Errors
    /// When the text is none, or of another version.
    pub fn parse(text: &str) -> Result<Results> {
        #[derive(Deserialize)]
        struct Version {
            schema: u32,
        }
        let Version { schema } = serde_json::from_str(text)
            .context("this is no result of the lab: it has no \"schema\"")?;
        ensure!(
            schema == SCHEMA,
            "the file has schema {schema} and this lab reads {SCHEMA}: measure again with this version"
        );
        serde_json::from_str(text).context("reading the lab's results")
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn rounds(values: &[f64]) -> BTreeMap<u16, f64> {
        (0..).zip(values.iter().copied()).collect()
    }

    pub fn values(peers: &[(&str, &[f64])]) -> Values {
        let of = |(peer, values): &(&str, &[f64])| ((*peer).to_owned(), rounds(values));
        peers.iter().map(of).collect()
    }

    /// A made-up run.
    pub fn run(figures: Vec<Figure>) -> Results {
        Results {
            schema: SCHEMA,
            started: "2026-01-02T03:04:05Z".into(),
            took_seconds: 170.0,
            settings: Settings {
                mode: "quick".into(),
                rounds: 3,
                seconds: 0.5,
                generator: "workload".into(),
                idle: "backoff".into(),
                cores: "apart".into(),
                cpu_latency: None,
            },
            machine: Machine::default(),
            peers: BTreeMap::from([
                (OURS.to_owned(), None),
                ("kernel".to_owned(), None),
                ("ovs".to_owned(), Some("not installed".to_owned())),
            ]),
            figures,
            skipped: BTreeMap::new(),
            targets: Vec::new(),
        }
    }

    #[test]
    fn a_median_lies_between_the_middle_two() {
        let measured = Measured::of(rounds(&[4.0, 1.0, 2.0, 9.0])).unwrap();
        assert_eq!(
            (measured.median, measured.least, measured.most),
            (3.0, 1.0, 9.0)
        );
        assert_eq!(Measured::of(rounds(&[7.0, 1.0, 2.0])).unwrap().median, 2.0);
        assert!(Measured::of(BTreeMap::new()).is_none());
        assert!(Measured::of(rounds(&[f64::NAN])).is_none());
    }

    #[test]
    fn ratios_are_formed_in_each_round() {
        // The machine was three times as fast in the last round; the ratio does not see it.
        let values = values(&[
            (OURS, &[10.0, 12.0, 36.0]),
            ("kernel", &[5.0, 4.0, 15.0]),
            ("floor", &[1.0]),
            ("ovs", &[0.0, 0.0]),
        ]);
        let figure = Figure::new("case", "rate", "1/s", Better::Higher, &values);
        let kernel = &figure.ratios["kernel"];
        assert_eq!(kernel.rounds, rounds(&[2.0, 3.0, 2.4]));
        assert_eq!(kernel.median, 2.4);
        assert_eq!(figure.ratios["floor"].rounds, rounds(&[10.0]));
        assert!(!figure.ratios.contains_key("ovs"), "nothing by nothing");
        assert!(!figure.ratios.contains_key(OURS));
    }

    #[test]
    fn a_file_is_read_as_it_was_written_and_another_version_is_refused() {
        let values = values(&[(OURS, &[1.5, 2.5]), ("kernel", &[1.0, 1.0])]);
        let figure = Figure::new("flows", "rate", "1/s", Better::Higher, &values)
            .at(32.0)
            .without(&BTreeMap::from([("ovs".to_owned(), "gone".to_owned())]));
        assert_eq!(figure.key(), "flows/rate@32");
        let run = run(vec![figure]);
        let text = serde_json::to_string_pretty(&run).unwrap();
        assert_eq!(Results::parse(&text).unwrap(), run);
        let newer = text.replacen("\"schema\": 2", "\"schema\": 3", 1);
        let error = Results::parse(&newer).unwrap_err().to_string();
        assert!(error.contains("schema 3"), "{error}");
        assert!(Results::parse("{}").is_err());
    }
}
