//! The UDP header (RFC 768) as a typed view.

/// Length of the header in bytes.
pub const HEADER_LEN: usize = 8;

/// A header, for reading.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct Header<'a>(&'a [u8; HEADER_LEN]);

impl<'a> Header<'a> {
    /// The view of the first bytes of `l4`; `None` when there are fewer than [`HEADER_LEN`].
    #[inline]
    #[must_use]
    pub const fn of(l4: &'a [u8]) -> Option<Header<'a>> {
        match l4.first_chunk() {
            Some(bytes) => Some(Header(bytes)),
            None => None,
        }
    }

    /// Source port.
    #[inline]
    #[must_use]
    pub const fn source_port(self) -> u16 {
        u16::from_be_bytes([self.0[0], self.0[1]])
    }

    /// Destination port.
    #[inline]
    #[must_use]
    pub const fn destination_port(self) -> u16 {
        u16::from_be_bytes([self.0[2], self.0[3]])
    }

    /// Length of header and payload in bytes.
    #[inline]
    #[must_use]
    pub const fn len(self) -> u16 {
        u16::from_be_bytes([self.0[4], self.0[5]])
    }

    /// Whether the length field covers no payload.
    #[inline]
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.len() as usize <= HEADER_LEN
    }

    /// The checksum field; finished, `0` means none.
    #[inline]
    #[must_use]
    pub const fn checksum(self) -> u16 {
        u16::from_be_bytes([self.0[6], self.0[7]])
    }
}

/// A header's bytes.
#[inline]
#[must_use]
pub const fn header(
    source_port: u16,
    destination_port: u16,
    len: u16,
    checksum: u16,
) -> [u8; HEADER_LEN] {
    let [a, b] = source_port.to_be_bytes();
    let [c, d] = destination_port.to_be_bytes();
    let [e, f] = len.to_be_bytes();
    let [g, h] = checksum.to_be_bytes();
    [a, b, c, d, e, f, g, h]
}
