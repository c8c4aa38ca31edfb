//! What is reported.

use std::time::Duration;

use serde::Serialize;

/// Times of single events.
#[derive(Debug, Default)]
pub struct Latencies {
    times: Vec<Duration>,
}

impl Latencies {
    pub fn extend(&mut self, times: impl IntoIterator<Item = Duration>) {
        self.times.extend(times);
    }

    /// Takes all of them out.
    pub fn take(&mut self) -> Vec<Duration> {
        std::mem::take(&mut self.times)
    }

    /// The time that this share of the events did not exceed, in milliseconds.
    pub fn percentile(&mut self, share: f64) -> f64 {
        self.times.sort_unstable();
        let last = self.times.len().saturating_sub(1);
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index into a list of this size"
        )]
        let at = (last as f64 * share).round() as usize;
        self.times
            .get(at)
            .map_or(0.0, |time| time.as_secs_f64() * 1e3)
    }
}

/// A figure with its target.
#[derive(Debug, Serialize)]
pub struct Row {
    /// What was done.
    pub work: String,
    /// Its name in JSON.
    pub name: &'static str,
    /// What came out.
    pub value: f64,
    /// Unit of value and target.
    pub unit: &'static str,
    /// The bound, if there is one.
    pub target: Option<f64>,
    /// Whether more is better.
    #[serde(skip)]
    pub more: bool,
    /// Whether the bound is kept.
    pub met: Option<bool>,
}

impl Row {
    pub fn least(
        name: &'static str,
        work: String,
        value: f64,
        unit: &'static str,
        target: f64,
    ) -> Self {
        Self {
            work,
            name,
            value,
            unit,
            target: Some(target),
            more: true,
            met: Some(value >= target),
        }
    }

    pub fn most(
        name: &'static str,
        work: String,
        value: f64,
        unit: &'static str,
        target: f64,
    ) -> Self {
        Self {
            met: Some(value <= target),
            more: false,
            ..Self::least(name, work, value, unit, target)
        }
    }

    /// Without a target: to compare with.
    pub fn beside(name: &'static str, work: String, value: f64, unit: &'static str) -> Self {
        Self {
            work,
            name,
            value,
            unit,
            target: None,
            more: true,
            met: None,
        }
    }

    /// The bound, for people.
    pub fn bound(&self) -> String {
        self.target.map_or_else(String::new, |target| {
            let sign = if self.more { "≥" } else { "≤" };
            format!("{sign} {}", number(target))
        })
    }
}

/// A number with as many digits as it is worth.
pub fn number(value: f64) -> String {
    if value >= 100.0 {
        format!("{value:.0}")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}
