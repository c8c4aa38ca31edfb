//! How much one caller may take of a manager.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Sources that are remembered for the rate; beyond, those that used nothing of late are forgotten.
const SOURCES: usize = 10_000;

/// Limits, mirrored by the environment.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Limits {
    /// Bytes of a request's body at most.
    #[arg(long, env = "MAX_BODY_BYTES", default_value = "4194304", value_parser = or_default::<usize>("4194304"))]
    pub max_body_bytes: usize,

    /// Requests per second from one source address at most; 0 = no limit.
    #[arg(long, env = "MAX_REQUESTS_PER_SECOND", default_value = "100000", value_parser = or_default::<u32>("100000"))]
    pub max_requests_per_second: u32,

    /// Open connections at most; one source address may have half of them.
    #[arg(long, env = "MAX_CONNECTIONS", default_value = "4096", value_parser = or_default::<usize>("4096"))]
    pub max_connections: usize,
}

/// Compose files pass what is not set as empty text: then the default counts.
fn or_default<T>(default: &'static str) -> impl Fn(&str) -> Result<T, String> + Clone
where
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    move |text| {
        let text = text.trim();
        let text = if text.is_empty() { default } else { text };
        text.parse().map_err(|error: T::Err| error.to_string())
    }
}

/// Tokens of each source, refilled by time: a burst of one second's worth is allowed.
#[derive(Debug)]
pub(crate) struct Rate {
    per_second: f64,
    sources: Mutex<HashMap<IpAddr, (f64, Instant)>>,
}

impl Rate {
    pub(crate) fn new(per_second: u32) -> Self {
        Self {
            per_second: f64::from(per_second),
            sources: Mutex::default(),
        }
    }

    /// Whether one more request of this source is within the limit now.
    pub(crate) fn allows(&self, source: IpAddr, now: Instant) -> bool {
        if self.per_second <= 0.0 {
            return true;
        }
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if sources.len() >= SOURCES {
            sources.retain(|_, (_, at)| now.duration_since(*at).as_secs() < 1);
        }
        let (tokens, at) = sources.entry(source).or_insert((self.per_second, now));
        let refill = now.duration_since(*at).as_secs_f64() * self.per_second;
        *tokens = (*tokens + refill).min(self.per_second);
        *at = now;
        if *tokens < 1.0 {
            return false;
        }
        *tokens -= 1.0;
        true
    }
}

/// Open connections, all and by source.
#[derive(Debug, Default)]
pub(crate) struct Connections(Mutex<(usize, HashMap<IpAddr, usize>)>);

/// One open connection; counted until dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    all: Arc<Connections>,
    source: IpAddr,
}

impl Connections {
    /// A place for one more connection, if there is one.
    pub(crate) fn take(self: &Arc<Self>, source: IpAddr, most: usize) -> Option<Slot> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_source = held.1.get(&source).copied().unwrap_or_default();
        if held.0 >= most || of_source >= most.div_ceil(2) {
            return None;
        }
        held.0 += 1;
        held.1.insert(source, of_source + 1);
        Some(Slot {
            all: Arc::clone(self),
            source,
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut held = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.0 = held.0.saturating_sub(1);
        if let Some(count) = held.1.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                held.1.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const ONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    #[test]
    fn one_source_gets_its_rate_and_takes_nothing_from_another() {
        let rate = Rate::new(10);
        let now = Instant::now();
        let allowed = |source, now| (0..100).filter(|_| rate.allows(source, now)).count();
        assert_eq!(allowed(ONE, now), 10);
        assert_eq!(allowed(OTHER, now), 10);
        assert_eq!(allowed(ONE, now + Duration::from_millis(500)), 5);
        assert!((0..1000).all(|_| Rate::new(0).allows(ONE, now)));
    }

    #[test]
    fn connections_are_counted_until_they_close() {
        let all = Arc::new(Connections::default());
        let first = all.take(ONE, 3).unwrap();
        let _second = all.take(ONE, 3).unwrap();
        assert!(all.take(ONE, 3).is_none(), "half of them, rounded up");
        let _third = all.take(OTHER, 3).unwrap();
        assert!(all.take(OTHER, 3).is_none());
        drop(first);
        assert!(all.take(OTHER, 3).is_some());
    }
}
