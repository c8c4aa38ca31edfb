//! ICMP: errors that this node makes, errors that pass and what they quote, and fragments.

use net::packet::Headers;

use super::packets::{Kind, Spec, assert_right};
use super::stage::*;
use crate::counters::Counter;

fn parsed(packet: &[u8]) -> Headers {
    assert_right(packet);
    Headers::parse(packet, packet.len()).unwrap()
}

/// "Port unreachable" from `source` to `destination` about a packet.
pub fn port_unreachable(source: &str, destination: &str, about: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    if source.contains(':') {
        etherparse::PacketBuilder::ipv6(
            address(source).octets(),
            address(destination).octets(),
            64,
        )
        .icmpv6_raw(1, 4, [0; 4])
        .write(&mut packet, about)
        .unwrap();
    } else {
        etherparse::PacketBuilder::ipv4(
            super::packets::v4(address(source)),
            super::packets::v4(address(destination)),
            64,
        )
        .icmpv4_raw(3, 3, [0; 4])
        .write(&mut packet, about)
        .unwrap();
    }
    packet
}

fn assert_quotes(packet: &[u8], source: &str, destination: &str, from: &str, to: &str) {
    let headers = parsed(packet);
    assert_eq!(
        (headers.source, headers.destination),
        (address(source), address(destination))
    );
    let quoted = headers.quoted(packet).unwrap();
    assert_eq!(
        (quoted.source, quoted.destination),
        (address(from), address(to))
    );
}

#[test]
fn an_error_from_the_backend_quotes_what_the_client_sent() {
    for plan in PLANS {
        let mut node = Node::new(1);
        let sent = spec(Kind::Udp, plan.c, plan.service);
        let n = picked(&plan, &to_tunnel(&node.access(C, &sent.build())));
        // As the server's node sends it (contract section 5): mirrored; or left as it came.
        for (from, to) in [(plan.c, plan.d_instance[n]), (plan.c_instance, plan.d[n])] {
            let about = spec(Kind::Udp, from, to).build();
            let error = port_unreachable(plan.d_instance[n], plan.c, &about);
            let got = to_container(&node.tunnel(AWAY, &error), C);
            assert_quotes(&got, plan.service, plan.c, plan.c, plan.service);
        }
    }
}

#[test]
fn an_error_from_a_gateway_on_the_way_is_believed_from_the_backends_host_alone() {
    for plan in PLANS {
        let mut node = Node::new(1);
        let gateway = if plan.c == V4.c {
            "10.18.9.1"
        } else {
            "fc00::901"
        };
        let sent = spec(Kind::Udp, plan.c, plan.service);
        let n = picked(&plan, &to_tunnel(&node.access(C, &sent.build())));
        // Mirrored, or left as it came; then of what was sent to the namespace IP itself.
        for (from, to, shown) in [
            (plan.c, plan.d_instance[n], plan.service),
            (plan.c_instance, plan.d[n], plan.service),
            (plan.c, plan.d[n], plan.d[n]),
        ] {
            let error = port_unreachable(gateway, plan.c, &spec(Kind::Udp, from, to).build());
            let got = to_container(&node.tunnel(AWAY, &error), C);
            assert_quotes(&got, gateway, plan.c, plan.c, shown);
            // Whoever else says so is looked up, as before.
            assert!(node.tunnel(STRANGER, &error).is_empty());
        }
        // About what another has sent, and by an address of this node.
        let about = spec(Kind::Udp, plan.e, plan.d_instance[n]).build();
        let error = port_unreachable(gateway, plan.c, &about);
        assert!(node.tunnel(AWAY, &error).is_empty());
        let about = spec(Kind::Udp, plan.c, plan.d_instance[n]).build();
        let error = port_unreachable(plan.gateway, plan.c, &about);
        node.dropping(Counter::SpoofedTunnel, |n| n.tunnel(AWAY, &error));
    }
}

#[test]
fn an_error_from_a_container_leaves_mirrored() {
    for plan in PLANS {
        let mut node = Node::new(1);
        // A client away has sent to the server here: the server saw (D, e).
        let about = spec(Kind::Udp, plan.d_instance[0], plan.e).build();
        let error = port_unreachable(plan.e, plan.d_instance[0], &about);
        let packet = to_tunnel(&node.access(E, &error));
        assert_quotes(
            &packet,
            plan.e_instance,
            plan.d[0],
            plan.d[0],
            plan.e_instance,
        );
        // One about a packet that was never its own is no business of anyone.
        let about = spec(Kind::Udp, plan.d_instance[0], plan.c).build();
        let error = port_unreachable(plan.e, plan.d_instance[0], &about);
        node.dropping(Counter::Icmp, |n| n.access(E, &error));
    }
}

#[test]
fn an_error_on_one_node_is_translated_twice() {
    for plan in PLANS {
        let mut node = Node::new(1);
        let sent = spec(Kind::Udp, plan.c, plan.local_service);
        let got = to_container(&node.access(C, &sent.build()), E);
        let error = port_unreachable(plan.e, plan.c_instance, &got);
        let got = to_container(&node.access(E, &error), C);
        assert_quotes(&got, plan.local_service, plan.c, plan.c, plan.local_service);
    }
}

#[test]
fn the_last_hop_is_answered_to_who_sent_it() {
    for plan in PLANS {
        for destination in [
            plan.service,
            plan.d_instance[0],
            plan.d[0],
            plan.local_service,
            plan.e,
        ] {
            let mut node = Node::new(1);
            let sent = Spec {
                ttl: 1,
                ..spec(Kind::Udp, plan.c, destination)
            };
            let got = node.dropping(Counter::TtlExpired, |n| n.access(C, &sent.build()));
            let packet = to_container(&got, C);
            assert_quotes(&packet, plan.gateway, plan.c, plan.c, destination);
            let at = usize::from(parsed(&packet).l4_offset);
            assert_eq!(packet[at], if plan.c == V4.c { 11 } else { 3 });
        }
    }
}

#[test]
fn the_node_itself_is_told_by_the_address_that_it_dialled() {
    for plan in PLANS {
        let mut node = Node::new(1);
        // From the gateway, an address of its own, its kernel would take nothing.
        let datagram = spec(Kind::Udp, plan.gateway, plan.service).build();
        let told = node.dropping(Counter::HostWithoutInstance, |n| n.host(0, &datagram));
        let error = to_host(&told);
        assert_quotes(
            &error,
            plan.service,
            plan.gateway,
            plan.gateway,
            plan.service,
        );
    }
}

#[test]
fn what_does_not_fit_the_tunnel_is_reported_with_the_size_that_does() {
    for plan in PLANS {
        for destination in [plan.service, plan.d_instance[0], plan.d[0]] {
            let mut node = Node::new(1);
            let overhead = spec(Kind::Udp, plan.c, destination).build().len() - 11;
            let sized = |n: usize| Spec {
                payload: vec![7; n - overhead],
                ..spec(Kind::Udp, plan.c, destination)
            };
            to_tunnel(&node.access(C, &sized(1450).build()));
            let got = node.dropping(Counter::TooBig, |n| n.access(C, &sized(1451).build()));
            let packet = to_container(&got, C);
            assert_quotes(&packet, plan.gateway, plan.c, plan.c, destination);
            let at = usize::from(parsed(&packet).l4_offset);
            let (kind, mtu) = if plan.c == V4.c {
                (
                    (3, 4),
                    u32::from(u16::from_be_bytes([packet[at + 6], packet[at + 7]])),
                )
            } else {
                (
                    (2, 0),
                    u32::from_be_bytes(packet[at + 4..at + 8].try_into().unwrap()),
                )
            };
            assert_eq!(((packet[at], packet[at + 1]), mtu), (kind, u32::from(MTU)));
        }
        // On one node there is no tunnel to fit.
        let mut node = Node::new(1);
        let big = Spec {
            payload: vec![7; 1900],
            ..spec(Kind::Udp, plan.c, plan.local_service)
        };
        to_container(&node.access(C, &big.build()), E);
    }
}

#[test]
fn errors_are_limited_in_rate() {
    let mut node = Node::new(1);
    let sent = Spec {
        ttl: 1,
        ..spec(Kind::Udp, V4.c, V4.service)
    }
    .build();
    let answers = (0..2000)
        .filter(|_| !node.access(C, &sent).is_empty())
        .count();
    assert_eq!(answers, 1000);
    node.tick(1000);
    assert_eq!(node.access(C, &sent).len(), 1);
}

/// Cuts a packet without options into fragments of `size` bytes of payload.
pub(super) fn fragments(packet: &[u8], size: usize) -> Vec<Vec<u8>> {
    let v4 = packet[0] >> 4 == 4;
    let (head, body) = packet.split_at(if v4 { 20 } else { 40 });
    let pieces: Vec<&[u8]> = body.chunks(size).collect();
    (0..pieces.len())
        .map(|n| {
            let more = n + 1 < pieces.len();
            let mut packet = head.to_vec();
            if v4 {
                let word = u16::try_from(n * size / 8).unwrap() | if more { 0x2000 } else { 0 };
                let length = u16::try_from(20 + pieces[n].len()).unwrap();
                packet[2..4].copy_from_slice(&length.to_be_bytes());
                packet[6..8].copy_from_slice(&word.to_be_bytes());
                let (header, _) = etherparse::Ipv4Header::from_slice(&packet).unwrap();
                packet[10..12].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
            } else {
                let length = u16::try_from(8 + pieces[n].len()).unwrap();
                packet[4..6].copy_from_slice(&length.to_be_bytes());
                let protocol = std::mem::replace(&mut packet[6], 44);
                let word = u16::try_from(n * size).unwrap() | u16::from(more);
                packet.extend([protocol, 0]);
                packet.extend(word.to_be_bytes());
                packet.extend([1, 2, 3, 4]);
            }
            packet.extend(pieces[n]);
            packet
        })
        .collect()
}

/// Puts fragments together again.
pub(super) fn whole(mut fragments: Vec<Vec<u8>>) -> Vec<u8> {
    let v4 = fragments[0][0] >> 4 == 4;
    let offset = |f: &Vec<u8>| {
        if v4 {
            usize::from(u16::from_be_bytes([f[6], f[7]]) & 0x1fff) * 8
        } else {
            usize::from(u16::from_be_bytes([f[42], f[43]]) & 0xfff8)
        }
    };
    fragments.sort_by_key(offset);
    let mut packet = fragments[0][..if v4 { 20 } else { 40 }].to_vec();
    for fragment in &fragments {
        packet.extend(&fragment[if v4 { 20 } else { 48 }..]);
    }
    let length = u16::try_from(packet.len() - if v4 { 0 } else { 40 }).unwrap();
    if v4 {
        packet[2..4].copy_from_slice(&length.to_be_bytes());
        packet[6..8].copy_from_slice(&[0x40, 0]);
        let (header, _) = etherparse::Ipv4Header::from_slice(&packet).unwrap();
        packet[10..12].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
    } else {
        packet[4..6].copy_from_slice(&length.to_be_bytes());
        packet[6] = fragments[0][40];
    }
    packet
}

pub(super) fn bodies(sent: &[Sent]) -> Vec<Vec<u8>> {
    sent.iter()
        .map(|s| match s {
            Sent::Access(_, frame, _) => frame[14..].to_vec(),
            Sent::Tunnel(packet, ..) => packet.clone(),
            Sent::Host(..) => panic!("{s:?}"),
        })
        .collect()
}

#[test]
fn fragments_in_any_order_reach_the_chosen_instance_and_come_back() {
    const ORDERS: [[usize; 3]; 6] = [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ];
    for plan in PLANS {
        for order in ORDERS {
            let mut node = Node::new(1);
            let sent = Spec {
                payload: (0..3000u32).map(|n| n.to_be_bytes()[3]).collect(),
                ..spec(Kind::Udp, plan.c, plan.service)
            };
            let pieces = fragments(&sent.build(), 1400);
            assert_eq!(pieces.len(), 3);
            let mut out = Vec::new();
            for n in order {
                out.extend(bodies(&node.access(C, &pieces[n])));
            }
            assert_eq!((out.len(), node.workers[0].waiting()), (3, 0));
            let packet = whole(out);
            let n = picked(&plan, &packet);
            assert_eq!(packet, moved(&sent, plan.c_instance, plan.d[n], 1));

            let back = Spec {
                payload: sent.payload.clone(),
                ..answer(Kind::Udp, plan.d_instance[n], plan.c)
            };
            let pieces = fragments(&back.build(), 1400);
            let mut got = Vec::new();
            for n in order {
                got.extend(bodies(&node.tunnel(AWAY, &pieces[n])));
            }
            assert_eq!(got.len(), 3, "{order:?}");
            assert_eq!(whole(got), moved(&back, plan.service, plan.c, 0));
        }
    }
}

#[test]
fn a_fragment_whose_first_never_comes_is_given_up_and_their_number_is_bounded() {
    for plan in PLANS {
        let mut node = Node::new(1);
        for n in 0..600u16 {
            let sent = Spec {
                id: n,
                source_port: n,
                payload: vec![1; 100],
                ..spec(Kind::Udp, plan.c, plan.service)
            };
            let mut piece = fragments(&sent.build(), 64).remove(1);
            if plan.c == V6.c {
                piece[44..48].copy_from_slice(&u32::from(n).to_be_bytes());
            }
            assert!(node.access(C, &piece).is_empty());
        }
        assert_eq!(node.workers[0].waiting(), 512);
        assert_eq!(node.sum(Counter::FragmentsFull), 88);
        node.tick(5000);
        assert_eq!(node.workers[0].waiting(), 0);
        assert_eq!(node.sum(Counter::FragmentExpired), 512);
    }
}
