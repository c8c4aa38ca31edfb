//! Table queries under way: one per key, a bounded number at a time, repeated with back-off and jitter.
//!
//! No I/O and no clock here: the caller says what time it is and sends what is due.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Queries unanswered at one time.
const IN_FLIGHT: usize = 64;
/// Keys that may wait for their turn.
const WAITING: usize = 8192;
/// An address that nobody answers for is dropped after so many tries; the data plane asks again while packets come.
const ADDRESS_TRIES: u32 = 5;
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// A job, by name.
    Job(String),
    /// A Service, Instance or namespace IP.
    Address(IpAddr),
}

impl Key {
    /// Reads `query_key` back.
    pub fn parse(text: &str) -> Self {
        protocol::address::parse(text).map_or_else(|_| Self::Job(text.to_owned()), Self::Address)
    }
}

struct Asked {
    tries: u32,
    due: Instant,
}

/// The queries of one node.
#[derive(Default)]
pub struct Queries {
    waiting: VecDeque<Key>,
    asked: HashMap<Key, Asked>,
    /// Questions that were sent again for want of an answer.
    pub repeated: u64,
}

impl Queries {
    /// Asks, unless the same is asked already. False when there is no room (the caller's own repetition helps).
    pub fn ask(&mut self, key: Key) -> bool {
        if self.asked.contains_key(&key) || self.waiting.contains(&key) {
            return true;
        }
        if self.waiting.len() >= WAITING {
            return false;
        }
        self.waiting.push_back(key);
        true
    }

    /// An answer came.
    pub fn answered(&mut self, key: &Key) {
        self.asked.remove(key);
        self.waiting.retain(|other| other != key);
    }

    /// The connection is new: everything that was asked is asked again.
    pub fn restart(&mut self) {
        for (key, _) in self.asked.drain() {
            self.waiting.push_back(key);
        }
    }

    /// What is to be sent now.
    pub fn due(&mut self, now: Instant) -> Vec<Key> {
        let mut send = Vec::new();
        let late: Vec<Key> = self
            .asked
            .iter()
            .filter(|(_, asked)| asked.due <= now)
            .map(|(key, _)| key.clone())
            .collect();
        for key in late {
            let Some(asked) = self.asked.get_mut(&key) else {
                continue;
            };
            if matches!(key, Key::Address(_)) && asked.tries >= ADDRESS_TRIES {
                self.asked.remove(&key);
                continue;
            }
            asked.tries += 1;
            self.repeated += 1;
            asked.due = now
                + jittered(
                    FIRST_WAIT
                        .saturating_mul(1 << asked.tries.min(6))
                        .min(LONGEST_WAIT),
                );
            send.push(key);
        }
        while self.asked.len() < IN_FLIGHT {
            let Some(key) = self.waiting.pop_front() else {
                break;
            };
            self.asked.insert(
                key.clone(),
                Asked {
                    tries: 1,
                    due: now + jittered(FIRST_WAIT),
                },
            );
            send.push(key);
        }
        send
    }

    /// When something is due next.
    pub fn next_due(&self) -> Option<Instant> {
        self.asked.values().map(|asked| asked.due).min()
    }

    /// Unanswered queries.
    pub fn in_flight(&self) -> usize {
        self.asked.len()
    }

    /// Unanswered and waiting queries.
    pub fn len(&self) -> usize {
        self.asked.len() + self.waiting.len()
    }
}

/// Three quarters to five quarters of a duration, so that nodes that started together do not stay together.
pub fn jittered(duration: Duration) -> Duration {
    duration.mul_f64(0.75 + 0.5 * random())
}

/// A number from 0 to 1; unpredictable enough to spread load, for nothing else.
fn random() -> f64 {
    use std::hash::{BuildHasher, Hasher};
    let bits = std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish();
    f64::from(u32::try_from(bits >> 32).unwrap_or_default()) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u32) -> Key {
        Key::Address(IpAddr::V4(std::net::Ipv4Addr::from(0x0a1e_0000 + last)))
    }

    #[test]
    fn one_key_is_asked_once_until_it_is_answered() {
        let mut queries = Queries::default();
        let now = Instant::now();
        assert!(queries.ask(address(1)));
        assert!(queries.ask(address(1)));
        assert_eq!(queries.due(now), [address(1)]);
        assert!(queries.ask(address(1)));
        assert!(queries.due(now).is_empty());
        queries.answered(&address(1));
        queries.ask(address(1));
        assert_eq!(queries.due(now), [address(1)]);
    }

    #[test]
    fn a_bounded_number_is_under_way() {
        let mut queries = Queries::default();
        let now = Instant::now();
        for last in 0..200 {
            queries.ask(address(last));
        }
        let first = queries.due(now);
        assert_eq!(first.len(), IN_FLIGHT);
        queries.answered(&first[0]);
        assert_eq!(queries.due(now).len(), 1);
        assert_eq!(queries.len(), 199);
    }

    #[test]
    fn names_are_repeated_for_ever_with_growing_pauses_and_addresses_give_up() {
        let mut queries = Queries::default();
        let mut now = Instant::now();
        let job = Key::Job("a.b.c.d".into());
        queries.ask(address(1));
        queries.ask(job.clone());
        let (mut names, mut addresses) = (0, 0);
        let start = now;
        for _ in 0..40 {
            for key in queries.due(now) {
                if key == job {
                    names += 1;
                } else {
                    addresses += 1;
                }
            }
            now = queries.next_due().unwrap();
        }
        assert_eq!(addresses, ADDRESS_TRIES);
        assert!(names >= 30, "{names}");
        assert!(now - start > LONGEST_WAIT.mul_f64(0.75) * 25);
    }

    #[test]
    fn a_new_connection_asks_again() {
        let mut queries = Queries::default();
        let now = Instant::now();
        queries.ask(address(1));
        queries.due(now);
        queries.restart();
        assert_eq!(queries.due(now), [address(1)]);
    }

    #[test]
    fn keys_are_compared_as_addresses() {
        assert_eq!(Key::parse("fdff:0:0:0:0:0:0:1"), Key::parse("fdff::1"));
        assert_eq!(Key::parse("a.b.c.d"), Key::Job("a.b.c.d".into()));
    }
}
