//! Records as they come and go, and what is learned of hosts.

use super::*;

fn sample() -> Backend {
    Backend {
        location: Location::Host(7),
        namespace: (0x0a12_0002, Address(5)),
        instance: (0x0a1e_0002, Address(6)),
        draining: false,
        load: 9,
        job: 3,
        number: 1,
    }
}

#[test]
fn a_record_serves_one_backend_after_another_and_old_references_see_that() {
    let region = Region::on_heap(
        Layout {
            shards: 1,
            slots: 1024,
            backends: 16,
            hosts: 4,
        },
        1,
    );
    let first = region.publish_backend(3, &sample()).unwrap();
    assert_eq!(region.backend(first), Some(sample()));
    region.update_backend(first, Location::Local(2), true, 1 << 30);
    let changed = region.backend(first).unwrap();
    assert_eq!(
        (changed.location, changed.draining, changed.load),
        (Location::Local(2), true, LOAD_MAX)
    );
    region.remove_backend(first);
    assert_eq!(region.backend(first), None);
    assert_eq!(region.backend_at(3), None);
    let second = region.publish_backend(3, &sample()).unwrap();
    assert_ne!(first, second);
    assert_eq!(region.backend(first), None);
    assert_eq!(region.backend(second), Some(sample()));
}

#[test]
fn a_round_trip_is_published_when_it_has_moved_by_a_fifth() {
    let region = Region::on_heap(
        Layout {
            shards: 1,
            slots: 1024,
            backends: 16,
            hosts: 4,
        },
        1,
    );
    region.publish_host(1, Address(77), 50103);
    assert_eq!(region.host_rtt(1), 0);
    region.learn_rtt(1, 900, false);
    assert_eq!(
        region.host_rtt(1),
        900,
        "a handshake serves until a probe is answered"
    );
    region.learn_rtt(1, 400, true);
    assert_eq!(region.host_rtt(1), 400);
    for _ in 0..100 {
        region.learn_rtt(1, 440, true);
        region.learn_rtt(1, 90_000, false);
    }
    assert_eq!(region.host_rtt(1), 400, "a tenth more is no other distance");
    for _ in 0..100 {
        region.learn_rtt(1, 900, true);
    }
    assert!(region.host_rtt(1) > 700, "{}", region.host_rtt(1));
}

#[test]
fn a_host_that_stops_answering_probes_is_measured_by_handshakes_again() {
    let layout = Layout {
        shards: 1,
        slots: 1024,
        backends: 16,
        hosts: 4,
    };
    let region = Region::on_heap(layout, 1);
    region.publish_host(1, Address(77), 50103);
    region.learn_rtt(1, 400, true);
    for _ in 0..10 {
        // One or two that are lost say nothing.
        (0..3).for_each(|_| region.count_probe(1));
        region.learn_rtt(1, 90_000, false);
        assert_eq!(region.host_rtt(1), 400);
        region.learn_rtt(1, 400, true);
    }
    (0..20).for_each(|_| region.count_probe(1));
    assert_eq!(region.host_rtt(1), 400, "the last that is known");
    (0..60).for_each(|_| region.learn_rtt(1, 9000, false));
    assert!(region.host_rtt(1) > 7000, "{}", region.host_rtt(1));
    region.learn_rtt(1, 500, true);
    assert_eq!(region.host_rtt(1), 500);
}

#[test]
fn backends_are_found_by_either_namespace_address() {
    let layout = Layout {
        shards: 1,
        slots: 1024,
        backends: 16,
        hosts: 4,
    };
    let region = Region::on_heap(layout, 1);
    let reference = region.publish_backend(3, &sample()).unwrap();
    let namespace = sample().namespace;
    let found = |count, v4, v6| {
        let found = region.with_namespace(count, v4, v6);
        found.map(|(reference, _)| reference).collect::<Vec<_>>()
    };
    let nobody = Address(0);
    assert_eq!(found(16, namespace.0, namespace.1), [reference]);
    assert_eq!(found(16, namespace.0, nobody), [reference]);
    assert_eq!(found(16, 0, namespace.1), [reference]);
    // The other records have no addresses, and nobody asks for those.
    assert!(found(16, 0, nobody).is_empty() && found(3, namespace.0, nobody).is_empty());
    region.number_backend(reference, 5);
    assert_eq!(region.backend(reference).unwrap().number, 5);
    region.remove_backend(reference);
    assert!(found(16, namespace.0, namespace.1).is_empty());
}

#[test]
fn hosts_keep_address_and_port() {
    let region = Region::on_heap(
        Layout {
            shards: 1,
            slots: 1024,
            backends: 16,
            hosts: 4,
        },
        1,
    );
    assert_eq!(region.host(1), None);
    assert!(region.publish_host(1, Address(77), 0));
    assert_eq!(region.host(1), Some((Address(77), 0)));
    assert!(!region.publish_host(4, Address(77), 50103));
}
