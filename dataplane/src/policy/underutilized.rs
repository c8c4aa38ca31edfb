//! The less busy of two instances drawn at random: close to the least busy of all, without looking at all, and
//! without everyone running to the same one.

use super::{Members, RoundRobin, Select};
use crate::tables::region::{Backend, BackendRef, Region};
use crate::tables::{SALT, low32, mix};

/// Power of two choices over the flows that nodes report.
#[derive(Clone, Copy, Debug)]
pub struct Underutilized;

impl Select for Underutilized {
    fn select<M: Members>(
        members: &M,
        state: &mut u32,
        region: &Region,
        mut usable: impl FnMut(BackendRef, &Backend) -> bool,
    ) -> Option<(BackendRef, Backend)> {
        let turns = members.len();
        if turns == 0 {
            return None;
        }
        let mut draw = || {
            *state = state.wrapping_add(1);
            let number = low32(mix(u64::from(*state) ^ SALT[0], SALT[1])) as usize;
            let reference = members.get(number % turns)?;
            let backend = region.backend(reference)?;
            (!backend.draining && usable(reference, &backend)).then_some((reference, backend))
        };
        match (draw(), draw()) {
            (Some(a), Some(b)) => Some(if b.1.load < a.1.load { b } else { a }),
            (Some(one), None) | (None, Some(one)) => Some(one),
            // Both draws fell on backends that cannot be used: look at each in turn.
            (None, None) => RoundRobin::select(members, state, region, usable),
        }
    }
}
