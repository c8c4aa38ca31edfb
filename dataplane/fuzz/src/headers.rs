//! The target `net`: a few bytes of choices, then any bytes as an IP packet. Whatever parses is edited in every way
//! that the data plane knows.

use etherparse::{IpNumber, IpSlice};
use net::address::Address;
use net::answer::{self, Failure};
use net::arp;
use net::checksum::Accumulator;
use net::coalesce::{Joint, Offer};
use net::ethernet::{self, Mac};
use net::finish;
use net::mss;
use net::ndp;
use net::packet::{Fragment, Headers, Icmp, ParseError, Protocol, Version};
use net::rewrite::{self, AddressChange, L4State, Ttl};
use net::segment::{Plan, Sum};

use crate::judge;
use crate::script::Script;

const MAC: Mac = Mac([2, 0x6f, 0x61, 0x6b, 0, 1]);

/// What an input chooses before its packet begins.
struct Choices {
    repaired: bool,
    cut: usize,
    size: u16,
    limit: u16,
    source: [u8; 16],
    destination: [u8; 16],
}

impl Choices {
    fn address(&self, octets: [u8; 16], like: Version) -> Address {
        match like {
            Version::V4 => Address::from_v4_bits(u32::from_be_bytes(*octets.last_chunk().unwrap())),
            // Never one that would pass for IPv4.
            Version::V6 => Address(u128::from_be_bytes(octets) | 1 << 127),
        }
    }

    fn change(&self, headers: &Headers) -> AddressChange {
        AddressChange::new(
            headers.source,
            self.address(self.source, headers.version),
            headers.destination,
            self.address(self.destination, headers.version),
        )
        .unwrap()
    }
}

/// Runs one input.
///
/// # Panics
/// When a promise is broken.
pub fn run(input: &[u8]) {
    let mut script = Script::new(input);
    let choices = Choices {
        repaired: script.byte() & 1 == 0,
        cut: usize::from(script.byte()),
        size: script.word(),
        limit: script.word(),
        source: std::array::from_fn(|_| script.byte()),
        destination: std::array::from_fn(|_| script.byte()),
    };
    let mut l3 = script.rest().to_vec();
    link_layer(&l3);
    if choices.repaired {
        judge::repair(&mut l3);
    }
    let parsed = Headers::parse(&l3, l3.len());
    prefixes(&l3, parsed, choices.cut);
    let Ok(headers) = parsed else { return };
    sound(&l3, &headers);
    another_parser(&l3, &headers);
    l3.truncate(headers.total_len);
    let headers = Headers {
        padding: 0,
        ..headers
    };
    addresses(&l3, &headers, &choices);
    hop_and_tos(&l3, &headers, choices.cut);
    clamped(&l3, &headers, choices.limit);
    quote(&l3, &headers, &choices);
    finished(&l3, &headers);
    pieces(&l3, &headers, &choices);
    answers(&l3, &headers, &choices);
}

fn link_layer(bytes: &[u8]) {
    if let Some(header) = ethernet::Header::parse(bytes) {
        assert_eq!(header.to_bytes(), bytes[..ethernet::HEADER_LEN]);
    }
    if let Some(request) = arp::Packet::parse(bytes) {
        assert_eq!(arp::Packet::parse(&request.to_bytes()), Some(request));
        let mut frame = [0; answer::ARP_REPLY_LEN];
        if answer::arp_reply(&mut frame, &request, MAC).is_some() {
            let reply = arp::Packet::parse(&frame[ethernet::HEADER_LEN..]).unwrap();
            assert_eq!(
                (reply.sender, reply.target),
                (request.target, request.sender)
            );
        }
    }
}

// A packet whose first buffer ends early parses the same, or asks for more than is there.
fn prefixes(l3: &[u8], whole: Result<Headers, ParseError>, cut: usize) {
    let prefix = &l3[..cut.min(l3.len())];
    match Headers::parse(prefix, l3.len()) {
        Err(ParseError::NotContiguous { needed }) => {
            assert!(
                needed > prefix.len() && needed <= l3.len(),
                "{needed} of {}",
                l3.len()
            );
        }
        early => assert!(early == whole || prefix.is_empty(), "{early:?}, {whole:?}"),
    }
}

fn sound(l3: &[u8], headers: &Headers) {
    assert_eq!(headers.total_len + headers.padding, l3.len());
    assert!(headers.l4_offset <= headers.header_len);
    assert!(usize::from(headers.header_len) <= headers.total_len);
    let v4 = headers.version == Version::V4;
    assert!(headers.source.is_v4() == v4 && headers.destination.is_v4() == v4);
    assert_eq!(
        judge::header_residue(l3),
        0,
        "a wrong header checksum passed"
    );
}

// etherparse is laxer and stricter in places; where both are content they have read the same.
fn another_parser(l3: &[u8], headers: &Headers) {
    let Ok(ip) = IpSlice::from_slice(&l3[..headers.total_len]) else {
        return;
    };
    assert_eq!(Address::from(ip.source_addr()), headers.source);
    assert_eq!(Address::from(ip.destination_addr()), headers.destination);
    let payload = ip.payload();
    if payload.ip_number.0 != headers.protocol.0
        || payload.ip_number == IpNumber::AUTHENTICATION_HEADER
    {
        // It goes on into what is opaque here (authentication headers), or stops earlier.
        return;
    }
    assert_eq!(payload.payload.len(), headers.l4_len());
    assert_eq!(payload.fragmented, headers.fragment != Fragment::None);
    if payload.fragmented {
        return;
    }
    let l4 = payload.payload;
    match payload.ip_number {
        IpNumber::TCP => {
            let tcp = etherparse::TcpSlice::from_slice(l4).unwrap();
            assert_eq!(
                (tcp.source_port(), tcp.destination_port()),
                (headers.source_port, headers.destination_port)
            );
            assert_eq!(tcp.payload().len(), headers.payload_len());
        }
        IpNumber::UDP => {
            if let Ok(udp) = etherparse::UdpSlice::from_slice(l4) {
                assert_eq!(
                    (udp.source_port(), udp.destination_port()),
                    (headers.source_port, headers.destination_port)
                );
            }
        }
        _ => {}
    }
}

// The same packet, but for a checksum that may read 0 as 65535.
fn same(one: &[u8], other: &[u8], fields: &[Option<usize>]) {
    assert_eq!(one.len(), other.len());
    let (mut one, mut other) = (one.to_vec(), other.to_vec());
    for &at in fields.iter().flatten() {
        for bytes in [&mut one, &mut other] {
            if bytes[at..at + 2] == [0xff, 0xff] {
                bytes[at..at + 2].fill(0);
            }
        }
    }
    assert_eq!(one, other);
}

fn addresses(l3: &[u8], headers: &Headers, choices: &Choices) {
    let change = choices.change(headers);
    for state in [L4State::Finished, L4State::Partial, L4State::Absent] {
        let (mut bytes, mut now) = (l3.to_vec(), *headers);
        let before = judge::transport_residue(l3, headers);
        change.apply(&mut bytes, &mut now, state).unwrap();
        assert_eq!(
            Headers::parse(&bytes, bytes.len()),
            Ok(now),
            "headers are not true any more"
        );
        assert_eq!(
            (now.source, now.destination),
            (change.source(), change.destination())
        );
        if state == L4State::Finished {
            assert_eq!(
                judge::transport_residue(&bytes, &now),
                before,
                "transport checksum"
            );
        }
        if state == L4State::Partial
            && let Some(at) = headers.pseudo_checksum_at()
        {
            let off = |bytes: &[u8], headers: &Headers| {
                let field = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
                let right = judge::pseudo(headers, headers.l4_len());
                (u32::from(field) + 0xffff - u32::from(right)) % 0xffff
            };
            assert_eq!(off(&bytes, &now), off(l3, headers), "partial checksum");
        }
        let back = AddressChange::new(
            now.source,
            headers.source,
            now.destination,
            headers.destination,
        );
        back.unwrap().apply(&mut bytes, &mut now, state).unwrap();
        let v4 = headers.version == Version::V4;
        same(
            l3,
            &bytes,
            &[v4.then_some(10), headers.pseudo_checksum_at()],
        );
        assert_eq!(now, *headers);
    }
    // What is not the packet is refused, whatever it is.
    for length in [0, 1, 19, 20, 39, 40] {
        let mut short = l3[..length.min(l3.len())].to_vec();
        let _ = change.apply(&mut short, &mut headers.clone(), L4State::Finished);
    }
}

fn hop_and_tos(l3: &[u8], headers: &Headers, tos: usize) {
    let (mut bytes, mut now) = (l3.to_vec(), *headers);
    match rewrite::decrement_ttl(&mut bytes, &mut now).unwrap() {
        Ttl::Left => assert_eq!(now.ttl + 1, headers.ttl),
        Ttl::Expired => assert!(headers.ttl <= 1 && bytes == l3),
    }
    assert_eq!(Headers::parse(&bytes, bytes.len()), Ok(now));
    let tos = tos.to_le_bytes()[0];
    rewrite::set_tos(&mut bytes, &mut now, tos).unwrap();
    assert_eq!(Headers::parse(&bytes, bytes.len()), Ok(now));
    assert_eq!(now.tos, tos);
    assert_eq!(
        judge::transport_residue(&bytes, &now),
        judge::transport_residue(l3, headers)
    );
}

fn clamped(l3: &[u8], headers: &Headers, limit: u16) {
    for state in [L4State::Finished, L4State::Partial] {
        let mut bytes = l3.to_vec();
        let Some(old) = mss::clamp(&mut bytes, headers, limit, state).unwrap() else {
            assert_eq!(bytes, l3);
            continue;
        };
        assert!(headers.protocol == Protocol::TCP && old > limit);
        assert_eq!(Headers::parse(&bytes, bytes.len()), Ok(*headers));
        if state == L4State::Finished {
            assert_eq!(
                judge::transport_residue(&bytes, headers),
                judge::transport_residue(l3, headers)
            );
        }
        assert_eq!(mss::clamp(&mut bytes, headers, limit, state).unwrap(), None);
    }
}

fn quote(l3: &[u8], headers: &Headers, choices: &Choices) {
    let Ok(quoted) = headers.quoted(l3) else {
        return;
    };
    assert!(matches!(headers.icmp, Icmp::Error { .. }));
    assert!(quoted.offset <= quoted.l4_offset && quoted.l4_offset <= quoted.end);
    assert!(usize::from(quoted.end) <= headers.total_len);
    let change = AddressChange::new(
        quoted.source,
        choices.address(choices.source, quoted.version),
        quoted.destination,
        choices.address(choices.destination, quoted.version),
    )
    .unwrap();
    let (mut bytes, mut now) = (l3.to_vec(), quoted);
    change
        .apply_to_quote(&mut bytes, headers, &mut now)
        .unwrap();
    assert_eq!(
        headers.quoted(&bytes),
        Ok(now),
        "the quote is not read as it was written"
    );
    assert_eq!(
        judge::transport_residue(&bytes, headers),
        judge::transport_residue(l3, headers),
        "the error's own checksum"
    );
    let back = AddressChange::new(
        now.source,
        quoted.source,
        now.destination,
        quoted.destination,
    );
    back.unwrap()
        .apply_to_quote(&mut bytes, headers, &mut now)
        .unwrap();
    let v4 = headers.version == Version::V4;
    let inner = quoted
        .protocol
        .pseudo_checksum_offset()
        .map(|offset| usize::from(quoted.l4_offset) + offset)
        .filter(|&at| at + 2 <= usize::from(quoted.end) && !quoted.fragment.is_later());
    let fields = [
        v4.then_some(usize::from(quoted.offset) + 10),
        inner,
        Some(usize::from(headers.l4_offset) + 2),
    ];
    same(l3, &bytes, &fields);
}

fn finished(l3: &[u8], headers: &Headers) {
    let judged = finish::is_right(headers, [l3]);
    let residue = judge::transport_residue(l3, headers);
    if headers.fragment == Fragment::None
        && matches!(headers.protocol, Protocol::TCP | Protocol::ICMPV6)
        && let Some(residue) = residue
    {
        assert_eq!(judged, residue == 0);
    }
    let half = usize::from(headers.header_len).min(l3.len());
    let (front, back) = l3.split_at(half);
    assert_eq!(
        finish::is_right(headers, [front, back]),
        judged,
        "in two pieces"
    );
    let mut bytes = l3.to_vec();
    if headers.protocol != Protocol::SCTP {
        let Some(at) = headers.pseudo_checksum_at() else {
            return;
        };
        let pseudo = judge::pseudo(headers, headers.l4_len());
        bytes[at..at + 2].copy_from_slice(&pseudo.to_be_bytes());
    }
    let (front, back) = bytes.split_at(half);
    let Ok(checksum) = finish::partial(headers, [front, back]) else {
        return;
    };
    checksum.write(&mut bytes).unwrap();
    assert!(finish::is_right(headers, [&bytes[..]]), "finished wrong");
    if headers.protocol == Protocol::SCTP {
        let l4 = &bytes[usize::from(headers.l4_offset)..headers.total_len];
        assert_eq!(l4[8..12], judge::crc32c(l4));
    } else {
        assert_eq!(judge::transport_residue(&bytes, headers).unwrap_or(0), 0);
    }
}

fn pieces(l3: &[u8], headers: &Headers, choices: &Choices) {
    let Some(plan) = Plan::new(headers, choices.size) else {
        return;
    };
    // A plan for more pieces than anybody makes costs time and shows nothing new.
    if plan.count() > 64 {
        return;
    }
    let mut cut = Vec::new();
    let mut payload = Vec::new();
    for k in 0..plan.count() {
        let range = plan.payload(k);
        let mut sum = Accumulator::new();
        sum.add(&l3[range.clone()]);
        let mut piece = vec![0; 600];
        let length = plan
            .write_header(k, l3, &mut piece, Sum::Payload(sum.sum()))
            .unwrap();
        piece.truncate(length);
        piece.extend_from_slice(&l3[range.clone()]);
        payload.extend_from_slice(&l3[range]);
        let found = Headers::parse(&piece, piece.len()).unwrap();
        assert_eq!(
            (found.source, found.destination),
            (headers.source, headers.destination)
        );
        assert_eq!((found.padding, found.header_len), (0, headers.header_len));
        assert_eq!(
            judge::transport_residue(&piece, &found).unwrap_or(0),
            0,
            "a piece's checksum"
        );
        assert!(found.payload_len() <= usize::from(choices.size));
        cut.push((piece, found));
    }
    assert_eq!(
        payload,
        l3[usize::from(headers.header_len)..],
        "bytes were lost or doubled"
    );
    assert!(
        plan.write_header(plan.count(), l3, &mut [0; 600], Sum::Pseudo)
            .is_err()
    );
    join(&cut, &payload);
}

// What was cut in order joins again to the same stream, unless a part is not to be joined at all.
fn join(cut: &[(Vec<u8>, Headers)], payload: &[u8]) {
    let [(first, headers), rest @ ..] = cut else {
        return;
    };
    let Some(mut joint) = Joint::begin(first, headers) else {
        return;
    };
    let mut whole = first.clone();
    let mut joined = 1;
    for (piece, found) in rest {
        match joint.offer(&whole, piece, found) {
            Offer::Refused => break,
            offer => {
                whole.extend_from_slice(&piece[usize::from(found.header_len)..]);
                joined += 1;
                if offer == Offer::JoinedLast {
                    break;
                }
            }
        }
    }
    let large = joint.write_header(&mut whole).unwrap();
    assert_eq!(joint.count(), joined);
    assert_eq!(Headers::parse(&whole, whole.len()), Ok(large));
    let at = usize::from(large.header_len);
    assert!(payload.starts_with(&whole[at..]), "joined out of order");
    let checksum = finish::partial(&large, [&whole[..]]).unwrap();
    checksum.write(&mut whole).unwrap();
    assert_eq!(judge::transport_residue(&whole, &large), Some(0));
}

fn answers(l3: &[u8], headers: &Headers, choices: &Choices) {
    let gateway = choices.address(choices.source, headers.version);
    let right = |packet: &[u8], longest: usize| {
        assert!(packet.len() <= longest);
        let found = Headers::parse(packet, packet.len()).unwrap();
        assert_eq!((found.padding, found.destination), (0, headers.source));
        assert_eq!(judge::header_residue(packet), 0);
        assert_eq!(judge::transport_residue(packet, &found), Some(0));
        found
    };
    let mtu = u32::from(choices.size);
    for failure in [
        Failure::NoRoute,
        Failure::HostUnreachable,
        Failure::PortUnreachable,
        Failure::Prohibited,
        Failure::TtlExpired,
        Failure::ReassemblyTimedOut,
        Failure::TooBig { mtu },
    ] {
        let mut into = [0; 2000];
        if let Ok(length) = answer::icmp_error(&mut into, l3, headers, gateway, failure) {
            let longest = match headers.version {
                Version::V4 => answer::ICMP_ERROR_MAX_V4,
                Version::V6 => answer::ICMP_ERROR_MAX_V6,
            };
            let found = right(&into[..length], longest);
            assert_eq!(found.source, gateway);
            if let Ok(quoted) = found.quoted(&into[..length]) {
                assert_eq!(
                    (quoted.source, quoted.destination),
                    (headers.source, headers.destination)
                );
                assert_eq!(quoted.source_port, headers.source_port);
            }
        }
        let mut little = vec![0; choices.cut];
        let _ = answer::icmp_error(&mut little, l3, headers, gateway, failure);
    }
    let mut into = [0; 100];
    if let Ok(length) = answer::tcp_reset(&mut into, l3, headers) {
        let found = right(&into[..length], 60);
        assert_eq!(found.source, headers.destination);
        assert_eq!(
            (found.source_port, found.destination_port),
            (headers.destination_port, headers.source_port)
        );
    }
    let (mut bytes, mut now) = (l3.to_vec(), *headers);
    if answer::echo_reply(&mut bytes, &mut now, L4State::Finished).is_ok() {
        assert_eq!(Headers::parse(&bytes, bytes.len()), Ok(now));
        assert_eq!(
            (now.icmp, now.destination),
            (Icmp::EchoReply, headers.source)
        );
        assert_eq!(
            judge::transport_residue(&bytes, &now),
            judge::transport_residue(l3, headers)
        );
    }
    if let Some(solicitation) = ndp::Solicitation::parse(l3, headers) {
        let mut into = [0; 100];
        let length = answer::neighbour_advertisement(&mut into, &solicitation, MAC).unwrap();
        let found = Headers::parse(&into[..length], length).unwrap();
        assert_eq!(found.source, solicitation.target);
        assert_eq!(judge::transport_residue(&into[..length], &found), Some(0));
    }
}
