//! What the node sends by itself is right, and it is silent where it must be.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod packets;

use etherparse::{Icmpv4Slice, Icmpv6Slice, IpSlice, TcpSlice};
use net::answer::{self, Failure, Unanswered};
use net::arp::{self, Operation};
use net::ethernet::{self, EtherType, Mac};
use net::ndp::Solicitation;
use net::packet::{Fragment, Headers, Icmp};
use net::rewrite::L4State;
use net::{Address, checksum};
use packets::{Kind, Spec, assert_right, spec};
use proptest::prelude::*;

fn parse(packet: &[u8]) -> Headers {
    Headers::parse(packet, packet.len()).unwrap()
}

const FAILURES: [Failure; 7] = [
    Failure::NoRoute,
    Failure::HostUnreachable,
    Failure::PortUnreachable,
    Failure::Prohibited,
    Failure::TtlExpired,
    Failure::ReassemblyTimedOut,
    Failure::TooBig { mtu: 1400 },
];

fn gateway(is_v4: bool) -> Address {
    if is_v4 {
        Address::v4([10, 18, 0, 1])
    } else {
        "fc00::1".parse::<std::net::IpAddr>().unwrap().into()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn errors_quote_what_the_rfcs_allow(spec in spec(1600), which in 0..FAILURES.len()) {
        let offending = spec.build();
        let mut into = [0; 2000];
        let from = gateway(spec.v4());
        let len = answer::icmp_error(&mut into, &offending, &parse(&offending), from, FAILURES[which]).unwrap();
        let error = &into[..len];
        assert_right(error);
        let (head, longest) = if spec.v4() { (28, 576) } else { (48, 1280) };
        prop_assert_eq!(len, (offending.len() + head).min(longest));
        prop_assert_eq!(&error[head..], &offending[..len - head]);
        let headers = parse(error);
        prop_assert_eq!((headers.source, headers.destination), (from, spec.source));
        let body = IpSlice::from_slice(error).unwrap();
        let body = body.payload().payload;
        if FAILURES[which] == (Failure::TooBig { mtu: 1400 }) {
            prop_assert_eq!(net::icmp::reported_mtu(body, !spec.v4()), Some(1400));
        }
        let found = if spec.v4() {
            let icmp = Icmpv4Slice::from_slice(body).unwrap();
            (icmp.type_u8(), icmp.code_u8())
        } else {
            let icmp = Icmpv6Slice::from_slice(body).unwrap();
            (icmp.type_u8(), icmp.code_u8())
        };
        let v4 = [(3, 0), (3, 1), (3, 3), (3, 13), (11, 0), (11, 1), (3, 4)];
        let v6 = [(1, 0), (1, 3), (1, 4), (1, 1), (3, 0), (3, 1), (2, 0)];
        prop_assert_eq!(found, if spec.v4() { v4[which] } else { v6[which] });
        prop_assert_eq!(
            answer::icmp_error(&mut [0; 600], error, &headers, from, FAILURES[which]),
            Err(Unanswered::Error)
        );
    }

    #[test]
    fn echo_is_answered_in_place(mut spec in spec(300)) {
        spec.kind = Kind::EchoRequest;
        let mut packet = spec.build();
        let mut headers = parse(&packet);
        answer::echo_reply(&mut packet, &mut headers, L4State::Finished).unwrap();
        assert_right(&packet);
        prop_assert_eq!(headers, parse(&packet));
        let mut expected = spec.clone();
        (expected.source, expected.destination) = (spec.destination, spec.source);
        (expected.kind, expected.ttl) = (Kind::EchoReply, 64);
        prop_assert_eq!(&packet, &expected.build());
        prop_assert_eq!(answer::echo_reply(&mut packet, &mut headers, L4State::Finished), Err(Unanswered::Kind));
    }

    #[test]
    fn resets_as_rfc_9293_has_them(mut spec in spec(300), flags in any::<u8>()) {
        spec.kind = Kind::Tcp { flags, options: false };
        let packet = spec.build();
        let mut into = [0; 64];
        let result = answer::tcp_reset(&mut into, &packet, &parse(&packet));
        if flags & 4 != 0 {
            prop_assert_eq!(result, Err(Unanswered::Kind));
            return Ok(());
        }
        let reset = &into[..result.unwrap()];
        assert_right(reset);
        let headers = parse(reset);
        prop_assert_eq!((headers.source, headers.destination), (spec.destination, spec.source));
        prop_assert_eq!((headers.source_port, headers.destination_port), (spec.destination_port, spec.source_port));
        let tcp = TcpSlice::from_slice(&reset[usize::from(headers.l4_offset)..]).unwrap();
        prop_assert!(tcp.rst());
        if flags & 16 != 0 {
            prop_assert!(!tcp.ack());
            prop_assert_eq!(tcp.sequence_number(), 0x0102_0304);
        } else {
            let len = spec.payload.len() + usize::from(flags & 1) + usize::from(flags >> 1 & 1);
            prop_assert!(tcp.ack());
            prop_assert_eq!(tcp.sequence_number(), 0);
            prop_assert_eq!(tcp.acknowledgment_number(), 0xffff_fff0u32.wrapping_add(u32::try_from(len).unwrap()));
        }
    }

    #[test]
    fn a_challenge_is_a_bare_acknowledgement(spec in spec(1), sequence in any::<u32>()) {
        let mut into = [0; 64];
        let (from, to) = ((spec.destination, spec.destination_port), (spec.source, spec.source_port));
        let len = answer::tcp_challenge(&mut into, from, to, sequence).unwrap();
        let packet = &into[..len];
        assert_right(packet);
        let headers = parse(packet);
        prop_assert_eq!((headers.source, headers.source_port), from);
        prop_assert_eq!((headers.destination, headers.destination_port), to);
        prop_assert_eq!((headers.tcp_flags.0, headers.payload_len()), (16, 0));
        let tcp = TcpSlice::from_slice(&packet[usize::from(headers.l4_offset)..]).unwrap();
        prop_assert_eq!(tcp.sequence_number(), sequence);
        let other = gateway(!spec.v4());
        prop_assert_eq!(answer::tcp_challenge(&mut into, from, (other, 1), 0), Err(Unanswered::Buffer));
        prop_assert_eq!(answer::tcp_challenge(&mut into[..39], from, to, 0), Err(Unanswered::Buffer));
    }
}

#[test]
fn silence_where_an_answer_would_multiply() {
    let mut into = [0; 600];
    let mut ask = |is_v4: bool, edit: &dyn Fn(&mut Headers), failure| {
        let packet = Spec::plain(is_v4, Kind::Udp, b"abc").build();
        let mut headers = parse(&packet);
        edit(&mut headers);
        answer::icmp_error(&mut into, &packet, &headers, gateway(is_v4), failure)
    };
    let later = |h: &mut Headers| {
        h.fragment = Fragment::Later {
            id: 1,
            offset: 8,
            more: false,
        }
    };
    assert_eq!(
        ask(true, &later, Failure::NoRoute),
        Err(Unanswered::LaterFragment)
    );
    assert!(
        ask(
            true,
            &|h| h.fragment = Fragment::First { id: 1 },
            Failure::NoRoute
        )
        .is_ok()
    );
    for source in [
        [0, 0, 0, 0],
        [255, 255, 255, 255],
        [224, 0, 0, 1],
        [127, 0, 0, 1],
    ] {
        assert_eq!(
            ask(true, &|h| h.source = Address::v4(source), Failure::NoRoute),
            Err(Unanswered::Source)
        );
    }
    assert_eq!(
        ask(
            false,
            &|h| h.source = Address::UNSPECIFIED_V6,
            Failure::NoRoute
        ),
        Err(Unanswered::Source)
    );
    let broadcast = |h: &mut Headers| h.destination = Address::v4([255; 4]);
    assert_eq!(
        ask(true, &broadcast, Failure::NoRoute),
        Err(Unanswered::Destination)
    );
    let group = |h: &mut Headers| h.destination = Address::ALL_NODES;
    assert_eq!(
        ask(false, &group, Failure::NoRoute),
        Err(Unanswered::Destination)
    );
    assert!(
        ask(false, &group, Failure::TooBig { mtu: 1280 }).is_ok(),
        "RFC 4443 section 2.4 (e.3)"
    );
    assert_eq!(
        ask(
            true,
            &|h| h.icmp = Icmp::Error { quoted: 28 },
            Failure::NoRoute
        ),
        Err(Unanswered::Error)
    );
    let packet = Spec::plain(true, Kind::Udp, b"abc").build();
    let short = answer::icmp_error(
        &mut [0; 40],
        &packet,
        &parse(&packet),
        gateway(true),
        Failure::NoRoute,
    );
    assert_eq!(short, Err(Unanswered::Buffer));
}

#[test]
fn arp_is_answered() {
    let asker = Mac([2, 0, 0, 0, 0, 1]);
    let ours = Mac([2, 0, 0, 0, 0, 9]);
    let request = arp::Packet {
        operation: Operation::Request,
        sender_mac: asker,
        sender: Address::v4([10, 18, 0, 2]),
        target_mac: Mac::default(),
        target: Address::v4([10, 18, 0, 1]),
    };
    assert_eq!(arp::Packet::parse(&request.to_bytes()), Some(request));
    let mut frame = [0; 60];
    assert_eq!(answer::arp_reply(&mut frame, &request, ours), Some(42));
    let expected = ethernet::Header {
        destination: asker,
        source: ours,
        ethertype: EtherType::ARP,
    };
    assert_eq!(ethernet::Header::parse(&frame), Some(expected));
    let reply = etherparse::ArpPacketSlice::from_slice(&frame[14..]).unwrap();
    assert_eq!(reply.operation(), etherparse::ArpOperation::REPLY);
    assert_eq!(
        (reply.sender_hw_addr(), reply.sender_protocol_addr()),
        (&ours.0[..], &[10, 18, 0, 1][..])
    );
    assert_eq!(
        (reply.target_hw_addr(), reply.target_protocol_addr()),
        (&asker.0[..], &[10, 18, 0, 2][..])
    );
    let answered = arp::Packet::parse(&frame[14..]).unwrap();
    assert_eq!(
        answer::arp_reply(&mut frame, &answered, ours),
        None,
        "a reply is not answered"
    );
    assert_eq!(arp::Packet::parse(&request.to_bytes()[..27]), None);
}

fn solicitation(source: Address, destination: Address, target: Address, options: &[u8]) -> Vec<u8> {
    let ip = net::ipv6::Build {
        source,
        destination,
        next_header: 58,
        hop_limit: 255,
        traffic_class: 0,
        flow_label: 0,
        payload_len: u16::try_from(24 + options.len()).unwrap(),
    };
    let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target.octets());
    message.extend(options);
    let pseudo = checksum::pseudo_header(source, destination, 58, message.len());
    let sum = !checksum::add(pseudo, checksum::sum(&message));
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let packet = [&ip.to_bytes()[..], &message].concat();
    assert_right(&packet);
    packet
}

#[test]
fn neighbour_solicitations_are_answered() {
    let (source, target) = (Spec::plain(false, Kind::Udp, b"").source, gateway(false));
    let asker = Mac([2, 0, 0, 0, 0, 1]);
    let ours = Mac([2, 0, 0, 0, 0, 9]);
    let packet = solicitation(
        source,
        target.solicited_node(),
        target,
        &[1, 1, 2, 0, 0, 0, 0, 1],
    );
    let asked = Solicitation::parse(&packet, &parse(&packet)).unwrap();
    assert_eq!(
        (asked.source, asked.target, asked.source_mac),
        (source, target, Some(asker))
    );
    let mut into = [0; 100];
    assert_eq!(
        answer::neighbour_advertisement(&mut into, &asked, ours),
        Some(72)
    );
    assert_right(&into[..72]);
    let headers = parse(&into[..72]);
    assert_eq!(
        (headers.source, headers.destination, headers.ttl),
        (target, source, 255)
    );
    assert_eq!(into[40], 136);
    assert_eq!(into[44], 0xe0);
    assert_eq!(&into[48..64], &target.octets());
    assert_eq!(&into[64..72], &[2, 1, 2, 0, 0, 0, 0, 9]);
    assert_eq!(answer::advertisement_destination(&asked, asker), asker);

    let probe = solicitation(
        Address::UNSPECIFIED_V6,
        target.solicited_node(),
        target,
        &[],
    );
    let asked = Solicitation::parse(&probe, &parse(&probe)).unwrap();
    answer::neighbour_advertisement(&mut into, &asked, ours).unwrap();
    assert_right(&into[..72]);
    assert_eq!(
        (parse(&into[..72]).destination, into[44]),
        (Address::ALL_NODES, 0xa0)
    );
    assert_eq!(
        answer::advertisement_destination(&asked, asker),
        Mac([0x33, 0x33, 0, 0, 0, 1])
    );
}

#[test]
fn solicitations_that_rfc_4861_refuses() {
    let (source, target) = (Spec::plain(false, Kind::Udp, b"").source, gateway(false));
    let refused = |packet: &[u8]| Solicitation::parse(packet, &parse(packet)).is_none();
    let good = solicitation(source, target, target, &[]);
    assert!(!refused(&good));
    for (at, what) in [
        (7, "hop limit"),
        (41, "code"),
        (42, "checksum"),
        (50, "target"),
    ] {
        let mut bad = good.clone();
        bad[at] ^= 0x01;
        assert!(refused(&bad), "{what}");
    }
    assert!(
        refused(&solicitation(
            source,
            target,
            target,
            &[1, 0, 0, 0, 0, 0, 0, 0]
        )),
        "an option of no length"
    );
    assert!(
        refused(&solicitation(source, target, Address::ALL_NODES, &[])),
        "a group as target"
    );
    assert!(
        refused(&solicitation(Address::UNSPECIFIED_V6, target, target, &[])),
        "a probe not to the group"
    );
    let told = solicitation(
        Address::UNSPECIFIED_V6,
        target.solicited_node(),
        target,
        &[1, 1, 2, 0, 0, 0, 0, 1],
    );
    assert!(refused(&told), "a probe with its sender's address");
}
