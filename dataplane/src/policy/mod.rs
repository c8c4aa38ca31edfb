//! How a Service IP picks an instance for a new flow.
//!
//! A policy is one small type. To add one: write it beside these, and name it in `select` and in `Policy` of `api`.

mod closest;
mod round_robin;
mod underutilized;

use crate::api::Policy;
use crate::tables::region::{Backend, BackendRef, Region};
pub use crate::tables::routes::Members;

pub use closest::Closest;
pub use round_robin::RoundRobin;
pub use underutilized::Underutilized;

/// One way to pick.
pub trait Select {
    /// Picks among the members that `usable` lets through. `state` is the worker's own word for this service; what
    /// it means is the policy's business.
    fn select<M: Members>(
        members: &M,
        state: &mut u32,
        region: &Region,
        usable: impl FnMut(BackendRef, &Backend) -> bool,
    ) -> Option<(BackendRef, Backend)>;
}

/// Picks by the policy that the dialled address carries.
pub fn select<M: Members>(
    policy: Policy,
    members: &M,
    state: &mut u32,
    region: &Region,
    usable: impl FnMut(BackendRef, &Backend) -> bool,
) -> Option<(BackendRef, Backend)> {
    match policy {
        Policy::RoundRobin => RoundRobin::select(members, state, region, usable),
        Policy::Closest => Closest::select(members, state, region, usable),
        Policy::Underutilized => Underutilized::select(members, state, region, usable),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::region::{Layout, Location};
    use net::address::Address;

    struct List(Vec<BackendRef>);
    impl Members for List {
        fn len(&self) -> usize {
            self.0.len()
        }
        fn get(&self, n: usize) -> Option<BackendRef> {
            self.0.get(n).copied()
        }
    }

    fn region(locations: &[(Location, u32)]) -> (Region, List) {
        let region = Region::on_heap(
            Layout {
                shards: 1,
                slots: 1024,
                backends: 64,
                hosts: 16,
            },
            1,
        );
        let list = locations
            .iter()
            .enumerate()
            .map(|(n, &(location, load))| {
                let n = u32::try_from(n).unwrap();
                let backend = Backend {
                    location,
                    namespace: (n + 1, Address(0)),
                    instance: (n + 1, Address(0)),
                    draining: false,
                    load,
                    job: 0,
                    number: n,
                };
                region.publish_backend(n, &backend).unwrap()
            })
            .collect();
        (region, List(list))
    }

    #[test]
    fn turns_are_equal_within_one_over_any_number_of_flows() {
        let (region, list) = region(&[(Location::Host(1), 0); 7]);
        let mut state = u32::MAX - 20;
        let mut counts = [0u32; 7];
        for _ in 0..1000 {
            let (picked, _) =
                select(Policy::RoundRobin, &list, &mut state, &region, |_, _| true).unwrap();
            counts[picked.id as usize] += 1;
        }
        let (low, high) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
        assert!(high - low <= 1, "{counts:?}");
    }

    #[test]
    fn a_backend_that_is_gone_or_unusable_is_passed_over() {
        let (region, list) = region(&[(Location::Host(1), 0); 3]);
        region.remove_backend(list.0[1]);
        for policy in [Policy::RoundRobin, Policy::Closest, Policy::Underutilized] {
            let mut state = 0;
            for _ in 0..50 {
                let (picked, _) =
                    select(policy, &list, &mut state, &region, |r, _| r.id != 0).unwrap();
                assert_eq!(picked.id, 2, "{policy:?}");
            }
            assert!(select(policy, &list, &mut state, &region, |_, _| false).is_none());
        }
    }

    #[test]
    fn closest_stays_on_its_own_node_while_it_can() {
        let (region, list) = region(&[
            (Location::Host(1), 0),
            (Location::Local(4), 0),
            (Location::Local(5), 0),
        ]);
        let mut state = 0;
        let mut seen = [0; 3];
        for _ in 0..20 {
            let (picked, _) =
                select(Policy::Closest, &list, &mut state, &region, |_, _| true).unwrap();
            seen[picked.id as usize] += 1;
        }
        assert_eq!(seen, [0, 10, 10]);
        let (picked, _) = select(Policy::Closest, &list, &mut state, &region, |_, b| {
            b.location == Location::Host(1)
        })
        .unwrap();
        assert_eq!(picked.id, 0);
    }

    #[test]
    fn underutilized_leaves_the_busiest_alone() {
        let (region, list) = region(&[
            (Location::Host(1), 900),
            (Location::Host(2), 3),
            (Location::Host(3), 3),
        ]);
        let mut state = 0;
        let mut seen = [0; 3];
        for _ in 0..600 {
            let (picked, _) = select(Policy::Underutilized, &list, &mut state, &region, |_, _| {
                true
            })
            .unwrap();
            seen[picked.id as usize] += 1;
        }
        // It is picked only when both of the two draws fall on it: one in nine at most.
        assert!(seen[0] < 120 && seen[1] > 150 && seen[2] > 150, "{seen:?}");
    }
}
