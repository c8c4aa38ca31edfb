//! The IPv6 header (RFC 8200) as a typed view, and the walk along its extension headers.

use crate::address::Address;
use crate::packet::{Fragment, ParseError};

/// Length of the fixed header in bytes.
pub const HEADER_LEN: usize = 40;

/// How many extension headers are walked. Each costs work before the packet is known, so a longer
/// chain is refused (RFC 8504 section 5.3 allows a limit and names 8).
pub const EXTENSION_LIMIT: usize = 8;

/// Hop-by-hop options.
pub const HOP_BY_HOP: u8 = 0;
/// Routing header.
pub const ROUTING: u8 = 43;
/// Fragment header.
pub const FRAGMENT: u8 = 44;
/// Nothing follows.
pub const NO_NEXT_HEADER: u8 = 59;
/// Destination options.
pub const DESTINATION_OPTIONS: u8 = 60;

/// The fixed header, for reading.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct Header<'a>(&'a [u8; HEADER_LEN]);

impl<'a> Header<'a> {
    /// The view of the first bytes of `l3`; `None` when there are fewer than [`HEADER_LEN`]. The
    /// content is not judged: that is [`Headers::parse`](crate::packet::Headers::parse)'s part.
    #[inline]
    #[must_use]
    pub const fn of(l3: &'a [u8]) -> Option<Header<'a>> {
        match l3.first_chunk() {
            Some(bytes) => Some(Header(bytes)),
            None => None,
        }
    }

    /// The traffic class: DSCP and ECN.
    #[inline]
    #[must_use]
    pub const fn traffic_class(self) -> u8 {
        (self.0[0] << 4) | (self.0[1] >> 4)
    }

    /// The flow label, 20 bits.
    #[inline]
    #[must_use]
    pub const fn flow_label(self) -> u32 {
        u32::from_be_bytes([0, self.0[1] & 0x0f, self.0[2], self.0[3]])
    }

    /// Length in bytes of what follows this header, extension headers included.
    #[inline]
    #[must_use]
    pub const fn payload_len(self) -> u16 {
        u16::from_be_bytes([self.0[4], self.0[5]])
    }

    /// The number of the header that follows.
    #[inline]
    #[must_use]
    pub const fn next_header(self) -> u8 {
        self.0[6]
    }

    /// Hop limit.
    #[inline]
    #[must_use]
    pub const fn hop_limit(self) -> u8 {
        self.0[7]
    }

    /// Source address.
    #[inline]
    #[must_use]
    pub const fn source(self) -> Address {
        let [
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            a,
            b,
            c,
            d,
            e,
            f,
            g,
            h,
            i,
            j,
            k,
            l,
            m,
            n,
            o,
            p,
            ..,
        ] = *self.0;
        Address::v6([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p])
    }

    /// Destination address.
    #[inline]
    #[must_use]
    pub const fn destination(self) -> Address {
        let [.., a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *self.0;
        Address::v6([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p])
    }
}

/// The fixed header, for writing.
#[derive(Debug)]
#[repr(transparent)]
pub struct HeaderMut<'a>(&'a mut [u8; HEADER_LEN]);

impl<'a> HeaderMut<'a> {
    /// The view of the first bytes of `l3`; `None` when there are fewer than [`HEADER_LEN`].
    #[inline]
    #[must_use]
    pub const fn of(l3: &'a mut [u8]) -> Option<HeaderMut<'a>> {
        match l3.first_chunk_mut() {
            Some(bytes) => Some(HeaderMut(bytes)),
            None => None,
        }
    }

    /// The same header for reading.
    #[inline]
    #[must_use]
    pub const fn get(&self) -> Header<'_> {
        Header(self.0)
    }

    /// The traffic class: DSCP and ECN.
    #[inline]
    pub const fn set_traffic_class(&mut self, class: u8) {
        self.0[0] = 0x60 | (class >> 4);
        self.0[1] = (class << 4) | (self.0[1] & 0x0f);
    }

    /// Length in bytes of what follows this header.
    #[inline]
    pub const fn set_payload_len(&mut self, len: u16) {
        [self.0[4], self.0[5]] = len.to_be_bytes();
    }

    /// The number of the header that follows.
    #[inline]
    pub const fn set_next_header(&mut self, next: u8) {
        self.0[6] = next;
    }

    /// Hop limit.
    #[inline]
    pub const fn set_hop_limit(&mut self, limit: u8) {
        self.0[7] = limit;
    }

    /// Both addresses.
    #[inline]
    pub fn set_addresses(&mut self, source: Address, destination: Address) {
        if let Some((_, addresses)) = self.0.split_last_chunk_mut::<32>()
            && let (from, to) = addresses.split_at_mut(16)
            && let (Some(from), Some(to)) = (from.first_chunk_mut(), to.first_chunk_mut())
        {
            *from = source.octets();
            *to = destination.octets();
        }
    }
}

/// What a new header says; see [`Build::to_bytes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Build {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// The number of the header that follows.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// Flow label; the low 20 bits count.
    pub flow_label: u32,
    /// Length in bytes of what follows this header.
    pub payload_len: u16,
}

impl Build {
    /// The header's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0u8; HEADER_LEN];
        [bytes[0], bytes[1], bytes[2], bytes[3]] = (self.flow_label & 0x000f_ffff).to_be_bytes();
        bytes[6] = self.next_header;
        let mut header = HeaderMut(&mut bytes);
        header.set_traffic_class(self.traffic_class);
        header.set_payload_len(self.payload_len);
        header.set_hop_limit(self.hop_limit);
        header.set_addresses(self.source, self.destination);
        bytes
    }
}

/// Where a chain of extension headers leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Chain {
    pub protocol: u8,
    /// L3 offset of the first byte behind the chain.
    pub l4_offset: usize,
    pub fragment: Fragment,
}

/// Whether `next` is one of the headers that [`walk`] passes.
#[inline]
pub(crate) const fn is_extension(next: u8) -> bool {
    matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS)
}

/// Walks the extension headers (RFC 8200 section 4) of the packet in `l3`, of which `end` bytes are the
/// packet's own. A chain that the packet cuts short is an error; one that only `l3` cuts short is
/// [`ParseError::NotContiguous`].
#[cold]
pub(crate) fn walk(l3: &[u8], end: usize, first: u8) -> Result<Chain, ParseError> {
    let mut next = first;
    let mut offset = HEADER_LEN;
    let mut fragment = Fragment::None;
    for position in 0..=EXTENSION_LIMIT {
        if !is_extension(next) {
            return Ok(Chain {
                protocol: next,
                l4_offset: offset,
                fragment,
            });
        }
        if position == EXTENSION_LIMIT {
            break;
        }
        if end < offset + 8 {
            return Err(ParseError::ExtensionHeader);
        }
        let Some(&[following, len, a, segments_left, c, d, e, f]) =
            l3.get(offset..).and_then(|rest| rest.first_chunk::<8>())
        else {
            return Err(ParseError::NotContiguous { needed: offset + 8 });
        };
        let length = match next {
            FRAGMENT => {
                if fragment != Fragment::None {
                    return Err(ParseError::Fragment);
                }
                let word = u16::from_be_bytes([a, segments_left]);
                fragment = Fragment::new(
                    u32::from_be_bytes([c, d, e, f]),
                    word & 0xfff8,
                    word & 1 == 1,
                    end - offset - 8,
                )?;
                8
            }
            // RFC 8200 section 4.1: directly behind the fixed header or nowhere.
            HOP_BY_HOP if position > 0 => return Err(ParseError::ExtensionHeader),
            // RFC 5095; and any route still to go makes the checksum cover another destination.
            ROUTING if segments_left != 0 => return Err(ParseError::SourceRoute),
            _ => (usize::from(len) + 1) * 8,
        };
        offset += length;
        if end < offset {
            return Err(ParseError::ExtensionHeader);
        }
        next = following;
        if let Fragment::Later { .. } = fragment {
            return Ok(Chain {
                protocol: next,
                l4_offset: offset,
                fragment,
            });
        }
    }
    Err(ParseError::ExtensionLimit)
}
