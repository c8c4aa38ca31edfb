//! Cutting and joining: right packets, and each undoes the other.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod packets;

use etherparse::{IpSlice, TcpSlice};
use net::checksum;
use net::coalesce::{Joint, Offer};
use net::finish;
use net::packet::{Headers, TcpFlags};
use net::segment::{Plan, Sum};
use packets::{Kind, Spec, assert_right, spec};
use proptest::prelude::*;

fn parse(packet: &[u8]) -> Headers {
    Headers::parse(packet, packet.len()).unwrap()
}

fn cut(packet: &[u8], size: u16) -> Vec<Vec<u8>> {
    let plan = Plan::new(&parse(packet), size).unwrap();
    (0..plan.count())
        .map(|k| {
            let payload = &packet[plan.payload(k)];
            let mut segment = vec![0; 200];
            let len = plan
                .write_header(
                    k,
                    packet,
                    &mut segment,
                    Sum::Payload(checksum::sum(payload)),
                )
                .unwrap();
            segment.truncate(len);
            segment.extend_from_slice(payload);
            segment
        })
        .collect()
}

/// Joins packets as far as they go: the joined one, finished, and how many it took.
fn join(packets: &[Vec<u8>]) -> Option<(Vec<u8>, usize)> {
    let (first, rest) = packets.split_first()?;
    let mut joint = Joint::begin(first, &parse(first))?;
    let mut joined = first.clone();
    for packet in rest {
        let headers = parse(packet);
        let offer = joint.offer(&joined, packet, &headers);
        if offer == Offer::Refused {
            break;
        }
        joined.extend_from_slice(&packet[usize::from(headers.header_len)..]);
        if offer == Offer::JoinedLast {
            break;
        }
    }
    let headers = joint.write_header(&mut joined).unwrap();
    assert_eq!(headers, parse(&joined));
    finish::partial(&headers, [&joined[..]])
        .unwrap()
        .write(&mut joined)
        .unwrap();
    Some((joined, joint.count()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn every_segment_is_right_and_together_they_are_the_stream(
        mut spec in spec(6000), size in 1u16..1500, flags in any::<u8>(), udp in any::<bool>(), options in any::<bool>(),
    ) {
        // Neither SYN, RST nor URG.
        let flags = flags & 0b1101_1001;
        spec.kind = if udp { Kind::Udp } else { Kind::Tcp { flags, options } };
        let size = size.max(u16::try_from(spec.payload.len() / 100).unwrap()).max(1);
        let large = spec.build();
        let segments = cut(&large, size);
        prop_assert_eq!(segments.len(), spec.payload.len().div_ceil(usize::from(size)).max(1));
        let mut stream = Vec::new();
        for (k, segment) in segments.iter().enumerate() {
            assert_right(segment);
            let headers = parse(segment);
            let last = k + 1 == segments.len();
            prop_assert!(last || headers.payload_len() == usize::from(size));
            if spec.v4() {
                let id = u16::from_be_bytes([segment[4], segment[5]]);
                prop_assert_eq!(id, spec.id.wrapping_add(u16::try_from(k).unwrap()));
            }
            if !udp {
                let tcp = TcpSlice::from_slice(&segment[usize::from(headers.l4_offset)..]).unwrap();
                prop_assert_eq!(tcp.sequence_number(), 0xffff_fff0u32.wrapping_add(u32::try_from(stream.len()).unwrap()));
                prop_assert_eq!(tcp.fin(), last && flags & 1 != 0);
                prop_assert_eq!(tcp.psh(), last && flags & 8 != 0);
                prop_assert_eq!(tcp.cwr(), k == 0 && flags & 128 != 0);
                prop_assert_eq!((tcp.ack(), tcp.ece()), (flags & 16 != 0, flags & 64 != 0));
            }
            stream.extend_from_slice(&segment[usize::from(headers.header_len)..]);
        }
        prop_assert_eq!(stream, spec.payload);
    }

    #[test]
    fn a_partial_segment_finished_later_is_the_same(mut spec in spec(2000), size in 100u16..900) {
        spec.kind = Kind::Tcp { flags: 16, options: true };
        let large = spec.build();
        let finished = cut(&large, size);
        let plan = Plan::new(&parse(&large), size).unwrap();
        for (k, expected) in finished.iter().enumerate() {
            let mut segment = expected.clone();
            plan.write_header(k, &large, &mut segment, Sum::Pseudo).unwrap();
            let headers = parse(&segment);
            finish::partial(&headers, [&segment[..]]).unwrap().write(&mut segment).unwrap();
            prop_assert_eq!(&segment, expected);
        }
    }

    #[test]
    fn joining_undoes_cutting(mut spec in spec(9000), size in 100u16..1500, psh in any::<bool>(), udp in any::<bool>()) {
        spec.extended = false;
        spec.kind = if udp { Kind::Udp } else { Kind::Tcp { flags: 16 | u8::from(psh) << 3, options: true } };
        prop_assume!(spec.payload.len() > usize::from(size));
        let large = spec.build();
        let segments = cut(&large, size);
        let (joined, count) = join(&segments).unwrap();
        prop_assert_eq!(count, segments.len());
        assert_right(&joined);
        prop_assert_eq!(joined, large);
    }
}

/// Two TCP packets of 100 bytes that follow each other, the second one edited.
fn pair(is_v4: bool, edit: impl FnOnce(&mut Vec<u8>)) -> (Vec<u8>, Vec<u8>) {
    let large = Spec::plain(
        is_v4,
        Kind::Tcp {
            flags: 16,
            options: true,
        },
        &[5; 200],
    )
    .build();
    let [a, mut b]: [Vec<u8>; 2] = cut(&large, 100).try_into().unwrap();
    edit(&mut b);
    if is_v4 {
        b[10..12].fill(0);
        let sum = !checksum::sum(&b[..20]);
        b[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    (a, b)
}

fn offered(is_v4: bool, edit: impl FnOnce(&mut Vec<u8>)) -> Offer {
    let (a, b) = pair(is_v4, edit);
    Joint::begin(&a, &parse(&a))
        .unwrap()
        .offer(&a, &b, &parse(&b))
}

#[test]
fn what_does_not_follow_is_refused() {
    assert_eq!(offered(true, |_| {}), Offer::Joined);
    assert_eq!(offered(false, |_| {}), Offer::Joined);
    for (at, what) in [
        (1, "TOS"),
        (5, "identification"),
        (6, "don't fragment"),
        (8, "TTL"),
        (15, "source"),
        (19, "destination"),
        (21, "source port"),
        (23, "destination port"),
        (27, "sequence"),
        (31, "acknowledgement"),
        (32, "reserved bits"),
        (35, "window"),
        (39, "urgent pointer"),
        (47, "options"),
    ] {
        let mask = if at == 6 { 0x40 } else { 2 };
        assert_eq!(offered(true, |b| b[at] ^= mask), Offer::Refused, "{what}");
    }
    assert_eq!(offered(false, |b| b[3] ^= 1), Offer::Refused, "flow label");
    for flag in [
        TcpFlags::FIN,
        TcpFlags::SYN,
        TcpFlags::RST,
        TcpFlags::URG,
        TcpFlags::ECE,
        TcpFlags::CWR,
    ] {
        assert_eq!(
            offered(true, |b| b[33] |= flag.0),
            Offer::Refused,
            "{flag:?}"
        );
    }
    assert_eq!(
        offered(true, |b| b[33] |= TcpFlags::PSH.0),
        Offer::JoinedLast
    );
    assert_eq!(offered(true, |b| b[33] = 0), Offer::Refused, "no ACK");
}

fn resize(packet: &mut Vec<u8>, payload: usize) {
    packet.resize(48 + payload, 5);
    packet[2..4].copy_from_slice(&u16::try_from(48 + payload).unwrap().to_be_bytes());
}

#[test]
fn a_shorter_one_is_the_last_and_a_longer_one_is_refused() {
    assert_eq!(offered(true, |b| resize(b, 99)), Offer::JoinedLast);
    assert_eq!(offered(true, |b| resize(b, 101)), Offer::Refused);
    assert_eq!(offered(true, |b| resize(b, 0)), Offer::Refused);
    let (a, b) = pair(true, |b| resize(b, 99));
    let mut joint = Joint::begin(&a, &parse(&a)).unwrap();
    assert_eq!(joint.offer(&a, &b, &parse(&b)), Offer::JoinedLast);
    assert_eq!(joint.offer(&a, &b, &parse(&b)), Offer::Refused, "closed");
}

#[test]
fn identification_may_stand_still_with_dont_fragment_alone() {
    let same = |b: &mut Vec<u8>| b[4..6].copy_from_slice(&7u16.to_be_bytes());
    assert_eq!(offered(true, same), Offer::Joined);
    let (mut a, mut b) = pair(true, same);
    for packet in [&mut a, &mut b] {
        packet[6] = 0;
        packet[10..12].fill(0);
        let sum = !checksum::sum(&packet[..20]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    assert_eq!(
        Joint::begin(&a, &parse(&a))
            .unwrap()
            .offer(&a, &b, &parse(&b)),
        Offer::Refused
    );
}

#[test]
fn a_joined_packet_never_outgrows_its_length_field() {
    let large = Spec::plain(true, Kind::Udp, &vec![1; 65_500]).build();
    let packets: Vec<Vec<u8>> = (0..3).flat_map(|_| cut(&large, 1000)).collect();
    let mut packets: Vec<Vec<u8>> = packets.into_iter().filter(|p| p.len() == 1028).collect();
    for (k, packet) in (0u16..).zip(&mut packets) {
        packet[4..6].copy_from_slice(&k.to_be_bytes());
        packet[10..12].fill(0);
        let sum = !checksum::sum(&packet[..20]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    let (joined, count) = join(&packets).unwrap();
    assert_eq!((joined.len(), count), (65_028, 65));
    assert_right(&joined);
    assert!(IpSlice::from_slice(&joined).is_ok());
}

#[test]
fn what_cannot_be_cut_or_begin() {
    for flags in [2, 4, 32, 18] {
        let packet = Spec::plain(
            true,
            Kind::Tcp {
                flags,
                options: false,
            },
            &[0; 50],
        )
        .build();
        assert_eq!(Plan::new(&parse(&packet), 10), None);
        assert_eq!(Joint::begin(&packet, &parse(&packet)), None);
    }
    let udp = Spec::plain(true, Kind::Udp, &[0; 50]).build();
    assert_eq!(Plan::new(&parse(&udp), 0), None);
    let bare = Spec::plain(true, Kind::UdpBare, &[0; 50]).build();
    assert_eq!(Joint::begin(&bare, &parse(&bare)), None);
    let echo = Spec::plain(true, Kind::EchoRequest, &[0; 50]).build();
    assert_eq!(
        (
            Plan::new(&parse(&echo), 10),
            Joint::begin(&echo, &parse(&echo))
        ),
        (None, None)
    );
    let acknowledgement = Spec::plain(
        true,
        Kind::Tcp {
            flags: 16,
            options: false,
        },
        &[],
    )
    .build();
    assert_eq!(
        Joint::begin(&acknowledgement, &parse(&acknowledgement)),
        None
    );
}
