//! Frames, read back by an independent parser: headers, checksums, stamps.

// A test's own functions are tests too: clippy exempts only the marked ones.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use net::ethernet::Mac;
use net::packet::Headers;
use net::{Address, checksum};
use pktgen::frame::{Found, Kind, Stamp, Step, Template, Tuple, intact, least, syn_with_options};
use proptest::prelude::*;

const MACS: (Mac, Mac) = (Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2]));

fn tuple(v6: bool, bits: u128, ports: (u16, u16)) -> Tuple {
    let address = |n: u128| {
        if v6 {
            Address::v6((0xfd00 << 112 | n & ((1 << 100) - 1)).to_be_bytes())
        } else {
            Address::from_v4_bits(0x0a00_0000 | u32::try_from(n & 0x00ff_ffff).expect("24 bits"))
        }
    };
    Tuple {
        source: address(bits),
        destination: address(bits >> 24),
        source_port: ports.0,
        destination_port: ports.1,
    }
}

fn write(template: &Template, size: u32, tuple: &Tuple, stamp: &Stamp) -> Vec<u8> {
    // What an mbuf held before must not show.
    let mut frame = vec![0xa5; 2048];
    let written = template
        .write(&mut frame, size, tuple, stamp)
        .expect("there is room");
    frame.truncate(written.len);
    frame
}

fn check(frame: &[u8], tuple: &Tuple) {
    let packet = SlicedPacket::from_ethernet(frame).expect("a frame");
    let ethernet = packet
        .link
        .as_ref()
        .and_then(etherparse::LinkSlice::to_header)
        .expect("Ethernet");
    let ethernet = ethernet.ethernet2().expect("Ethernet II");
    assert_eq!(
        (ethernet.source, ethernet.destination),
        (MACS.0.0, MACS.1.0)
    );
    let (source, destination) = (tuple.source.to_ip(), tuple.destination.to_ip());
    let transport = packet.transport.expect("TCP or UDP");
    match packet.net.expect("IP") {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            assert_eq!(
                (source, destination),
                (
                    header.source_addr().into(),
                    header.destination_addr().into()
                )
            );
            assert_eq!(
                header.to_header().calc_header_checksum(),
                header.header_checksum()
            );
            let (from, to) = (header.source(), header.destination());
            match transport {
                TransportSlice::Udp(udp) => {
                    let expected = udp
                        .to_header()
                        .calc_checksum_ipv4_raw(from, to, udp.payload())
                        .expect("short");
                    assert_eq!(udp.checksum(), expected);
                }
                TransportSlice::Tcp(tcp) => {
                    let expected = tcp
                        .to_header()
                        .calc_checksum_ipv4_raw(from, to, tcp.payload())
                        .expect("short");
                    assert_eq!(tcp.checksum(), expected);
                }
                other => panic!("{other:?}"),
            }
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header();
            assert_eq!(
                (source, destination),
                (
                    header.source_addr().into(),
                    header.destination_addr().into()
                )
            );
            let (from, to) = (header.source(), header.destination());
            match transport {
                TransportSlice::Udp(udp) => {
                    let expected = udp
                        .to_header()
                        .calc_checksum_ipv6_raw(from, to, udp.payload())
                        .expect("short");
                    assert_eq!(udp.checksum(), expected);
                }
                TransportSlice::Tcp(tcp) => {
                    let expected = tcp
                        .to_header()
                        .calc_checksum_ipv6_raw(from, to, tcp.payload())
                        .expect("short");
                    assert_eq!(tcp.checksum(), expected);
                }
                other => panic!("{other:?}"),
            }
        }
        other => panic!("{other:?}"),
    }
}

fn read(frame: &[u8], run: u64) -> Option<Found> {
    let l3 = &frame[14..];
    let headers = Headers::parse(l3, l3.len()).expect("valid headers");
    assert!(intact(l3, &headers));
    Found::read(l3, &headers, run)
}

proptest! {
    #[test]
    fn udp_of_any_size_and_tuple_is_right(
        v6: bool,
        bits: u128,
        ports in (1u16.., 1u16..),
        more in 0u32..1400,
        flow in 0u32..1 << 31,
        warm_up: bool,
        sequence: u32,
        time in 0u64..1 << 62,
        run: u64,
    ) {
        let size = (least(Kind::Udp, v6) + more).min(1518);
        let tuple = tuple(v6, bits, ports);
        let stamp = Stamp { flow, warm_up, sequence, time };
        let template = Template::new(Kind::Udp, v6, MACS, 1518, run, false);
        let frame = write(&template, size, &tuple, &stamp);
        prop_assert_eq!(frame.len(), size as usize - 4);
        check(&frame, &tuple);
        let found = read(&frame, run).expect("our own");
        prop_assert_eq!((found.stamp, found.kind), (stamp, Kind::Udp));
        prop_assert_eq!(found.latency(time + 1234), Some(1234));
        prop_assert_eq!(read(&frame, run ^ 1), None, "another run's");
        // Any change of a byte of the payload is noticed.
        let mut changed = frame.clone();
        let at = changed.len() - 1 - (sequence as usize % (frame.len() - if v6 { 62 } else { 42 }));
        changed[at] ^= 1;
        let l3 = &changed[14..];
        let headers = Headers::parse(l3, l3.len()).expect("headers are whole");
        prop_assert!(!intact(l3, &headers));
    }

    #[test]
    fn syns_of_both_lengths_are_right(
        v6: bool,
        options: bool,
        bits: u128,
        ports in (1u16.., 1u16..),
        flow in 0u32..1 << 24,
        sequence: u32,
        time in 0u64..1 << 62,
        run: u64,
    ) {
        let size = if options { syn_with_options(v6) } else { least(Kind::TcpSyn, v6) };
        let tuple = tuple(v6, bits, ports);
        let stamp = Stamp { flow, warm_up: false, sequence, time };
        let template = Template::new(Kind::TcpSyn, v6, MACS, size, run, false);
        let frame = write(&template, size, &tuple, &stamp);
        prop_assert_eq!(frame.len(), size as usize - 4);
        check(&frame, &tuple);
        let found = read(&frame, run).expect("our own");
        prop_assert_eq!((found.stamp.flow, found.stamp.sequence, found.kind), (flow, sequence, Kind::TcpSyn));
        let latency = found.latency(time + 5_000_000);
        prop_assert_eq!(latency.is_some(), options);
        prop_assert!(latency.is_none_or(|latency| latency.abs_diff(5_000_000) <= 1024));
        prop_assert_eq!(read(&frame, run ^ 1), None);
    }

    #[test]
    fn the_segments_of_a_flow_open_use_and_close_it(
        v6: bool,
        options: bool,
        bits: u128,
        ports in (1u16.., 1u16..),
        service in 0u32..1 << 24,
        sequence: u32,
        run: u64,
    ) {
        let size = if options { syn_with_options(v6) } else { least(Kind::TcpFlow, v6) };
        let tuple = tuple(v6, bits, ports);
        let template = Template::new(Kind::TcpFlow, v6, MACS, size, run, false);
        for step in Step::ALL {
            let stamp = Stamp { flow: step.flow(service), warm_up: false, sequence, time: 1 << 30 };
            let frame = write(&template, size, &tuple, &stamp);
            check(&frame, &tuple);
            let found = read(&frame, run).expect("our own");
            prop_assert_eq!((found.stamp.flow, found.stamp.sequence, found.kind), (stamp.flow, sequence, Kind::TcpFlow));
            let packet = SlicedPacket::from_ethernet(&frame).expect("a frame");
            let Some(TransportSlice::Tcp(tcp)) = packet.transport else { panic!("no TCP") };
            let expected = match step {
                Step::Open => (true, false, false),
                Step::Use => (false, true, false),
                Step::Close => (false, true, true),
            };
            prop_assert_eq!((tcp.syn(), tcp.ack(), tcp.rst()), expected);
            prop_assert!(tcp.payload().is_empty() && !tcp.fin());
        }
    }

    /// What a device is to finish comes out the same.
    #[test]
    fn partial_checksums_hold_the_pseudo_headers_sum(v6: bool, syn: bool, bits: u128, sequence: u32, run: u64) {
        let kind = if syn { Kind::TcpSyn } else { Kind::Udp };
        let size = least(kind, v6);
        let tuple = tuple(v6, bits, (5, 6));
        let stamp = Stamp { flow: 3, warm_up: true, sequence, time: 99 };
        let whole = write(&Template::new(kind, v6, MACS, size, run, false), size, &tuple, &stamp);
        let mut partial = write(&Template::new(kind, v6, MACS, size, run, true), size, &tuple, &stamp);
        let headers = Headers::parse(&whole[14..], whole.len() - 14).expect("valid");
        let l4 = 14 + usize::from(headers.l4_offset);
        let field = l4 + if syn { 16 } else { 6 };
        prop_assert_eq!([partial[field], partial[field + 1]], headers.pseudo_header().to_be_bytes());
        let finished = !checksum::sum(&partial[l4..14 + headers.total_len]);
        let finished = if syn { finished } else { checksum::udp_field(finished) };
        partial[field..field + 2].copy_from_slice(&finished.to_be_bytes());
        prop_assert_eq!(partial, whole);
    }
}

#[test]
fn a_flood_of_syns_is_what_a_host_would_send() {
    let template = Template::new(Kind::TcpSyn, false, MACS, 78, 1, false);
    for n in 0..1000u16 {
        let tuple = tuple(false, u128::from(n), (1024 + n, 80));
        let stamp = Stamp {
            flow: 1,
            warm_up: false,
            sequence: n.into(),
            time: u64::from(n) << 20,
        };
        let frame = write(&template, 78, &tuple, &stamp);
        let packet = SlicedPacket::from_ethernet(&frame).expect("a frame");
        let Some(TransportSlice::Tcp(tcp)) = packet.transport else {
            panic!("no TCP")
        };
        assert!(tcp.syn() && !tcp.ack() && !tcp.rst() && !tcp.fin() && !tcp.psh() && !tcp.urg());
        assert_eq!((tcp.source_port(), tcp.destination_port()), (1024 + n, 80));
        assert!(tcp.payload().is_empty());
        use etherparse::TcpOptionElement::{
            MaximumSegmentSize, Noop, SelectiveAcknowledgementPermitted, Timestamp, WindowScale,
        };
        let options: Vec<_> = tcp
            .options_iterator()
            .map(|option| option.expect("valid"))
            .collect();
        assert_eq!(
            options,
            [
                MaximumSegmentSize(1460),
                SelectiveAcknowledgementPermitted,
                Timestamp(u32::from(n) << 10, 0),
                Noop,
                WindowScale(7),
            ]
        );
    }
}

#[test]
fn other_packets_are_not_taken_for_ours() {
    let template = Template::new(Kind::Udp, false, MACS, 64, 9, false);
    let stamp = Stamp {
        flow: 0,
        warm_up: false,
        sequence: 0,
        time: 0,
    };
    let frame = write(&template, 64, &tuple(false, 1, (1, 2)), &stamp);
    let mut other = frame.clone();
    other[42..60].fill(0);
    let headers = Headers::parse(&other[14..], 46).expect("valid");
    assert_eq!(
        Found::read(&other[14..], &headers, 9),
        None,
        "zeros are no stamp"
    );
    assert!(
        template
            .write(&mut [0; 59], 64, &tuple(false, 1, (1, 2)), &stamp)
            .is_none(),
        "no room"
    );
    assert!(
        template
            .write(&mut [0; 2000], 1518, &tuple(false, 1, (1, 2)), &stamp)
            .is_none(),
        "too long for it"
    );
}
