//! Ethernet II framing (IEEE 802.3 clause 3), without VLAN tags: the links are ours.

use core::fmt;

/// Length of the header in bytes.
pub const HEADER_LEN: usize = 14;

/// A 48-bit link-layer address, as on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
#[repr(transparent)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Every station on the link.
    pub const BROADCAST: Mac = Mac([0xff; 6]);

    /// Whether this is a group address (multicast or broadcast).
    #[inline]
    #[must_use]
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 == 1
    }

    /// The group address that carries an IPv6 multicast address (RFC 2464 section 7).
    #[inline]
    #[must_use]
    pub const fn of_ipv6_multicast(group: crate::address::Address) -> Mac {
        let [.., a, b, c, d] = group.octets();
        Mac([0x33, 0x33, a, b, c, d])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a frame carries (host order).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(transparent)]
pub struct EtherType(pub u16);

impl EtherType {
    /// IPv4.
    pub const IPV4: EtherType = EtherType(0x0800);
    /// ARP.
    pub const ARP: EtherType = EtherType(0x0806);
    /// An 802.1Q tag follows.
    pub const VLAN: EtherType = EtherType(0x8100);
    /// IPv6.
    pub const IPV6: EtherType = EtherType(0x86dd);
}

/// A frame's header.
///
/// ```
/// use net::ethernet::{EtherType, Header, Mac, HEADER_LEN};
/// let header = Header { destination: Mac::BROADCAST, source: Mac([2, 0, 0, 0, 0, 1]), ethertype: EtherType::ARP };
/// let mut frame = [0; 60];
/// assert_eq!(header.write(&mut frame), Some(HEADER_LEN));
/// assert_eq!(Header::parse(&frame), Some(header));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// To whom.
    pub destination: Mac,
    /// From whom.
    pub source: Mac,
    /// What follows.
    pub ethertype: EtherType,
}

impl Header {
    /// Reads the header; `None` when `frame` is shorter than [`HEADER_LEN`].
    #[inline]
    #[must_use]
    pub const fn parse(frame: &[u8]) -> Option<Header> {
        let Some(&[a, b, c, d, e, f, g, h, i, j, k, l, high, low]) =
            frame.first_chunk::<HEADER_LEN>()
        else {
            return None;
        };
        Some(Header {
            destination: Mac([a, b, c, d, e, f]),
            source: Mac([g, h, i, j, k, l]),
            ethertype: EtherType(u16::from_be_bytes([high, low])),
        })
    }

    /// The header's bytes.
    #[inline]
    #[must_use]
    pub const fn to_bytes(self) -> [u8; HEADER_LEN] {
        let [a, b, c, d, e, f] = self.destination.0;
        let [g, h, i, j, k, l] = self.source.0;
        let [high, low] = self.ethertype.0.to_be_bytes();
        [a, b, c, d, e, f, g, h, i, j, k, l, high, low]
    }

    /// Writes the header to the start of `frame`: its length, or `None` without room.
    #[inline]
    pub fn write(self, frame: &mut [u8]) -> Option<usize> {
        *frame.first_chunk_mut::<HEADER_LEN>()? = self.to_bytes();
        Some(HEADER_LEN)
    }
}
