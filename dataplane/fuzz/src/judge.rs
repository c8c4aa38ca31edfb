//! Checksums by the book: a plain sum over plain bytes, so that the code under test is not its own witness.

use net::packet::{Fragment, Headers, Protocol, Version};

/// The ones' complement sum of some bytes, folded.
#[must_use]
pub fn sum(bytes: &[u8]) -> u16 {
    let mut total = 0u64;
    for pair in bytes.chunks(2) {
        total += u64::from(pair[0]) << 8 | pair.get(1).map_or(0, |&low| u64::from(low));
    }
    while total >> 16 != 0 {
        total = (total & 0xffff) + (total >> 16);
    }
    u16::try_from(total).unwrap()
}

/// The sum of a packet's pseudo-header (RFC 9293 section 3.1, RFC 8200 section 8.1).
#[must_use]
pub fn pseudo(headers: &Headers, l4_len: usize) -> u16 {
    let mut bytes = Vec::with_capacity(40);
    match (headers.source.v4_octets(), headers.destination.v4_octets()) {
        (Some(source), Some(destination)) => {
            bytes.extend_from_slice(&source);
            bytes.extend_from_slice(&destination);
        }
        _ => {
            bytes.extend_from_slice(&headers.source.octets());
            bytes.extend_from_slice(&headers.destination.octets());
        }
    }
    bytes.extend_from_slice(&u32::try_from(l4_len).unwrap().to_be_bytes());
    bytes.extend_from_slice(&[0, headers.protocol.0]);
    sum(&bytes)
}

/// What a checksum is off by: zero means right. Ones' complement has two zeros, so sums compare modulo 65535.
#[must_use]
pub fn residue(sum: u16) -> u16 {
    sum % 0xffff
}

/// What the IPv4 header checksum is off by; zero for IPv6, which has none.
#[must_use]
pub fn header_residue(l3: &[u8]) -> u16 {
    if l3[0] >> 4 != 4 {
        return 0;
    }
    residue(sum(&l3[..usize::from(l3[0] & 15) * 4]))
}

/// What the transport checksum is off by; `None` where the packet has none that can be judged: a fragment, another
/// protocol, UDP without one.
#[must_use]
pub fn transport_residue(l3: &[u8], headers: &Headers) -> Option<u16> {
    if headers.fragment != Fragment::None {
        return None;
    }
    let l4 = &l3[usize::from(headers.l4_offset)..headers.total_len];
    let whole = sum(l4);
    match (headers.protocol, headers.version) {
        (Protocol::ICMP, Version::V4) => Some(residue(whole)),
        // Over IPv6 there must be one; without it the packet is for its receiver to refuse, and no edit may hide that.
        (Protocol::UDP, _) if l4[6..8] == [0, 0] => None,
        // UDP-Lite's may cover a part only.
        (Protocol::UDP_LITE, _) => None,
        (Protocol::TCP | Protocol::UDP, _) | (Protocol::ICMPV6, Version::V6) => {
            let total = u32::from(whole) + u32::from(pseudo(headers, l4.len()));
            Some(u16::try_from(total % 0xffff).unwrap())
        }
        _ => None,
    }
}

/// SCTP's checksum (RFC 9260 appendix A), bit by bit.
#[must_use]
pub fn crc32c(l4: &[u8]) -> [u8; 4] {
    let mut crc = u32::MAX;
    for (at, &byte) in l4.iter().enumerate() {
        crc ^= u32::from(if (8..12).contains(&at) { 0 } else { byte });
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    (!crc).to_le_bytes()
}

/// Puts right every checksum that the packet has. What does not parse stays as it is.
pub fn repair(l3: &mut [u8]) {
    if l3.len() >= 20 && l3[0] >> 4 == 4 {
        let end = usize::from(l3[0] & 15) * 4;
        if (20..=l3.len()).contains(&end) {
            l3[10..12].fill(0);
            let checksum = !sum(&l3[..end]);
            l3[10..12].copy_from_slice(&checksum.to_be_bytes());
        }
    }
    let Ok(headers) = Headers::parse(l3, l3.len()) else {
        return;
    };
    if headers.fragment != Fragment::None {
        return;
    }
    let l4 = usize::from(headers.l4_offset)..headers.total_len;
    if headers.protocol == Protocol::SCTP {
        let crc = crc32c(&l3[l4.clone()]);
        l3[l4][8..12].copy_from_slice(&crc);
    } else if transport_residue(l3, &headers).is_some() {
        let at = l4.start
            + match headers.protocol {
                Protocol::TCP => 16,
                Protocol::UDP => 6,
                _ => 2,
            };
        l3[at..at + 2].fill(0);
        let mut total = u32::from(sum(&l3[l4.clone()]));
        if headers.protocol != Protocol::ICMP {
            total += u32::from(pseudo(&headers, l4.len()));
        }
        let folded = u16::try_from((total & 0xffff) + (total >> 16)).unwrap();
        let checksum = match (headers.protocol, !folded) {
            (Protocol::UDP, 0) => 0xffff,
            (_, checksum) => checksum,
        };
        l3[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    }
}
