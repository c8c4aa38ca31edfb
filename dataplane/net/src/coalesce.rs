//! Joining consecutive packets of a flow into one large packet, as GRO does.
//!
//! What crosses to a container as one large packet costs one trip through its stack instead of forty.
//! The join must be one that [`segment`](crate::segment) can undo: same flow, in sequence, headers equal
//! but for what a cut restores. Checksums of the pieces must have been found right
//! ([`finish::is_right`](crate::finish::is_right)), or be partial, before they are joined: the joined
//! packet's checksum is new.

use crate::ipv4;
use crate::packet::{Fragment, Headers, Protocol, Version};
use crate::rewrite::Misfit;
use crate::segment::{Sum, set_lengths, set_transport_checksum};
use crate::tcp;
use crate::udp;

/// The longest joined packet, IP header included, in bytes: what a length field can say.
pub const MAX_LEN: usize = 65_535;

/// What came of offering a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Offer {
    /// It is part of the joined packet now, and another may follow: append its payload.
    Joined,
    /// It is the joined packet's last part: append its payload, then let the packet go.
    JoinedLast,
    /// It does not follow: let the joined packet go, and begin again with this one.
    Refused,
}

/// How IPv4's identification runs through the packets joined.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ids {
    /// There is none (IPv6).
    None,
    /// One more each time; so without "don't fragment" it must be.
    Counting,
    /// "Don't fragment" is set, so it has no meaning (RFC 6864), and one packet does not show how it runs.
    Free,
    /// "Don't fragment" is set and it stays the same.
    Fixed,
}

/// A packet that grows.
///
/// ```
/// # fn udp(payload: u8) -> Vec<u8> { let mut p = vec![0x45, 0, 0, 36, 0, 7, 0x40, 0, 64, 17, 0, 0, 10, 18, 0, 2,
/// #   10, 18, 0, 3, 0, 1, 0, 2, 0, 16, 1, 1]; p.extend([payload; 8]);
/// #   let sum = !net::checksum::sum(&p[..20]); p[10..12].copy_from_slice(&sum.to_be_bytes()); p }
/// use net::{coalesce::{Joint, Offer}, packet::Headers};
/// let (mut a, b) = (udp(1), udp(2));
/// let (first, second) = (Headers::parse(&a, 36).unwrap(), Headers::parse(&b, 36).unwrap());
/// let mut joint = Joint::begin(&a, &first).unwrap();
/// assert_eq!(joint.offer(&a, &b, &second), Offer::Joined);
/// a.extend_from_slice(&b[28..]);
/// let joined = joint.write_header(&mut a).unwrap();
/// assert_eq!((joined.total_len, joint.size(), joint.count()), (44, 8, 2));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Joint {
    headers: Headers,
    next_sequence: u32,
    payload: usize,
    size: usize,
    count: usize,
    first_id: u16,
    ids: Ids,
    open: bool,
}

const JOINABLE: u8 = tcp::Flags::ACK.0 | tcp::Flags::PSH.0;

impl Joint {
    /// Begins with a packet; `None` when nothing can be joined to it: not TCP with ACK alone or UDP with
    /// a checksum, a fragment, IPv4 options or IPv6 extension headers, padding, no payload. A TCP packet
    /// with PSH is the end of what its sender had to say, and begins nothing.
    #[must_use]
    pub fn begin(l3: &[u8], headers: &Headers) -> Option<Joint> {
        if !joinable(l3, headers) || headers.tcp_flags.any(tcp::Flags::PSH) {
            return None;
        }
        let size = headers.payload_len();
        let next_sequence = match headers.protocol {
            Protocol::TCP => sequence(l3, headers)?.wrapping_add(u32::try_from(size).ok()?),
            _ => 0,
        };
        let (first_id, ids) = match headers.version {
            Version::V4 => {
                let ip = ipv4::Header::of(l3)?;
                let free = ip.fragment_word() & ipv4::DONT_FRAGMENT != 0;
                (ip.id(), if free { Ids::Free } else { Ids::Counting })
            }
            Version::V6 => (0, Ids::None),
        };
        Some(Joint {
            headers: *headers,
            next_sequence,
            payload: size,
            size,
            count: 1,
            first_id,
            ids,
            open: true,
        })
    }

    /// Bytes of payload in each part but the last: the size to cut by.
    #[inline]
    #[must_use]
    pub const fn size(&self) -> usize {
        self.size
    }

    /// How many packets were joined.
    #[inline]
    #[must_use]
    pub const fn count(&self) -> usize {
        self.count
    }

    /// Offers the next packet. `first` begins with the header of the packet that this one began with, as
    /// it was then; `l3` holds the offered packet's headers.
    #[inline]
    pub fn offer(&mut self, first: &[u8], l3: &[u8], headers: &Headers) -> Offer {
        match self.follow(first, l3, headers) {
            Some((ids, last)) => {
                let len = headers.payload_len();
                self.ids = ids;
                self.payload += len;
                self.count += 1;
                self.open = !last;
                let [a, b, c, d, ..] = (len as u64).to_le_bytes();
                self.next_sequence = self
                    .next_sequence
                    .wrapping_add(u32::from_le_bytes([a, b, c, d]));
                self.headers.tcp_flags = self.headers.tcp_flags.with(headers.tcp_flags);
                if last {
                    Offer::JoinedLast
                } else {
                    Offer::Joined
                }
            }
            None => Offer::Refused,
        }
    }

    /// Whether the packet follows: how identifications run with it, and whether it is the last.
    #[inline]
    fn follow(&self, first: &[u8], l3: &[u8], headers: &Headers) -> Option<(Ids, bool)> {
        let ours = &self.headers;
        let same_flow = headers.source_port == ours.source_port
            && headers.destination_port == ours.destination_port
            && headers.source == ours.source
            && headers.destination == ours.destination
            && headers.protocol == ours.protocol;
        let same_header = headers.header_len == ours.header_len
            && headers.ttl == ours.ttl
            && headers.tos == ours.tos;
        let len = headers.payload_len();
        let fits = len <= self.size && usize::from(ours.header_len) + self.payload + len <= MAX_LEN;
        if !self.open || !same_flow || !same_header || !fits || !joinable(l3, headers) {
            return None;
        }
        if ours.protocol == Protocol::TCP {
            let (a, b) = (l4(first, ours)?, l4(l3, headers)?);
            let (mine, theirs) = (tcp::Header::of(a)?, tcp::Header::of(b)?);
            let same = theirs.sequence() == self.next_sequence
                && mine.acknowledgement() == theirs.acknowledgement()
                && mine.window() == theirs.window()
                && mine.urgent() == theirs.urgent()
                && mine.reserved() == theirs.reserved()
                && a.get(tcp::HEADER_LEN..) == b.get(tcp::HEADER_LEN..);
            if !same {
                return None;
            }
        }
        let ids = self.follow_ip(first, l3)?;
        let last = len < self.size || headers.tcp_flags.any(tcp::Flags::PSH);
        Some((ids, last))
    }

    /// What the IP header has beyond what [`Headers`] holds: identification and "don't fragment", or
    /// the flow label.
    #[inline]
    fn follow_ip(&self, first: &[u8], l3: &[u8]) -> Option<Ids> {
        if self.ids == Ids::None {
            let same = crate::ipv6::Header::of(first)?.flow_label()
                == crate::ipv6::Header::of(l3)?.flow_label();
            return same.then_some(Ids::None);
        }
        let (mine, theirs) = (ipv4::Header::of(first)?, ipv4::Header::of(l3)?);
        if mine.fragment_word() != theirs.fragment_word() {
            return None;
        }
        let [.., high, low] = self.count.to_be_bytes();
        let counting = theirs.id() == self.first_id.wrapping_add(u16::from_be_bytes([high, low]));
        let fixed = theirs.id() == self.first_id;
        match self.ids {
            Ids::Counting | Ids::Free if counting => Some(Ids::Counting),
            Ids::Fixed | Ids::Free if fixed => Some(Ids::Fixed),
            _ => None,
        }
    }

    /// Makes `l3`, which begins with the first packet's header, the header of the whole: lengths, PSH if
    /// the last part had it, and a partial checksum. Returns its [`Headers`].
    ///
    /// # Errors
    /// [`Misfit`] when `l3` is shorter than that header.
    pub fn write_header(&self, l3: &mut [u8]) -> Result<Headers, Misfit> {
        let header = l3
            .get_mut(..usize::from(self.headers.header_len))
            .ok_or(Misfit)?;
        let mut headers = self.headers;
        headers.total_len = usize::from(headers.header_len) + self.payload;
        set_lengths(header, &headers, headers.total_len, 0)?;
        if headers.protocol == Protocol::TCP {
            let l4 = header
                .get_mut(usize::from(headers.l4_offset)..)
                .ok_or(Misfit)?;
            tcp::HeaderMut::of(l4)
                .ok_or(Misfit)?
                .set_flags(headers.tcp_flags);
        }
        set_transport_checksum(header, &headers, headers.total_len, Sum::Pseudo)?;
        Ok(headers)
    }
}

fn l4<'a>(l3: &'a [u8], headers: &Headers) -> Option<&'a [u8]> {
    l3.get(usize::from(headers.l4_offset)..usize::from(headers.header_len))
}

fn sequence(l3: &[u8], headers: &Headers) -> Option<u32> {
    Some(tcp::Header::of(l4(l3, headers)?)?.sequence())
}

/// Whether a packet may be part of a joined one at all.
#[inline]
fn joinable(l3: &[u8], headers: &Headers) -> bool {
    let plain_ip = match headers.version {
        Version::V4 => usize::from(headers.l4_offset) == ipv4::HEADER_LEN,
        Version::V6 => usize::from(headers.l4_offset) == crate::ipv6::HEADER_LEN,
    };
    let plain = plain_ip
        && headers.fragment == Fragment::None
        && headers.padding == 0
        && headers.payload_len() > 0;
    plain
        && match headers.protocol {
            Protocol::TCP => {
                headers.tcp_flags.without(tcp::Flags(JOINABLE)) == tcp::Flags(0)
                    && headers.tcp_flags.any(tcp::Flags::ACK)
            }
            // A datagram without a checksum would get one; one shorter than its packet would grow.
            Protocol::UDP => l4(l3, headers)
                .and_then(udp::Header::of)
                .is_some_and(|udp| {
                    udp.checksum() != 0 && usize::from(udp.len()) == headers.l4_len()
                }),
            _ => false,
        }
}
