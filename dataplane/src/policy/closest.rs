//! The nearest instance: on this node if there is one, else on the host with the shortest round trip.

use super::{Members, Select};
use crate::tables::region::{Backend, BackendRef, Location, Region};

/// Closest. Instances at the same distance take turns; a host whose round trip is not known yet counts as far.
#[derive(Clone, Copy, Debug)]
pub struct Closest;

fn distance(backend: &Backend, region: &Region) -> u32 {
    match backend.location {
        Location::Local(_) => 0,
        Location::Host(host) => match region.host_rtt(host) {
            0 => u32::MAX,
            rtt => rtt,
        },
        Location::Nowhere => u32::MAX,
    }
}

impl Select for Closest {
    fn select<M: Members>(
        members: &M,
        state: &mut u32,
        region: &Region,
        mut usable: impl FnMut(BackendRef, &Backend) -> bool,
    ) -> Option<(BackendRef, Backend)> {
        let turns = members.len();
        let mut best: Option<(u32, usize, BackendRef, Backend)> = None;
        for n in 0..turns {
            let turn = (*state as usize).wrapping_add(n) % turns;
            if let Some(reference) = members.get(turn)
                && let Some(backend) = region.backend(reference)
                && !backend.draining
            {
                let far = distance(&backend, region);
                if best.as_ref().is_none_or(|b| far < b.0) && usable(reference, &backend) {
                    best = Some((far, n, reference, backend));
                }
            }
        }
        let (_, n, reference, backend) = best?;
        // The next search begins behind the one picked, so that equals take turns.
        *state = state
            .wrapping_add(u32::try_from(n).unwrap_or(0))
            .wrapping_add(1);
        Some((reference, backend))
    }
}
