//! Table queries under way: one per key, a bounded number at a time, repeated at the pace that the answers allow.
//!
//! No I/O and no clock here: the caller says what time it is and sends what is due.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Instant;

use protocol::pacing::InFlight;

/// Keys that may be unanswered or wait for their turn.
const MOST: usize = 8192;
/// Addresses asked for at one time: packets wait for these, so they do not wait for what is asked by the way.
const ADDRESSES: usize = 64;
/// An address that nobody answers for is dropped after so many tries; the data plane asks again while packets come.
const ADDRESS_TRIES: u32 = 5;

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

/// The queries of one node.
#[derive(Default)]
pub struct Queries {
    jobs: VecDeque<Key>,
    addresses: VecDeque<Key>,
    asked: InFlight<Key>,
    /// Questions that were sent again for want of an answer.
    pub repeated: u64,
}

impl Queries {
    /// Asks, unless the same is asked already. False when there is no room (the caller's own repetition helps).
    pub fn ask(&mut self, key: Key) -> bool {
        if self.asked.contains(&key) || self.line(&key).contains(&key) {
            return true;
        }
        if self.len() >= MOST {
            return false;
        }
        self.line(&key).push_back(key);
        true
    }

    /// Where a key waits.
    fn line(&mut self, key: &Key) -> &mut VecDeque<Key> {
        match key {
            Key::Job(_) => &mut self.jobs,
            Key::Address(_) => &mut self.addresses,
        }
    }

    /// An answer came.
    pub fn answered(&mut self, key: &Key, now: Instant) {
        self.asked.answered(key, now);
        self.line(key).retain(|other| other != key);
    }

    /// Nobody wants the answer any more, or what is under way would be too old.
    pub fn forget(&mut self, key: &Key) {
        self.asked.forget(key);
        self.line(key).retain(|other| other != key);
    }

    /// The connection is new: everything that was asked is asked again.
    pub fn restart(&mut self) {
        for key in self.asked.restart() {
            self.line(&key).push_back(key);
        }
    }

    /// What is to be sent now.
    pub fn due(&mut self, now: Instant) -> Vec<Key> {
        let mut send = self.asked.repeat(now, |key, tries| {
            matches!(key, Key::Address(_)) && tries >= ADDRESS_TRIES
        });
        self.repeated += send.len() as u64;
        let is_job = |key: &Key| matches!(key, Key::Job(_));
        let window = self.asked.window();
        let jobs = window.saturating_sub(self.asked.fresh(is_job));
        let addresses = ADDRESSES.saturating_sub(self.asked.fresh(|key| !is_job(key)));
        let jobs = jobs.min(self.jobs.len());
        let addresses = addresses.min(self.addresses.len());
        for key in self
            .addresses
            .drain(..addresses)
            .chain(self.jobs.drain(..jobs))
        {
            self.asked.ask(key.clone(), now);
            send.push(key);
        }
        send
    }

    /// When something is due next.
    pub fn next_due(&self) -> Option<Instant> {
        self.asked.next_due()
    }

    /// Unanswered queries.
    pub fn in_flight(&self) -> usize {
        self.asked.len()
    }

    /// Unanswered and waiting queries.
    pub fn len(&self) -> usize {
        self.asked.len() + self.jobs.len() + self.addresses.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::pacing::Pacing;
    use std::time::Duration;

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
        queries.answered(&address(1), now);
        queries.ask(address(1));
        assert_eq!(queries.due(now), [address(1)]);
    }

    #[test]
    fn a_bounded_number_is_under_way() {
        let mut queries = Queries::default();
        let now = Instant::now();
        let job = |number| Key::Job(format!("a.b.c.d{number}"));
        for number in 0..200 {
            queries.ask(job(number));
        }
        let first = queries.due(now);
        assert_eq!(first.len(), Pacing::default().window());
        assert!(queries.due(now).is_empty());
        // Each answer makes room for itself and for one more.
        queries.answered(&first[0], now);
        assert_eq!(queries.due(now).len(), 2);
        queries.forget(&first[1]);
        assert_eq!(queries.due(now).len(), 1);
        assert_eq!(queries.len(), 198);
        for last in 0..200 {
            queries.ask(address(last));
        }
        assert_eq!(queries.due(now).len(), ADDRESSES);
    }

    #[test]
    fn questions_that_nobody_answers_hold_no_others_up() {
        let mut queries = Queries::default();
        let mut now = Instant::now();
        for number in 0..50 {
            queries.ask(Key::Job(format!("no.body.knows.d{number}")));
        }
        queries.due(now);
        // Packets wait for an address, and it does not wait for names.
        queries.ask(address(1));
        assert_eq!(queries.due(now), [address(1)]);
        queries.answered(&address(1), now);
        let wanted = Key::Job("a.b.c.d".into());
        queries.ask(wanted.clone());
        let asked = now;
        while !queries.due(now).contains(&wanted) {
            now = queries.next_due().unwrap();
        }
        assert!(now - asked < Duration::from_secs(60), "{:?}", now - asked);
    }

    #[test]
    fn silence_is_not_answered_with_a_flood() {
        let mut queries = Queries::default();
        let mut now = Instant::now();
        for last in 0..200 {
            queries.ask(Key::Job(format!("a.b.c.d{last}")));
        }
        loop {
            let burst = queries.due(now);
            if burst.is_empty() {
                break;
            }
            burst.iter().for_each(|key| queries.answered(key, now));
        }
        for last in 0..200 {
            queries.ask(Key::Job(format!("a.b.c.d{last}")));
        }
        let first: std::collections::HashSet<Key> = queries.due(now).into_iter().collect();
        let open = first.len();
        assert!(open > Pacing::default().window(), "{open}");
        let mut repeated = std::collections::HashSet::new();
        for _ in 0..400 {
            now = queries.next_due().unwrap();
            let burst = queries.due(now);
            assert!(burst.len() <= open, "{} of {open}", burst.len());
            repeated.extend(burst);
        }
        // Each has its turn.
        assert!(first.is_subset(&repeated));
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
        assert!(now - start > Duration::from_secs(30).mul_f64(0.75) * 25);
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
