//! What this crate reads is what another implementation reads.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod packets;

use etherparse::{IpSlice, TcpSlice, UdpSlice};
use net::packet::{Fragment, Headers, Icmp, ParseError, Protocol, TcpFlags, Version};
use net::{Address, checksum};
use packets::{Kind, Spec, spec};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn headers_agree_with_etherparse(spec in spec(200), padding in 0usize..60) {
        let mut packet = spec.build();
        let len = packet.len();
        packet.resize(len + padding, 0xee);
        let headers = Headers::parse(&packet, packet.len()).unwrap();
        let ip = IpSlice::from_slice(&packet).unwrap();
        prop_assert_eq!(headers.source, ip.source_addr().into());
        prop_assert_eq!(headers.destination, ip.destination_addr().into());
        prop_assert_eq!(headers.protocol.0, ip.payload_ip_number().0);
        prop_assert_eq!((headers.total_len, headers.padding), (len, padding));
        prop_assert_eq!(headers.l4_len(), ip.payload().payload.len());
        prop_assert_eq!(headers.payload_len(), spec.payload.len());
        prop_assert_eq!((headers.ttl, headers.tos), (spec.ttl, spec.tos));
        prop_assert_eq!(headers.fragment, Fragment::None);
        prop_assert_eq!(headers.version == Version::V4, spec.v4());
        match spec.kind {
            Kind::Tcp { flags, .. } => {
                let tcp = TcpSlice::from_slice(ip.payload().payload).unwrap();
                prop_assert_eq!((headers.source_port, headers.destination_port), (tcp.source_port(), tcp.destination_port()));
                prop_assert_eq!(headers.tcp_flags, TcpFlags(flags));
                prop_assert_eq!(headers.payload_len(), tcp.payload().len());
            }
            Kind::Udp | Kind::UdpBare => {
                let udp = UdpSlice::from_slice(ip.payload().payload).unwrap();
                prop_assert_eq!((headers.source_port, headers.destination_port), (udp.source_port(), udp.destination_port()));
            }
            Kind::EchoRequest | Kind::EchoReply => {
                prop_assert_eq!((headers.source_port, headers.destination_port), (spec.source_port, spec.source_port));
                let expected = if spec.kind == Kind::EchoRequest { Icmp::EchoRequest } else { Icmp::EchoReply };
                prop_assert_eq!(headers.icmp, expected);
            }
        }
    }

    #[test]
    fn what_is_cut_short_is_refused_and_what_is_split_asks_for_more(spec in spec(40)) {
        let packet = spec.build();
        let whole = Headers::parse(&packet, packet.len()).unwrap();
        for cut in 0..packet.len() {
            prop_assert!(Headers::parse(&packet[..cut], cut).is_err());
            match Headers::parse(&packet[..cut], packet.len()) {
                Ok(headers) => {
                    prop_assert_eq!(headers, whole);
                    prop_assert!(cut >= usize::from(whole.header_len));
                }
                Err(ParseError::NotContiguous { needed }) => {
                    prop_assert!(cut < needed && needed <= usize::from(whole.header_len));
                }
                Err(other) => prop_assert!(false, "{cut}: {other:?}"),
            }
        }
    }

    #[test]
    fn one_bit_wrong_in_an_ipv4_header_never_passes(spec in spec(8), bit in 0usize..160) {
        prop_assume!(spec.v4());
        let mut packet = spec.build();
        packet[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(Headers::parse(&packet, packet.len()).is_err());
    }
}

#[test]
fn all_ports() {
    for kind in [
        Kind::Udp,
        Kind::Tcp {
            flags: 2,
            options: true,
        },
    ] {
        for is_v4 in [true, false] {
            let mut packet = Spec::plain(is_v4, kind, b"x").build();
            let at = if is_v4 { 20 } else { 40 };
            for port in 0..=u16::MAX {
                packet[at..at + 2].copy_from_slice(&port.to_be_bytes());
                packet[at + 2..at + 4].copy_from_slice(&(!port).to_be_bytes());
                let headers = Headers::parse(&packet, packet.len()).unwrap();
                assert_eq!(
                    (headers.source_port, headers.destination_port),
                    (port, !port)
                );
            }
        }
    }
}

fn refill(packet: &mut [u8]) {
    let len = usize::from(packet[0] & 15) * 4;
    packet[10..12].fill(0);
    let sum = !checksum::sum(&packet[..len]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

fn fragment(word: u16, payload: usize) -> Result<Headers, ParseError> {
    let mut packet = Spec::plain(true, Kind::Udp, &vec![1; payload - 8]).build();
    packet[6..8].copy_from_slice(&word.to_be_bytes());
    refill(&mut packet);
    Headers::parse(&packet, packet.len())
}

#[test]
fn ipv4_fragments() {
    let first = fragment(0x2000, 1480).unwrap();
    assert_eq!(
        (first.fragment, first.destination_port),
        (Fragment::First { id: 7 }, 80)
    );
    let middle = fragment(0x2000 | 185, 1480).unwrap();
    assert_eq!(
        middle.fragment,
        Fragment::Later {
            id: 7,
            offset: 1480,
            more: true
        }
    );
    assert_eq!(
        (
            middle.destination_port,
            middle.header_len,
            middle.pseudo_checksum_at()
        ),
        (0, 20, None)
    );
    let last = fragment(370, 51).unwrap();
    assert_eq!(
        last.fragment,
        Fragment::Later {
            id: 7,
            offset: 2960,
            more: false
        }
    );
    assert_eq!(
        fragment(0x2000, 1479),
        Err(ParseError::Fragment),
        "not a multiple of eight"
    );
    assert_eq!(
        fragment(0x1fff, 16),
        Err(ParseError::Fragment),
        "beyond 65,535"
    );
    assert!(fragment(0x1ffe, 15).is_ok());
}

#[test]
fn a_first_fragment_without_its_transport_header_is_refused() {
    let mut packet = Spec::plain(
        true,
        Kind::Tcp {
            flags: 2,
            options: false,
        },
        b"",
    )
    .build();
    packet.truncate(28);
    packet[2..4].copy_from_slice(&28u16.to_be_bytes());
    packet[6..8].copy_from_slice(&0x2000u16.to_be_bytes());
    refill(&mut packet);
    assert_eq!(Headers::parse(&packet, 28), Err(ParseError::Transport));
}

#[test]
fn ipv4_source_routes_are_refused_other_options_pass() {
    let mut spec = Spec::plain(true, Kind::Udp, b"abc");
    spec.extended = true;
    let mut packet = spec.build();
    assert_eq!(Headers::parse(&packet, packet.len()).unwrap().l4_offset, 28);
    for kind in [131, 137] {
        packet[21] = kind;
        refill(&mut packet);
        assert_eq!(
            Headers::parse(&packet, packet.len()),
            Err(ParseError::SourceRoute)
        );
    }
}

/// An IPv6 UDP packet behind these extension headers (number of the first, then each one's bytes).
fn chained(first: u8, chain: &[u8]) -> Vec<u8> {
    let mut packet = Spec::plain(false, Kind::Udp, b"12345678").build();
    packet[6] = first;
    packet.splice(40..40, chain.iter().copied());
    let len = u16::try_from(packet.len() - 40).unwrap();
    packet[4..6].copy_from_slice(&len.to_be_bytes());
    packet
}

fn parse(packet: &[u8]) -> Result<Headers, ParseError> {
    Headers::parse(packet, packet.len())
}

#[test]
fn ipv6_extension_headers() {
    let end = |n: usize| {
        [
            [60, 0, 0, 0, 0, 0, 0, 0].repeat(n - 1),
            vec![17, 0, 0, 0, 0, 0, 0, 0],
        ]
        .concat()
    };
    let eight = parse(&chained(60, &end(8))).unwrap();
    assert_eq!(
        (eight.protocol, eight.l4_offset, eight.destination_port),
        (Protocol::UDP, 104, 80)
    );
    assert_eq!(
        parse(&chained(60, &end(9))),
        Err(ParseError::ExtensionLimit)
    );
    assert!(parse(&chained(0, &end(2))).is_ok());
    assert_eq!(
        parse(&chained(
            60,
            &[0, 0, 0, 0, 0, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0, 0]
        )),
        Err(ParseError::ExtensionHeader)
    );
    assert_eq!(
        parse(&chained(43, &[17, 0, 0, 1, 0, 0, 0, 0])),
        Err(ParseError::SourceRoute)
    );
    assert!(parse(&chained(43, &[17, 0, 4, 0, 0, 0, 0, 0])).is_ok());
    assert_eq!(
        parse(&chained(60, &[17, 200, 0, 0, 0, 0, 0, 0])),
        Err(ParseError::ExtensionHeader)
    );
}

#[test]
fn ipv6_fragments() {
    let first = parse(&chained(44, &[17, 0, 0, 1, 0, 0, 1, 2])).unwrap();
    assert_eq!(
        (first.fragment, first.destination_port),
        (Fragment::First { id: 258 }, 80)
    );
    let later = parse(&chained(44, &[17, 0, 0x05, 0xa8, 0, 0, 1, 2])).unwrap();
    assert_eq!(
        later.fragment,
        Fragment::Later {
            id: 258,
            offset: 1448,
            more: false
        }
    );
    assert_eq!((later.protocol, later.destination_port), (Protocol::UDP, 0));
    let atomic = parse(&chained(44, &[17, 0, 0, 0, 0, 0, 1, 2])).unwrap();
    assert_eq!(
        (atomic.fragment, atomic.destination_port),
        (Fragment::None, 80)
    );
    assert_eq!(
        parse(&chained(
            44,
            &[44, 0, 0, 1, 0, 0, 0, 1, 17, 0, 0, 1, 0, 0, 0, 1]
        )),
        Err(ParseError::Fragment)
    );
}

#[test]
fn what_is_no_packet() {
    assert_eq!(parse(&[]), Err(ParseError::Truncated));
    assert_eq!(parse(&[0x80, 1, 2]), Err(ParseError::Version));
    assert_eq!(parse(&[0x45]), Err(ParseError::Truncated));
    let mut spec = Spec::plain(false, Kind::Udp, b"");
    spec.source = Address(0xffff_0a12_0002);
    let mut packet = Spec::plain(false, Kind::Udp, b"").build();
    packet[8..24].copy_from_slice(&spec.source.octets());
    assert_eq!(parse(&packet), Err(ParseError::MappedAddress));
    let mut packet = Spec::plain(true, Kind::Udp, b"abc").build();
    packet[24..26].copy_from_slice(&7u16.to_be_bytes());
    assert_eq!(
        parse(&packet),
        Err(ParseError::Transport),
        "a UDP length below its header's"
    );
    packet[24..26].copy_from_slice(&12u16.to_be_bytes());
    assert_eq!(
        parse(&packet),
        Err(ParseError::Transport),
        "a UDP length beyond the packet"
    );
    let mut packet = Spec::plain(
        true,
        Kind::Tcp {
            flags: 16,
            options: false,
        },
        b"abc",
    )
    .build();
    packet[32] = 0x40;
    assert_eq!(
        parse(&packet),
        Err(ParseError::Transport),
        "a data offset below five"
    );
    packet[32] = 0xf0;
    assert_eq!(
        parse(&packet),
        Err(ParseError::Transport),
        "a data offset beyond the packet"
    );
}
