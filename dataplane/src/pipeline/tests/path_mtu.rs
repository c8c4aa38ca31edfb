//! Packets larger than the path to another node: told, clamped, cut or fragmented, and every one accounted for.

use std::time::{Duration, Instant};

use dpdk::{Offload, Segment};
use net::packet::{Fragment, Headers};
use net::{Address, checksum};
use proptest::prelude::*;

use super::large::{filled, unfinished};
use super::messages::{bodies, fragments, whole};
use super::packets::{Kind, Spec};
use super::stage::*;
use crate::counters::Counter;
use crate::uplink::PathReport;

/// What the path to the other node carries, and what that leaves for an inner packet.
const OUTER: u16 = 1300;
const INNER: u16 = OUTER - 28;

fn narrow(outer: u16) -> Node {
    let mut node = Node::new(1);
    learn(&mut node, outer);
    node
}

fn learn(node: &mut Node, mtu: u16) {
    let host = address(AWAY);
    node.control.path_report(PathReport { host, mtu });
}

fn limit(node: &Node) -> u16 {
    let number = node
        .tables
        .hosts
        .get(&node.tables.arena, address(AWAY))
        .unwrap();
    node.tables.region.host_mtu(u32::try_from(number).unwrap())
}

/// The same IPv4 packet, allowed to be fragmented.
fn allowed(mut packet: Vec<u8>) -> Vec<u8> {
    packet[6] &= !0x40;
    packet[10..12].fill(0);
    let sum = !checksum::sum(&packet[..usize::from(packet[0] & 15) * 4]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}

fn headers(packet: &[u8]) -> Headers {
    Headers::parse(packet, packet.len()).unwrap()
}

/// Everything that left by the tunnel, unfinished work refused.
fn tunnelled(sent: &[Sent]) -> Vec<Vec<u8>> {
    for packet in sent {
        assert!(
            matches!(packet, Sent::Tunnel(_, _, _, offload) if *offload == Offload::default()),
            "{packet:?}"
        );
    }
    bodies(sent)
}

#[test]
fn a_sender_is_told_what_the_path_carries() {
    for (plan, least) in [(V4, INNER), (V6, 1280)] {
        for to in [plan.service, plan.d_instance[0], plan.d[0]] {
            let mut node = narrow(OUTER);
            let head = if plan.c == V4.c { 28 } else { 48 };
            let fits = filled(Kind::Udp, plan.c, to, usize::from(least) - head);
            assert_eq!(node.access(C, &fits.build()).len(), 1);
            let long = filled(Kind::Udp, plan.c, to, usize::from(least) - head + 1);
            let sent = node.dropping(Counter::TooBig, |n| n.access(C, &long.build()));
            let error = to_container(&sent, C);
            let parsed = headers(&error);
            let at = usize::from(parsed.l4_offset);
            let said = net::icmp::reported_mtu(&error[at..], plan.c == V6.c);
            assert_eq!(said, Some(u32::from(least)));
            assert_eq!(
                parsed.quoted(&error).unwrap().destination,
                address(to),
                "it must recognise its own packet"
            );
        }
    }
}

#[test]
fn what_may_be_fragmented_arrives_in_pieces_that_fit() {
    for payload in [INNER - 27, 1422, 5000, 60_000] {
        let mut node = narrow(OUTER);
        let long = filled(Kind::Udp, V4.c, V4.d_instance[0], usize::from(payload));
        let sent = node.access(C, &allowed(long.build()));
        let pieces = tunnelled(&sent);
        assert!(pieces.len() > 1);
        assert!(pieces.iter().all(|p| p.len() <= usize::from(INNER)));
        assert_eq!(
            whole(pieces),
            moved(&long, V4.c_instance, V4.d[0], 1),
            "checksum and all"
        );
        assert_eq!(node.sum(Counter::Fragmented), 1);
    }
}

#[test]
fn an_unfinished_checksum_is_finished_before_the_packet_is_split() {
    let mut node = narrow(OUTER);
    let long = filled(Kind::Udp, V4.c, V4.d_instance[0], 1400);
    let (packet, offload) = unfinished(&long, None);
    let sent = node.frame(C, &framed(mac(C), &allowed(packet)), offload);
    assert_eq!(
        whole(tunnelled(&sent)),
        moved(&long, V4.c_instance, V4.d[0], 1)
    );
}

#[test]
fn fragments_are_split_further() {
    for reversed in [false, true] {
        let mut node = narrow(OUTER);
        let long = filled(Kind::Udp, V4.c, V4.d_instance[0], 4000);
        let mut pieces = fragments(&long.build(), 1400);
        if reversed {
            pieces.reverse();
        }
        let mut out = Vec::new();
        for piece in pieces {
            let sent = node.access(C, &piece);
            out.extend(tunnelled(&sent));
        }
        assert_eq!(out.len(), 5, "two, two, and the short last one");
        assert!(out.iter().all(|p| p.len() <= usize::from(INNER)));
        assert_eq!(whole(out), moved(&long, V4.c_instance, V4.d[0], 1));
    }
}

#[test]
fn datagrams_of_one_message_are_split_each_by_itself() {
    let mut node = narrow(OUTER);
    let large = filled(Kind::Udp, V4.c, V4.d_instance[0], 1400 * 3 + 500);
    let (packet, offload) = unfinished(&large, Some(1400));
    let sent = node.frame(C, &framed(mac(C), &allowed(packet)), offload);
    let pieces = tunnelled(&sent);
    assert_eq!(
        pieces.len(),
        7,
        "three in two pieces, and the short last one"
    );
    for (pair, payload) in pieces.chunks(2).zip(large.payload.chunks(1400)) {
        let datagram = match pair {
            [only] => only.clone(),
            both => whole(both.to_vec()),
        };
        super::packets::assert_right(&datagram);
        assert!(datagram.ends_with(payload));
    }
    // Over IPv6 there is nobody to fragment them but their sender.
    let mut node = narrow(OUTER);
    let large = filled(Kind::Udp, V6.c, V6.d_instance[0], 1400 * 3);
    let (packet, offload) = unfinished(&large, Some(1400));
    node.dropping(Counter::TooBig, |n| {
        n.frame(C, &framed(mac(C), &packet), offload)
    });
}

#[test]
fn a_stream_is_cut_to_the_path() {
    for plan in PLANS {
        let mut node = narrow(OUTER);
        let large = filled(tcp(ACK), plan.c, plan.d_instance[0], 30_000);
        let (packet, offload) = unfinished(&large, Some(1390));
        let sent = node.frame(C, &framed(mac(C), &packet), offload);
        let head = packet.len() - 30_000;
        assert_eq!(sent.len(), 30_000usize.div_ceil(usize::from(INNER) - head));
        assert!(sent.iter().all(|s| s.packet().len() <= usize::from(INNER)));
    }
}

#[test]
fn the_segment_size_is_clamped_in_both_directions() {
    for plan in PLANS {
        let head = if plan.c == V4.c { 40 } else { 60 };
        let mss = |packet: &[u8]| {
            let at = packet.len() - 8 + 3;
            u16::from_be_bytes([packet[at], packet[at + 1]])
        };
        for flags in [SYN, SYN | ACK] {
            let kind = Kind::Tcp {
                flags,
                options: true,
            };
            let mut node = narrow(OUTER);
            let out = Spec {
                kind,
                payload: Vec::new(),
                ..spec(tcp(0), plan.c, plan.d_instance[0])
            };
            let packet = to_tunnel(&node.access(C, &out.build()));
            assert_eq!(mss(&packet), INNER - head);
            let back = Spec {
                kind,
                payload: Vec::new(),
                ..answer(tcp(0), plan.d_instance[0], plan.c)
            };
            let packet = to_container(&node.tunnel(AWAY, &back.build()), C);
            assert_eq!(mss(&packet), INNER - head, "what the container will send");
        }
    }
}

#[test]
fn ipv6_inside_is_never_held_to_less_than_1280_bytes() {
    let mut node = narrow(600);
    let least = filled(Kind::Udp, V6.c, V6.d_instance[0], 1280 - 48);
    let packet = to_tunnel(&node.access(C, &least.build()));
    assert_eq!(packet.len(), 1280, "the uplink splits the datagram");
    let four = filled(Kind::Udp, V4.c, V4.d_instance[0], 600);
    let sent = node.dropping(Counter::TooBig, |n| n.access(C, &four.build()));
    let error = to_container(&sent, C);
    assert_eq!(net::icmp::reported_mtu(&error[20..], false), Some(572));
}

#[test]
fn what_is_learned_is_the_least_and_is_forgotten_in_time() {
    let mut node = Node::new(1);
    assert_eq!(limit(&node), u16::MAX);
    learn(&mut node, 1400);
    assert_eq!(limit(&node), 1372);
    learn(&mut node, 1450);
    assert_eq!(limit(&node), 1372, "a wider way is not learned so");
    learn(&mut node, OUTER);
    assert_eq!(limit(&node), INNER);
    node.control.path_report(PathReport {
        host: address(STRANGER),
        mtu: 600,
    });
    assert_eq!(limit(&node), INNER);
    let in_time = Instant::now() + Duration::from_secs(599);
    node.control.forget_told(in_time);
    assert_eq!(limit(&node), INNER);
    node.control.forget_told(in_time + Duration::from_secs(2));
    assert_eq!(limit(&node), u16::MAX);
}

#[test]
fn a_limit_is_there_at_once_after_a_restart() {
    let node = narrow(OUTER);
    let again = node.tables.region.taken_over();
    drop(node);
    assert_eq!(again.host_mtu(0), INNER);
}

/// A packet of any kind and length that a container may hand over.
fn packets() -> impl Strategy<Value = (Spec, Option<u16>, bool, bool)> {
    (
        (any::<bool>(), 0..4usize, 0..6000usize),
        proptest::option::of(100..2000u16),
        (any::<bool>(), any::<bool>(), any::<u16>()),
    )
        .prop_map(|((v4, kind, payload), size, (may, split, id))| {
            let plan = if v4 { V4 } else { V6 };
            let kind = [tcp(ACK), Kind::Udp, tcp(SYN), Kind::EchoRequest][kind];
            let size = size.filter(|_| kind == Kind::Udp || kind == tcp(ACK));
            let spec = Spec {
                id,
                ..filled(kind, plan.c, plan.d_instance[0], payload)
            };
            (spec, size, may, split)
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    // `Node` compares the books after each packet.
    #[test]
    fn the_books_balance_for_every_length_and_path(
        mix in proptest::collection::vec((packets(), proptest::option::weighted(0.2, 300..1500u16)), 1..40),
    ) {
        let mut node = Node::new(1);
        for ((spec, size, may, split), path) in mix {
            if let Some(path) = path {
                learn(&mut node, path);
            }
            let v4 = spec.source.is_v4();
            let path = limit(&node).min(MTU);
            let longest = usize::from(if v4 { path } else { path.max(1280) });
            let (packet, offload) = match size {
                Some(size) if spec.payload.len() > usize::from(size) => unfinished(&spec, Some(size)),
                _ => (spec.build(), Offload::default()),
            };
            let packet = if may && v4 { allowed(packet) } else { packet };
            let all = if split && offload.segment == Segment::None && packet.len() > 500 {
                fragments(&packet, 400)
            } else {
                vec![packet]
            };
            let mut out = Vec::new();
            for packet in all {
                let before = node.sum(Counter::TooBig);
                let sent = node.frame(C, &framed(mac(C), &packet), offload);
                let told = node.sum(Counter::TooBig) > before;
                let through: Vec<Vec<u8>> = sent.iter().filter_map(|s| match s {
                    Sent::Tunnel(packet, ..) => Some(packet.clone()),
                    _ => None,
                }).collect();
                prop_assert!(through.iter().all(|p| p.len() <= longest), "longer than the path");
                prop_assert!(told == through.is_empty(), "lost in silence, or told and sent");
                out.extend(through);
            }
            // IPv4 that may be fragmented is never refused, and no stream is.
            if (may && v4) || matches!(offload.segment, Segment::Tcp { .. }) {
                let carried: usize = out.iter().map(|p| {
                    let h = headers_of(p);
                    if matches!(h.0, Fragment::Later { .. }) { p.len() - h.1 } else { p.len() - h.2 }
                }).sum();
                prop_assert_eq!(carried, spec.payload.len());
            }
        }
    }
}

/// Whether it is a fragment, where its payload begins if it is a later one, and if it is not. A first fragment may be
/// too short for its transport header, so only the IP header is read.
fn headers_of(packet: &[u8]) -> (Fragment, usize, usize) {
    let parsed = headers(packet);
    (
        parsed.fragment,
        usize::from(parsed.l4_offset),
        usize::from(parsed.header_len),
    )
}

#[test]
fn an_address_that_no_route_names_has_no_path() {
    let mut node = Node::bare(1);
    node.control.path_report(PathReport {
        host: Address(1),
        mtu: 600,
    });
    assert_eq!(node.tables.region.host(0), None);
}
