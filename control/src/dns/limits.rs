//! What one asker may take, so that nothing that a container sends stalls another's names.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Queries of one asker in a second, and in one go.
const RATE: f64 = 1000.0;
/// Queries of one asker under way.
const IN_FLIGHT: u32 = 64;
/// Of those, names that the cluster is asked for.
const LOOKUPS: u32 = 8;
/// Connections of one asker.
const CONNECTIONS: u32 = 16;
/// Askers that are remembered beyond their queries.
const ASKERS: usize = 4096;

#[derive(Clone, Copy)]
struct Asker {
    tokens: f64,
    seen: Instant,
    held: [u32; 3],
}

/// What is held of an asker's share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// A query under way.
    Query,
    /// A name that the cluster is asked for.
    Lookup,
    /// A connection.
    Connection,
}

impl Share {
    const fn most(self) -> u32 {
        match self {
            Self::Query => IN_FLIGHT,
            Self::Lookup => LOOKUPS,
            Self::Connection => CONNECTIONS,
        }
    }
}

/// The shares of all askers.
#[derive(Default)]
pub struct Limits(Mutex<HashMap<IpAddr, Asker>>);

/// A part of an asker's share; given back with the value.
pub struct Held {
    limits: Arc<Limits>,
    asker: IpAddr,
    share: Share,
}

impl Limits {
    fn askers(&self) -> MutexGuard<'_, HashMap<IpAddr, Asker>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a part of an asker's share; `None` when it has had it all.
    pub fn take(self: &Arc<Self>, asker: IpAddr, share: Share) -> Option<Held> {
        self.take_at(asker, share, Instant::now())
    }

    fn take_at(self: &Arc<Self>, asker: IpAddr, share: Share, now: Instant) -> Option<Held> {
        let mut askers = self.askers();
        if askers.len() >= ASKERS {
            askers.retain(|_, asker| asker.held != [0; 3]);
        }
        let entry = askers.entry(asker).or_insert(Asker {
            tokens: RATE,
            seen: now,
            held: [0; 3],
        });
        let since = now.saturating_duration_since(entry.seen);
        entry.tokens = (entry.tokens + since.as_secs_f64() * RATE).min(RATE);
        entry.seen = now;
        let held = entry.held.get_mut(share as usize)?;
        if *held >= share.most() || (share == Share::Query && entry.tokens < 1.0) {
            return None;
        }
        if share == Share::Query {
            entry.tokens -= 1.0;
        }
        *held += 1;
        Some(Held {
            limits: Arc::clone(self),
            asker,
            share,
        })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut askers = self.limits.askers();
        if let Some(held) = askers
            .get_mut(&self.asker)
            .and_then(|asker| asker.held.get_mut(self.share as usize))
        {
            *held = held.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn one_asker_takes_no_more_than_its_share_and_another_still_has_its_own() {
        let limits = Arc::new(Limits::default());
        let (one, other) = ("10.18.0.2".parse().unwrap(), "10.18.0.3".parse().unwrap());
        let now = Instant::now();
        let held: Vec<Held> = (0..2 * LOOKUPS)
            .filter_map(|_| limits.take_at(one, Share::Lookup, now))
            .collect();
        assert_eq!(held.len(), LOOKUPS as usize);
        assert!(limits.take_at(other, Share::Lookup, now).is_some());
        drop(held);
        assert!(limits.take_at(one, Share::Lookup, now).is_some());
    }

    #[test]
    fn queries_come_at_a_rate() {
        let limits = Arc::new(Limits::default());
        let one = "10.18.0.2".parse().unwrap();
        let now = Instant::now();
        let some = |now| {
            let taken = (0..5000).filter(|_| limits.take_at(one, Share::Query, now).is_some());
            taken.count()
        };
        assert_eq!(some(now), 1000);
        assert_eq!(some(now + Duration::from_millis(100)), 100);
    }
}
