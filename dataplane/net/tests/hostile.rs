//! Whatever arrives, nothing panics: not the parse, not an edit with headers that fit other bytes.
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod packets;

use net::answer::{self, Failure};
use net::coalesce::Joint;
use net::ethernet::{self, Mac};
use net::ndp::Solicitation;
use net::packet::Headers;
use net::rewrite::{self, AddressChange, L4State};
use net::segment::{Plan, Sum};
use net::{arp, checksum, finish, fragment, icmp, mss};
use packets::{host, spec};
use proptest::prelude::*;

/// Does everything to `bytes` that can be done with `headers`, right or wrong.
fn everything(bytes: &[u8], headers: &Headers, source: net::Address, destination: net::Address) {
    for state in [L4State::Finished, L4State::Partial, L4State::Absent] {
        let mut l3 = bytes.to_vec();
        let mut h = *headers;
        if let Some(change) = AddressChange::new(h.source, source, h.destination, destination) {
            let _ = change.apply(&mut l3, &mut h, state);
            if let Ok(mut quoted) = headers.quoted(bytes) {
                let _ = change.apply_to_quote(&mut l3, headers, &mut quoted);
                // A quote read from other bytes.
                let mut short = bytes.get(..bytes.len() / 2).unwrap_or_default().to_vec();
                let _ = change.apply_to_quote(&mut short, headers, &mut quoted);
            }
        }
        let _ = rewrite::decrement_ttl(&mut l3, &mut h);
        let _ = rewrite::set_tos(&mut l3, &mut h, 0xff);
        let _ = mss::clamp(&mut l3, headers, 500, state);
        let _ = answer::echo_reply(&mut l3, &mut h, state);
    }
    let mut into = [0; 1500];
    for failure in [Failure::NoRoute, Failure::TooBig { mtu: u32::MAX }] {
        let _ = answer::icmp_error(&mut into, bytes, headers, source, failure);
    }
    let _ = answer::tcp_reset(&mut into, bytes, headers);
    let _ = Solicitation::parse(bytes, headers)
        .map(|s| answer::neighbour_advertisement(&mut into, &s, Mac::default()));
    let _ = finish::is_right(headers, [bytes]);
    let mut l3 = bytes.to_vec();
    if let Ok(sum) = finish::partial(headers, bytes.chunks(7)) {
        let _ = sum.write(&mut l3);
    }
    if let Some(plan) = Plan::new(headers, 3) {
        for k in [0, 1, plan.count(), usize::MAX] {
            let _ = plan.payload(k);
            let _ = plan.write_header(k, bytes, &mut into, Sum::Pseudo);
        }
    }
    for mtu in [0, 28, 68, 1300, u16::MAX] {
        let plans = [
            fragment::Plan::of_v4(headers, bytes, mtu),
            fragment::Plan::of_own_v6(headers, mtu, 7),
        ];
        for plan in plans.into_iter().flatten() {
            for k in [0, 1, plan.count(), usize::MAX] {
                let _ = plan.payload(k);
                let _ = plan.write_header(k, bytes, &mut into);
                let _ = plan.write_header(k, bytes.get(..21).unwrap_or(bytes), &mut into);
            }
        }
    }
    if let Some(mut joint) = Joint::begin(bytes, headers) {
        let _ = joint.offer(bytes, bytes, headers);
        let _ = joint.write_header(&mut l3);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn arbitrary_bytes(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), version in 0u8..3, len in 0usize..70_000, addresses in (host(true), host(false))) {
        if let (Some(first), 1 | 2) = (bytes.first_mut(), version) {
            *first = if version == 1 { 0x45 } else { 0x60 };
        }
        let real = bytes.len();
        for pkt_len in [real, len] {
            if let Ok(headers) = Headers::parse(&bytes, pkt_len) {
                everything(&bytes, &headers, addresses.0, addresses.0);
                everything(&bytes, &headers, addresses.1, addresses.1);
            }
        }
        let _ = ethernet::Header::parse(&bytes);
        let _ = arp::Packet::parse(&bytes);
        let _ = icmp::reported_mtu(&bytes, version == 1);
        let _ = checksum::sum(&bytes);
    }

    /// Real packets with damage, so that the damage gets past the first checks.
    #[test]
    fn damaged_packets(spec in spec(100), hits in proptest::collection::vec((0usize..120, any::<u8>()), 0..4), error in any::<bool>()) {
        let mut bytes = spec.build();
        if error {
            let headers = Headers::parse(&bytes, bytes.len()).unwrap();
            let mut into = [0; 1300];
            let len = answer::icmp_error(&mut into, &bytes, &headers, spec.destination, Failure::NoRoute).unwrap();
            bytes = into[..len].to_vec();
        }
        let whole = Headers::parse(&bytes, bytes.len()).unwrap();
        for (at, value) in hits {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        if spec.v4() && bytes.len() >= 20 {
            let len = (usize::from(bytes[0] & 15) * 4).min(bytes.len());
            bytes[10..12].fill(0);
            let sum = !checksum::sum(&bytes[..len]);
            bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        if let Ok(headers) = Headers::parse(&bytes, bytes.len()) {
            prop_assert!(usize::from(headers.l4_offset) <= usize::from(headers.header_len));
            prop_assert!(usize::from(headers.header_len) <= headers.total_len && headers.total_len <= bytes.len());
            everything(&bytes, &headers, spec.source, spec.destination);
        }
        // Headers of a packet that these bytes are not any more, or only a part of.
        for cut in 0..bytes.len() {
            everything(&bytes[..cut], &whole, spec.source, spec.destination);
        }
    }
}
