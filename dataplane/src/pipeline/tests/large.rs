//! Packets larger than the wire: cut on the way in, joined on the way out, their checksums unfinished or not.

use dpdk::{L4Checksum, Offload, Segment};
use net::finish;
use net::packet::Headers;

use super::packets::{Kind, Spec, assert_right};
use super::stage::*;
use crate::counters::Counter;

/// A packet as a container's kernel hands it over: the checksum field holds the pseudo-header's sum.
pub(super) fn unfinished(spec: &Spec, size: Option<u16>) -> (Vec<u8>, Offload) {
    let mut packet = spec.build();
    let headers = Headers::parse(&packet, packet.len()).unwrap();
    let at = headers.pseudo_checksum_at().unwrap();
    packet[at..at + 2].copy_from_slice(&headers.pseudo_header().to_be_bytes());
    let is_udp = spec.kind == Kind::Udp;
    let offload = Offload {
        checksum: if is_udp {
            L4Checksum::PartialUdp
        } else {
            L4Checksum::PartialTcp
        },
        segment: match size {
            None => Segment::None,
            Some(size) if is_udp => Segment::Udp { size },
            Some(mss) => Segment::Tcp { mss },
        },
        l3_len: headers.l4_offset,
        l4_len: u8::try_from(headers.header_len - headers.l4_offset).unwrap(),
    };
    (packet, offload)
}

/// Finishes what was left to the port.
fn finished(sent: &Sent) -> Vec<u8> {
    let (frame, offload) = match sent {
        Sent::Access(_, frame, offload) | Sent::Host(frame, offload) => (&frame[14..], offload),
        Sent::Tunnel(..) => panic!("{sent:?}"),
    };
    let mut packet = frame.to_vec();
    let headers = Headers::parse(&packet, packet.len()).unwrap();
    if offload.checksum != L4Checksum::Complete {
        assert_eq!(
            offload.l3_len, headers.l4_offset,
            "the port could not find the sum"
        );
        finish::partial(&headers, [&packet[..]])
            .unwrap()
            .write(&mut packet)
            .unwrap();
    }
    assert_right(&packet);
    packet
}

pub(super) fn filled(kind: Kind, from: &str, to: &str, payload: usize) -> Spec {
    Spec {
        payload: (0..payload)
            .map(|n| u8::try_from(n % 251).unwrap())
            .collect(),
        ..spec(kind, from, to)
    }
}

#[test]
fn an_unfinished_checksum_is_finished_for_the_tunnel_and_kept_for_a_port() {
    for plan in PLANS {
        for kind in [tcp(ACK), Kind::Udp] {
            let mut node = Node::new(1);
            let away = filled(kind, plan.c, plan.d_instance[0], 701);
            let (packet, offload) = unfinished(&away, None);
            let got = to_tunnel(&node.frame(C, &framed(mac(C), &packet), offload));
            assert_eq!(got, moved(&away, plan.c_instance, plan.d[0], 1));

            let near = filled(kind, plan.c, plan.e_instance, 701);
            let (packet, offload) = unfinished(&near, None);
            let sent = node.frame(C, &framed(mac(C), &packet), offload);
            assert!(
                matches!(sent[..], [Sent::Access(E, _, o)] if o == offload),
                "{sent:?}"
            );
            assert_eq!(finished(&sent[0]), moved(&near, plan.c_instance, plan.e, 1));

            let out = filled(kind, plan.c, plan.outside, 701);
            let (packet, offload) = unfinished(&out, None);
            let sent = node.frame(C, &framed(mac(C), &packet), offload);
            assert!(
                matches!(sent[..], [Sent::Host(_, o)] if o == offload),
                "{sent:?}"
            );
            assert_eq!(finished(&sent[0]), out.build());
        }
    }
}

#[test]
fn a_large_packet_crosses_in_pieces_that_fit_and_arrives_as_it_was() {
    for plan in PLANS {
        for (payload, mss) in [
            (60_000, 1398),
            (4001, 1000),
            (1399, 1398),
            (2796, 1398),
            (30_000, 60_000),
        ] {
            let mut node = Node::new(1);
            let large = filled(tcp(ACK | 8), plan.c, plan.d_instance[0], payload);
            let (packet, offload) = unfinished(&large, Some(mss));
            let pieces = node.frame(C, &framed(mac(C), &packet), offload);
            let overhead = packet.len() - payload;
            let size = usize::from(mss).min(usize::from(MTU) - overhead);
            assert_eq!(pieces.len(), payload.div_ceil(size));
            let datagrams: Vec<Vec<u8>> = pieces.iter().map(Sent::packet).collect();
            assert!(datagrams.iter().all(|d| d.len() <= usize::from(MTU)));
            assert_eq!(
                node.sum(Counter::Pieces),
                u64::try_from(pieces.len() - 1).unwrap()
            );
            // The same datagrams at the other end: a burst for a container there, which is `e` here.
            let mut far = Node::new(1);
            let back: Vec<Vec<u8>> = datagrams
                .iter()
                .map(|d| {
                    let mut d = d.clone();
                    let mut headers = Headers::parse(&d, d.len()).unwrap();
                    net::rewrite::AddressChange::new(
                        headers.source,
                        address(plan.d_instance[0]),
                        headers.destination,
                        address(plan.e),
                    )
                    .unwrap()
                    .apply(&mut d, &mut headers, net::rewrite::L4State::Finished)
                    .unwrap();
                    d
                })
                .collect();
            let sent = far.burst(0, AWAY, 0, &back);
            assert_eq!(sent.len(), 1, "joined again");
            let got = finished(&sent[0]);
            assert_eq!(got[overhead..], large.payload[..]);
            let expected = moved(&large, plan.d_instance[0], plan.e, 1);
            assert_eq!(got, expected, "not only its payload");
            assert_eq!(
                far.sum(Counter::Joined),
                u64::try_from(back.len() - 1).unwrap()
            );
        }
    }
}

#[test]
fn datagrams_of_one_message_keep_their_borders() {
    for plan in PLANS {
        let mut node = Node::new(1);
        let large = filled(Kind::Udp, plan.c, plan.service, 10_100);
        let (packet, offload) = unfinished(&large, Some(1000));
        let pieces = node.frame(C, &framed(mac(C), &packet), offload);
        assert_eq!(pieces.len(), 11);
        for (piece, payload) in pieces.iter().zip(large.payload.chunks(1000)) {
            assert!(piece.packet().ends_with(payload));
        }
        // One that does not fit the tunnel cannot be cut further: its sender is told.
        let (packet, offload) = unfinished(&large, Some(1440));
        let sent = node.dropping(Counter::TooBig, |n| {
            n.frame(C, &framed(mac(C), &packet), offload)
        });
        let error = to_container(&sent, C);
        let headers = Headers::parse(&error, error.len()).unwrap();
        let quoted = headers.quoted(&error).unwrap();
        assert_eq!(quoted.destination, address(plan.service));
    }
}

#[test]
fn the_segment_size_of_a_connection_fits_the_tunnel() {
    for plan in PLANS {
        for flags in [SYN, SYN | ACK] {
            let mut node = Node::new(1);
            let open = Spec {
                kind: Kind::Tcp {
                    flags,
                    options: true,
                },
                payload: Vec::new(),
                ..spec(tcp(0), plan.c, plan.d_instance[0])
            };
            let before = open.build();
            let packet = to_tunnel(&node.access(C, &before));
            let at = packet.len() - 8 + 3;
            assert_eq!(before[at..at + 2], 1460u16.to_be_bytes());
            let expected = MTU - if plan.c == V4.c { 40 } else { 60 };
            assert_eq!(packet[at..at + 2], expected.to_be_bytes());
        }
    }
}

#[test]
fn work_that_does_not_fit_the_packet_is_refused() {
    let mut node = Node::new(1);
    let large = filled(tcp(ACK), V4.c, V4.service, 3000);
    let (packet, good) = unfinished(&large, Some(1000));
    for bad in [
        Offload { l3_len: 24, ..good },
        Offload {
            checksum: L4Checksum::PartialUdp,
            ..good
        },
        Offload {
            checksum: L4Checksum::Complete,
            ..good
        },
        Offload {
            segment: Segment::Udp { size: 1000 },
            ..good
        },
        Offload {
            segment: Segment::Tcp { mss: 0 },
            ..good
        },
        // A container that asks for thousands of tiny segments would have the node work for it.
        Offload {
            segment: Segment::Tcp { mss: 1 },
            ..good
        },
    ] {
        let sent = node.dropping(Counter::Malformed, |n| {
            n.frame(C, &framed(mac(C), &packet), bad)
        });
        assert!(sent.is_empty(), "{bad:?}");
    }
    let message = filled(Kind::Udp, V4.c, V4.service, 3000);
    let (packet, good) = unfinished(&message, Some(1));
    node.dropping(Counter::Malformed, |n| {
        n.frame(C, &framed(mac(C), &packet), good)
    });
}

#[test]
fn a_damaged_piece_is_passed_on_as_it_is_for_its_receiver_to_drop() {
    let mut node = Node::new(1);
    let mut pieces: Vec<Vec<u8>> = (0..3u8)
        .map(|n| {
            Spec {
                payload: vec![n; 500],
                ..spec(tcp(ACK), V4.d_instance[0], V4.e)
            }
            .build()
        })
        .collect();
    let last = pieces[1].len() - 1;
    pieces[1][last] ^= 1;
    let sent = node.burst(0, AWAY, 0, &pieces);
    assert_eq!(sent.len(), 3);
}
