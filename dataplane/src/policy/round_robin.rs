//! Instances in turn: a true rotation per worker, in the order of the published turns.

use super::{Members, Select};
use crate::tables::region::{Backend, BackendRef, Region};

/// Round robin. Weights are in the turns: a backend of weight 3 has three, spread out.
#[derive(Clone, Copy, Debug)]
pub struct RoundRobin;

impl Select for RoundRobin {
    #[inline]
    fn select<M: Members>(
        members: &M,
        state: &mut u32,
        region: &Region,
        mut usable: impl FnMut(BackendRef, &Backend) -> bool,
    ) -> Option<(BackendRef, Backend)> {
        let turns = members.len();
        for _ in 0..turns {
            let turn = *state as usize % turns;
            *state = u32::try_from(turn + 1).unwrap_or(0);
            if let Some(reference) = members.get(turn)
                && let Some(backend) = region.backend(reference)
                && !backend.draining
                && usable(reference, &backend)
            {
                return Some((reference, backend));
            }
        }
        None
    }
}
