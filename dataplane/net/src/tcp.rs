//! The TCP header (RFC 9293 section 3.1) as a typed view.

/// Length in bytes of a header without options.
pub const HEADER_LEN: usize = 20;

/// The flag byte.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(transparent)]
pub struct Flags(pub u8);

impl Flags {
    /// No more data from the sender.
    pub const FIN: Flags = Flags(0x01);
    /// Opens a connection.
    pub const SYN: Flags = Flags(0x02);
    /// Ends a connection at once.
    pub const RST: Flags = Flags(0x04);
    /// Push.
    pub const PSH: Flags = Flags(0x08);
    /// The acknowledgement number counts.
    pub const ACK: Flags = Flags(0x10);
    /// The urgent pointer counts.
    pub const URG: Flags = Flags(0x20);
    /// ECN echo (RFC 3168).
    pub const ECE: Flags = Flags(0x40);
    /// Congestion window reduced (RFC 3168).
    pub const CWR: Flags = Flags(0x80);

    /// Whether any of `flags` is set.
    #[inline]
    #[must_use]
    pub const fn any(self, flags: Flags) -> bool {
        self.0 & flags.0 != 0
    }

    /// These and those.
    #[inline]
    #[must_use]
    pub const fn with(self, flags: Flags) -> Flags {
        Flags(self.0 | flags.0)
    }

    /// These without those.
    #[inline]
    #[must_use]
    pub const fn without(self, flags: Flags) -> Flags {
        Flags(self.0 & !flags.0)
    }
}

/// A header's fixed part, for reading.
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

    /// Sequence number of the first payload byte (of the SYN, when it is set).
    #[inline]
    #[must_use]
    pub const fn sequence(self) -> u32 {
        u32::from_be_bytes([self.0[4], self.0[5], self.0[6], self.0[7]])
    }

    /// Acknowledgement number.
    #[inline]
    #[must_use]
    pub const fn acknowledgement(self) -> u32 {
        u32::from_be_bytes([self.0[8], self.0[9], self.0[10], self.0[11]])
    }

    /// Header length in bytes, options included, as the data offset says.
    #[inline]
    #[must_use]
    pub const fn header_len(self) -> usize {
        (self.0[12] >> 4) as usize * 4
    }

    /// The four reserved bits below the data offset.
    #[inline]
    #[must_use]
    pub const fn reserved(self) -> u8 {
        self.0[12] & 0x0f
    }

    /// The flags.
    #[inline]
    #[must_use]
    pub const fn flags(self) -> Flags {
        Flags(self.0[13])
    }

    /// The window, not scaled.
    #[inline]
    #[must_use]
    pub const fn window(self) -> u16 {
        u16::from_be_bytes([self.0[14], self.0[15]])
    }

    /// The checksum field.
    #[inline]
    #[must_use]
    pub const fn checksum(self) -> u16 {
        u16::from_be_bytes([self.0[16], self.0[17]])
    }

    /// The urgent pointer.
    #[inline]
    #[must_use]
    pub const fn urgent(self) -> u16 {
        u16::from_be_bytes([self.0[18], self.0[19]])
    }
}

/// A header's fixed part, for writing. A setter changes its field alone, not the checksum.
#[derive(Debug)]
#[repr(transparent)]
pub struct HeaderMut<'a>(&'a mut [u8; HEADER_LEN]);

impl<'a> HeaderMut<'a> {
    /// The view of the first bytes of `l4`; `None` when there are fewer than [`HEADER_LEN`].
    #[inline]
    #[must_use]
    pub const fn of(l4: &'a mut [u8]) -> Option<HeaderMut<'a>> {
        match l4.first_chunk_mut() {
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

    /// Sequence number.
    #[inline]
    pub const fn set_sequence(&mut self, sequence: u32) {
        [self.0[4], self.0[5], self.0[6], self.0[7]] = sequence.to_be_bytes();
    }

    /// The flags.
    #[inline]
    pub const fn set_flags(&mut self, flags: Flags) {
        self.0[13] = flags.0;
    }

    /// The checksum field.
    #[inline]
    pub const fn set_checksum(&mut self, checksum: u16) {
        [self.0[16], self.0[17]] = checksum.to_be_bytes();
    }
}

/// What a header without options says; see [`Build::to_bytes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Build {
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledgement: u32,
    /// The flags.
    pub flags: Flags,
    /// The window, not scaled.
    pub window: u16,
}

impl Build {
    /// The header's bytes; the checksum is zero.
    #[must_use]
    pub const fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let [a, b] = self.source_port.to_be_bytes();
        let [c, d] = self.destination_port.to_be_bytes();
        let [s0, s1, s2, s3] = self.sequence.to_be_bytes();
        let [a0, a1, a2, a3] = self.acknowledgement.to_be_bytes();
        let [w0, w1] = self.window.to_be_bytes();
        [
            a,
            b,
            c,
            d,
            s0,
            s1,
            s2,
            s3,
            a0,
            a1,
            a2,
            a3,
            0x50,
            self.flags.0,
            w0,
            w1,
            0,
            0,
            0,
            0,
        ]
    }
}
