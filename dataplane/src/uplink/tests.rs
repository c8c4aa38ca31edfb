//! Datagrams as an ethdev uplink writes, splits and puts them together, and what it believes of routers.

use dpdk::Mbuf;
use etherparse::{IpSlice, SlicedPacket};
use net::Address;
use net::answer::{Failure, icmp_error};
use net::ethernet::{HEADER_LEN, Mac};
use net::packet::Headers;
use proptest::prelude::*;

use super::outer::{FLOOR_V4, Opened, Outer, enter, open};
use super::reassembly::{Reassembled, Reassembly};
use super::{Hop, PathReport, Received, report};
use crate::api::NextHop;
use crate::pipeline::tests::stage::{AWAY, Node, address};
use crate::tunnel;

const PORT: u16 = 50103;
/// The same node behind either family's address; the tables know the first.
const HOSTS: [[&str; 2]; 2] = [["192.0.2.10", AWAY], ["2001:db8::10", "2001:db8::20"]];

fn outer([source, to]: [&str; 2], path: u16) -> Outer {
    Outer {
        source_mac: Mac([2, 0, 0, 0, 0, 1]),
        next_mac: Mac([2, 0, 0, 0, 0, 2]),
        source: address(source),
        to: (address(to), PORT),
        from_port: PORT,
        tos: 0xb8,
        id: 0x0102_0304,
        path,
    }
}

fn bytes(mbuf: &Mbuf) -> Vec<u8> {
    mbuf.segments().flatten().copied().collect()
}

fn inner(length: usize) -> Vec<u8> {
    (0..length).map(|n| n.to_le_bytes()[0]).collect()
}

/// The datagram as frames: one, or its fragments.
fn frames(node: &Node, outer: &Outer, packet: &[u8]) -> Vec<Vec<u8>> {
    let mbuf = node.mbuf(packet, dpdk::Offload::default());
    let fits = outer.fits(packet.len());
    let mut frame = outer.wrap(mbuf, node.pool).unwrap();
    if fits {
        return vec![bytes(&frame)];
    }
    assert!(frame.advance(HEADER_LEN));
    let plan = outer.split(&frame).unwrap();
    let mut frames = Vec::new();
    let cut = tunnel::fragments(&frame, &plan, node.pool, |mut piece| {
        assert!(outer.frame(&mut piece));
        frames.push(bytes(&piece));
    });
    assert_eq!((cut.pieces, cut.failure), (frames.len(), None));
    frames
}

/// Takes frames as they come; the inner packets.
fn take(node: &Node, reassembly: &mut Reassembly, frames: &[Vec<u8>]) -> Vec<Received> {
    let mut got = Vec::new();
    for frame in frames {
        match open(node.mbuf(frame, dpdk::Offload::default()), PORT) {
            Opened::Inner(received) => got.push(received),
            Opened::Rare(frame, headers) => {
                let packet = enter(frame, &headers).unwrap();
                got.extend(reassembly.offer(packet, &headers));
            }
            Opened::Other(_) => {}
        }
    }
    got
}

#[test]
fn a_datagram_is_right_in_both_families_and_routers_may_not_split_it() {
    let node = Node::bare(1);
    for hosts in HOSTS {
        for (length, marked) in [(1, false), (400, false), (525, true), (1400, true)] {
            let packet = inner(length);
            let all = frames(&node, &outer(hosts, 1500), &packet);
            let [frame] = &all[..] else {
                panic!("{} frames", all.len());
            };
            let sliced = SlicedPacket::from_ethernet(frame).unwrap();
            let ip = IpSlice::from_slice(&frame[HEADER_LEN..]).unwrap();
            assert_eq!(ip.source_addr(), address(hosts[0]).to_ip());
            let Some(etherparse::TransportSlice::Udp(udp)) = sliced.transport else {
                panic!("no UDP");
            };
            assert_eq!(udp.payload(), packet);
            match ip {
                IpSlice::Ipv4(v4) => {
                    assert_eq!(v4.header().dont_fragment(), marked, "{length}");
                    assert_eq!(udp.checksum(), 0);
                }
                IpSlice::Ipv6(v6) => {
                    let (source, destination) = (v6.header().source(), v6.header().destination());
                    let right =
                        udp.to_header()
                            .calc_checksum_ipv6_raw(source, destination, udp.payload());
                    assert_eq!(udp.checksum(), right.unwrap());
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn fragments_in_any_order_are_the_datagram_again(
        length in 1..4000usize, v6 in any::<bool>(), path in 552..1500u16,
        order in any::<u64>(), twice in any::<bool>(),
    ) {
        let node = Node::bare(1);
        let path = if v6 { path.max(1280) } else { path };
        let (hosts, packet) = (HOSTS[usize::from(v6)], inner(length));
        let mut all = frames(&node, &outer(hosts, path), &packet);
        prop_assert!(all.iter().all(|f| f.len() <= HEADER_LEN + usize::from(path)));
        let mut state = order | 1;
        for at in (1..all.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            all.swap(at, usize::try_from(state >> 33).unwrap() % (at + 1));
        }
        let mut reassembly = Reassembly::new(PORT);
        if twice && all.len() > 1 {
            // A link that duplicates.
            all.insert(0, all[0].clone());
        }
        let got = take(&node, &mut reassembly, &all);
        prop_assert_eq!(got.len(), 1);
        prop_assert_eq!(bytes(&got[0].0), packet);
        prop_assert_eq!((got[0].1, got[0].2), (address(hosts[0]), 0xb8));
        let done = reassembly.tick(1_000_000);
        prop_assert_eq!(done, Reassembled { whole: usize::from(all.len() > 1), given_up: 0 });
    }
}

#[test]
fn what_waits_is_bounded_in_number_and_time_and_counted() {
    let node = Node::bare(1);
    let mut reassembly = Reassembly::new(PORT);
    for id in 0..100 {
        let outer = Outer {
            id,
            ..outer(HOSTS[0], 800)
        };
        let all = frames(&node, &outer, &inner(1400));
        assert!(take(&node, &mut reassembly, &all[..1]).is_empty());
    }
    assert_eq!(reassembly.tick(1000).given_up, 36, "64 may wait");
    assert_eq!(reassembly.tick(2999).given_up, 0);
    assert_eq!(reassembly.tick(3000).given_up, 64);
    assert_eq!(node.pool.in_use(), 0);
}

#[test]
fn a_datagram_with_overlaps_or_for_another_port_comes_to_nothing() {
    let node = Node::bare(1);
    let all = frames(&node, &outer(HOSTS[0], 800), &inner(2000));
    let mut reassembly = Reassembly::new(PORT);
    // The second one moved eight bytes to the front.
    let mut moved = all[1].clone();
    let word = u16::from_be_bytes([moved[20], moved[21]]) - 1;
    moved[20..22].copy_from_slice(&word.to_be_bytes());
    moved[24..26].fill(0);
    let sum = !net::checksum::sum(&moved[14..34]);
    moved[24..26].copy_from_slice(&sum.to_be_bytes());
    let got = take(
        &node,
        &mut reassembly,
        &[all[0].clone(), moved, all[2].clone()],
    );
    assert!(got.is_empty());
    let done = reassembly.tick(1_000_000);
    assert_eq!(
        (done.whole, done.given_up),
        (0, 2),
        "and what came after it"
    );

    let other = Outer {
        to: (address(AWAY), PORT + 1),
        ..outer(HOSTS[0], 800)
    };
    let mut all = frames(&node, &other, &inner(2000));
    all.reverse();
    assert!(take(&node, &mut reassembly, &all).is_empty());
    assert_eq!(reassembly.tick(2_000_000).given_up, 1);
}

#[test]
fn congestion_met_by_one_fragment_was_met_by_the_datagram() {
    let node = Node::bare(1);
    let ect = Outer {
        tos: 0xba,
        ..outer(HOSTS[1], 1280)
    };
    let mut all = frames(&node, &ect, &inner(2000));
    let last = all.last_mut().unwrap();
    // The traffic class lies across two bytes.
    last[15] |= 0x30;
    let got = take(&node, &mut Reassembly::new(PORT), &all);
    assert_eq!(got[0].2, 0xbb);
}

/// A node that knows the way to the other one.
fn routed() -> Node {
    let mut node = Node::new(1);
    let hop = NextHop {
        source: HOSTS[0][0].parse().unwrap(),
        source_mac: [2, 0, 0, 0, 0, 1],
        next_mac: [2, 0, 0, 0, 0, 2],
        mtu: Some(1500),
    };
    node.control.set_next_hop(address(AWAY), hop).unwrap();
    node
}

/// What a router says of the datagram that was sent so.
fn said(node: &Node, outer: &Outer, mtu: u32, to: Option<&str>) -> Option<PathReport> {
    let frame = frames(node, outer, &inner(1400)).remove(0);
    let datagram = &frame[HEADER_LEN..];
    let headers = Headers::parse(datagram, datagram.len()).unwrap();
    let mut error = vec![0; 1500];
    let router = match outer.source.is_v4() {
        true => "192.0.2.1",
        false => "2001:db8::1",
    };
    let failure = Failure::TooBig { mtu };
    let length = icmp_error(&mut error, datagram, &headers, address(router), failure).unwrap();
    error.truncate(length);
    let mut headers = Headers::parse(&error, error.len()).unwrap();
    if let Some(to) = to {
        headers.destination = address(to);
    }
    let packet = node.mbuf(&error, dpdk::Offload::default());
    report::read(node.tables, PORT, packet, &headers)
}

#[test]
fn a_router_is_believed_about_our_own_datagrams_alone() {
    let node = routed();
    let ours = || outer(HOSTS[0], 1500);
    let believed = |mtu| {
        Some(PathReport {
            host: address(AWAY),
            mtu,
        })
    };
    assert_eq!(said(&node, &ours(), 1300, None), believed(1300));
    assert_eq!(said(&node, &ours(), 68, None), believed(FLOOR_V4));
    // 1428 bytes were sent; a router that names no size is taken to have the next smaller link.
    assert_eq!(said(&node, &ours(), 0, None), believed(1280));
    assert_eq!(said(&node, &ours(), 1500, None), None, "nothing new");
    assert_eq!(said(&node, &ours(), 9000, None), None);
    assert_eq!(
        said(&node, &ours(), 1300, Some("192.0.2.99")),
        None,
        "sent to someone else"
    );
    let from_elsewhere = Outer {
        source: address("192.0.2.99"),
        ..ours()
    };
    assert_eq!(said(&node, &from_elsewhere, 1300, None), None);
    let another_port = Outer {
        from_port: PORT + 1,
        ..ours()
    };
    assert_eq!(said(&node, &another_port, 1300, None), None);
    let to_a_stranger = Outer {
        to: (address("192.0.2.66"), PORT),
        ..ours()
    };
    assert_eq!(said(&node, &to_a_stranger, 1300, None), None);
}

#[test]
fn no_ipv6_path_is_believed_to_carry_less_than_1280_bytes() {
    let mut node = routed();
    let [source, host] = HOSTS[1];
    let hop = NextHop {
        source: source.parse().unwrap(),
        source_mac: [0; 6],
        next_mac: [0; 6],
        mtu: Some(1500),
    };
    let ours = || outer(HOSTS[1], 1500);
    assert_eq!(said(&node, &ours(), 1300, None), None, "no route names it");
    let mut job = crate::pipeline::tests::stage::job(&[0]);
    job.job = "six".to_owned();
    for instance in &mut job.instances {
        instance.host = format!("[{host}]:{PORT}").parse().unwrap();
        instance.namespace = crate::api::Pair::of("fc00::777".parse().unwrap());
        instance.instance = crate::api::Pair::of("fdff::777".parse().unwrap());
    }
    node.set_job(job);
    node.control.set_next_hop(address(host), hop).unwrap();
    let believed = said(&node, &ours(), 1300, None);
    assert_eq!(
        believed,
        Some(PathReport {
            host: address(host),
            mtu: 1300,
        })
    );
    assert_eq!(said(&node, &ours(), 1279, None), None);
    assert!(said(&node, &ours(), 1280, None).is_some());
    // What is believed is written where the next datagram finds it.
    node.control.path_report(believed.unwrap());
    let path = |host: Address| Hop::towards(node.tables, host).unwrap().path;
    assert_eq!((path(address(host)), path(address(AWAY))), (1300, 1500));
}
