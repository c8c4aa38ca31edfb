//! What changes while packets pass: routes that come and go, connections that end, time.

use net::packet::{Headers, TcpFlags};

use super::packets::{Kind, Spec, assert_right};
use super::stage::*;
use crate::api::{JobRoutes, Pair, ServiceAddress};
use crate::counters::Counter;
use crate::tables::routes::Route;

fn parsed(packet: &[u8]) -> Headers {
    assert_right(packet);
    Headers::parse(packet, packet.len()).unwrap()
}

/// An ICMP error from the gateway about this packet; its type and code.
fn error_about(sent: &[Sent], gateway: &str, about: &Spec) -> (u8, u8) {
    let packet = to_container(sent, C);
    let headers = parsed(&packet);
    assert_eq!(headers.source, address(gateway));
    assert_eq!(headers.destination, about.source);
    let at = usize::from(headers.l4_offset);
    let quoted = headers.quoted(&packet).unwrap();
    assert_eq!(
        (quoted.source, quoted.destination),
        (about.source, about.destination)
    );
    assert_eq!(
        (quoted.source_port, quoted.destination_port),
        (about.source_port, about.destination_port)
    );
    (packet[at], packet[at + 1])
}

const fn host_unreachable(plan: &Plan) -> (u8, u8) {
    if plan.c.len() == V4.c.len() {
        (3, 1)
    } else {
        (1, 3)
    }
}

#[test]
fn an_unknown_service_waits_and_goes_on_without_holding_up_anyone() {
    for plan in PLANS {
        let mut node = Node::new(1);
        let namespace = if plan.c == V4.c {
            "10.20.0.2"
        } else {
            "fc00::202"
        };
        let early = spec(tcp(SYN), plan.c, plan.unknown);
        let other = Spec {
            source_port: 4001,
            ..early.clone()
        };
        assert!(node.access(C, &early.build()).is_empty());
        assert!(node.access(C, &other.build()).is_empty());
        assert_eq!(node.unresolved(), [address(plan.unknown)], "asked once");
        to_tunnel(&node.access(C, &spec(Kind::Udp, plan.c, plan.service).build()));
        node.tick(2000);
        assert!(node.taken().is_empty());

        node.set_job(late(plan.unknown, plan.unknown_instance, namespace));
        node.tick(1);
        let sent = node.taken();
        let packets: Vec<_> = sent.iter().map(Sent::packet).collect();
        assert_eq!(
            packets,
            [&early, &other].map(|p| moved(p, plan.c_instance, namespace, 1))
        );
    }
}

#[test]
fn a_service_that_stays_unknown_is_reported_to_who_dialled() {
    for plan in PLANS {
        let mut node = Node::new(1);
        let early = spec(Kind::Udp, plan.c, plan.unknown);
        assert!(node.access(C, &early.build()).is_empty());
        let sent = node.dropping(Counter::WaitingExpired, |n| {
            n.tick(3000);
            n.taken()
        });
        assert_eq!(
            error_about(&sent, plan.gateway, &early),
            host_unreachable(&plan)
        );
        // It is asked for again.
        node.unresolved();
        assert!(node.access(C, &early.build()).is_empty());
        assert_eq!(node.unresolved(), [address(plan.unknown)]);
    }
}

#[test]
fn a_service_that_is_nowhere_is_refused_at_once_for_a_while() {
    for plan in PLANS {
        let mut node = Node::new(1);
        let early = spec(tcp(SYN), plan.c, plan.unknown);
        assert!(node.access(C, &early.build()).is_empty());
        node.control.unresolvable(address(plan.unknown)).unwrap();
        node.publish();
        let sent = node.dropping(Counter::Unreachable, |n| {
            n.tick(1);
            n.taken()
        });
        assert_eq!(
            error_about(&sent, plan.gateway, &early),
            host_unreachable(&plan)
        );
        node.unresolved();
        let sent = node.dropping(Counter::Unreachable, |n| n.access(C, &early.build()));
        assert_eq!(
            error_about(&sent, plan.gateway, &early),
            host_unreachable(&plan)
        );
        assert!(node.unresolved().is_empty());
    }
}

#[test]
fn who_waits_is_bounded_for_each_address_and_for_all() {
    let mut node = Node::new(1);
    let to = |n: u8| format!("10.30.200.{n}");
    for n in 0..20u8 {
        for port in 0..40 {
            let packet = Spec {
                source_port: port,
                ..spec(Kind::Udp, V4.c, &to(n))
            };
            assert!(node.access(C, &packet.build()).is_empty());
        }
        let waiting = node.workers[0].waiting();
        assert_eq!(waiting, (usize::from(n) + 1).min(16) * 32);
    }
    assert_eq!(node.sum(Counter::WaitingFull), 800 - 512);
    to_tunnel(&node.access(C, &spec(Kind::Udp, V4.c, V4.service).build()));
    node.tick(3000);
    assert_eq!(node.workers[0].waiting(), 0);
}

#[test]
fn a_container_waits_for_its_own_instance_ip() {
    let mut node = Node::new(1);
    node.attach(103, pair("10.18.0.4", "fc00::4"));
    let packet = spec(Kind::Udp, "10.18.0.4", V4.service);
    assert!(node.access(103, &packet.build()).is_empty());
    assert_eq!(node.unresolved(), [address("10.18.0.4")]);
    // A change of something else does not let it go.
    node.set_job(job(&[0]));
    node.tick(1);
    assert!(node.taken().is_empty());
    let mut own = client();
    own.job = "a.b.fresh.d".to_owned();
    own.instances[0].namespace = pair("10.18.0.4", "fc00::4");
    own.instances[0].instance = pair("10.30.0.50", "fdff::50");
    node.set_job(own);
    node.tick(1);
    let sent = node.taken();
    assert_eq!(to_tunnel(&sent), moved(&packet, "10.30.0.50", V4.d[0], 1));
}

#[test]
fn a_connection_whose_backend_is_gone_is_reset_and_datagrams_go_to_another() {
    for plan in PLANS {
        let mut node = Node::new(1);
        let mut flows = Vec::new();
        for port in 0..2 {
            for kind in [SYN, 0] {
                let kind = if kind == SYN { tcp(SYN) } else { Kind::Udp };
                let sent = Spec {
                    source_port: 5000 + port,
                    ..spec(kind, plan.c, plan.service)
                };
                let n = picked(&plan, &to_tunnel(&node.access(C, &sent.build())));
                flows.push((sent, n));
            }
        }
        node.set_job(job(&[1]));
        for (sent, n) in flows {
            let is_tcp = sent.kind != Kind::Udp;
            let later = Spec {
                kind: if is_tcp { tcp(ACK) } else { Kind::Udp },
                ..sent.clone()
            };
            if n == 1 || !is_tcp {
                let to = picked(&plan, &to_tunnel(&node.access(C, &later.build())));
                assert_eq!(to, 1);
                continue;
            }
            let answered = node.dropping(Counter::BackendGone, |n| n.access(C, &later.build()));
            let reset = to_container(&answered, C);
            let headers = parsed(&reset);
            assert!(headers.tcp_flags.any(TcpFlags::RST));
            assert_eq!(
                (headers.source, headers.destination),
                (later.destination, later.source)
            );
            assert_eq!(
                (headers.source_port, headers.destination_port),
                (later.destination_port, later.source_port)
            );
            // A new connection from the same port finds who is there.
            let again = picked(&plan, &to_tunnel(&node.access(C, &sent.build())));
            assert_eq!(again, 1);
        }
    }
}

#[test]
fn an_instance_that_left_this_node_is_gone_although_the_cluster_still_names_it() {
    for plan in PLANS {
        let mut node = Node::new(1);
        let mut both = here();
        both.instances.push(job(&[0]).instances.remove(0));
        both.instances[1].services = both.instances[0].services.clone();
        node.set_job(job(&[]));
        node.set_job(both.clone());
        let from = |port, kind| Spec {
            source_port: port,
            ..spec(kind, plan.c, plan.local_service)
        };
        for kind in [tcp(SYN), Kind::Udp] {
            for port in [5000, 5001] {
                node.access(C, &from(port, kind).build());
            }
        }
        assert!(node.control.detach(E).unwrap());
        node.publish();
        for named_again in [false, true] {
            if named_again {
                node.set_job(both.clone());
            }
            for n in 0..6 {
                let new = from(6000 + n + 10 * u16::from(named_again), tcp(SYN)).build();
                assert_eq!(picked(&plan, &to_tunnel(&node.access(C, &new))), 0);
            }
            for kind in [tcp(ACK), Kind::Udp] {
                for port in [5000, 5001] {
                    let sent = node.access(C, &from(port, kind).build());
                    let reset = matches!(sent[..], [Sent::Access(..)])
                        && parsed(&to_container(&sent, C)).tcp_flags.any(TcpFlags::RST);
                    assert!(reset || picked(&plan, &to_tunnel(&sent)) == 0, "{sent:?}");
                }
            }
            for gone in [plan.e_instance, plan.e] {
                let packet = spec(Kind::Udp, plan.c, gone);
                let sent = node.dropping(Counter::Unreachable, |n| n.access(C, &packet.build()));
                assert_eq!(
                    error_about(&sent, plan.gateway, &packet),
                    host_unreachable(&plan)
                );
            }
        }
        assert_eq!(
            node.sum(Counter::BackendGone),
            1,
            "one connection was to it"
        );
        node.attach(E, pair(V4.e, V6.e));
        to_container(&node.access(C, &spec(Kind::Udp, plan.c, plan.e).build()), E);
        to_container(
            &node.access(C, &spec(Kind::Udp, plan.c, plan.e_instance).build()),
            E,
        );
    }
}

#[test]
fn a_backend_that_moves_to_another_host_keeps_its_flows() {
    let mut node = Node::new(1);
    let sent = spec(tcp(SYN), V4.c, V4.service);
    let n = picked(&V4, &to_tunnel(&node.access(C, &sent.build())));
    let mut moved_away = job(&[0, 1]);
    for instance in &mut moved_away.instances {
        instance.host = "198.51.100.7:50104".parse().unwrap();
    }
    node.set_job(moved_away);
    let later = spec(tcp(ACK), V4.c, V4.service);
    let sent = node.access(C, &later.build());
    let [Sent::Tunnel(packet, to, ..)] = &sent[..] else {
        panic!("{sent:?}")
    };
    assert_eq!(*to, "198.51.100.7:50104".parse().unwrap());
    assert_eq!(picked(&V4, packet), n);
}

#[test]
fn a_service_without_instances_is_unreachable_not_unknown() {
    for plan in PLANS {
        let mut node = Node::new(1);
        node.set_job(job(&[]));
        let sent = spec(tcp(SYN), plan.c, plan.service);
        let answered = node.dropping(Counter::NoBackend, |n| n.access(C, &sent.build()));
        assert_eq!(
            error_about(&answered, plan.gateway, &sent),
            host_unreachable(&plan)
        );
        assert!(node.unresolved().is_empty());
        node.control.forget_job("a.b.service.d");
        node.publish();
        assert!(node.access(C, &sent.build()).is_empty());
        assert_eq!(node.unresolved(), [address(plan.service)]);
    }
}

#[test]
fn a_draining_instance_keeps_its_flows_and_gets_no_new_ones() {
    let mut node = Node::new(1);
    let sent = spec(Kind::Udp, V4.c, V4.service);
    let n = picked(&V4, &to_tunnel(&node.access(C, &sent.build())));
    let mut drained = job(&[0, 1]);
    drained.instances[n].draining = true;
    node.set_job(drained);
    assert_eq!(picked(&V4, &to_tunnel(&node.access(C, &sent.build()))), n);
    for port in 0..10 {
        let sent = Spec {
            source_port: 6000 + port,
            ..sent.clone()
        };
        assert_eq!(
            picked(&V4, &to_tunnel(&node.access(C, &sent.build()))),
            1 - n
        );
    }
}

#[test]
fn weights_share_out_new_flows() {
    let mut node = Node::new(1);
    let mut weighted: JobRoutes = job(&[0, 1]);
    weighted.instances[0].weight = 3;
    node.set_job(weighted);
    let mut counts = [0; 2];
    for port in 0..40 {
        let sent = Spec {
            source_port: 7000 + port,
            ..spec(Kind::Udp, V4.c, V4.service)
        };
        counts[picked(&V4, &to_tunnel(&node.access(C, &sent.build())))] += 1;
    }
    assert_eq!(counts, [30, 10]);
}

#[test]
fn an_address_that_moves_to_another_job_never_loses_its_route() {
    let mut node = Node::new(1);
    let mut thief = here();
    thief.job = "a.b.thief.d".to_owned();
    thief.instances[0].services.push(ServiceAddress {
        policy: crate::api::Policy::RoundRobin,
        addresses: pair(V4.service, V6.service),
    });
    thief.instances[0].services.remove(0);
    node.set_job(thief);
    let sent = spec(Kind::Udp, V4.c, V4.service);
    to_container(&node.access(C, &sent.build()), E);
    // Its former owner goes; what is the other's stays.
    node.control.forget_job("a.b.service.d");
    node.publish();
    let sent = Spec {
        source_port: 4444,
        ..sent
    };
    to_container(&node.access(C, &sent.build()), E);
}

fn connect(node: &mut Node, plan: &Plan, port: u16) -> usize {
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

#[test]
fn an_established_connection_keeps_its_instance_through_two_idle_hours() {
    for plan in PLANS {
        let mut node = Node::new(1);
        let n = connect(&mut node, &plan, 4000);
        for _ in 0..7200 {
            node.tick(1000);
        }
        // The server speaks first.
        let back = answer(tcp(ACK), plan.d_instance[n], plan.c);
        let got = to_container(&node.tunnel(AWAY, &back.build()), C);
        assert_eq!(got, moved(&back, plan.service, plan.c, 0));
        assert_eq!(
            picked(
                &plan,
                &to_tunnel(&node.access(C, &spec(tcp(ACK), plan.c, plan.service).build()))
            ),
            n
        );
    }
}

#[test]
fn a_silent_connection_keeps_its_job_in_use() {
    let mut node = Node::new(1);
    let n = connect(&mut node, &V4, 4000);
    let used = |node: &Node, n: usize| {
        let Some(Route::Instance(id)) = node.tables.route(address(V4.d_instance[n])) else {
            panic!("no route");
        };
        node.tables.last_used(id)
    };
    let opened = used(&node, n);
    assert_ne!(opened, 0);
    for _ in 0..60 {
        node.tick(60_000);
        let now = u32::try_from(node.clock / 1000).unwrap();
        node.control.flows_keep_jobs(now);
        assert_eq!(used(&node, n), now);
        assert_eq!(used(&node, 1 - n), 0, "nothing uses the other");
    }
    // A flow that has ended keeps nothing.
    node.tick(3 * 3_600_000);
    let last = used(&node, n);
    node.control
        .flows_keep_jobs(u32::try_from(node.clock / 1000).unwrap());
    assert_eq!(used(&node, n), last);
}

#[test]
fn a_client_that_nobody_answers_keeps_its_job_in_use() {
    for plan in PLANS {
        let mut node = Node::new(1);
        let sent = spec(Kind::Udp, plan.d_instance[0], plan.e).build();
        let Some(Route::Instance(id)) = node.tables.route(address(plan.d_instance[0])) else {
            panic!("no route");
        };
        for _ in 0..3 {
            node.tick(60_000);
            assert_eq!(to_container(&node.tunnel(AWAY, &sent), E), sent);
            let now = u32::try_from(node.clock / 1000).unwrap();
            assert_eq!(node.tables.last_used(id), now);
        }
    }
}

#[test]
fn idle_flows_end_after_their_time() {
    let mut node = Node::new(1);
    connect(&mut node, &V4, 4000);
    node.access(C, &spec(Kind::Udp, V4.c, V4.service).build());
    node.access(C, &spec(Kind::EchoRequest, V4.c, V4.service).build());
    assert_eq!(node.workers[0].flows(), 3);
    let mut pass = |seconds: u64| {
        for _ in 0..seconds {
            node.tick(1000);
        }
        // Sweeps are bounded steps: some rounds take it around this table.
        for _ in 0..200 {
            node.tick(1);
        }
        node.workers[0].flows()
    };
    assert_eq!(pass(62), 2, "ICMP: a minute");
    assert_eq!(pass(240), 1, "UDP: five");
    assert_eq!(pass(7000), 1);
    assert_eq!(pass(200), 0, "TCP: 124 minutes");
}

#[test]
fn a_new_connection_on_a_closed_ones_ports_is_picked_anew() {
    for plan in PLANS {
        for ended_by in [FIN, RST] {
            let mut node = Node::new(1);
            let n = connect(&mut node, &plan, 4000);
            // A repeated SYN is the same connection.
            let open = spec(tcp(SYN), plan.c, plan.service);
            assert_eq!(picked(&plan, &to_tunnel(&node.access(C, &open.build()))), n);
            let end = spec(tcp(ended_by | ACK), plan.c, plan.service);
            to_tunnel(&node.access(C, &end.build()));
            if ended_by == FIN {
                let back = answer(tcp(FIN | ACK), plan.d_instance[n], plan.c);
                let got = to_container(&node.tunnel(AWAY, &back.build()), C);
                assert_eq!(got, moved(&back, plan.service, plan.c, 0));
                let last = spec(tcp(ACK), plan.c, plan.service);
                assert_eq!(picked(&plan, &to_tunnel(&node.access(C, &last.build()))), n);
            }
            assert_eq!(
                picked(&plan, &to_tunnel(&node.access(C, &open.build()))),
                1 - n
            );
            assert_eq!(node.workers[0].flows(), 1);
        }
    }
}

#[test]
fn an_instance_that_is_listed_twice_is_one_and_goes_once() {
    let mut node = Node::new(1);
    let mut twice = job(&[0]);
    twice.instances.push(twice.instances[0].clone());
    twice.instances[1].number = 7;
    twice.job = "a.b.twice.d".to_owned();
    node.set_job(job(&[]));
    node.set_job(twice);
    node.control.forget_job("a.b.twice.d");
    node.publish();
    // Two others that come after it are two.
    node.set_job(job(&[0, 1]));
    let mut seen = [0; 2];
    for port in 0..4 {
        let sent = Spec {
            source_port: 8000 + port,
            ..spec(Kind::Udp, V4.c, V4.service)
        };
        seen[picked(&V4, &to_tunnel(&node.access(C, &sent.build())))] += 1;
    }
    assert_eq!(seen, [2, 2]);
}

#[test]
fn a_job_that_names_one_family_of_a_container_finds_it_here() {
    let mut node = Node::new(1);
    let mut half = here();
    half.job = "a.b.half.d".to_owned();
    half.instances[0].namespace = Pair::of(ip("10.18.0.4"));
    half.instances[0].instance = Pair::of(ip("10.30.0.60"));
    half.instances[0].services[0].addresses = Pair::of(ip("10.30.0.61"));
    // Whether the route or the container comes first.
    for route_first in [true, false] {
        if route_first {
            node.set_job(half.clone());
        }
        node.attach(103, pair("10.18.0.4", "fc00::4"));
        if !route_first {
            node.set_job(half.clone());
        }
        let sent = spec(Kind::Udp, V4.c, "10.30.0.61");
        let got = to_container(&node.access(C, &sent.build()), 103);
        assert_eq!(got, moved(&sent, V4.c_instance, "10.18.0.4", 1));
        let own = spec(Kind::Udp, "10.18.0.4", V4.d_instance[0]);
        let packet = to_tunnel(&node.access(103, &own.build()));
        assert_eq!(packet, moved(&own, "10.30.0.60", V4.d[0], 1));
        node.control.detach(103).unwrap();
        node.publish();
        node.dropping(Counter::NoBackend, |n| n.access(C, &sent.build()));
        node.control.forget_job("a.b.half.d");
        node.publish();
    }
}
