//! The search against systems whose true rate is known: quiet ones, noisy ones, and generators that cannot keep up.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss
)]
// A test's own functions are tests too: clippy exempts only the marked ones.
#![allow(clippy::expect_used)]

use pktgen::search::{Goal, Limit, Limits, Outcome, Search, SearchError, Trial};
use proptest::prelude::*;

const MIN: f64 = 1e3;
const MAX: f64 = 1e7;

/// Passes `capacity` packets a second from a generator that sends at most `ceiling`.
#[derive(Clone, Copy, Debug)]
struct System {
    capacity: f64,
    ceiling: f64,
}

impl System {
    fn run(self, trial: &Trial) -> (u64, u64) {
        let seconds = trial.duration.as_secs_f64();
        let sent = (trial.rate.min(self.ceiling) * seconds).round() as u64;
        let passed = (self.capacity * seconds).floor() as u64;
        (sent, sent.saturating_sub(passed))
    }
}

fn quiet(capacity: f64) -> System {
    System {
        capacity,
        ceiling: f64::INFINITY,
    }
}

/// Runs to the end; `spoil(n)` says whether trial `n` loses half of its packets for no fault of the system.
fn run(system: System, goals: &[Goal], spoil: impl Fn(u32) -> bool) -> (Vec<Outcome>, u32) {
    let mut search = Search::new(Limits::new(MIN, MAX), goals.iter().copied()).expect("valid");
    while let Some(trial) = search.next() {
        assert_eq!(search.next(), Some(trial), "asking changes nothing");
        let (sent, mut lost) = system.run(&trial);
        if spoil(search.trials()) {
            lost = lost.max(sent / 2);
        }
        search.record(&trial, sent, lost);
    }
    (search.results(), search.trials())
}

fn lower(outcome: &Outcome) -> f64 {
    outcome.lower.as_ref().map_or(0.0, |bound| bound.rate)
}

fn upper(outcome: &Outcome) -> f64 {
    outcome
        .upper
        .as_ref()
        .map_or(f64::INFINITY, |bound| bound.rate)
}

proptest! {
    #[test]
    fn bounds_enclose_the_true_rate(capacity in 2.0 * MIN..0.9 * MAX) {
        let (results, trials) = run(quiet(capacity), &[Goal::pdr(), Goal::ndr()], |_| false);
        // What half a percent of loss leaves.
        for (outcome, truth) in results.iter().zip([capacity / 0.995, capacity]) {
            prop_assert_eq!(outcome.limit, Limit::Precision);
            // Counts are whole packets: a rate within a few of them is the same.
            prop_assert!(lower(outcome) <= truth + 10.0, "{} > {truth}", lower(outcome));
            prop_assert!(upper(outcome) >= truth - 10.0, "{} < {truth}", upper(outcome));
            prop_assert!(outcome.width().expect("two bounds") <= 0.01);
            prop_assert!(outcome.lower.as_ref().expect("there").loss_ratio <= outcome.goal.loss_ratio);
            prop_assert!(outcome.upper.as_ref().expect("there").loss_ratio > outcome.goal.loss_ratio);
        }
        prop_assert!(trials < 60, "{trials} trials");
    }

    /// Wherever it falls, in the first trial or the last.
    #[test]
    fn one_unlucky_trial_changes_little(capacity in 2.0 * MIN..0.9 * MAX, unlucky in 0u32..40) {
        let (results, trials) = run(quiet(capacity), &[Goal::pdr(), Goal::ndr()], |n| n == unlucky);
        for outcome in &results {
            prop_assert_eq!(outcome.limit, Limit::Precision);
            prop_assert!(lower(outcome) > 0.985 * capacity, "{} of {capacity}", lower(outcome));
        }
        prop_assert!(trials < 70, "{trials} trials");
    }

    #[test]
    fn what_the_generator_reached_is_what_counts(ceiling in 2.0 * MIN..0.8 * MAX, spare in 1.05f64..20.0) {
        let system = System { capacity: ceiling * spare, ceiling };
        let (results, trials) = run(system, &[Goal::pdr(), Goal::ndr()], |_| false);
        for outcome in &results {
            prop_assert_eq!(outcome.limit, Limit::Generator);
            prop_assert!((lower(outcome) / ceiling - 1.0).abs() < 0.03, "{} of {ceiling}", lower(outcome));
            prop_assert!(outcome.upper.is_none());
        }
        prop_assert!(trials < 12);
    }

    /// A generator that reaches more than the system passes does not end the search, even if it reaches less than asked.
    #[test]
    fn a_slow_generator_still_finds_a_slower_system(capacity in 2.0 * MIN..0.4 * MAX, more in 1.1f64..2.0) {
        let system = System { capacity, ceiling: capacity * more };
        let (results, _) = run(system, &[Goal::ndr()], |_| false);
        prop_assert_eq!(results[0].limit, Limit::Precision);
        prop_assert!((lower(&results[0]) / capacity - 1.0).abs() < 0.011);
    }

    /// Whatever happens, the search ends, its bounds are in order, and less loss is never passed at a higher rate.
    #[test]
    fn any_answers_end_it(answers in prop::collection::vec((0.0f64..1.2, prop_oneof![Just(0.0), 0.0f64..1.0]), 64)) {
        let mut limits = Limits::new(MIN, MAX);
        limits.max_trials = u32::MAX;
        let mut search = Search::new(limits, [Goal::pdr(), Goal::ndr()]).expect("valid");
        for round in 0.. {
            let Some(trial) = search.next() else { break };
            prop_assert!(round < 3000, "no end");
            prop_assert!(trial.rate >= MIN && trial.rate <= MAX);
            let (reached, loss) = answers[round % answers.len()];
            let sent = trial.packets() as f64 * reached;
            search.record(&trial, sent as u64, (sent * loss) as u64);
        }
        let results = search.results();
        for outcome in &results {
            prop_assert!(outcome.limit != Limit::Unfinished);
            prop_assert!(lower(outcome) <= upper(outcome));
            prop_assert!(outcome.lower.is_some() || outcome.limit == Limit::Minimum);
        }
    }
}

/// One trial in seven is spoilt, in any order: with five trials to decide, the result stays where it is.
#[test]
fn frequent_noise_costs_trials_rather_than_the_result() {
    let goal = Goal {
        trials: 5,
        ..Goal::ndr()
    };
    let mut near = 0;
    for seed in 0..1000u64 {
        let capacity = 2.0 * MIN * (1.0 + seed as f64).powf(1.2);
        let spoil = |n: u32| {
            let mixed = (seed << 32 | u64::from(n)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            (mixed ^ (mixed >> 32)).is_multiple_of(7)
        };
        let (results, trials) = run(quiet(capacity), &[goal], spoil);
        assert!(lower(&results[0]) <= capacity + 10.0);
        assert!(trials < 120, "{trials} trials");
        near += u32::from(lower(&results[0]) > 0.95 * capacity);
    }
    assert!(near > 950, "{near} of 1000");
}

#[test]
fn the_ends_of_the_range_are_said() {
    let (results, _) = run(quiet(2.0 * MAX), &[Goal::ndr()], |_| false);
    assert_eq!(results[0].limit, Limit::Maximum);
    assert!((lower(&results[0]) - MAX).abs() < 1.0);
    let (results, _) = run(quiet(MIN / 2.0), &[Goal::ndr()], |_| false);
    assert_eq!(results[0].limit, Limit::Minimum);
    assert!(results[0].lower.is_none());
    assert!((upper(&results[0]) - MIN).abs() < 1.0);
}

#[test]
fn a_dead_path_ends_at_the_minimum() {
    let mut search = Search::new(Limits::new(MIN, MAX), [Goal::ndr()]).expect("valid");
    while let Some(trial) = search.next() {
        search.record(&trial, 0, 0);
    }
    assert_eq!(search.results()[0].limit, Limit::Minimum);
    assert!(search.trials() < 60, "{}", search.trials());
}

#[test]
fn preliminary_trials_are_shorter_and_decide_nothing() {
    let mut search = Search::new(Limits::new(MIN, MAX), [Goal::ndr()]).expect("valid");
    let system = quiet(123_456.0);
    let mut long = 0;
    while let Some(trial) = search.next() {
        if trial.is_preliminary() {
            assert_eq!(trial.duration, Limits::new(MIN, MAX).duration / 4);
            assert_eq!(search.results()[0].limit, Limit::Unfinished);
            assert!(search.results()[0].lower.is_none());
        } else {
            long += 1;
        }
        let (sent, lost) = system.run(&trial);
        search.record(&trial, sent, lost);
    }
    assert!(long >= 4, "each bound takes two trials");
    let bounds = &search.results()[0];
    assert!(bounds.lower.as_ref().is_some_and(|bound| bound.trials >= 2));
    assert!(bounds.upper.as_ref().is_some_and(|bound| bound.trials >= 2));
}

/// Two searches take turns, as two systems do that are compared in one run.
#[test]
fn searches_interleave() {
    let systems = [quiet(50_000.0), quiet(800_000.0)];
    let mut searches =
        systems.map(|_| Search::new(Limits::new(MIN, MAX), [Goal::ndr()]).expect("valid"));
    loop {
        let mut busy = false;
        for (search, system) in searches.iter_mut().zip(systems) {
            if let Some(trial) = search.next() {
                let (sent, lost) = system.run(&trial);
                search.record(&trial, sent, lost);
                busy = true;
            }
        }
        if !busy {
            break;
        }
    }
    for (search, system) in searches.iter().zip(systems) {
        assert!((lower(&search.results()[0]) / system.capacity - 1.0).abs() < 0.011);
    }
}

#[test]
fn trials_are_bounded() {
    let mut limits = Limits::new(MIN, MAX);
    limits.max_trials = 5;
    let mut search = Search::new(limits, [Goal::ndr()]).expect("valid");
    while let Some(trial) = search.next() {
        let (sent, lost) = quiet(77_777.0).run(&trial);
        search.record(&trial, sent, lost);
    }
    assert_eq!(search.trials(), 5);
    assert_eq!(search.results()[0].limit, Limit::Unfinished);
}

#[test]
fn nonsense_is_refused_with_its_remedy() {
    let limits = Limits::new(MIN, MAX);
    let refused = |limits: Limits, goals: &[Goal]| {
        Search::new(limits, goals.iter().copied())
            .expect_err("refused")
            .to_string()
    };
    assert!(refused(limits, &[]).contains("at least one"));
    assert!(refused(Limits::new(10.0, 5.0), &[Goal::ndr()]).contains("lowest <= highest"));
    assert!(refused(Limits::new(f64::NAN, 5.0), &[Goal::ndr()]).contains("lowest <= highest"));
    assert!(refused(limits, &[Goal::with_loss(1.0)]).contains("below 1"));
    let still = Limits {
        duration: std::time::Duration::ZERO,
        ..limits
    };
    assert_eq!(
        Search::new(still, [Goal::ndr()]).expect_err("refused"),
        SearchError::Duration
    );
    let none = Goal {
        trials: 0,
        ..Goal::ndr()
    };
    assert_eq!(
        Search::new(limits, [none]).expect_err("refused"),
        SearchError::NoTrials
    );
    let exact = Goal {
        precision: 0.0,
        ..Goal::ndr()
    };
    assert!(refused(limits, &[exact]).contains("precision"));
}
