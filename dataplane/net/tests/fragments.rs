//! Splitting: right pieces that fit, and whoever puts them together has the packet again.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod packets;

use etherparse::{IpNumber, Ipv4HeaderSlice, Ipv6FragmentHeaderSlice, Ipv6HeaderSlice};
use net::checksum;
use net::fragment::{HEADER_LEN_V6, Plan};
use net::ipv4;
use net::packet::{Fragment, Headers};
use packets::{Kind, Spec, spec};
use proptest::prelude::*;

fn parse(packet: &[u8]) -> Headers {
    Headers::parse(packet, packet.len()).unwrap()
}

fn pieces(packet: &[u8], plan: &Plan) -> Vec<Vec<u8>> {
    (0..plan.count())
        .map(|k| {
            let mut piece = vec![0; 100];
            let len = plan.write_header(k, packet, &mut piece).unwrap();
            piece.truncate(len);
            piece.extend_from_slice(&packet[plan.payload(k)]);
            piece
        })
        .collect()
}

/// Changes the flags and offset of an IPv4 header.
fn set_fragment_word(packet: &mut [u8], word: u16) {
    packet[6..8].copy_from_slice(&word.to_be_bytes());
    packet[10..12].fill(0);
    let sum = !checksum::sum(&packet[..usize::from(packet[0] & 15) * 4]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// Puts IPv4 fragments together again, judged by etherparse; where the payload begins in the whole, whether more
/// follows it, and the payload.
fn reassembled_v4(pieces: &[Vec<u8>]) -> (usize, bool, Vec<u8>) {
    let mut parts: Vec<(usize, bool, &[u8])> = pieces
        .iter()
        .map(|piece| {
            let slice = Ipv4HeaderSlice::from_slice(piece).unwrap();
            let header = slice.to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            assert_eq!(usize::from(header.total_len), piece.len());
            (
                usize::from(header.fragment_offset.value()) * 8,
                header.more_fragments,
                &piece[slice.slice().len()..],
            )
        })
        .collect();
    parts.sort_unstable_by_key(|part| part.0);
    let start = parts[0].0;
    let mut payload = Vec::new();
    for (n, (offset, more, bytes)) in parts.iter().enumerate() {
        assert_eq!(*offset, start + payload.len(), "a gap or an overlap");
        assert!(n + 1 == parts.len() || *more, "an end in the middle");
        payload.extend_from_slice(bytes);
    }
    (start, parts.last().unwrap().1, payload)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn fragments_fit_and_together_they_are_the_packet(
        spec in spec(6000).prop_filter("IPv4", Spec::v4), mtu in 68u16..1500, again in 68u16..1500,
    ) {
        let mut whole = spec.build();
        prop_assert!(Plan::of_v4(&parse(&whole), &whole, mtu).is_none(), "it says: do not fragment");
        set_fragment_word(&mut whole, 0);
        let headers = parse(&whole);
        let once = pieces(&whole, &Plan::of_v4(&headers, &whole, mtu).unwrap());
        prop_assert!(once.iter().all(|piece| piece.len() <= usize::from(mtu)));
        let body = &whole[usize::from(headers.l4_offset)..];
        prop_assert_eq!(reassembled_v4(&once), (0, false, body.to_vec()));
        // What is a fragment already is split further, on a narrower way.
        let twice: Vec<Vec<u8>> = once
            .iter()
            .flat_map(|piece| {
                let headers = Headers::parse(piece, piece.len());
                // A first fragment too short for its transport header is no packet that this node passes on.
                headers.map_or_else(|_| vec![piece.clone()], |h| pieces(piece, &Plan::of_v4(&h, piece, again).unwrap()))
            })
            .collect();
        prop_assert_eq!(reassembled_v4(&twice), (0, false, body.to_vec()));
        for piece in once.iter().chain(&twice) {
            let ip = Ipv4HeaderSlice::from_slice(piece).unwrap();
            prop_assert_eq!(ip.identification(), spec.id);
            prop_assert_eq!(ip.ttl(), spec.ttl);
            prop_assert_eq!((ip.dcp().value() << 2) | ip.ecn().value(), spec.tos);
            prop_assert_eq!(ip.source(), packets::v4(spec.source));
            prop_assert_eq!(ip.destination(), packets::v4(spec.destination));
            if spec.extended {
                // 148 has the copied flag; the first piece has all as it was.
                let options: &[u8] = if ip.fragments_offset().value() == 0 { &[1, 148, 4, 0, 0, 1, 1, 0] } else { &[148, 4, 0, 0] };
                prop_assert_eq!(ip.options(), options);
            }
        }
    }

    #[test]
    fn own_ipv6_packets_are_split_by_a_fragment_header(
        mut spec in spec(6000).prop_filter("IPv6", |s| !s.v4()), mtu in 1280u16..1500, id in any::<u32>(),
    ) {
        spec.extended = false;
        let whole = spec.build();
        let headers = parse(&whole);
        prop_assert!(Plan::of_v4(&headers, &whole, mtu).is_none());
        let all = pieces(&whole, &Plan::of_own_v6(&headers, mtu, id).unwrap());
        let mut payload = Vec::new();
        for (n, piece) in all.iter().enumerate() {
            prop_assert!(piece.len() <= usize::from(mtu));
            let ip = Ipv6HeaderSlice::from_slice(piece).unwrap();
            prop_assert_eq!(usize::from(ip.payload_length()) + 40, piece.len());
            prop_assert_eq!(ip.next_header(), IpNumber::IPV6_FRAGMENTATION_HEADER);
            prop_assert_eq!(ip.traffic_class(), spec.tos);
            let fragment = Ipv6FragmentHeaderSlice::from_slice(&piece[40..]).unwrap();
            prop_assert_eq!(fragment.identification(), id);
            prop_assert_eq!(fragment.next_header().0, headers.protocol.0);
            prop_assert_eq!(usize::from(fragment.fragment_offset().value()) * 8, payload.len());
            prop_assert_eq!(fragment.more_fragments(), n + 1 < all.len());
            payload.extend_from_slice(&piece[40 + HEADER_LEN_V6..]);
        }
        prop_assert_eq!(payload, &whole[40..]);
    }
}

#[test]
fn what_cannot_be_split_is_refused() {
    let mut packet = Spec::plain(true, Kind::Udp, &[7; 100]).build();
    set_fragment_word(&mut packet, 0);
    let headers = parse(&packet);
    // Room for the header and eight bytes is the least.
    assert!(Plan::of_v4(&headers, &packet, 27).is_none());
    let plan = Plan::of_v4(&headers, &packet, 28).unwrap();
    assert_eq!(plan.count(), 108usize.div_ceil(8));
    assert!(
        plan.write_header(plan.count(), &packet, &mut [0; 100])
            .is_err()
    );
    assert!(plan.write_header(0, &packet, &mut [0; 19]).is_err());
    assert!(plan.write_header(1, &packet[..19], &mut [0; 100]).is_err());
    assert!(Plan::of_own_v6(&headers, 1280, 1).is_none());
    let six = Spec {
        extended: true,
        ..Spec::plain(false, Kind::Udp, &[7; 2000])
    }
    .build();
    assert!(Plan::of_own_v6(&parse(&six), 1280, 1).is_none());
}

#[test]
fn a_fragment_in_the_middle_keeps_saying_that_more_follow() {
    let mut packet = Spec::plain(true, Kind::Udp, &[7; 1000]).build();
    set_fragment_word(&mut packet, ipv4::MORE_FRAGMENTS | 185);
    let packet = &packet[..20 + 800];
    let mut packet = packet.to_vec();
    packet[2..4].copy_from_slice(&820u16.to_be_bytes());
    set_fragment_word(&mut packet, ipv4::MORE_FRAGMENTS | 185);
    let headers = parse(&packet);
    assert!(matches!(
        headers.fragment,
        Fragment::Later {
            offset: 1480,
            more: true,
            ..
        }
    ));
    let plan = Plan::of_v4(&headers, &packet, 420).unwrap();
    let (start, more, payload) = reassembled_v4(&pieces(&packet, &plan));
    assert_eq!((plan.count(), start, more), (2, 1480, true));
    assert_eq!(payload, &packet[20..]);
}
