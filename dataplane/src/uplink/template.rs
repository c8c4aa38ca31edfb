//! The headers in front of an inner packet, written once for each host and copied for each datagram.
//!
//! Towards one host all of Ethernet, IPv4 and UDP stays the same but two lengths, the type of service, what concerns
//! fragmentation, and the checksum that covers these. The words are published like every record of the tables: whole,
//! and never changed in place. Over IPv6 the UDP checksum covers the packet, and is worth no template.

use std::net::IpAddr;
use std::sync::atomic::Ordering;

use net::address::Address;
use net::ethernet::{self, EtherType, Mac};
use net::{checksum, ipv4, udp};

use super::outer::{FLOOR_V4, HOPS};
use crate::api::NextHop;
use crate::sync::AtomicU64;
use crate::tables::low32;

/// Words of a template: the headers, and the sum of what does not change.
pub const WORDS: usize = 8;
/// Bytes of Ethernet, IPv4 and UDP headers.
pub const LEN: usize = ethernet::HEADER_LEN + ipv4::HEADER_LEN + udp::HEADER_LEN;
/// The word with the sum of the IPv4 header without type of service, lengths, identification, flags and checksum.
const SUM: usize = 6;

/// What differs from one datagram to the next.
#[derive(Clone, Copy, Debug)]
pub struct Datagram {
    /// Length of the inner packet in bytes; it must fit the path to the host.
    pub inner: u16,
    /// DSCP and ECN of the outer header.
    pub tos: u8,
    /// What fragments share, where a router may fragment it.
    pub id: u16,
}

/// Fills a template that no worker can reach yet, for datagrams from `from_port` to a host; false, and nothing written,
/// when they do not go over IPv4.
pub(crate) fn fill(words: &[AtomicU64], hop: &NextHop, to: (Address, u16), from_port: u16) -> bool {
    let (IpAddr::V4(source), true) = (hop.source, to.0.is_v4()) else {
        return false;
    };
    let ethernet = ethernet::Header {
        destination: Mac(hop.next_mac),
        source: Mac(hop.source_mac),
        ethertype: EtherType::IPV4,
    };
    let ip = ipv4::Build {
        source: IpAddr::V4(source).into(),
        destination: to.0,
        protocol: 17,
        ttl: HOPS,
        tos: 0,
        id: 0,
        dont_fragment: false,
        total_len: 0,
    };
    let mut ip = ip.to_bytes();
    (ip[10], ip[11]) = (0, 0);
    let mut bytes = [0; WORDS * 8];
    let headers = ethernet
        .to_bytes()
        .into_iter()
        .chain(ip)
        .chain(udp::header(from_port, to.1, 0, 0));
    for (into, byte) in bytes.iter_mut().zip(headers) {
        *into = byte;
    }
    for (word, bytes) in words.iter().zip(bytes.as_chunks::<8>().0) {
        word.store(u64::from_ne_bytes(*bytes), Ordering::Relaxed);
    }
    if let Some(word) = words.get(SUM) {
        word.store(u64::from(checksum::sum(&ip)), Ordering::Relaxed);
    }
    true
}

/// A worker's own copy of a template.
#[derive(Clone, Copy, Debug, Default)]
pub struct Template {
    bytes: [u64; LEN.div_ceil(8)],
    sum: u32,
}

impl Template {
    /// A copy of what is published.
    #[must_use]
    pub fn read(words: &[AtomicU64; WORDS]) -> Self {
        let mut bytes = [0; LEN.div_ceil(8)];
        for (to, word) in bytes.iter_mut().zip(words) {
            *to = word.load(Ordering::Relaxed);
        }
        let sum = low32(words[SUM].load(Ordering::Relaxed));
        Self { bytes, sum }
    }

    /// Writes the headers of a datagram.
    #[inline(always)]
    pub fn write(&self, head: &mut [u8; LEN], datagram: Datagram) {
        let (wide, tail) = head.as_chunks_mut::<8>();
        for (to, word) in wide.iter_mut().zip(self.bytes) {
            *to = word.to_ne_bytes();
        }
        // The last two bytes are the UDP checksum: none (RFC 768), for the inner packet has its own.
        tail.fill(0);
        let udp_len = datagram.inner.wrapping_add(8);
        let total_len = datagram.inner.wrapping_add(28);
        // As the general way does: what no path is believed to refuse may be fragmented, all else is not.
        let (id, flags) = if total_len > FLOOR_V4 {
            (0, ipv4::DONT_FRAGMENT)
        } else {
            (datagram.id, 0)
        };
        let sum = u64::from(self.sum)
            + u64::from(datagram.tos)
            + u64::from(total_len)
            + u64::from(id)
            + u64::from(flags);
        head[15] = datagram.tos;
        [head[16], head[17]] = total_len.to_be_bytes();
        [head[18], head[19]] = id.to_be_bytes();
        [head[20], head[21]] = flags.to_be_bytes();
        [head[24], head[25]] = (!checksum::fold(sum)).to_be_bytes();
        [head[38], head[39]] = udp_len.to_be_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use net::Headers;

    #[test]
    fn a_template_makes_right_headers() {
        let hop = NextHop {
            source: "192.0.2.1".parse().unwrap(),
            source_mac: [2, 0, 0, 0, 0, 1],
            next_mac: [2, 0, 0, 0, 0, 2],
            mtu: None,
        };
        let to = (Address::v4([192, 0, 2, 2]), 50104);
        let words: [AtomicU64; WORDS] = std::array::from_fn(|_| AtomicU64::new(u64::MAX));
        assert!(fill(&words, &hop, to, 50103));
        for (tos, inner, id) in [
            (0, 20, 7),
            (0xb9, 1450, 8),
            (3, 524, 0xffff),
            (0xff, 525, 1),
        ] {
            let datagram = Datagram { inner, tos, id };
            let mut frame = vec![0xee; LEN + usize::from(inner)];
            Template::read(&words).write(frame.first_chunk_mut().unwrap(), datagram);
            assert_eq!(frame[..14], [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0]);
            let parsed = Headers::parse(&frame[14..], frame.len() - 14).unwrap();
            assert_eq!(
                (parsed.tos, parsed.total_len),
                (tos, usize::from(inner) + 28)
            );
            assert_eq!(
                (parsed.source_port, parsed.destination_port),
                (50103, 50104)
            );
            assert_eq!(
                (parsed.source, parsed.destination),
                (Address::v4([192, 0, 2, 1]), to.0)
            );
            let ip = ipv4::Header::of(&frame[14..]).unwrap();
            let whole = inner > 524;
            assert_eq!(ip.fragment_word() == ipv4::DONT_FRAGMENT, whole);
            assert_eq!(ip.id(), if whole { 0 } else { id });
            let [a, b] = (inner + 8).to_be_bytes();
            assert_eq!(frame[38..42], [a, b, 0, 0]);
        }
        let six = NextHop {
            source: "2001:db8::1".parse().unwrap(),
            ..hop
        };
        assert!(!fill(&words, &six, to, 50103));
        assert!(!fill(&words, &hop, (Address(1 << 120), 50103), 50103));
    }
}
