//! A burst is worked on together, and what comes of it is what comes of its packets one by one.

use std::net::IpAddr;

use net::Headers;

use super::packets::{Kind, Spec, assert_right};
use super::stage::*;
use crate::api::NextHop;
use crate::counters::Counter;
use crate::uplink::template;

/// Packets of `c` of every kind that the short way takes or refuses, of open flows and new ones.
fn mixture(plan: &Plan) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    for round in 0..3u16 {
        for port in [4000, 4001, 4002 + round] {
            for kind in [
                tcp(SYN),
                tcp(ACK),
                tcp(ACK | 8),
                Kind::Udp,
                Kind::UdpBare,
                tcp(FIN | ACK),
            ] {
                for to in [plan.service, plan.d_instance[0], plan.local_service] {
                    let sent = Spec {
                        source_port: port,
                        tos: 0xb9,
                        ..spec(kind, plan.c, to)
                    };
                    packets.push(sent.build());
                }
            }
        }
        let odd = [
            Spec {
                ttl: 1,
                ..spec(Kind::Udp, plan.c, plan.service)
            },
            Spec {
                extended: true,
                ..spec(Kind::Udp, plan.c, plan.service)
            },
            spec(Kind::Udp, plan.d[0], plan.service),
            spec(Kind::EchoRequest, plan.c, plan.service),
            spec(Kind::Udp, plan.c, plan.outside),
            spec(Kind::Udp, plan.c, plan.d[0]),
            spec(Kind::Udp, plan.c, plan.unknown),
            Spec {
                payload: vec![7; 1400 + 60],
                ..spec(Kind::Udp, plan.c, plan.service)
            },
        ];
        packets.extend(odd.iter().map(Spec::build));
        let mut wrong = spec(Kind::Udp, plan.c, plan.service).build();
        wrong[4] ^= 1;
        packets.push(wrong);
        packets.push(spec(Kind::Udp, plan.c, plan.service).build()[..30].to_vec());
    }
    packets
}

#[test]
fn a_burst_does_what_its_packets_do_one_by_one() {
    for plan in PLANS {
        let (mut together, mut apart) = (Node::new(1), Node::new(1));
        let packets = mixture(&plan);
        // Bursts of any size, longer than what is worked on at once among them.
        for size in [1, 2, 7, 64, 65, 500] {
            for burst in packets.chunks(size) {
                let one = together.bursts(C, burst, false);
                let other = apart.bursts(C, burst, true);
                assert_eq!(format!("{one:?}"), format!("{other:?}"), "bursts of {size}");
            }
            for node in [&mut together, &mut apart] {
                node.tick(1000);
                node.taken();
            }
        }
        for &counter in Counter::ALL {
            assert_eq!(together.sum(counter), apart.sum(counter), "{counter:?}");
        }
        let (one, other) = (together.control.stats(), apart.control.stats());
        assert_eq!(one.services, other.services);
        assert_eq!(one.containers, other.containers);
    }
}

#[test]
fn a_burst_ends_at_a_backend_that_has_gone_and_follows_one_that_moved() {
    for plan in PLANS {
        let (mut together, mut apart) = (Node::new(1), Node::new(1));
        let flows: Vec<Vec<u8>> = (0..100)
            .map(|port| {
                let sent = Spec {
                    source_port: 5000 + port,
                    ..spec(Kind::Udp, plan.c, plan.service)
                };
                sent.build()
            })
            .collect();
        let mut moved = job(&[0, 1]);
        moved.instances[1].host = format!("{AWAY}:50999").parse().unwrap();
        for change in [job(&[0, 1]), moved, job(&[1]), job(&[0, 1])] {
            for node in [&mut together, &mut apart] {
                node.set_job(change.clone());
            }
            for _ in 0..3 {
                let one = together.bursts(C, &flows, false);
                let other = apart.bursts(C, &flows, true);
                assert_eq!(format!("{one:?}"), format!("{other:?}"));
                assert_eq!(one.len(), flows.len());
            }
        }
    }
}

#[test]
fn with_an_ethdev_uplink_the_datagram_comes_complete() {
    for plan in PLANS {
        let mut node = Node::new(1);
        let sent = Spec {
            tos: 0x2e,
            ..spec(Kind::Udp, plan.c, plan.service)
        };
        let inner = to_tunnel(&node.access(C, &sent.build()));
        to_tunnel(&node.access(C, &sent.build()));
        let hop = NextHop {
            source: "192.0.2.10".parse().unwrap(),
            source_mac: [2, 0, 0, 0, 0, 1],
            next_mac: [2, 0, 0, 0, 0, 2],
            mtu: None,
        };
        let to: IpAddr = AWAY.parse().unwrap();
        let words: [_; template::WORDS] = std::array::from_fn(|_| crate::sync::AtomicU64::new(0));
        assert!(template::fill(&words, &hop, (to.into(), 50103), 50103));
        node.workers[0].output.outer = Some(words);
        for _ in 0..3 {
            assert!(node.access(C, &sent.build()).is_empty());
            let frame = node.workers[0].output.frames.pop().unwrap();
            assert_eq!(frame[..14], [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0]);
            assert_right(&frame[14..]);
            let outer = Headers::parse(&frame[14..], frame.len() - 14).unwrap();
            assert_eq!(
                (outer.destination, outer.destination_port),
                (to.into(), 50103)
            );
            assert_eq!((outer.source_port, outer.tos), (50103, 0x2e));
            assert_eq!(frame[42..], inner[..]);
        }
    }
}
