//! What the benchmarks share: numbers that say how far they can be trusted, colours, and whom to measure.
#![forbid(unsafe_code)]

pub mod paint;
mod threads;
pub mod ways;

use serde::Serialize;

/// A median, and from where to where the values go.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Spread {
    /// Half of the values are smaller.
    pub median: f64,
    /// The smallest value.
    pub least: f64,
    /// The largest value.
    pub most: f64,
}

impl Spread {
    /// Of some values, in any order; zeros when there are none.
    #[must_use]
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |n: usize| values.get(n).copied().unwrap_or(0.0);
        Self {
            median: at(values.len() / 2),
            least: at(0),
            most: at(values.len().saturating_sub(1)),
        }
    }
}
