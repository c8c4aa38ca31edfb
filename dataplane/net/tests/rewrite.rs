//! Every checksum is right after every edit, as another implementation judges.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod packets;

use net::answer::{self, Failure};
use net::packet::{Fragment, Headers, Icmp};
use net::rewrite::{self, AddressChange, L4State, Ttl};
use net::{Address, checksum, finish, mss, sctp};
use packets::{Kind, Spec, assert_right, host, kind, spec, transport_checksums};
use proptest::prelude::*;

fn parse(packet: &[u8]) -> Headers {
    Headers::parse(packet, packet.len()).unwrap()
}

/// A packet and two new addresses of its family.
fn spec_and_addresses(longest: usize) -> impl Strategy<Value = (Spec, Address, Address)> {
    spec(longest).prop_flat_map(|spec| {
        let is_v4 = spec.v4();
        (Just(spec), host(is_v4), host(is_v4))
    })
}

/// Makes a TCP or UDP packet's checksum partial.
fn make_partial(packet: &mut [u8]) -> Headers {
    let headers = parse(packet);
    let at = headers.pseudo_checksum_at().unwrap();
    packet[at..at + 2].copy_from_slice(&headers.pseudo_header().to_be_bytes());
    headers
}

/// One piece of a packet without options or extension headers: its payload from `offset` to `end`.
fn fragment(whole: &[u8], header: usize, offset: usize, end: usize) -> Vec<u8> {
    let more = header + end < whole.len();
    let at = u16::try_from(offset).unwrap();
    let body = &whole[header + offset..header + end];
    let mut piece = whole[..header].to_vec();
    if header == 20 {
        let length = u16::try_from(header + body.len()).unwrap();
        piece[2..4].copy_from_slice(&length.to_be_bytes());
        piece[6..8].copy_from_slice(&((at / 8) | (u16::from(more) << 13)).to_be_bytes());
        piece[10..12].fill(0);
        let sum = !checksum::sum(&piece);
        piece[10..12].copy_from_slice(&sum.to_be_bytes());
    } else {
        let length = u16::try_from(8 + body.len()).unwrap();
        piece[4..6].copy_from_slice(&length.to_be_bytes());
        let next = std::mem::replace(&mut piece[6], 44);
        piece.extend_from_slice(&[next, 0]);
        piece.extend_from_slice(&(at | u16::from(more)).to_be_bytes());
        piece.extend_from_slice(&[0, 0, 0, 9]);
    }
    piece.extend_from_slice(body);
    piece
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn finished_checksums_follow_the_addresses((spec, source, destination) in spec_and_addresses(300)) {
        let mut packet = spec.build();
        let mut headers = parse(&packet);
        let change = AddressChange::new(spec.source, source, spec.destination, destination).unwrap();
        change.apply(&mut packet, &mut headers, L4State::Finished).unwrap();
        assert_right(&packet);
        prop_assert_eq!(headers, parse(&packet));
        prop_assert_eq!((headers.source, headers.destination), (source, destination));
        let mut expected = spec.clone();
        (expected.source, expected.destination) = (source, destination);
        prop_assert_eq!(packet, expected.build());
    }

    #[test]
    fn partial_checksums_follow_the_addresses_and_can_be_finished(
        (spec, source, destination) in spec_and_addresses(300),
        cuts in proptest::collection::vec(0usize..400, 0..4),
    ) {
        prop_assume!(!matches!(spec.kind, Kind::EchoRequest | Kind::EchoReply));
        let mut packet = spec.build();
        let mut headers = make_partial(&mut packet);
        let change = AddressChange::new(spec.source, source, spec.destination, destination).unwrap();
        change.apply(&mut packet, &mut headers, L4State::Partial).unwrap();
        let at = headers.pseudo_checksum_at().unwrap();
        let field = u16::from_be_bytes([packet[at], packet[at + 1]]);
        // Both zeros of one's complement mean the same sum.
        prop_assert_eq!(field % 0xffff, headers.pseudo_header() % 0xffff);

        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(packet.len())).collect();
        cuts.extend([0, packet.len()]);
        cuts.sort_unstable();
        let pieces: Vec<&[u8]> = cuts.windows(2).map(|w| &packet[w[0]..w[1]]).collect();
        let finished = finish::partial(&headers, pieces).unwrap();
        finished.write(&mut packet).unwrap();
        assert_right(&packet);
        prop_assert_ne!(transport_checksums(&packet).unwrap().0, 0);
        prop_assert!(finish::is_right(&headers, [&packet[..]]));
    }

    #[test]
    fn absent_checksums_stay(spec in spec(20), source in host(true)) {
        prop_assume!(spec.v4());
        let mut packet = spec.build();
        let before = packet.clone();
        let mut headers = parse(&packet);
        AddressChange::to_source(&headers, source).unwrap().apply(&mut packet, &mut headers, L4State::Absent).unwrap();
        prop_assert_eq!(&packet[20..], &before[20..]);
        prop_assert_eq!(checksum::sum(&packet[..usize::from(headers.l4_offset)]), 0xffff);
    }

    #[test]
    fn a_change_and_its_reverse_restore_the_packet((spec, source, destination) in spec_and_addresses(60)) {
        let original = spec.build();
        let mut packet = original.clone();
        let mut headers = parse(&packet);
        let there = AddressChange::new(spec.source, source, spec.destination, destination).unwrap();
        let back = AddressChange::new(source, spec.source, destination, spec.destination).unwrap();
        there.apply(&mut packet, &mut headers, L4State::Finished).unwrap();
        back.apply(&mut packet, &mut headers, L4State::Finished).unwrap();
        prop_assert_eq!(packet, original);
    }

    #[test]
    fn ttl_and_tos(spec in spec(40), tos in any::<u8>()) {
        let mut packet = spec.build();
        let mut headers = parse(&packet);
        rewrite::set_tos(&mut packet, &mut headers, tos).unwrap();
        let left = rewrite::decrement_ttl(&mut packet, &mut headers).unwrap();
        let mut expected = spec.clone();
        expected.tos = tos;
        if spec.ttl > 1 {
            prop_assert_eq!(left, Ttl::Left);
            expected.ttl -= 1;
        } else {
            prop_assert_eq!(left, Ttl::Expired);
        }
        prop_assert_eq!(&packet, &expected.build());
        prop_assert_eq!(headers, parse(&packet));
    }

    #[test]
    fn mss_is_lowered_on_syn_alone(mut spec in spec(20), limit in 500u16..1500, flags in any::<u8>()) {
        spec.kind = Kind::Tcp { flags, options: true };
        let mut packet = spec.build();
        let before = packet.clone();
        let headers = parse(&packet);
        let lowered = mss::clamp(&mut packet, &headers, limit, L4State::Finished).unwrap();
        if flags & 2 != 0 && limit < 1460 {
            prop_assert_eq!(lowered, Some(1460));
            let at = usize::from(headers.l4_offset) + 23;
            prop_assert_eq!(&packet[at..at + 2], &limit.to_be_bytes());
        } else {
            prop_assert_eq!(lowered, None);
            prop_assert_eq!(&packet, &before);
        }
        assert_right(&packet);
        let mut partial = before.clone();
        let headers = make_partial(&mut partial);
        let _lowered = mss::clamp(&mut partial, &headers, limit, L4State::Partial).unwrap();
        finish::partial(&headers, [&partial[..]]).unwrap().write(&mut partial).unwrap();
        prop_assert_eq!(partial, packet);
    }

    /// A server's node reports an error about a translated packet; both nodes translate it back.
    #[test]
    fn a_quoted_packet_is_translated_with_its_error(
        (mut spec, source, destination) in spec_and_addresses(900),
        kind in kind(),
        room in 0usize..1300,
    ) {
        spec.kind = kind;
        let offending = spec.build();
        let about = parse(&offending);
        let from = spec.destination;
        let mut buffer = vec![0; room.max(136)];
        let len = answer::icmp_error(&mut buffer, &offending, &about, from, Failure::HostUnreachable).unwrap();
        let mut error = buffer[..len].to_vec();
        assert_right(&error);
        let mut headers = parse(&error);
        let mut quoted = headers.quoted(&error).unwrap();
        prop_assert_eq!((quoted.source, quoted.destination), (spec.source, spec.destination));
        prop_assert_eq!((quoted.source_port, quoted.destination_port), (about.source_port, about.destination_port));
        prop_assert_eq!((quoted.protocol, quoted.fragment), (about.protocol, Fragment::None));

        let inner = AddressChange::new(spec.source, source, spec.destination, destination).unwrap();
        inner.apply_to_quote(&mut error, &headers, &mut quoted).unwrap();
        assert_right(&error);
        prop_assert_eq!(headers.quoted(&error).unwrap(), quoted);
        let outer = AddressChange::new(from, destination, spec.source, source).unwrap();
        outer.apply(&mut error, &mut headers, L4State::Finished).unwrap();
        assert_right(&error);

        // The quote is, byte for byte, the beginning of the packet as it would be with those addresses.
        let mut expected = spec.clone();
        (expected.source, expected.destination) = (source, destination);
        let start = usize::from(quoted.offset);
        let quote = &error[start..];
        prop_assert_eq!(quote, &expected.build()[..quote.len()]);
    }

    /// Fragments are translated apart; who puts them together has the packet translated as a whole.
    #[test]
    fn fragments_translated_apart_are_the_packet_translated(
        (mut spec, source, destination) in spec_and_addresses(300),
        eights in 1usize..20,
    ) {
        spec.extended = false;
        let whole = spec.build();
        let header = if spec.v4() { 20 } else { 40 };
        // The first one has the whole transport header, as senders do.
        let first = (eights * 8).max(32);
        prop_assume!(whole.len() > header + first);
        let change = AddressChange::new(spec.source, source, spec.destination, destination).unwrap();
        let mut body = Vec::new();
        for (offset, end) in [(0, first), (first, whole.len() - header)] {
            let mut piece = fragment(&whole, header, offset, end);
            let mut headers = parse(&piece);
            change.apply(&mut piece, &mut headers, L4State::Finished).unwrap();
            prop_assert_eq!(parse(&piece), headers);
            let head = piece.len() - (end - offset);
            body.extend_from_slice(&piece[head..]);
        }
        let mut expected = whole[..header].to_vec();
        expected.extend_from_slice(&body);
        let mut headers = parse(&expected);
        // Only the addresses of the outer header are still those of before.
        if spec.v4() {
            change.apply(&mut expected, &mut headers, L4State::Absent).unwrap();
        } else {
            expected[8..24].copy_from_slice(&source.octets());
            expected[24..40].copy_from_slice(&destination.octets());
        }
        assert_right(&expected);
    }

    #[test]
    fn crc32c_is_finished_over_any_pieces(payload in proptest::collection::vec(any::<u8>(), 4..200), cuts in proptest::collection::vec(0usize..260, 0..5)) {
        let mut packet = Spec::plain(true, Kind::Udp, &payload).build();
        packet[9] = 132;
        packet[10..12].fill(0);
        let sum = !checksum::sum(&packet[..20]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet[28..32].fill(0);
        let mut crc = sctp::Crc32c::new();
        crc.add(&packet[20..]);
        packet[28..32].fill(0xa5);
        let headers = parse(&packet);
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(packet.len())).collect();
        cuts.extend([0, packet.len()]);
        cuts.sort_unstable();
        let pieces: Vec<&[u8]> = cuts.windows(2).map(|w| &packet[w[0]..w[1]]).collect();
        finish::partial(&headers, pieces).unwrap().write(&mut packet).unwrap();
        prop_assert_eq!(&packet[28..32], &crc.to_wire()[..]);
        prop_assert!(finish::is_right(&headers, [&packet[..]]));
        packet[20] ^= 1;
        prop_assert!(!finish::is_right(&headers, [&packet[..]]));
    }
}

#[test]
fn all_ports_translate() {
    let to = Address::v4([10, 18, 0, 66]);
    for kind in [
        Kind::Udp,
        Kind::Tcp {
            flags: 16,
            options: false,
        },
    ] {
        for port in 0..=u16::MAX {
            let mut spec = Spec::plain(true, kind, b"odd");
            (spec.source_port, spec.destination_port) = (port, port);
            let mut packet = spec.build();
            let mut headers = parse(&packet);
            AddressChange::to_destination(&headers, to)
                .unwrap()
                .apply(&mut packet, &mut headers, L4State::Finished)
                .unwrap();
            assert!(finish::is_right(&headers, [&packet[..]]), "{kind:?} {port}");
            assert_eq!(headers.source_port, port);
        }
    }
}

/// Some payload makes the new checksum zero, which UDP must send as all ones.
#[test]
fn udp_checksum_never_becomes_none() {
    let to = Address::v4([10, 18, 0, 66]);
    let mut seen = false;
    for word in 0..=u16::MAX {
        let mut packet = Spec::plain(true, Kind::Udp, &word.to_be_bytes()).build();
        let mut headers = parse(&packet);
        AddressChange::to_destination(&headers, to)
            .unwrap()
            .apply(&mut packet, &mut headers, L4State::Finished)
            .unwrap();
        assert_ne!(&packet[26..28], &[0, 0]);
        seen |= packet[26..28] == [0xff, 0xff];
        assert_right(&packet);
    }
    assert!(seen);
}

#[test]
fn a_udp_packet_without_a_checksum_stays_without() {
    let mut packet = Spec::plain(true, Kind::UdpBare, b"abc").build();
    let mut headers = parse(&packet);
    AddressChange::to_destination(&headers, Address::v4([10, 18, 0, 66]))
        .unwrap()
        .apply(&mut packet, &mut headers, L4State::Finished)
        .unwrap();
    assert_eq!(&packet[26..28], &[0, 0]);
    assert_right(&packet);
}

#[test]
fn families_do_not_mix() {
    let v4 = Address::v4([10, 18, 0, 2]);
    let v6 = Address(0xfc00 << 112);
    assert_eq!(AddressChange::new(v4, v6, v4, v4), None);
    assert_eq!(AddressChange::new(v6, v6, v6, v4), None);
    let mut packet = Spec::plain(true, Kind::Udp, b"abc").build();
    let mut headers = parse(&packet);
    let change = AddressChange::new(v6, v6, v6, v6).unwrap();
    assert!(
        change
            .apply(&mut packet, &mut headers, L4State::Finished)
            .is_err()
    );
}

#[test]
fn quotes_that_are_refused() {
    let offending = Spec::plain(true, Kind::Udp, &[0; 100]).build();
    let mut error = vec![0; 576];
    let from = Address::v4([10, 18, 0, 1]);
    let len = answer::icmp_error(
        &mut error,
        &offending,
        &parse(&offending),
        from,
        Failure::NoRoute,
    )
    .unwrap();
    error.truncate(len);
    let headers = parse(&error);
    assert_eq!(headers.icmp, Icmp::Error { quoted: 28 });
    assert!(
        headers.quoted(&error[..28 + 27]).is_err(),
        "seven bytes of transport"
    );
    assert!(
        headers.quoted(&error[..28 + 28]).is_ok(),
        "eight are enough"
    );
    error[28 + 12] ^= 1;
    assert!(
        headers.quoted(&error).is_err(),
        "RFC 5508: a quoted header with a wrong checksum"
    );
}
