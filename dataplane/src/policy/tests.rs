//! Each policy against what it promises.

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

fn known<'a>(region: &'a Region, tally: &'a Tally) -> Known<'a> {
    Known { region, tally }
}

fn region(locations: &[(Location, u32)]) -> (Region, Tally, List) {
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
    (region, Tally::new(1 << 17), List(list))
}

#[test]
fn turns_are_equal_within_one_over_any_number_of_flows() {
    let (region, tally, list) = region(&[(Location::Host(1), 0); 7]);
    let mut state = u32::MAX - 20;
    let mut counts = [0u32; 7];
    for _ in 0..1000 {
        let (picked, _) = select(
            Policy::RoundRobin,
            &list,
            &mut state,
            known(&region, &tally),
            |_, _| true,
        )
        .unwrap();
        counts[picked.id as usize] += 1;
    }
    let (low, high) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
    assert!(high - low <= 1, "{counts:?}");
}

#[test]
fn a_backend_that_is_gone_or_unusable_is_passed_over() {
    let (region, tally, list) = region(&[(Location::Host(1), 0); 3]);
    region.remove_backend(list.0[1]);
    for &policy in Policy::ALL {
        let mut state = 0;
        for _ in 0..50 {
            let (picked, _) = select(policy, &list, &mut state, known(&region, &tally), |r, _| {
                r.id != 0
            })
            .unwrap();
            assert_eq!(picked.id, 2, "{policy:?}");
        }
        assert!(
            select(policy, &list, &mut state, known(&region, &tally), |_, _| {
                false
            })
            .is_none()
        );
    }
}

#[test]
fn closest_stays_on_its_own_node_while_it_can() {
    let (region, tally, list) = region(&[
        (Location::Host(1), 0),
        (Location::Local(4), 0),
        (Location::Local(5), 0),
    ]);
    let mut state = 0;
    let mut seen = [0; 3];
    for _ in 0..20 {
        let (picked, _) = select(
            Policy::Closest,
            &list,
            &mut state,
            known(&region, &tally),
            |_, _| true,
        )
        .unwrap();
        seen[picked.id as usize] += 1;
    }
    assert_eq!(seen, [0, 10, 10]);
    let (picked, _) = select(
        Policy::Closest,
        &list,
        &mut state,
        known(&region, &tally),
        |_, b| b.location == Location::Host(1),
    )
    .unwrap();
    assert_eq!(picked.id, 0);
}

fn picks(policy: Policy, (region, tally, list): (&Region, &Tally, &List), times: u32) -> Vec<u32> {
    let (mut state, mut seen) = (0, vec![0; list.len()]);
    for _ in 0..times {
        let (picked, _) =
            select(policy, list, &mut state, known(region, tally), |_, _| true).unwrap();
        seen[picked.id as usize] += 1;
    }
    seen
}

#[test]
fn the_registry_gives_every_policy_its_own_number_and_names() {
    for (n, policy) in Policy::ALL.iter().enumerate() {
        assert_eq!(Policy::of_number(policy.number()), Some(*policy));
        for other in &Policy::ALL[..n] {
            assert_ne!(
                (policy.number(), policy.name()),
                (other.number(), other.name())
            );
        }
    }
    assert_eq!(Policy::of_number(77), None);
    for (text, expected) in [
        ("RR", Some(Policy::RoundRobin)),
        ("Closest", Some(Policy::Closest)),
        ("Underutilized", Some(Policy::Underutilized)),
        ("instance_ip", None),
        ("InstanceNumber", None),
    ] {
        assert_eq!(Policy::of_type(text), expected);
    }
}

#[test]
fn closest_falls_to_the_next_when_what_is_here_drains() {
    let (region, tally, list) = region(&[
        (Location::Local(4), 0),
        (Location::Host(1), 0),
        (Location::Host(2), 0),
    ]);
    for host in 1..3 {
        region.publish_host(host, Address(u128::from(host)), 50103);
        region.learn_rtt(host, 300 * host, host == 1);
    }
    let all = (&region, &tally, &list);
    assert_eq!(picks(Policy::Closest, all, 100), [100, 0, 0]);
    region.update_backend(list.0[0], Location::Local(4), true, 0);
    assert_eq!(picks(Policy::Closest, all, 100), [0, 100, 0]);
    region.remove_backend(list.0[1]);
    assert_eq!(picks(Policy::Closest, all, 100), [0, 0, 100]);
    region.update_backend(list.0[0], Location::Local(4), false, 0);
    assert_eq!(picks(Policy::Closest, all, 100), [100, 0, 0]);
}

#[test]
fn closest_compares_probes_with_handshakes_and_tries_who_was_never_measured() {
    let (region, tally, list) = region(&[(Location::Host(1), 0), (Location::Host(2), 0)]);
    for host in 1..3 {
        region.publish_host(host, Address(u128::from(host)), 50103);
    }
    let all = (&region, &tally, &list);
    assert_eq!(picks(Policy::Closest, all, 100), [50, 50], "nobody knows");
    // One answers probes, and the other, nearer, does not.
    region.learn_rtt(1, 20_000, true);
    let seen = picks(Policy::Closest, all, 6400);
    assert!((20..400).contains(&seen[1]), "{seen:?}");
    region.learn_rtt(2, 800, false);
    assert_eq!(picks(Policy::Closest, all, 100), [0, 100]);
    // Own node first, whoever was never measured.
    let (region, tally, list) = self::region(&[(Location::Host(1), 0), (Location::Local(1), 0)]);
    assert_eq!(
        picks(Policy::Closest, (&region, &tally, &list), 1000),
        [0, 1000]
    );
}

#[test]
fn underutilized_leaves_the_busiest_alone() {
    let (region, tally, list) = region(&[
        (Location::Host(1), 900),
        (Location::Host(2), 3),
        (Location::Host(3), 3),
    ]);
    let seen = picks(Policy::Underutilized, (&region, &tally, &list), 600);
    // It is never the less busy of two.
    assert!(seen[0] == 0 && seen[1] > 200 && seen[2] > 200, "{seen:?}");
    // Two are always compared with each other.
    region.remove_backend(list.0[2]);
    region.update_backend(list.0[1], Location::Host(2), false, 1000);
    let list = List(list.0[..2].to_vec());
    assert_eq!(
        picks(Policy::Underutilized, (&region, &tally, &list), 200),
        [200, 0]
    );
}

#[test]
fn underutilized_counts_its_own_flows_before_any_report() {
    let (region, tally, list) = region(&[
        (Location::Host(1), 10),
        (Location::Host(2), 0),
        (Location::Local(3), 0),
    ]);
    let mut state = 0;
    let mut open = |times| {
        for _ in 0..times {
            let (picked, _) = select(
                Policy::Underutilized,
                &list,
                &mut state,
                known(&region, &tally),
                |_, _| true,
            )
            .unwrap();
            tally.flow_opened(picked.id);
        }
        [0, 1, 2].map(|id| tally.live_flows(id))
    };
    let seen = open(290);
    assert_eq!(seen.iter().sum::<u32>(), 290);
    // 300 in all, a hundred each, the reported ten among the first one's.
    let all = [seen[0] + 10, seen[1], seen[2]];
    assert!(all.iter().all(|n| (95..=105).contains(n)), "{seen:?}");
    // Those of one end, and new ones take their place.
    for _ in 0..60 {
        tally.flow_ended(1, None);
    }
    let again = open(60);
    // Two of three pairs hold it.
    assert!(again[1] >= seen[1] - 60 + 35, "{seen:?} {again:?}");
}
