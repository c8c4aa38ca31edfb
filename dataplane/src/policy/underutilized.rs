//! The less busy of two instances drawn at random: close to the least busy of all, without looking at all, and
//! without everyone running to the same one.
//!
//! An instance's load is what its node reported plus the flows that this worker has opened to it and that live. The
//! report is seconds old and the same for everyone who reads it; a worker's own flows are counted at once, so that
//! a burst of new flows spreads before any report tells of it. Own flows that a report holds already count twice:
//! each worker leans a little towards instances that it uses less, and never by more than what it sent there itself.

use super::{Known, Members, RoundRobin, Select};
use crate::tables::region::{Backend, BackendRef};
use crate::tables::{SALT, low32, mix};

/// Power of two choices over active flows.
#[derive(Clone, Copy, Debug)]
pub struct Underutilized;

impl Select for Underutilized {
    const BY_LOAD: bool = true;

    fn select<M: Members>(
        members: &M,
        state: &mut u32,
        known: Known<'_>,
        mut usable: impl FnMut(BackendRef, &Backend) -> bool,
    ) -> Option<(BackendRef, Backend)> {
        let turns = members.len();
        if turns == 0 {
            return None;
        }
        *state = state.wrapping_add(1);
        let random = mix(u64::from(*state) ^ SALT[0], SALT[1]);
        let first = low32(random) as usize % turns;
        // Another one than the first, where there is another.
        let second = (first + 1 + low32(random >> 32) as usize % (turns - 1).max(1)) % turns;
        let mut draw = |turn| {
            let reference = members.get(turn)?;
            let backend = known.taking(reference)?;
            usable(reference, &backend).then_some((reference, backend))
        };
        let load = |(reference, backend): &(BackendRef, Backend)| {
            backend
                .load
                .saturating_add(known.tally.live_flows(reference.id))
        };
        match (draw(first), draw(second)) {
            (Some(a), Some(b)) => Some(if load(&b) < load(&a) { b } else { a }),
            (Some(one), None) | (None, Some(one)) => Some(one),
            // Both draws fell on backends that cannot be used: look at each in turn.
            (None, None) => RoundRobin::select(members, state, known, usable),
        }
    }
}
