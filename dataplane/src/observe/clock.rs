//! When a record was made: workers note the cycle counter, which costs nothing; the reader knows what time that was.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long an anchor is good: the frequency of the counter is known to some parts per million.
const ANCHOR: Duration = Duration::from_secs(1);
/// Readings of both clocks; the pair that lay closest together counts, for a thread may lose its CPU between two.
const READINGS: usize = 5;

/// From cycles to the time of day.
#[derive(Debug)]
pub(crate) struct Clock {
    cycles: u64,
    time: Duration,
    taken: Instant,
}

impl Clock {
    pub(crate) fn now() -> Self {
        let (_, cycles, time) = (0..READINGS)
            .map(|_| {
                let before = dpdk::cycles();
                let time = SystemTime::now();
                let after = dpdk::cycles();
                (after.wrapping_sub(before), before, time)
            })
            .min_by_key(|(apart, ..)| *apart)
            .unwrap_or((0, dpdk::cycles(), SystemTime::now()));
        Self {
            cycles,
            time: time.duration_since(UNIX_EPOCH).unwrap_or_default(),
            taken: Instant::now(),
        }
    }

    /// Takes a new anchor when the old one has grown old.
    pub(crate) fn refresh(&mut self) {
        if self.taken.elapsed() > ANCHOR {
            *self = Self::now();
        }
    }

    /// Time since 1970 at which the counter stood so.
    pub(crate) fn at(&self, cycles: u64) -> Duration {
        let hz = dpdk::cycles_hz().max(1);
        let span = |cycles: u64| {
            let nanoseconds = u128::from(cycles) * 1_000_000_000 / u128::from(hz);
            Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
        };
        match cycles.checked_sub(self.cycles) {
            Some(later) => self.time + span(later),
            None => self
                .time
                .saturating_sub(span(self.cycles.wrapping_sub(cycles))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_anchor_is_the_time_of_day() {
        let clock = Clock::now();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        assert!(now.abs_diff(clock.at(clock.cycles)) < Duration::from_secs(5));
    }
}
