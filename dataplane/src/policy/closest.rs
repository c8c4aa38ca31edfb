//! The nearest instance: on this node if there is one, else on the host with the shortest round trip.
//!
//! A round trip is measured by probes, or by the handshakes of connections that pass (`Region::learn_rtt`); both are in
//! µs and compared as they are. A handshake takes longer than a probe by what two kernels and a container need, some
//! tens of µs, so that of two hosts at one distance the one that answers probes is preferred.

use super::{Known, Members, Select};
use crate::tables::region::{Backend, BackendRef, Location};
use crate::tables::{SALT, mix};

/// Closest. Instances at the same distance take turns; a host whose round trip is not known yet counts as far.
#[derive(Clone, Copy, Debug)]
pub struct Closest;

/// One pick in so many tries a host that was never measured, or one that answers no probe never would be.
const EXPLORE: u64 = 64;
const UNKNOWN: u32 = u32::MAX;

fn distance(backend: &Backend, known: Known<'_>) -> u32 {
    match backend.location {
        Location::Local(_) => 0,
        Location::Host(host) => match known.region.host_rtt(host) {
            0 => UNKNOWN,
            rtt => rtt,
        },
        Location::Nowhere => UNKNOWN,
    }
}

impl Select for Closest {
    const BY_DISTANCE: bool = true;

    fn select<M: Members>(
        members: &M,
        state: &mut u32,
        known: Known<'_>,
        mut usable: impl FnMut(BackendRef, &Backend) -> bool,
    ) -> Option<(BackendRef, Backend)> {
        let turns = members.len();
        let explores = mix(u64::from(*state) ^ SALT[0], SALT[1]).is_multiple_of(EXPLORE);
        let mut best: Option<(u32, usize, BackendRef, Backend)> = None;
        for n in 0..turns {
            let turn = (*state as usize).wrapping_add(n) % turns;
            if let Some(reference) = members.get(turn)
                && let Some(backend) = known.taking(reference)
            {
                let far = match distance(&backend, known) {
                    // Behind what is here, before all that is known to be away.
                    UNKNOWN if explores => 1,
                    far => far,
                };
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
