//! Instances in turn: a true rotation per worker, in the order of the published turns.

use super::{Known, Members, Select};
use crate::tables::region::{Backend, BackendRef};

/// Round robin. Weights are in the turns: a backend of weight 3 has three, spread out.
#[derive(Clone, Copy, Debug)]
pub struct RoundRobin;

impl Select for RoundRobin {
    const BY_WEIGHT: bool = true;

    #[inline]
    fn select<M: Members>(
        members: &M,
        state: &mut u32,
        known: Known<'_>,
        mut usable: impl FnMut(BackendRef, &Backend) -> bool,
    ) -> Option<(BackendRef, Backend)> {
        let turns = members.len();
        for _ in 0..turns {
            let turn = *state as usize % turns;
            *state = u32::try_from(turn + 1).unwrap_or(0);
            if let Some(reference) = members.get(turn)
                && let Some(backend) = known.taking(reference)
                && usable(reference, &backend)
            {
                return Some((reference, backend));
            }
        }
        None
    }
}
