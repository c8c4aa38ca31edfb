//! How fast a node may ask (contract section 3, Delivery): a bounded number of queries in flight, the unanswered ones
//! repeated with back-off and jitter.
//!
//! A thousand nodes that return together ask more than broker and cluster manager answer within any fixed time, and
//! what they repeat meanwhile only lengthens the queue. So a node counts what it has in flight as TCP does (RFC 5681):
//! few at first, more with each answer, fewer when one stays out. It does not wait for that loss, though, to learn that
//! others ask as well: answers that come later than the fastest did have stood in a queue. How long it waits follows
//! the answers that come (RFC 6298; only those to a first try count, by Karn's rule).

use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hash, Hasher as _, RandomState};
use std::time::{Duration, Instant};

/// In flight at the start.
const FIRST_WINDOW: usize = 6;
/// In flight at most.
const WIDEST_WINDOW: usize = 64;
/// In flight, however much stays out.
const NARROWEST_WINDOW: usize = 2;
/// Answers that took so much longer than the fastest have waited for others: no more are sent at one time.
const QUEUED: Duration = Duration::from_millis(200);
/// And beyond this, fewer.
const QUEUED_LONG: Duration = Duration::from_millis(500);
/// The wait for an answer is never shorter.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);
/// Nor longer.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// How many queries may be in flight, and how long each is waited for.
#[derive(Clone, Debug)]
pub struct Pacing {
    window: usize,
    fastest: Option<Duration>,
    /// Smoothed time to an answer, and how far answers stray from it.
    time: Option<(Duration, Duration)>,
}

impl Default for Pacing {
    fn default() -> Self {
        Self {
            window: FIRST_WINDOW,
            fastest: None,
            time: None,
        }
    }
}

impl Pacing {
    /// How many queries may be unanswered at one time.
    #[must_use]
    pub fn window(&self) -> usize {
        self.window
    }

    /// How long to wait for the answer to a query that now goes out for the `tries`th time, counted from 1.
    #[must_use]
    pub fn wait(&self, tries: u32) -> Duration {
        let first = self.time.map_or(SHORTEST_WAIT, |(time, strays)| {
            (time + strays * 4).clamp(SHORTEST_WAIT, LONGEST_WAIT)
        });
        let doubled = first.saturating_mul(1 << tries.saturating_sub(1).min(6));
        jittered(doubled.min(LONGEST_WAIT))
    }

    /// An answer came, `took` after its query went out for the first and only time (`None` after a repetition: which of
    /// the two it answers is not known).
    pub fn answered(&mut self, took: Option<Duration>) {
        let Some(took) = took else {
            return;
        };
        let fastest = self.fastest.map_or(took, |fastest| fastest.min(took));
        self.fastest = Some(fastest);
        match took - fastest {
            queued if queued < QUEUED => self.window = (self.window + 1).min(WIDEST_WINDOW),
            queued if queued > QUEUED_LONG => {
                self.window = (self.window - 1).max(NARROWEST_WINDOW);
            }
            _ => {}
        }
        self.time = Some(match self.time {
            None => (took, took / 2),
            Some((time, strays)) => (
                (time * 7 + took) / 8,
                (strays * 3 + time.abs_diff(took)) / 4,
            ),
        });
    }

    /// Some queries stayed unanswered beyond their wait.
    pub fn late(&mut self) {
        self.window = (self.window / 2).max(NARROWEST_WINDOW);
    }
}

struct Asked {
    tries: u32,
    /// Its first answer is not overdue. One that is may never come, and holds nobody up.
    fresh: bool,
    last: Instant,
    due: Instant,
}

/// Queries that were sent and are not answered, by what they ask for.
pub struct InFlight<K> {
    asked: HashMap<K, Asked>,
    pacing: Pacing,
}

impl<K> Default for InFlight<K> {
    fn default() -> Self {
        Self {
            asked: HashMap::new(),
            pacing: Pacing::default(),
        }
    }
}

impl<K: Clone + Eq + Hash> InFlight<K> {
    /// Whether this is asked.
    #[must_use]
    pub fn contains(&self, key: &K) -> bool {
        self.asked.contains_key(key)
    }

    /// Unanswered queries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.asked.len()
    }

    /// Whether all are answered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.asked.is_empty()
    }

    /// How many queries may be unanswered at one time.
    #[must_use]
    pub fn window(&self) -> usize {
        self.pacing.window()
    }

    /// Queries of a kind whose first answer is not overdue.
    pub fn fresh(&self, kind: impl Fn(&K) -> bool) -> usize {
        let fresh = self
            .asked
            .iter()
            .filter(|(key, asked)| asked.fresh && kind(key));
        fresh.count()
    }

    /// A query goes out for the first time.
    pub fn ask(&mut self, key: K, now: Instant) {
        let asked = Asked {
            tries: 1,
            fresh: true,
            last: now,
            due: now + self.pacing.wait(1),
        };
        self.asked.insert(key, asked);
    }

    /// An answer came; whether one was waited for.
    pub fn answered(&mut self, key: &K, now: Instant) -> bool {
        let Some(asked) = self.asked.remove(key) else {
            return false;
        };
        let took = now.saturating_duration_since(asked.last);
        self.pacing.answered((asked.tries == 1).then_some(took));
        true
    }

    /// The answer is not wanted any more.
    pub fn forget(&mut self, key: &K) {
        self.asked.remove(key);
    }

    /// Begins anew; what was asked comes back.
    pub fn restart(&mut self) -> impl Iterator<Item = K> + use<K> {
        self.pacing = Pacing::default();
        std::mem::take(&mut self.asked).into_keys()
    }

    /// What is to be sent again now. Those that `give_up` says, by key and tries so far, are dropped instead.
    pub fn repeat(&mut self, now: Instant, give_up: impl Fn(&K, u32) -> bool) -> Vec<K> {
        self.asked
            .retain(|key, asked| asked.due > now || !give_up(key, asked.tries));
        let mut news = false;
        let mut late = Vec::new();
        for (key, asked) in self.asked.iter_mut().filter(|(_, asked)| asked.due <= now) {
            news |= std::mem::take(&mut asked.fresh);
            late.push((asked.last, key.clone()));
        }
        // What stays unanswered for long says nothing new.
        if news {
            self.pacing.late();
        }
        // The oldest first; those beyond the window have their turn a wait later.
        late.sort_unstable_by_key(|(last, _)| *last);
        let mut send = Vec::new();
        for (_, key) in late {
            let Some(asked) = self.asked.get_mut(&key) else {
                continue;
            };
            let sent = send.len() < self.pacing.window();
            if sent {
                asked.tries = asked.tries.saturating_add(1);
                asked.last = now;
            }
            asked.due = now + self.pacing.wait(asked.tries);
            if sent {
                send.push(key);
            }
        }
        send
    }

    /// When something is due next.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        self.asked.values().map(|asked| asked.due).min()
    }
}

/// Three quarters to five quarters of a duration, so that nodes that started together do not stay together.
#[must_use]
pub fn jittered(duration: Duration) -> Duration {
    // Unpredictable enough to spread load, for nothing else.
    let bits = RandomState::new().build_hasher().finish() >> 32;
    let share = f64::from(u32::try_from(bits).unwrap_or_default()) / f64::from(u32::MAX);
    duration.mul_f64(0.75 + 0.5 * share)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shortest(duration: Duration) -> Duration {
        duration.mul_f64(0.75)
    }

    fn longest(duration: Duration) -> Duration {
        duration.mul_f64(1.25)
    }

    #[test]
    fn the_window_opens_with_answers_and_closes_with_silence() {
        let mut pacing = Pacing::default();
        assert_eq!(pacing.window(), FIRST_WINDOW);
        for _ in 0..1000 {
            pacing.answered(Some(Duration::from_millis(3)));
        }
        assert_eq!(pacing.window(), WIDEST_WINDOW);
        pacing.late();
        assert_eq!(pacing.window(), WIDEST_WINDOW / 2);
        for _ in 0..20 {
            pacing.late();
        }
        assert_eq!(pacing.window(), NARROWEST_WINDOW);
    }

    #[test]
    fn a_queue_keeps_the_window_and_a_long_one_narrows_it() {
        let mut pacing = Pacing::default();
        let after = |pacing: &mut Pacing, milliseconds| {
            pacing.answered(Some(Duration::from_millis(milliseconds)));
            pacing.window()
        };
        assert_eq!(after(&mut pacing, 700), FIRST_WINDOW + 1, "a slow link");
        assert_eq!(after(&mut pacing, 10), FIRST_WINDOW + 2);
        assert_eq!(after(&mut pacing, 300), FIRST_WINDOW + 2);
        assert_eq!(after(&mut pacing, 700), FIRST_WINDOW + 1);
        for _ in 0..100 {
            after(&mut pacing, 700);
        }
        assert_eq!(pacing.window(), NARROWEST_WINDOW);
        assert_eq!(after(&mut pacing, 20), NARROWEST_WINDOW + 1);
    }

    #[test]
    fn slow_answers_lengthen_the_wait_and_fast_ones_shorten_it() {
        let mut pacing = Pacing::default();
        assert!(pacing.wait(1) <= longest(SHORTEST_WAIT));
        for _ in 0..20 {
            pacing.answered(Some(Duration::from_secs(4)));
        }
        assert!(pacing.wait(1) >= shortest(Duration::from_secs(4)));
        // What a repetition brought says nothing.
        let before = pacing.time;
        pacing.answered(None);
        assert_eq!(pacing.time, before);
        for _ in 0..100 {
            pacing.answered(Some(Duration::from_millis(1)));
        }
        assert!(pacing.wait(1) <= longest(SHORTEST_WAIT));
    }

    #[test]
    fn each_try_waits_twice_as_long_up_to_a_bound() {
        let pacing = Pacing::default();
        for (tries, seconds) in [(1, 1), (2, 2), (3, 4), (5, 16), (6, 30), (1000, 30)] {
            let wait = pacing.wait(tries);
            let wanted = Duration::from_secs(seconds);
            assert!(wait >= shortest(wanted), "{tries}: {wait:?}");
            assert!(wait <= longest(wanted), "{tries}: {wait:?}");
        }
    }
}
