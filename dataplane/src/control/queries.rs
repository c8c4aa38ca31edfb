//! Which addresses the control plane has been asked for, so that each is asked for once, again with back-off while
//! packets keep coming, and not at all for a while after "nothing is there".

use std::collections::HashMap;
use std::time::{Duration, Instant};

use net::address::Address;

use super::Controller;
use crate::api::{CommandError, Event};
use crate::tables::routes::Route;

const FIRST_RETRY: Duration = Duration::from_millis(250);
const LAST_RETRY: Duration = Duration::from_secs(4);
/// A query that no packet has wanted for so long is given up.
const FORGET: Duration = Duration::from_secs(10);
/// How long "nothing is there" is believed, at first and at most.
const NEGATIVE_FIRST: Duration = Duration::from_secs(2);
const NEGATIVE_LAST: Duration = Duration::from_secs(30);
/// Queries that may be open at once: a container that scans addresses fills this and nothing else.
const OPEN_LIMIT: usize = 4096;

#[derive(Debug)]
struct Query {
    ask_again: Instant,
    pause: Duration,
    wanted: Instant,
}

#[derive(Debug)]
struct Negative {
    until: Instant,
    pause: Duration,
    installed: bool,
}

/// Open queries and remembered refusals.
#[derive(Debug, Default)]
pub(super) struct Queries {
    open: HashMap<Address, Query>,
    negative: HashMap<Address, Negative>,
}

impl Queries {
    /// Addresses that were asked for and not answered.
    pub(super) fn open(&self) -> usize {
        self.open.len()
    }

    pub(super) fn next_due(&self) -> Duration {
        let now = Instant::now();
        let asks = self.open.values().map(|q| q.ask_again);
        let ends = self
            .negative
            .values()
            .filter(|n| n.installed)
            .map(|n| n.until);
        asks.chain(ends)
            .map(|at| at.saturating_duration_since(now))
            .min()
            .unwrap_or(Duration::MAX)
    }

    /// The address is known now.
    pub(super) fn settled(&mut self, address: Address) {
        // Most often none is there, and then there is nothing to hash.
        if !self.open.is_empty() {
            self.open.remove(&address);
        }
        if !self.negative.is_empty() {
            self.negative.remove(&address);
        }
    }
}

impl Controller {
    pub(crate) fn unresolved(&mut self, address: Address) {
        let now = Self::now();
        if let Some(query) = self.queries.open.get_mut(&address) {
            query.wanted = now;
            return;
        }
        // It may have become known while the question was on its way.
        if self.queries.open.len() >= OPEN_LIMIT || self.tables.is_known(address) {
            return;
        }
        let query = Query {
            ask_again: now + FIRST_RETRY,
            pause: FIRST_RETRY,
            wanted: now,
        };
        self.queries.open.insert(address, query);
        (self.events)(Event::Unresolved(address.to_ip()));
    }

    /// The control plane says that nothing is there.
    pub(crate) fn unresolvable(&mut self, address: Address) -> Result<(), CommandError> {
        self.queries.open.remove(&address);
        match self.tables.route(address) {
            None | Some(Route::Unreachable) => {}
            // A namespace IP of our own, or an address that has become known since.
            Some(_) => return Ok(()),
        }
        let now = Self::now();
        let pause = self
            .queries
            .negative
            .get(&address)
            .map_or(NEGATIVE_FIRST, |n| (n.pause * 2).min(NEGATIVE_LAST));
        self.set_route(address, Route::Unreachable)?;
        self.queries.negative.insert(
            address,
            Negative {
                until: now + pause,
                pause,
                installed: true,
            },
        );
        self.dirty = true;
        Ok(())
    }

    /// Asks again what is still wanted, and forgets what is over.
    pub(super) fn due(&mut self) {
        let now = Self::now();
        let mut ask = Vec::new();
        self.queries.open.retain(|address, query| {
            if query.ask_again > now {
                return true;
            }
            if now.duration_since(query.wanted) > FORGET {
                return false;
            }
            query.pause = (query.pause * 2).min(LAST_RETRY);
            query.ask_again = now + query.pause;
            ask.push(address.to_ip());
            true
        });
        for address in ask {
            (self.events)(Event::Unresolved(address));
        }
        let mut over = Vec::new();
        self.queries.negative.retain(|address, negative| {
            if negative.installed && negative.until <= now {
                negative.installed = false;
                over.push(*address);
            }
            // The length of the next pause is remembered for a while.
            now < negative.until + NEGATIVE_LAST
        });
        for address in over {
            if self.tables.route(address) == Some(Route::Unreachable) {
                self.remove_route(address);
            }
        }
    }
}
