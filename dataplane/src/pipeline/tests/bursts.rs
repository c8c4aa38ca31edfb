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

/// Packets for `c` of every kind that the short way takes or refuses: answers in its flows, and what comes by itself.
fn arrivals(plan: &Plan) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    for round in 0..3u16 {
        for port in [4000, 4001, 4002 + round] {
            for n in 0..2 {
                for kind in [tcp(SYN | ACK), tcp(ACK), Kind::Udp, Kind::UdpBare] {
                    for source in [plan.d_instance[n], plan.d[n]] {
                        let reply = answer(kind, source, plan.c);
                        let reply = Spec {
                            destination_port: port,
                            tos: 0x02,
                            ..reply
                        };
                        packets.push(reply.build());
                        packets.push(spec(kind, source, plan.e).build());
                    }
                }
            }
        }
        let odd = [
            Spec {
                ttl: 1,
                ..answer(Kind::Udp, plan.d_instance[0], plan.c)
            },
            Spec {
                extended: true,
                ..answer(Kind::Udp, plan.d_instance[0], plan.c)
            },
            spec(Kind::EchoRequest, plan.d_instance[0], plan.c),
            spec(Kind::Udp, plan.outside, plan.c),
            spec(Kind::Udp, plan.d_instance[0], plan.gateway),
            spec(Kind::Udp, plan.d_instance[0], plan.service),
            spec(Kind::Udp, plan.unknown_instance, plan.c),
            Spec {
                payload: vec![7; 1600],
                ..answer(Kind::Udp, plan.d_instance[0], plan.c)
            },
        ];
        packets.extend(odd.iter().map(Spec::build));
        packets.push(answer(Kind::Udp, plan.d_instance[0], plan.c).build()[..30].to_vec());
        packets.push(vec![0x80, 1, 2, 3]);
    }
    packets
}

#[test]
fn a_burst_from_the_wire_does_what_its_packets_do_one_by_one() {
    // Streams may be overtaken by others' packets, not by their own.
    let streams_last = |mut sent: Vec<Sent>| {
        sent.sort_by_key(|sent| match sent.packet() {
            packet if packet[0] >> 4 == 4 => packet[9] == 6,
            packet => packet[6] == 6,
        });
        format!("{sent:?}")
    };
    for plan in PLANS {
        let (mut together, mut apart) = (Node::new(1), Node::new(1));
        for node in [&mut together, &mut apart] {
            node.bursts(C, &mixture(&plan), true);
        }
        let packets = arrivals(&plan);
        for (round, size) in [1, 2, 7, 64, 65, 400].into_iter().enumerate() {
            for burst in packets.chunks(size) {
                for (from, tos) in [(AWAY, 0), (AWAY, 3), (STRANGER, 0)] {
                    let one = together.wire(0, from, tos, burst);
                    let other = apart.burst(0, from, tos, burst);
                    let (one, other) = (streams_last(one), streams_last(other));
                    assert_eq!(one, other, "bursts of {size} from {from}");
                }
            }
            let change = if round % 2 == 0 {
                job(&[1])
            } else {
                job(&[0, 1])
            };
            for node in [&mut together, &mut apart] {
                node.tick(1000);
                node.taken();
                node.set_job(change.clone());
            }
        }
        for &counter in Counter::ALL {
            assert_eq!(together.sum(counter), apart.sum(counter), "{counter:?}");
        }
        let (one, other) = (together.control.stats(), apart.control.stats());
        assert_eq!(one.services, other.services);
        assert_eq!(one.containers, other.containers);
        let short = together.workers[0].output.opened;
        assert!(short > packets.len(), "{short} took the short way");
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
        node.tables.bump_hosts_version();
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
