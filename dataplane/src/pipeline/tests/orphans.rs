//! Flows whose instance has gone: clients that only wait are told, everyone else is left alone.

use std::collections::HashSet;

use net::packet::{Headers, TcpFlags};

use super::packets::{Kind, Spec, assert_right};
use super::stage::*;
use crate::counters::Counter;
use crate::pipeline::answers::Budget;

/// What was sent so far, from the client's side of an established connection from `port` to `service`; the instance.
fn establish(node: &mut Node, plan: &Plan, port: u16) -> usize {
    let from = |flags| Spec {
        source_port: port,
        ..spec(tcp(flags), plan.c, plan.service)
    };
    let n = picked(plan, &to_tunnel(&node.access(C, &from(SYN).build())));
    let back = Spec {
        destination_port: port,
        ..answer(tcp(SYN | ACK), plan.d_instance[n], plan.c)
    };
    to_container(&node.tunnel(AWAY, &back.build()), C);
    to_tunnel(&node.access(C, &from(ACK).build()));
    n
}

/// A bare ACK from the service to this port of the client; its sequence number.
fn question(plan: &Plan, sent: &Sent, port: u16) -> u32 {
    let packet = to_container(std::slice::from_ref(sent), C);
    assert_right(&packet);
    let headers = Headers::parse(&packet, packet.len()).unwrap();
    assert_eq!(headers.tcp_flags, TcpFlags::ACK);
    assert_eq!(headers.payload_len(), 0);
    assert_eq!(
        (headers.source, headers.source_port),
        (address(plan.service), 80)
    );
    assert_eq!(
        (headers.destination, headers.destination_port),
        (address(plan.c), port)
    );
    sequence(&packet, &headers)
}

fn sequence(packet: &[u8], headers: &Headers) -> u32 {
    let tcp = &packet[usize::from(headers.l4_offset)..];
    u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]])
}

fn acknowledged(packet: &[u8]) -> u32 {
    let headers = Headers::parse(packet, packet.len()).unwrap();
    let tcp = &packet[usize::from(headers.l4_offset)..];
    u32::from_be_bytes([tcp[8], tcp[9], tcp[10], tcp[11]])
}

#[test]
fn a_client_that_waits_is_asked_and_its_answer_is_reset_exactly() {
    for plan in PLANS {
        let mut node = Node::new(1);
        let n = establish(&mut node, &plan, 4000);
        let other = establish(&mut node, &plan, 4001);
        assert_ne!(n, other);
        node.tick(500);
        assert!(node.taken().is_empty(), "nobody has gone");

        node.set_job(job(&[other]));
        node.tick(1);
        let sent = node.taken();
        assert_eq!(sent.len(), 1, "the other's client is left alone: {sent:?}");
        question(&plan, &sent[0], 4000);
        assert_eq!(node.sum(Counter::Challenges), 1);

        // As its kernel answers: a bare acknowledgement of what it expects.
        let reply = Spec {
            payload: Vec::new(),
            ..spec(tcp(ACK), plan.c, plan.service)
        }
        .build();
        let sent = node.dropping(Counter::BackendGone, |n| n.access(C, &reply));
        let reset = to_container(&sent, C);
        let headers = Headers::parse(&reset, reset.len()).unwrap();
        assert_eq!(headers.tcp_flags, TcpFlags::RST);
        assert_eq!(sequence(&reset, &headers), acknowledged(&reply));
        assert_eq!(headers.source, address(plan.service));
        assert_eq!(node.workers[0].flows(), 1);
        for _ in 0..50 {
            node.tick(100);
        }
        assert!(node.taken().is_empty(), "once is enough");
        assert_eq!(node.workers[0].tick_within(node.clock), None);
    }
}

#[test]
fn a_client_that_does_not_answer_is_asked_again_and_then_forgotten() {
    let mut node = Node::new(1);
    let n = establish(&mut node, &V4, 4000);
    node.set_job(job(&[1 - n]));
    let (mut asked, mut times) = (Vec::new(), Vec::new());
    for at in 0..80 {
        node.tick(50);
        for sent in node.taken() {
            asked.push(question(&V4, &sent, 4000));
            times.push(at * 50);
        }
    }
    assert!((3..=5).contains(&asked.len()), "{times:?}");
    let distinct: HashSet<u32> = asked.iter().copied().collect();
    assert_eq!(distinct.len(), asked.len(), "another number each time");
    // Kernels answer such a packet twice a second at most.
    assert!(times.windows(2).all(|w| w[1] - w[0] >= 600), "{times:?}");
    assert_eq!(node.workers[0].flows(), 0);
    assert_eq!(node.workers[0].tick_within(node.clock), None);
}

#[test]
fn flows_that_nobody_waits_on_end_soon_after_their_instance() {
    for plan in PLANS {
        let mut node = Node::new(1);
        // On the way, over, or no connection at all: to both instances.
        let mut kept = 0;
        for port in 0..2 {
            for kind in [tcp(SYN), Kind::Udp] {
                let sent = Spec {
                    source_port: 5000 + port,
                    ..spec(kind, plan.c, plan.service)
                };
                let n = picked(&plan, &to_tunnel(&node.access(C, &sent.build())));
                kept += usize::from(n == 1);
            }
            let n = establish(&mut node, &plan, 6000 + port);
            let end = Spec {
                source_port: 6000 + port,
                ..spec(tcp(RST), plan.c, plan.service)
            };
            to_tunnel(&node.access(C, &end.build()));
            kept += usize::from(n == 1);
        }
        node.set_job(job(&[1]));
        node.tick(1);
        assert_eq!(node.workers[0].flows(), 6, "answers may be under way");
        for _ in 0..40 {
            node.tick(100);
        }
        assert!(node.taken().is_empty());
        assert_eq!(node.workers[0].flows(), kept as u64);
    }
}

/// An answer that was under way when its instance went is still the dialled address's.
#[test]
fn the_last_answers_of_a_local_instance_are_translated() {
    for plan in PLANS {
        let mut node = Node::new(1);
        let sent = spec(Kind::Udp, plan.c, plan.local_service);
        to_container(&node.access(C, &sent.build()), E);
        let mut none = here();
        none.instances.clear();
        node.set_job(none);
        node.tick(1);
        let back = answer(Kind::Udp, plan.e, plan.c_instance);
        let mut named = here();
        named.job = "a.b.again.d".to_owned();
        named.instances[0].services.clear();
        // Its own Instance IP is still known, as another job's.
        node.set_job(named);
        assert_eq!(
            to_container(&node.access(E, &back.build()), C),
            moved(&back, plan.local_service, plan.c, 1)
        );
    }
}

#[test]
fn many_clients_are_asked_a_few_at_a_time() {
    let mut node = Node::new(1);
    node.set_job(job(&[0]));
    for port in 0..200 {
        establish(&mut node, &V4, 7000 + port);
    }
    node.set_job(job(&[1]));
    let mut asked = 0;
    for _ in 0..7 {
        assert!(
            node.workers[0]
                .tick_within(node.clock)
                .is_none_or(|ms| ms >= 1)
        );
        node.tick(1);
        let now = node.taken().len();
        assert!(now <= 32, "{now}");
        asked += now;
    }
    assert_eq!(asked, 200);
    assert!(
        node.workers[0]
            .tick_within(node.clock)
            .is_some_and(|ms| ms > 100)
    );
}

#[test]
fn who_cannot_be_reset_now_is_reset_later() {
    let mut node = Node::new(1);
    let n = establish(&mut node, &V4, 4000);
    node.set_job(job(&[1 - n]));
    node.tick(1);
    node.taken();
    node.workers[0].resets = Budget::new(0);
    let reply = spec(tcp(ACK), V4.c, V4.service).build();
    let sent = node.dropping(Counter::BackendGone, |n| n.access(C, &reply));
    assert!(sent.is_empty());
    // Errors of another kind have a budget of their own.
    node.set_job(job(&[]));
    let refused = node.dropping(Counter::NoBackend, |n| {
        n.access(C, &spec(Kind::Udp, V4.c, V4.service).build())
    });
    assert_eq!(refused.len(), 1);
    node.workers[0].resets = Budget::new(1);
    let sent = node.dropping(Counter::BackendGone, |n| n.access(C, &reply));
    to_container(&sent, C);
}

#[test]
fn an_instance_that_moves_or_is_named_again_keeps_its_connections() {
    let mut node = Node::new(1);
    let n = establish(&mut node, &V4, 4000);
    for host in [
        "192.0.2.20:50103",
        "192.0.2.20:50199",
        "198.51.100.7:50103",
        "[2001:db8::7]:50103",
        "192.0.2.20:50103",
    ] {
        let mut again = job(&[0, 1]);
        for instance in &mut again.instances {
            instance.host = host.parse().unwrap();
            instance.weight = 3;
        }
        node.set_job(again.clone());
        node.set_job(again);
        for _ in 0..10 {
            node.tick(500);
        }
        assert!(node.taken().is_empty(), "{host}");
        let sent = node.access(C, &spec(tcp(ACK), V4.c, V4.service).build());
        let [Sent::Tunnel(packet, to, ..)] = &sent[..] else {
            panic!("{sent:?}")
        };
        assert_eq!(*to, host.parse().unwrap());
        assert_eq!(picked(&V4, packet), n);
    }
    // Draining, too.
    let mut drained = job(&[0, 1]);
    drained.instances[n].draining = true;
    node.set_job(drained);
    node.tick(1000);
    assert!(node.taken().is_empty());
    let sent = node.access(C, &spec(tcp(ACK), V4.c, V4.service).build());
    assert_eq!(picked(&V4, &to_tunnel(&sent)), n);
}

#[test]
fn a_container_that_leaves_this_node_ends_its_connections_before_the_cluster_says_so() {
    for plan in PLANS {
        for workers in [1, 2] {
            let mut node = Node::new(workers);
            let dial = |flags| spec(tcp(flags), plan.c, plan.local_service);
            to_container(&node.access(C, &dial(SYN).build()), E);
            let back = answer(tcp(SYN | ACK), plan.e, plan.c_instance);
            to_container(&node.access(E, &back.build()), C);
            to_container(&node.access(C, &dial(ACK).build()), E);
            node.control.detach(E).unwrap();
            node.publish();
            // News of before change nothing.
            node.set_job(here());
            node.tick(1);
            let sent = node.taken();
            assert_eq!(sent.len(), 1, "{sent:?}");
            let packet = to_container(&sent, C);
            let headers = Headers::parse(&packet, packet.len()).unwrap();
            assert_eq!(headers.source, address(plan.local_service));
            let sent = node.dropping(Counter::BackendGone, |n| n.access(C, &dial(ACK).build()));
            to_container(&sent, C);
            // No new ones, until it is here again, or elsewhere.
            node.dropping(Counter::NoBackend, |n| n.access(C, &dial(SYN).build()));
            node.attach(E, pair(V4.e, V6.e));
            to_container(&node.access(C, &dial(SYN).build()), E);
            node.control.detach(E).unwrap();
            node.publish();
            // What is elsewhere has an address of elsewhere.
            let mut moved_away = here();
            moved_away.instances[0].namespace = job(&[0]).instances[0].namespace;
            moved_away.instances[0].host = format!("{AWAY}:50103").parse().unwrap();
            node.set_job(moved_away);
            to_tunnel(&node.access(C, &dial(SYN).build()));
        }
    }
}

#[test]
fn connections_to_an_instance_that_went_while_nobody_ran_are_found_at_the_start() {
    let mut node = Node::new(1);
    let n = establish(&mut node, &V4, 4000);
    let clock = node.clock;
    // The record says that it has gone, and the process dies before any walk.
    node.control.set_job(job(&[1 - n])).unwrap();
    let mut next = node.restart();
    next.clock = next.clock.max(clock);
    next.attach(C, pair(V4.c, V6.c));
    next.set_job(client());
    for _ in 0..20 {
        next.tick(100);
    }
    let sent = next.taken();
    assert!(!sent.is_empty());
    question(&V4, &sent[0], 4000);
}
