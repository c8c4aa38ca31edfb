//! What other nodes send: accepted only for an instance here, from a host that the source lives on.

use net::packet::Headers;

use super::packets::{Kind, Spec};
use super::stage::*;
use crate::counters::Counter;

#[test]
fn a_source_that_lives_on_another_host_is_dropped() {
    for plan in PLANS {
        let mut node = Node::new(1);
        for source in [plan.d_instance[0], plan.d[0]] {
            let packet = spec(Kind::Udp, source, plan.c).build();
            node.dropping(Counter::SpoofedTunnel, |n| n.tunnel(STRANGER, &packet));
            to_container(&node.tunnel(AWAY, &packet), C);
        }
        // Nobody outside lives on any node, and what is here does not come from there.
        for source in [
            plan.outside,
            plan.e,
            plan.e_instance,
            plan.gateway,
            plan.service,
        ] {
            let packet = spec(Kind::Udp, source, plan.c).build();
            node.dropping(Counter::SpoofedTunnel, |n| n.tunnel(AWAY, &packet));
        }
    }
}

#[test]
fn an_answer_in_a_flow_is_believed_from_its_backends_host_alone() {
    for plan in PLANS {
        let mut node = Node::new(1);
        let sent = spec(Kind::Udp, plan.c, plan.service);
        let n = picked(&plan, &to_tunnel(&node.access(C, &sent.build())));
        let reply = answer(Kind::Udp, plan.d_instance[n], plan.c).build();
        node.dropping(Counter::SpoofedTunnel, |node| node.tunnel(STRANGER, &reply));
        to_container(&node.tunnel(AWAY, &reply), C);
    }
}

#[test]
fn what_is_for_nobody_here_is_dropped() {
    for plan in PLANS {
        let mut node = Node::new(1);
        for destination in [
            plan.d[0],
            plan.outside,
            plan.service,
            plan.c_instance,
            plan.unknown,
        ] {
            let packet = spec(Kind::Udp, plan.d_instance[0], destination).build();
            let sent = node.dropping(Counter::NotHere, |n| n.tunnel(AWAY, &packet));
            assert!(sent.is_empty() && node.unresolved().is_empty());
        }
    }
}

#[test]
fn an_unknown_source_waits_and_goes_on_when_it_is_known() {
    for plan in PLANS {
        let mut node = Node::new(1);
        let namespace = if plan.c == V4.c {
            "10.20.0.2"
        } else {
            "fc00::202"
        };
        let packet = spec(Kind::Udp, plan.unknown_instance, plan.c).build();
        for _ in 0..2 {
            assert!(node.tunnel(AWAY, &packet).is_empty());
            assert!(node.tunnel(STRANGER, &packet).is_empty());
        }
        assert_eq!(
            node.unresolved(),
            [address(plan.unknown_instance)],
            "asked once"
        );
        assert_eq!(node.workers[0].waiting(), 4);
        // Others are not delayed.
        to_container(
            &node.tunnel(AWAY, &spec(Kind::Udp, plan.d_instance[0], plan.c).build()),
            C,
        );

        node.set_job(late(plan.unknown, plan.unknown_instance, namespace));
        node.tick(1);
        let sent = node.taken();
        assert_eq!(sent.len(), 2);
        assert!(sent.iter().all(|s| s.packet() == packet));
        assert_eq!(node.sum(Counter::SpoofedTunnel), 2);
    }
}

#[test]
fn an_unknown_source_that_stays_unknown_is_given_up_in_silence() {
    let mut node = Node::new(1);
    let packet = spec(Kind::Udp, V4.unknown_instance, V4.c).build();
    assert!(node.tunnel(AWAY, &packet).is_empty());
    node.tick(2900);
    assert_eq!(node.workers[0].waiting(), 1);
    let sent = node.dropping(Counter::WaitingExpired, |n| {
        n.tick(200);
        n.taken()
    });
    assert!(sent.is_empty(), "who spoofs is told nothing");
}

#[test]
fn congestion_shows_on_both_sides_of_the_tunnel() {
    // RFC 6040: inner, outer, and what is delivered; None: dropped.
    const ROWS: [(u8, u8, Option<u8>); 8] = [
        (0xb8, 0x00, Some(0xb8)),
        (0xb8, 0x03, None),
        (0xba, 0x02, Some(0xba)),
        (0xba, 0x03, Some(0xbb)),
        (0xba, 0x01, Some(0xb9)),
        (0xb9, 0x03, Some(0xbb)),
        (0xbb, 0x00, Some(0xbb)),
        (0xb9, 0x02, Some(0xb9)),
    ];
    for plan in PLANS {
        for (inner, outer, expected) in ROWS {
            let mut node = Node::new(1);
            let out = Spec {
                tos: inner,
                ..spec(Kind::Udp, plan.c, plan.service)
            };
            let sent = node.access(C, &out.build());
            assert!(matches!(sent[..], [Sent::Tunnel(_, _, tos, _)] if tos == inner));
            let back = Spec {
                tos: inner,
                ..spec(Kind::Udp, plan.d_instance[0], plan.c)
            };
            match expected {
                None => drop(node.dropping(Counter::Congested, |n| {
                    n.burst(0, AWAY, outer, &[back.build()])
                })),
                Some(tos) => {
                    let got = to_container(&node.burst(0, AWAY, outer, &[back.build()]), C);
                    assert_eq!(got, Spec { tos, ..back }.build());
                }
            }
        }
    }
}

#[test]
fn what_is_too_large_for_a_container_is_reported_in_its_name() {
    for plan in PLANS {
        let mut node = Node::new(1);
        let large = |spec: Spec| Spec {
            payload: vec![7; 1600],
            ..spec
        };
        let sent = spec(Kind::Udp, plan.c, plan.service);
        let n = picked(&plan, &to_tunnel(&node.access(C, &sent.build())));
        // An answer in the client's flow, and what a client sends to a server here: (the packet, who it is for, and
        // the addresses of the error and of its quote).
        let reply = large(answer(Kind::Udp, plan.d_instance[n], plan.c));
        let request = large(spec(Kind::Udp, plan.d_instance[n], plan.e));
        for (packet, own, quoted) in [
            (reply, plan.c_instance, (plan.d[n], plan.c_instance)),
            (request, plan.e_instance, (plan.d[n], plan.e_instance)),
        ] {
            let sent = node.dropping(Counter::TooBig, |n| n.tunnel(AWAY, &packet.build()));
            let error = to_tunnel(&sent);
            let headers = Headers::parse(&error, error.len()).unwrap();
            assert_eq!(headers.source, address(own));
            assert_eq!(headers.destination, address(plan.d[n]));
            let at = usize::from(headers.l4_offset);
            let (kind, mtu) = if plan.c == V4.c {
                (
                    (3, 4),
                    u32::from(u16::from_be_bytes([error[at + 6], error[at + 7]])),
                )
            } else {
                (
                    (2, 0),
                    u32::from_be_bytes(error[at + 4..at + 8].try_into().unwrap()),
                )
            };
            assert_eq!((error[at], error[at + 1]), kind);
            assert_eq!(mtu, u32::from(MTU));
            let quote = headers.quoted(&error).unwrap();
            assert_eq!(
                (quote.source, quote.destination),
                (address(quoted.0), address(quoted.1))
            );
        }
    }
}

#[test]
fn the_node_itself_is_reached_through_the_tunnel() {
    for plan in PLANS {
        let mut node = Node::new(1);
        let packet = spec(Kind::EchoRequest, plan.d_instance[0], plan.gateway).build();
        assert_eq!(to_host(&node.tunnel(AWAY, &packet)), packet);
    }
}
