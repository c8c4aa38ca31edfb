//! The highest rate that a system passes (RFC 2544, section 26.1), without loss (NDR) or with little (PDR), on machines
//! that are noisy.
//!
//! RFC 2544's own search halves an interval after each trial, so that one unlucky trial at the start spoils all that
//! follows. In the spirit of MLRsearch (draft-ietf-bmwg-mlrsearch): a rate is decided by the majority of several trials;
//! short single trials first find out where the long ones are worth their time; and the long ones may leave the interval
//! that the short ones found, in either direction. One trial serves all goals.
//!
//! What counts is what was really offered. A generator that cannot send as fast as it was asked has said nothing about
//! the rate that it was asked for: a trial is accounted for at the rate that it reached, and where that alone ended the
//! search, the result says so ([`Limit::Generator`]).
//!
//! No I/O and no clock: the caller runs each [`Trial`] as it likes, and may interleave several searches, or trials of
//! different systems.
//!
//! ```
//! use pktgen::search::{Goal, Limit, Limits, Search};
//! # fn main() -> Result<(), pktgen::search::SearchError> {
//! let mut search = Search::new(Limits::new(1e3, 1e6), [Goal::ndr(), Goal::pdr()])?;
//! while let Some(trial) = search.next() {
//!     // A system that passes 250,000 packets a second, and loses the rest.
//!     let sent = trial.packets();
//!     let passed = (250_000.0 * trial.duration.as_secs_f64()) as u64;
//!     search.record(&trial, sent, sent.saturating_sub(passed));
//! }
//! let ndr = &search.results()[0];
//! assert_eq!(ndr.limit, Limit::Precision);
//! assert!(ndr.lower.as_ref().is_some_and(|bound| bound.rate > 247_000.0 && bound.rate <= 250_001.0));
//! # Ok(())
//! # }
//! ```

use std::time::Duration;

use serde::Serialize;

/// What is looked for: the highest rate at which no more than a share of the packets is lost.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Goal {
    /// Highest share of packets that may be lost, from 0 up to and without 1.
    pub loss_ratio: f64,
    /// Trials that decide about a rate, at most. A majority ends the matter earlier.
    pub trials: u32,
    /// Highest share of these trials that may lose more, for the rate to count as passed.
    pub exceed_ratio: f64,
    /// The search ends when the bounds are this close: (upper - lower) / upper.
    pub precision: f64,
}

impl Goal {
    /// The non-drop rate: no packet lost, two of three trials, to 1 %.
    #[must_use]
    pub const fn ndr() -> Self {
        Self::with_loss(0.0)
    }

    /// The partial drop rate: half a percent lost, two of three trials, to 1 %.
    #[must_use]
    pub const fn pdr() -> Self {
        Self::with_loss(0.005)
    }

    /// Any other share of packets lost, two of three trials, to 1 %.
    #[must_use]
    pub const fn with_loss(loss_ratio: f64) -> Self {
        Self {
            loss_ratio,
            trials: 3,
            exceed_ratio: 0.5,
            precision: 0.01,
        }
    }

    /// Trials that may lose too much.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // A share of `trials`, not negative.
    fn excusable(&self) -> u32 {
        (f64::from(self.trials) * self.exceed_ratio).floor() as u32
    }
}

/// Where to search.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Limits {
    /// Lowest rate that is of interest, packets a second, above 0.
    pub min: f64,
    /// Highest rate: the link's, or more than the generator can.
    pub max: f64,
    /// How long a trial that counts lasts; those that only look for the place take a quarter of that.
    pub duration: Duration,
    /// A trial that offered less than this share below its rate counts at the rate that it offered.
    pub shortfall: f64,
    /// Trials at most; the search ends there with what it has.
    pub max_trials: u32,
}

impl Limits {
    /// Trials of one second, 2 % of shortfall allowed, 200 trials at most.
    #[must_use]
    pub const fn new(min: f64, max: f64) -> Self {
        Self {
            min,
            max,
            duration: Duration::from_secs(1),
            shortfall: 0.02,
            max_trials: 200,
        }
    }
}

/// Why there is no search.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum SearchError {
    /// Nothing to look for.
    #[error("there is no goal: give at least one")]
    NoGoal,
    /// Rates.
    #[error("cannot search from {min} to {max} packets/s: give 0 < lowest <= highest")]
    Rates {
        /// As given.
        min: f64,
        /// As given.
        max: f64,
    },
    /// Duration.
    #[error("a trial of no time offers nothing: give a duration above 0")]
    Duration,
    /// A share.
    #[error("{what} is {value}: give a share {from} and below 1")]
    Share {
        /// What it is of.
        what: &'static str,
        /// As given.
        value: f64,
        /// From where.
        from: &'static str,
    },
    /// Trials.
    #[error("no trial decides nothing: give at least 1")]
    NoTrials,
}

/// One trial to run.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Trial {
    /// Packets a second to offer.
    pub rate: f64,
    /// For how long.
    pub duration: Duration,
    stage: usize,
}

impl Trial {
    /// Packets that make the rate.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Positive, and far below 2^64.
    pub fn packets(&self) -> u64 {
        (self.rate * self.duration.as_secs_f64()).round() as u64
    }

    /// Whether it only looks for the place where longer trials are worth their time.
    #[must_use]
    pub const fn is_preliminary(&self) -> bool {
        self.stage == 0
    }
}

/// A rate that was decided.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Bound {
    /// Packets a second, as offered in the middle one of the trials.
    pub rate: f64,
    /// Share of the packets that was lost in the middle one of the trials.
    pub loss_ratio: f64,
    /// Trials at this rate.
    pub trials: usize,
}

/// What ended, or bounds, the search for a goal.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// The bounds are as close as was asked.
    Precision,
    /// The highest rate of interest passes: the true value is the lower bound or above.
    Maximum,
    /// The lowest rate of interest does not pass.
    Minimum,
    /// The generator cannot offer more than the lower bound, which passes.
    Generator,
    /// The search has not ended, or ended for want of trials.
    Unfinished,
}

/// What is known about a goal.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Outcome {
    /// The goal.
    pub goal: Goal,
    /// Highest rate that passes: the result.
    pub lower: Option<Bound>,
    /// Lowest rate that does not.
    pub upper: Option<Bound>,
    /// Why it is no closer.
    pub limit: Limit,
}

impl Outcome {
    /// How close the bounds are: (upper - lower) / upper, where there are both.
    #[must_use]
    pub fn width(&self) -> Option<f64> {
        let (lower, upper) = (self.lower.as_ref()?, self.upper.as_ref()?);
        Some(((upper.rate - lower.rate) / upper.rate).max(0.0))
    }
}

/// The state of a search.
#[derive(Clone, Debug)]
pub struct Search {
    limits: Limits,
    goals: Vec<Goal>,
    stages: [Vec<Point>; STAGES],
    trials: u32,
}

/// First short trials, one or two at each rate; then those that count.
const STAGES: usize = 2;
const PRELIMINARY: usize = 0;
const FINAL: usize = STAGES - 1;
/// How much coarser, and how much shorter, the first stage is.
const COARSER: f64 = 4.0;
const SHORTER: u32 = 4;
/// The first stage trusts what arrived at too high a rate only so far.
const DEEPEST: f64 = 4.0;

/// All trials of one stage at one rate.
#[derive(Clone, Debug)]
struct Point {
    asked: f64,
    /// Offered rate and share lost.
    trials: Vec<(f64, f64)>,
}

impl Point {
    /// Whether it passes, where that is decided.
    fn passes(&self, goal: &Goal, stage: usize) -> Option<bool> {
        let bad = self
            .trials
            .iter()
            .filter(|(_, loss)| *loss > goal.loss_ratio)
            .count();
        let good = self.trials.len() - bad;
        let (trials, excusable) = if stage == PRELIMINARY {
            // One that passes is enough to look further up; a final trial too high costs less than a start too low.
            (2, 1)
        } else {
            (goal.trials as usize, goal.excusable() as usize)
        };
        if good + excusable >= trials {
            Some(true)
        } else if bad > excusable {
            Some(false)
        } else {
            None
        }
    }

    fn offered(&self) -> f64 {
        median(self.trials.iter().map(|(offered, _)| *offered))
    }

    fn loss(&self) -> f64 {
        median(self.trials.iter().map(|(_, loss)| *loss))
    }

    fn short(&self, limits: &Limits) -> bool {
        self.offered() < self.asked * (1.0 - limits.shortfall)
    }

    fn bound(&self) -> Bound {
        Bound {
            rate: self.offered(),
            loss_ratio: self.loss(),
            trials: self.trials.len(),
        }
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

fn share(what: &'static str, value: f64, zero: bool) -> Result<(), SearchError> {
    if (value > 0.0 || (zero && value == 0.0)) && value < 1.0 {
        return Ok(());
    }
    Err(SearchError::Share {
        what,
        value,
        from: if zero { "from 0" } else { "above 0" },
    })
}

impl Search {
    /// Begins a search. Put the goal with the greatest loss first to have the fewest trials.
    ///
    /// # Errors
    /// See [`SearchError`].
    pub fn new(limits: Limits, goals: impl IntoIterator<Item = Goal>) -> Result<Self, SearchError> {
        let goals: Vec<Goal> = goals.into_iter().collect();
        if goals.is_empty() {
            return Err(SearchError::NoGoal);
        }
        let Limits { min, max, .. } = limits;
        if !(min > 0.0 && max >= min && max.is_finite()) {
            return Err(SearchError::Rates { min, max });
        }
        if limits.duration.is_zero() {
            return Err(SearchError::Duration);
        }
        share("the shortfall", limits.shortfall, true)?;
        for goal in &goals {
            share("the loss", goal.loss_ratio, true)?;
            share("the trials that may lose more", goal.exceed_ratio, true)?;
            share("the precision", goal.precision, false)?;
            if goal.trials == 0 {
                return Err(SearchError::NoTrials);
            }
        }
        Ok(Self {
            limits,
            goals,
            stages: Default::default(),
            trials: 0,
        })
    }

    /// The trial to run next; `None` when all goals are reached, or the trials are used up. Asked again before anything
    /// was recorded, it answers the same.
    #[must_use]
    pub fn next(&self) -> Option<Trial> {
        if self.trials >= self.limits.max_trials {
            return None;
        }
        (0..STAGES).find_map(|stage| {
            let rate = self
                .goals
                .iter()
                .find_map(|goal| self.candidate(stage, goal))?;
            let duration = if stage == PRELIMINARY {
                (self.limits.duration / SHORTER).max(Duration::from_nanos(1))
            } else {
                self.limits.duration
            };
            Some(Trial {
                rate,
                duration,
                stage,
            })
        })
    }

    /// Takes the result of a trial: packets that were offered within its duration, and how many of these did not
    /// arrive.
    #[allow(clippy::cast_precision_loss)] // Counts far below 2^52, and rates are not exact.
    pub fn record(&mut self, trial: &Trial, offered: u64, lost: u64) {
        self.trials = self.trials.saturating_add(1);
        // Nothing offered shows nothing but that this does not work.
        let (rate, loss) = if offered == 0 {
            (trial.rate, 1.0)
        } else {
            let reached = offered as f64 / trial.duration.as_secs_f64();
            let loss = lost.min(offered) as f64 / offered as f64;
            let enough = reached >= trial.rate * (1.0 - self.limits.shortfall);
            (if enough { trial.rate } else { reached }, loss)
        };
        let Some(points) = self.stages.get_mut(trial.stage) else {
            return;
        };
        match points
            .iter_mut()
            .find(|point| point.asked.total_cmp(&trial.rate).is_eq())
        {
            Some(point) => point.trials.push((rate, loss)),
            None => points.push(Point {
                asked: trial.rate,
                trials: vec![(rate, loss)],
            }),
        }
    }

    /// Trials that were recorded.
    #[must_use]
    pub const fn trials(&self) -> u32 {
        self.trials
    }

    /// What is known, goal by goal in the order given; at any time.
    #[must_use]
    pub fn results(&self) -> Vec<Outcome> {
        self.goals.iter().map(|goal| self.outcome(goal)).collect()
    }

    fn outcome(&self, goal: &Goal) -> Outcome {
        let (lower, upper) = self.bracket(FINAL, goal);
        let begun = self.candidate(PRELIMINARY, goal).is_none();
        let limit = if !begun || self.candidate(FINAL, goal).is_some() {
            Limit::Unfinished
        } else {
            match (lower, upper) {
                (None, _) => Limit::Minimum,
                (Some(point), upper) if self.generator_ends(point, upper) => Limit::Generator,
                (Some(_), None) => Limit::Maximum,
                (Some(_), Some(_)) => Limit::Precision,
            }
        };
        let lower = lower.map(Point::bound);
        let upper = upper.map(Point::bound).map(|mut bound| {
            // A generator may reach less when asked for more.
            bound.rate = lower
                .as_ref()
                .map_or(bound.rate, |lower| bound.rate.max(lower.rate));
            bound
        });
        Outcome {
            goal: *goal,
            lower,
            upper,
            limit,
        }
    }

    /// The highest rate that passes below the lowest one that does not, and that one; by what was asked for.
    fn bracket(&self, stage: usize, goal: &Goal) -> (Option<&Point>, Option<&Point>) {
        let points = self.stages.get(stage).map_or(&[][..], Vec::as_slice);
        let by_rate = |a: &&Point, b: &&Point| a.asked.total_cmp(&b.asked);
        let upper = points
            .iter()
            .filter(|point| point.passes(goal, stage) == Some(false))
            .min_by(by_rate);
        let below = upper.map_or(f64::INFINITY, |point| point.asked);
        let lower = points
            .iter()
            .filter(|point| point.passes(goal, stage) == Some(true) && point.asked < below)
            .max_by(by_rate);
        (lower, upper)
    }

    /// Whether more than at `lower` cannot be offered, so that nothing can be learnt above it.
    fn generator_ends(&self, lower: &Point, upper: Option<&Point>) -> bool {
        lower.short(&self.limits) && upper.is_none_or(|upper| upper.short(&self.limits))
    }

    /// Where the stage begins for a goal.
    fn begin(&self, stage: usize, goal: &Goal) -> f64 {
        if stage == PRELIMINARY {
            return self.limits.max;
        }
        let (lower, upper) = self.bracket(stage - 1, goal);
        match (lower, upper) {
            (Some(lower), _) => lower.asked,
            (None, Some(_)) => self.limits.min,
            (None, None) => self.limits.max,
        }
    }

    /// The rate to try next in a stage; `None` when the stage is through for the goal. The same until it is decided.
    fn candidate(&self, stage: usize, goal: &Goal) -> Option<f64> {
        let Limits { min, max, .. } = self.limits;
        let width = if stage == PRELIMINARY {
            (goal.precision * COARSER).min(0.5)
        } else {
            goal.precision
        };
        let begin = self.begin(stage, goal);
        let (lower, upper) = self.bracket(stage, goal);
        // Steps that do not find a bound grow: 1, 2, 4 ... widths.
        match (lower, upper) {
            (None, None) => Some(begin),
            (Some(lower), _) if self.generator_ends(lower, upper) => None,
            (Some(lower), None) => (lower.asked < max).then(|| {
                let step = (lower.asked / begin).max(1.0) / (1.0 - width);
                (lower.asked * step).min(max)
            }),
            (None, Some(upper)) => (upper.asked > min).then(|| {
                let step = (1.0 - width) * (upper.asked / begin).min(1.0);
                let least = upper.asked * step;
                let rate = if stage == PRELIMINARY {
                    // What arrived is a guess at what would have been passed.
                    let arrived = upper.offered() * (1.0 - upper.loss());
                    arrived.clamp(
                        upper.asked / DEEPEST,
                        (upper.asked * (1.0 - width)).max(upper.asked / DEEPEST),
                    )
                } else {
                    least
                };
                rate.max(min)
            }),
            (Some(lower), Some(upper)) => {
                let wide = upper.asked - lower.asked > upper.asked * width;
                let middle = (lower.asked * upper.asked).sqrt();
                // What cannot be told apart as a number cannot be narrowed.
                (wide && middle > lower.asked && middle < upper.asked).then_some(middle)
            }
        }
    }
}
