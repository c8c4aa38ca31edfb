//! What became of queries, counted.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use hickory_proto::op::ResponseCode;

macro_rules! answers {
    ($( $(#[$doc:meta])* $name:ident = $text:literal ),+ $(,)?) => {
        /// What became of a query.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Answer { $( $(#[$doc])* $name ),+ }

        impl Answer {
            const ALL: &'static [(Self, &'static str)] = &[ $( (Answer::$name, $text) ),+ ];
        }
    };
}

answers! {
    /// The name's addresses.
    Records = "records",
    /// The name has none of that type.
    NoData = "nodata",
    /// There is no such name.
    NxDomain = "nxdomain",
    /// The cluster did not say in time.
    ServFail = "servfail",
    /// A kind of query that is not served, or a malformed one.
    Refused = "refused",
    /// The host's resolver's answer.
    Forwarded = "forwarded",
    /// None of the host's resolvers answered.
    ForwardFailed = "forward_failed",
    /// More than one asker may have: dropped.
    Limited = "limited",
    /// From somebody who may not ask: dropped.
    Stranger = "stranger",
}

impl Answer {
    /// Of an answer of the zone.
    pub fn of(code: ResponseCode, records: usize) -> Self {
        match code {
            ResponseCode::NoError if records > 0 => Self::Records,
            ResponseCode::NoError => Self::NoData,
            ResponseCode::NXDomain => Self::NxDomain,
            ResponseCode::ServFail => Self::ServFail,
            _ => Self::Refused,
        }
    }
}

/// Queries by what became of them.
#[derive(Default)]
pub struct Counts([AtomicU64; Answer::ALL.len()]);

impl Counts {
    /// Counts one.
    pub fn count(&self, answer: Answer) {
        if let Some(count) = self.0.get(answer as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// All of them by name.
    pub fn all(&self) -> BTreeMap<&'static str, u64> {
        let counts = Answer::ALL.iter().zip(&self.0);
        counts
            .map(|((_, name), count)| (*name, count.load(Ordering::Relaxed)))
            .collect()
    }
}
