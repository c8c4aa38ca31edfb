//! What is counted of services, policies, instances and containers.

use std::net::IpAddr;

use super::packets::{Kind, Spec};
use super::stage::*;
use crate::api::{InstanceLoad, Policy, PortCounts, ServiceCounts};
use crate::counters::Counter;

fn service(node: &mut Node, job: &str) -> ServiceCounts {
    let all = node.control.stats().services;
    all.into_iter().find(|s| s.job == job).unwrap()
}

fn container(node: &mut Node, ifindex: u32) -> PortCounts {
    let all = node.control.stats().containers;
    let wanted = format!("veth{ifindex}");
    all.into_iter().find(|c| c.interface == wanted).unwrap()
}

fn numbers(counts: &ServiceCounts) -> (u64, u64, u64, u64) {
    (counts.opened, counts.live, counts.packets, counts.refused)
}

/// Time for flows of a gone instance to end.
fn pass(node: &mut Node) {
    for _ in 0..40 {
        node.tick(100);
    }
}

fn dial(plan: &Plan, port: u16) -> Vec<u8> {
    Spec {
        source_port: port,
        ..spec(Kind::Udp, plan.c, plan.service)
    }
    .build()
}

#[test]
fn a_service_counts_its_flows_and_their_packets() {
    let mut node = Node::new(2);
    for plan in PLANS {
        for port in 0..10 {
            let n = picked(&plan, &to_tunnel(&node.access(C, &dial(&plan, 100 + port))));
            to_tunnel(&node.access(C, &dial(&plan, 100 + port)));
            let back = Spec {
                destination_port: 100 + port,
                ..answer(Kind::Udp, plan.d_instance[n], plan.c)
            };
            to_container(&node.tunnel(AWAY, &back.build()), C);
        }
    }
    let counts = service(&mut node, "a.b.service.d");
    assert_eq!(counts.policy, "rr");
    assert!(
        counts
            .addresses
            .contains(&V4.service.parse::<IpAddr>().unwrap())
    );
    assert_eq!(numbers(&counts), (20, 20, 60, 0));
    assert_eq!(numbers(&service(&mut node, "a.b.here.d")), (0, 0, 0, 0));
    let stats = node.control.stats();
    let policy = |name| *stats.policies.iter().find(|p| p.policy == name).unwrap();
    assert_eq!((policy("rr").picks, policy("rr").refusals), (20, 0));
    assert_eq!(policy("closest").picks, 0);

    // Without instances: every packet is refused, and the flows end.
    node.set_job(job(&[]));
    pass(&mut node);
    node.dropping(Counter::NoBackend, |n| n.access(C, &dial(&V4, 100)));
    assert_eq!(
        numbers(&service(&mut node, "a.b.service.d")),
        (20, 0, 60, 1)
    );
    let stats = node.control.stats();
    assert_eq!(stats.policies[0].refusals, 1);
    // The table's own counts say the same.
    assert_eq!(stats.flows, 0);
}

#[test]
fn the_numbers_of_a_forgotten_service_are_nobody_elses() {
    let mut node = Node::new(1);
    for port in 0..5 {
        to_tunnel(&node.access(C, &dial(&V4, 100 + port)));
    }
    node.control.forget_job("a.b.service.d");
    node.publish();
    // Before its flows have ended and after: a new service never shows them.
    let other = late(V4.unknown, V4.unknown_instance, "10.20.0.2");
    node.set_job(other.clone());
    assert_eq!(numbers(&service(&mut node, "a.b.late.d")), (0, 0, 0, 0));
    node.control.forget_job("a.b.late.d");
    node.publish();
    pass(&mut node);
    assert_eq!(node.workers[0].flows(), 0);
    for _ in 0..5 {
        node.publish();
        node.control.forget_job("a.b.late.d");
        node.set_job(other.clone());
        assert_eq!(numbers(&service(&mut node, "a.b.late.d")), (0, 0, 0, 0));
        let packet = spec(Kind::Udp, V4.c, V4.unknown).build();
        to_tunnel(&node.access(C, &packet));
        assert_eq!(numbers(&service(&mut node, "a.b.late.d")), (1, 1, 1, 0));
        node.control.forget_job("a.b.late.d");
        node.publish();
        pass(&mut node);
    }
}

#[test]
fn a_containers_numbers_stay_with_it_and_end_with_it() {
    let mut node = Node::new(2);
    node.attach(103, pair("10.18.0.4", "fc00::4"));
    let packet = spec(Kind::Udp, "10.18.0.4", V4.service).build();
    node.access(103, &packet);
    let mut own = client();
    own.job = "a.b.fresh.d".to_owned();
    own.instances[0].namespace = pair("10.18.0.4", "fc00::4");
    own.instances[0].instance = pair("10.30.0.50", "fdff::50");
    // Its Instance IP is learned: another slot, the same container.
    node.set_job(own);
    node.tick(1);
    to_tunnel(&node.taken());
    node.access(103, &packet);
    let bytes = 2 * (packet.len() as u64 + 14);
    let counts = container(&mut node, 103);
    assert_eq!((counts.packets_in, counts.bytes_in), (2, bytes));
    assert_eq!((counts.packets_out, counts.refused), (0, 0));
    let there = spec(Kind::Udp, V4.c, "10.18.0.4").build();
    node.access(C, &there);
    let counts = container(&mut node, 103);
    assert_eq!(
        (counts.packets_out, counts.bytes_out),
        (1, there.len() as u64 + 14)
    );
    assert_eq!(container(&mut node, C).packets_in, 1);
    node.control.detach(103).unwrap();
    for _ in 0..3 {
        node.publish();
    }
    node.attach(103, pair("10.18.0.5", "fc00::5"));
    let counts = container(&mut node, 103);
    assert_eq!((counts.packets_in, counts.bytes_out), (0, 0));
}

#[test]
fn ports_and_totals_agree_after_mixed_traffic() {
    let mut node = Node::new(2);
    for plan in PLANS {
        for port in 0..30 {
            node.access(C, &dial(&plan, port));
            node.access(E, &spec(tcp(SYN), plan.e, plan.service).build());
            node.access(C, &spec(Kind::Udp, plan.c, plan.e).build());
            node.access(
                E,
                &spec(Kind::EchoRequest, plan.e, plan.local_service).build(),
            );
            node.access(C, &spec(Kind::Udp, plan.e, plan.service).build());
            node.access(C, &spec(Kind::Udp, plan.c, plan.outside).build());
            node.access(C, &spec(Kind::Udp, plan.c, plan.unknown).build());
            node.tunnel(STRANGER, &spec(Kind::Udp, plan.d[0], plan.c).build());
            node.tunnel(AWAY, &spec(Kind::Udp, plan.d[0], plan.c).build());
            node.host(1, &spec(Kind::Udp, plan.gateway, plan.c).build());
        }
    }
    node.set_job(job(&[]));
    for _ in 0..50 {
        node.tick(100);
    }
    let to_containers = node.workers.iter().map(|w| w.output.to_access).sum::<u64>();
    let stats = node.control.stats();
    let sum = |of: fn(&PortCounts) -> u64| stats.containers.iter().map(of).sum::<u64>();
    let named = |counts: &[crate::api::Count], name: &str| {
        counts
            .iter()
            .find(|c| c.name == name)
            .map_or(0, |c| c.packets)
    };
    assert_eq!(sum(|c| c.packets_in), named(&stats.received, "access"));
    assert_eq!(sum(|c| c.packets_out), to_containers);
    let opened: u64 = stats.services.iter().map(|s| s.opened).sum();
    assert_eq!(opened, named(&stats.events, "flows_opened"));
    assert_eq!(opened, stats.policies.iter().map(|p| p.picks).sum::<u64>());
    assert_eq!(
        stats.services.iter().map(|s| s.live).sum::<u64>(),
        stats.flows
    );
}

#[test]
fn underutilized_counts_flows_of_before_a_restart() {
    let by_load = |instances: &[usize]| {
        let mut routes = job(instances);
        for instance in &mut routes.instances {
            instance.services[0].policy = Policy::Underutilized;
        }
        routes
    };
    let mut node = Node::new(1);
    node.set_job(by_load(&[0]));
    for port in 0..20 {
        to_tunnel(&node.access(C, &dial(&V4, 100 + port)));
    }
    let mut next = node.restart();
    next.attach(C, pair(V4.c, V6.c));
    next.set_job(client());
    next.set_job(by_load(&[0, 1]));
    for port in 0..20 {
        let n = picked(&V4, &to_tunnel(&next.access(C, &dial(&V4, 300 + port))));
        assert_eq!(n, 1, "the other has twenty already");
    }
    // A flow of before counts for its service again once it has a packet.
    assert_eq!(
        numbers(&service(&mut next, "a.b.service.d")),
        (20, 20, 20, 0)
    );
    to_tunnel(&next.access(C, &dial(&V4, 100)));
    assert_eq!(
        numbers(&service(&mut next, "a.b.service.d")),
        (20, 21, 21, 0)
    );
    // And ends as one of it.
    next.set_job(by_load(&[]));
    pass(&mut next);
    assert_eq!(
        numbers(&service(&mut next, "a.b.service.d")),
        (20, 0, 21, 0)
    );
}

#[test]
fn loads_that_are_reported_decide_too() {
    let mut node = Node::new(1);
    let mut routes = job(&[0, 1]);
    for instance in &mut routes.instances {
        instance.services[0].policy = Policy::Underutilized;
    }
    routes.instances[0].load = Some(40);
    node.set_job(routes.clone());
    for port in 0..40 {
        let n = picked(&V4, &to_tunnel(&node.access(C, &dial(&V4, 100 + port))));
        assert_eq!(n, 1);
    }
    let seconds = u32::try_from(node.clock / 1000).unwrap();
    assert_eq!(node.control.loads(seconds).wanted, ["a.b.service.d"]);
    routes.instances[1].load = Some(40);
    node.set_job(routes);
    for port in 0..30 {
        let n = picked(&V4, &to_tunnel(&node.access(C, &dial(&V4, 200 + port))));
        assert_eq!(n, 0);
    }
}

#[test]
fn what_a_container_serves_is_estimated_whoever_asks_it() {
    for plan in PLANS {
        let mut node = Node::new(2);
        let load = |node: &mut Node, seconds_later: u32| -> u32 {
            let seconds = u32::try_from(node.clock / 1000).unwrap() + seconds_later;
            let own: Vec<InstanceLoad> = node.control.loads(seconds).own;
            assert_eq!(own.len(), 2);
            own.iter().map(|l| l.flows).max().unwrap()
        };
        // From another node, a reference peer or not, and from this one: to `e`.
        for port in 0..60 {
            let from = Spec {
                source_port: 40_000 + port,
                ..spec(tcp(ACK), plan.d_instance[0], plan.e)
            };
            for _ in 0..3 {
                node.tunnel(AWAY, &from.build());
            }
            let near = Spec {
                source_port: 41_000 + port,
                ..spec(Kind::Udp, plan.c, plan.local_service)
            };
            to_container(&node.access(C, &near.build()), E);
        }
        let seen = load(&mut node, 0);
        assert!((100..=140).contains(&seen), "{seen}");
        assert_eq!(load(&mut node, 25), 0, "none of them is active any more");

        // Answers are none: neither to flows of its own, nor from what it dialled without one.
        let mut node = Node::new(2);
        for port in 0..60 {
            let out = Spec {
                source_port: 40_000 + port,
                ..spec(Kind::Udp, plan.c, plan.service)
            };
            let n = picked(&plan, &to_tunnel(&node.access(C, &out.build())));
            let back = Spec {
                destination_port: 40_000 + port,
                ..answer(Kind::Udp, plan.d_instance[n], plan.c)
            };
            to_container(&node.tunnel(AWAY, &back.build()), C);
            let direct = Spec {
                destination_port: 50_000 + port,
                ..answer(tcp(ACK), plan.d_instance[0], plan.c)
            };
            to_container(&node.tunnel(AWAY, &direct.build()), C);
        }
        assert_eq!(load(&mut node, 0), 0);
    }
}
