//! The short way does what the general way does, and refuses what is not plain.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod packets;

use net::packet::{Fragment, Headers, Protocol};
use net::plain::{Family, V4, V6};
use net::rewrite::{self, AddressChange, L4State, Ttl};
use packets::{Kind, Spec, assert_right, host, spec};
use proptest::prelude::*;

/// Whether the general reading says that a packet is what [`Plain`] is for.
fn is_plain(packet: &[u8], headers: &Headers) -> bool {
    let l3 = if headers.source.is_v4() { 20 } else { 40 };
    let transport = match headers.protocol {
        Protocol::UDP => true,
        // SYN, FIN and RST.
        Protocol::TCP => packet[usize::from(headers.l4_offset) + 13] & 7 == 0,
        _ => false,
    };
    transport
        && usize::from(headers.l4_offset) == l3
        && headers.fragment == Fragment::None
        && headers.ttl > 1
}

/// Reads a packet the short way and gives it new addresses, and holds both against the general way.
fn holds<F: Family + PartialEq + std::fmt::Debug>(
    spec: &Spec,
    new: F,
    padding: usize,
) -> Result<(), TestCaseError> {
    let packet = spec.build();
    let mut padded = packet.clone();
    padded.resize(packet.len() + padding, 0);
    let mut headers = Headers::parse(&packet, packet.len()).unwrap();
    let Some(plain) = F::parse(&padded, padded.len()) else {
        prop_assert!(!is_plain(&packet, &headers), "refused {headers:?}");
        return Ok(());
    };
    prop_assert!(is_plain(&packet, &headers), "accepted {headers:?}");
    let ports = u32::from(headers.source_port) << 16 | u32::from(headers.destination_port);
    prop_assert_eq!(plain.ports, ports);
    prop_assert_eq!(
        (plain.addresses.source(), plain.addresses.destination()),
        (headers.source, headers.destination)
    );
    prop_assert_eq!(
        (
            usize::from(plain.total_len),
            plain.protocol,
            plain.tos,
            F::HEADER_LEN
        ),
        (
            headers.total_len,
            headers.protocol,
            headers.tos,
            usize::from(headers.l4_offset)
        )
    );

    let mut delivered = packet.clone();
    prop_assert!(plain.deliver(&mut delivered, new));
    assert_right(&delivered);
    let as_delivered = Headers::parse(&delivered, delivered.len()).unwrap();
    prop_assert_eq!(as_delivered.ttl, spec.ttl);

    let mut short = packet.clone();
    prop_assert!(plain.forward(&mut short, new));
    assert_right(&short);
    let mut long = packet;
    prop_assert_eq!(
        rewrite::decrement_ttl(&mut long, &mut headers).unwrap(),
        Ttl::Left
    );
    AddressChange::new(
        spec.source,
        new.source(),
        spec.destination,
        new.destination(),
    )
    .unwrap()
    .apply(&mut long, &mut headers, L4State::Finished)
    .unwrap();
    prop_assert_eq!(
        Headers::parse(&short, short.len()),
        Headers::parse(&long, long.len())
    );
    prop_assert_eq!(Headers::parse(&short, short.len()).unwrap(), headers);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn it_reads_and_writes_as_the_general_way_does(
        (spec, source, destination) in spec(200).prop_flat_map(|spec| {
            let v4 = spec.v4();
            (Just(spec), host(v4), host(v4))
        }),
        padding in 0usize..20,
    ) {
        match spec.v4() {
            true => {
                let new = V4::new(source.v4_bits(), destination.v4_bits());
                holds(&spec, new, padding)?;
                prop_assert_eq!(V6::parse(&spec.build(), 2000), None);
            }
            false => {
                holds(&spec, V6(source, destination), padding)?;
                prop_assert_eq!(V4::parse(&spec.build(), 2000), None);
            }
        }
    }

    #[test]
    fn any_bytes_are_refused_or_are_a_packet(bytes in proptest::collection::vec(any::<u8>(), 0..120), claimed in 0usize..200) {
        let pkt_len = bytes.len().max(claimed);
        if V4::parse(&bytes, pkt_len).is_some() || V6::parse(&bytes, pkt_len).is_some() {
            prop_assert!(Headers::parse(&bytes, pkt_len).is_ok());
        }
    }
}

#[test]
fn a_datagram_without_a_checksum_stays_without() {
    let spec = Spec::plain(true, Kind::UdpBare, b"payload");
    let mut packet = spec.build();
    let plain = V4::parse(&packet, packet.len()).unwrap();
    assert!(plain.forward(&mut packet, V4::new(0x0a1e_0009, 0x0a12_0046)));
    assert_eq!(&packet[26..28], &[0, 0]);
}

#[test]
fn a_wrong_header_checksum_is_not_plain() {
    let mut packet = Spec::plain(true, Kind::Udp, b"payload").build();
    packet[10] ^= 1;
    assert_eq!(V4::parse(&packet, packet.len()), None);
}
