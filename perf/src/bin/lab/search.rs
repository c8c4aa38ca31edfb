//! The highest rates of several peers, found side by side: their searches take turns trial by trial, so that all see the
//! same quiet and the same noisy minutes.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use pktgen::search::{Goal, Limit, Limits, Search};

use crate::probe::Counted;

/// The share of loss of the partial drop rate.
pub const PDR_LOSS: f64 = 0.005;
/// Shares of loss that are searched for, and what they are called. The greatest first: it takes the fewest trials.
pub const GOALS: [(&str, f64); 3] = [("pdr", PDR_LOSS), ("loss-0.1%", 0.001), ("ndr", 0.0)];

/// No generator on a socket reaches more.
const MOST: f64 = 4e6;
const LEAST: f64 = 100.0;
/// A trial of what the generator reaches takes so long at least, s: queues that are full let nothing new through before.
const REACHED: f64 = 0.3;
/// A peer that fails so often is given up.
const FAILURES: usize = 2;

/// How thorough.
#[derive(Clone, Copy, Debug)]
pub struct Care {
    /// Of a trial that counts.
    pub seconds: f64,
    /// For each peer, at most.
    pub trials: u32,
    /// Trials that decide about a rate.
    pub deciding: u32,
    /// How close the bounds come, as a share.
    pub precision: f64,
}

/// What was found for a peer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// Datagrams a second that were offered, by the goal's name.
    pub rates: BTreeMap<&'static str, f64>,
    /// Why a rate is no closer, or there is none, by the goal's name.
    pub notes: BTreeMap<&'static str, String>,
}

/// By this a rate is lowered that does not hold.
pub const SLOWER: f64 = 0.9;

/// Lowers a rate by a tenth, so often at most, until a trial of it is good: what a search found has passed for a moment.
/// Answers the last rate that was tried, and what came of it.
///
/// # Errors
/// Those of the trial.
pub fn lower_until<T>(
    mut rate: f64,
    at_most: u32,
    mut trial: impl FnMut(f64) -> Result<T>,
    good: impl Fn(&T) -> bool,
) -> Result<(f64, T)> {
    let mut outcome = trial(rate)?;
    for _ in 0..at_most {
        if good(&outcome) {
            break;
        }
        rate *= SLOWER;
        outcome = trial(rate)?;
    }
    Ok((rate, outcome))
}

/// One peer's search.
struct One {
    search: Search,
    /// Offered a second, share lost.
    seen: Vec<(f64, f64)>,
    failures: Vec<String>,
}

/// Searches for all peers in turn. `trial` offers a rate for some seconds on a peer's way.
///
/// # Errors
/// When the care makes no search. What fails on a peer's way is in its notes.
pub fn search<'a>(
    peers: impl IntoIterator<Item = &'a str>,
    care: &Care,
    mut trial: impl FnMut(&str, f64, f64) -> Result<Counted>,
) -> Result<BTreeMap<String, Found>> {
    let goals = GOALS.map(|(_, loss)| Goal {
        trials: care.deciding,
        precision: care.precision,
        ..Goal::with_loss(loss)
    });
    let mut searches = Vec::new();
    for peer in peers {
        let mut failures = Vec::new();
        // What the generator reaches at all bounds the search, and saves trials of more.
        let most = match trial(peer, MOST, (care.seconds / 4.0).max(REACHED)) {
            Ok(counted) => counted.offered_per_second() * 1.02,
            Err(error) if journeys::signals::interrupted() => return Err(error),
            Err(error) => {
                failures.push(format!("{error:#}"));
                MOST
            }
        };
        let limits = Limits {
            duration: Duration::from_secs_f64(care.seconds),
            max_trials: care.trials,
            // A sender that sleeps between bursts.
            shortfall: 0.03,
            ..Limits::new(LEAST, most.clamp(LEAST * 2.0, MOST))
        };
        let one = One {
            search: Search::new(limits, goals)?,
            seen: Vec::new(),
            failures,
        };
        searches.push((peer, one));
    }
    let mut busy = true;
    while busy {
        busy = false;
        for (peer, one) in &mut searches {
            let Some(next) = one.search.next().filter(|_| one.failures.len() < FAILURES) else {
                continue;
            };
            busy = true;
            match trial(peer, next.rate, next.duration.as_secs_f64()) {
                Ok(counted) => {
                    let of = |rate: f64| {
                        let packets = (rate * next.duration.as_secs_f64()).round();
                        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
                        // a count
                        let packets = packets as u64;
                        packets
                    };
                    let offered = of(counted.offered_per_second());
                    let mut lost = of(counted.lost / counted.seconds);
                    if counted.lost > 0.0 {
                        // One of many in a longer window is one all the same.
                        lost = lost.max(1);
                    }
                    one.search.record(&next, offered, lost);
                    one.seen
                        .push((counted.offered_per_second(), counted.loss()));
                }
                Err(error) if journeys::signals::interrupted() => return Err(error),
                Err(error) => one.failures.push(format!("{error:#}")),
            }
        }
    }
    let found = searches
        .into_iter()
        .map(|(peer, one)| (peer.to_owned(), found(&one)));
    Ok(found.collect())
}

fn found(one: &One) -> Found {
    let mut found = Found::default();
    for ((name, loss), outcome) in GOALS.iter().zip(one.search.results()) {
        let passed = one.seen.iter().filter(|(_, lost)| lost <= loss);
        let best = passed.map(|(rate, _)| *rate).fold(0.0, f64::max);
        let (rate, note) = match (&outcome.lower, outcome.limit) {
            (Some(bound), Limit::Generator | Limit::Maximum) => {
                (bound.rate, Some("the generator can no more"))
            }
            (Some(bound), _) => (bound.rate, None),
            // The trials were used up; what passed has passed.
            (None, _) if best > 0.0 => (best, Some("the best of few trials")),
            (None, _) => (0.0, Some("no rate passed in any trial")),
        };
        if rate > 0.0 {
            found.rates.insert(name, rate);
        }
        let note = one
            .failures
            .last()
            .cloned()
            .or_else(|| note.map(str::to_owned));
        if let Some(note) = note {
            found.notes.insert(name, note);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    const CARE: Care = Care {
        seconds: 1.0,
        trials: 200,
        deciding: 1,
        precision: 0.02,
    };

    /// A peer that passes so much of what a generator that reaches `most` offers.
    fn counted(rate: f64, most: f64, passes: f64) -> Counted {
        let offered = rate.min(most);
        Counted {
            received: offered.min(passes),
            lost: (offered - passes).max(0.0),
            seconds: 1.0,
        }
    }

    #[test]
    fn a_rate_is_lowered_until_it_holds_or_often_enough() {
        let lowered = |at_most| {
            let trial = |rate: f64| Ok(rate);
            lower_until(100.0, at_most, trial, |rate| *rate < 75.0).unwrap()
        };
        for (at_most, expected) in [(0, 100.0), (2, 81.0), (3, 72.9), (9, 72.9)] {
            let (rate, outcome) = lowered(at_most);
            assert!((rate - expected).abs() < 1e-9, "{at_most}: {rate}");
            assert_eq!(rate, outcome);
        }
    }

    #[test]
    fn each_peer_has_its_own_rate_and_they_take_turns() {
        let mut order = Vec::new();
        let found = search(["ours", "kernel"], &CARE, |peer, rate, _| {
            order.push(peer.to_owned());
            let passes = if peer == "ours" { 200e3 } else { 120e3 };
            Ok(counted(rate, 400e3, passes))
        })
        .unwrap();
        for (peer, passes) in [("ours", 200e3), ("kernel", 120e3)] {
            for (goal, loss) in GOALS {
                let rate = found[peer].rates[goal];
                let most = passes / (1.0 - loss);
                assert!(
                    rate <= most * 1.001 && rate > most * 0.96,
                    "{peer} {goal}: {rate}"
                );
            }
        }
        assert_eq!(order[..4], ["ours", "kernel", "ours", "kernel"]);
    }

    #[test]
    fn a_generator_that_can_no_more_is_told() {
        let found = search(["ours"], &CARE, |_, rate, _| Ok(counted(rate, 90e3, 1e9))).unwrap();
        let ours = &found["ours"];
        assert!((ours.rates["ndr"] - 90e3).abs() < 2e3, "{ours:?}");
        assert!(ours.notes["ndr"].contains("generator"), "{ours:?}");
    }

    #[test]
    fn few_trials_give_the_best_that_passed_and_a_failure_is_one_peers() {
        let care = Care { trials: 5, ..CARE };
        let found = search(["ours", "ovs"], &care, |peer, rate, _| {
            if peer == "ovs" {
                bail!("it has ended");
            }
            Ok(counted(rate, 400e3, 100e3))
        })
        .unwrap();
        let rate = found["ours"].rates["pdr"];
        assert!(rate > 0.0 && rate < 101e3, "{rate}");
        assert!(found["ovs"].rates.is_empty());
        assert_eq!(found["ovs"].notes["pdr"], "it has ended");
    }
}
