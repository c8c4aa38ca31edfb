//! What an address means to the packet path, in one word, and the published sets of backends.

use std::sync::atomic::Ordering;

use super::arena::{Arena, CELL_WORDS};
use super::region::BackendRef;
use super::{high32, low32, word};
use crate::api::Policy;
use crate::sync::AtomicU64;

/// The meaning of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// A Service IP: the number of its per-worker policy state, and the cell of its backend set.
    Service {
        /// Number of the service, for the policies' state.
        service: u32,
        /// First cell of the set.
        set: u32,
    },
    /// An Instance IP: the record of its backend.
    Instance(u32),
    /// A namespace IP of another node: the record of its backend.
    Namespace(u32),
    /// A namespace IP attached to this node, or a gateway address of it: the access slot.
    Local(u32),
    /// Known to lead nowhere, for some time.
    Unreachable,
}

const SERVICE_BITS: u32 = 28;

impl Route {
    /// As a word of an `Index`.
    #[must_use]
    pub fn to_word(self) -> u64 {
        let (kind, value) = match self {
            Route::Service { service, set } => (1u64, (u64::from(service) << 32) | u64::from(set)),
            Route::Instance(id) => (2, u64::from(id)),
            Route::Namespace(id) => (3, u64::from(id)),
            Route::Local(slot) => (4, u64::from(slot)),
            Route::Unreachable => (5, 0),
        };
        (kind << 60) | value
    }

    /// From a word of an `Index`.
    #[inline(always)]
    #[must_use]
    pub fn from_word(word: u64) -> Self {
        match word >> 60 {
            1 => Route::Service {
                service: low32(word >> 32) & ((1 << SERVICE_BITS) - 1),
                set: low32(word),
            },
            2 => Route::Instance(low32(word)),
            3 => Route::Namespace(low32(word)),
            4 => Route::Local(low32(word)),
            _ => Route::Unreachable,
        }
    }
}

/// The backends that a Service IP may pick from, as published: whole, and never changed in place.
pub trait Members {
    /// How many turns there are; a backend with more weight has more of them.
    fn len(&self) -> usize;
    /// The backend whose turn `n` is.
    fn get(&self, n: usize) -> Option<BackendRef>;
    /// No turns at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Cells that a set of so many turns takes.
#[must_use]
pub fn set_cells(turns: usize) -> usize {
    (turns + 1).div_ceil(CELL_WORDS)
}

/// Writes a set into cells that no worker can reach yet.
pub fn write_set(words: &[AtomicU64], policy: Policy, turns: &[BackendRef]) {
    for (to, turn) in words.iter().skip(1).zip(turns) {
        to.store(turn.to_word(), Ordering::Relaxed);
    }
    if let Some(head) = words.first() {
        head.store(
            word(policy.number(), u32::try_from(turns.len()).unwrap_or(0)),
            Ordering::Relaxed,
        );
    }
}

/// A published set of backends.
#[derive(Clone, Copy, Debug)]
pub struct BackendSet<'a> {
    words: &'a [AtomicU64],
}

impl<'a> BackendSet<'a> {
    /// The set that begins at `cell`.
    #[inline]
    #[must_use]
    pub fn at(arena: &'a Arena, cell: u32) -> Self {
        Self {
            words: arena.words(cell),
        }
    }

    /// The policy of the addresses that lead here; none only where no set was written.
    #[must_use]
    pub fn policy(&self) -> Option<Policy> {
        let head = self.words.first()?.load(Ordering::Relaxed);
        Policy::of_number(high32(head))
    }
}

/// Asks for the beginning of the set at `cell`.
#[inline(always)]
pub fn prefetch_set(arena: &Arena, cell: u32) {
    if let Some(words) = arena.cell(cell) {
        dpdk::prefetch(words);
    }
}

impl Members for BackendSet<'_> {
    fn len(&self) -> usize {
        self.words
            .first()
            .map_or(0, |w| low32(w.load(Ordering::Relaxed)) as usize)
    }

    fn get(&self, n: usize) -> Option<BackendRef> {
        self.words
            .get(n + 1)
            .map(|w| BackendRef::from_word(w.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_survive_their_word() {
        for route in [
            Route::Service {
                service: (1 << 28) - 1,
                set: u32::MAX,
            },
            Route::Instance(u32::MAX),
            Route::Namespace(0),
            Route::Local(3),
            Route::Unreachable,
        ] {
            assert_eq!(Route::from_word(route.to_word()), route);
        }
    }

    #[test]
    fn a_set_is_read_as_it_was_written() {
        let words: Vec<AtomicU64> = (0..8).map(|_| AtomicU64::new(7)).collect();
        let turns: Vec<_> = (0..5).map(|id| BackendRef { id, generation: 3 }).collect();
        write_set(&words, Policy::Closest, &turns);
        let set = BackendSet { words: &words };
        assert_eq!((set.policy(), set.len()), (Some(Policy::Closest), 5));
        assert_eq!((0..5).filter_map(|n| set.get(n)).collect::<Vec<_>>(), turns);
        assert_eq!(set_cells(0), 1);
        assert_eq!(set_cells(3), 1);
        assert_eq!(set_cells(4), 2);
    }
}
