//! The IPv4 header (RFC 791) as a typed view.

use crate::address::Address;
use crate::checksum;

/// Length in bytes of a header without options.
pub const HEADER_LEN: usize = 20;

/// "Don't fragment", in the word that [`Header::fragment_word`] returns.
pub const DONT_FRAGMENT: u16 = 0x4000;
/// "More fragments".
pub const MORE_FRAGMENTS: u16 = 0x2000;
/// The fragment offset, in units of eight bytes.
pub const OFFSET_MASK: u16 = 0x1fff;

/// A header's fixed part, for reading.
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

    #[inline]
    const fn word(self, high: u8, low: u8) -> u16 {
        u16::from_be_bytes([high, low])
    }

    /// Version and header length in one byte, as on the wire; `0x45` without options.
    #[inline]
    #[must_use]
    pub const fn version_and_length(self) -> u8 {
        self.0[0]
    }

    /// Header length in bytes, options included.
    #[inline]
    #[must_use]
    pub const fn header_len(self) -> usize {
        (self.0[0] & 0x0f) as usize * 4
    }

    /// DSCP and ECN.
    #[inline]
    #[must_use]
    pub const fn tos(self) -> u8 {
        self.0[1]
    }

    /// Length of header and payload in bytes.
    #[inline]
    #[must_use]
    pub const fn total_len(self) -> u16 {
        self.word(self.0[2], self.0[3])
    }

    /// Identification, which fragments of one packet share.
    #[inline]
    #[must_use]
    pub const fn id(self) -> u16 {
        self.word(self.0[4], self.0[5])
    }

    /// Flags and fragment offset.
    #[inline]
    #[must_use]
    pub const fn fragment_word(self) -> u16 {
        self.word(self.0[6], self.0[7])
    }

    /// Time to live.
    #[inline]
    #[must_use]
    pub const fn ttl(self) -> u8 {
        self.0[8]
    }

    /// The payload's protocol number.
    #[inline]
    #[must_use]
    pub const fn protocol(self) -> u8 {
        self.0[9]
    }

    /// The header checksum.
    #[inline]
    #[must_use]
    pub const fn checksum(self) -> u16 {
        self.word(self.0[10], self.0[11])
    }

    /// Source address.
    #[inline]
    #[must_use]
    pub const fn source(self) -> Address {
        let [.., a, b, c, d, _, _, _, _] = *self.0;
        Address::v4([a, b, c, d])
    }

    /// Destination address.
    #[inline]
    #[must_use]
    pub const fn destination(self) -> Address {
        let [.., a, b, c, d] = *self.0;
        Address::v4([a, b, c, d])
    }

    /// The sum over these twenty bytes: `0xffff` when there are no options and the checksum is right.
    #[inline(always)]
    #[must_use]
    pub fn sum(self) -> u16 {
        let (words, _) = self.0.as_chunks::<4>();
        let mut total = 0u64;
        for word in words {
            total += u64::from(u32::from_ne_bytes(*word));
        }
        u16::from_be(checksum::fold(total))
    }
}

/// A header's fixed part, for writing. A setter changes its field alone, not the checksum.
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

    /// DSCP and ECN.
    #[inline]
    pub const fn set_tos(&mut self, tos: u8) {
        self.0[1] = tos;
    }

    /// Length of header and payload in bytes.
    #[inline]
    pub const fn set_total_len(&mut self, len: u16) {
        [self.0[2], self.0[3]] = len.to_be_bytes();
    }

    /// Identification.
    #[inline]
    pub const fn set_id(&mut self, id: u16) {
        [self.0[4], self.0[5]] = id.to_be_bytes();
    }

    /// Flags and fragment offset.
    #[inline]
    pub const fn set_fragment_word(&mut self, word: u16) {
        [self.0[6], self.0[7]] = word.to_be_bytes();
    }

    /// Time to live.
    #[inline]
    pub const fn set_ttl(&mut self, ttl: u8) {
        self.0[8] = ttl;
    }

    /// The header checksum.
    #[inline]
    pub const fn set_checksum(&mut self, checksum: u16) {
        [self.0[10], self.0[11]] = checksum.to_be_bytes();
    }

    /// Both addresses; of each the IPv4 part.
    #[inline]
    pub const fn set_addresses(&mut self, source: Address, destination: Address) {
        [self.0[12], self.0[13], self.0[14], self.0[15]] = source.v4_bits().to_be_bytes();
        [self.0[16], self.0[17], self.0[18], self.0[19]] = destination.v4_bits().to_be_bytes();
    }

    /// Computes the checksum of a header without options.
    #[inline]
    pub fn fill_checksum(&mut self) {
        self.set_checksum(0);
        let sum = self.get().sum();
        self.set_checksum(!sum);
    }
}

/// What a new header says; see [`Build::to_bytes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Build {
    /// Source address (its IPv4 part).
    pub source: Address,
    /// Destination address (its IPv4 part).
    pub destination: Address,
    /// The payload's protocol number.
    pub protocol: u8,
    /// Time to live.
    pub ttl: u8,
    /// DSCP and ECN.
    pub tos: u8,
    /// Identification; without meaning while "don't fragment" is set (RFC 6864).
    pub id: u16,
    /// Whether routers may not fragment the packet.
    pub dont_fragment: bool,
    /// Length of header and payload in bytes.
    pub total_len: u16,
}

impl Build {
    /// The header's bytes, without options, checksum filled in.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0u8; HEADER_LEN];
        bytes[0] = 0x45;
        bytes[6] = if self.dont_fragment { 0x40 } else { 0 };
        bytes[9] = self.protocol;
        let mut header = HeaderMut(&mut bytes);
        header.set_tos(self.tos);
        header.set_total_len(self.total_len);
        header.set_id(self.id);
        header.set_ttl(self.ttl);
        header.set_addresses(self.source, self.destination);
        header.fill_checksum();
        bytes
    }
}

/// Whether the options ask for a source route (RFC 791): such packets are refused (RFC 7126 section
/// 4.3), because the addresses in the header are then not those that the checksums cover.
#[cold]
pub(crate) fn has_source_route(options: &[u8]) -> bool {
    let mut rest = options;
    loop {
        match rest {
            [] | [0, ..] => return false,
            [1, after @ ..] => rest = after,
            [131 | 137, ..] => return true,
            [_, len, ..] if *len >= 2 => match rest.get(usize::from(*len)..) {
                Some(after) => rest = after,
                None => return false,
            },
            _ => return false,
        }
    }
}
