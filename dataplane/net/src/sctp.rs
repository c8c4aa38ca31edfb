//! SCTP (RFC 9260): ports, and the CRC32c that no address changes.

/// Length in bytes of the common header.
pub const HEADER_LEN: usize = 12;

/// Where in the common header the checksum stands.
pub const CHECKSUM_OFFSET: usize = 8;

/// The Castagnoli polynomial, reflected (RFC 9260 appendix A).
const POLYNOMIAL: u32 = 0x82f6_3b78;

const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0u32;
    while byte < 256 {
        let mut value = byte;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 {
                (value >> 1) ^ POLYNOMIAL
            } else {
                value >> 1
            };
            bit += 1;
        }
        table[byte as usize] = value;
        byte += 1;
    }
    table
};

/// A CRC32c taken over data in pieces.
///
/// ```
/// let mut crc = net::sctp::Crc32c::new();
/// crc.add(b"1234");
/// crc.add(b"56789");
/// assert_eq!(crc.value(), 0xe306_9283);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Crc32c(u32);

impl Default for Crc32c {
    fn default() -> Crc32c {
        Crc32c::new()
    }
}

impl Crc32c {
    /// Of nothing yet.
    #[must_use]
    pub const fn new() -> Crc32c {
        Crc32c(u32::MAX)
    }

    /// Appends a piece.
    pub fn add(&mut self, piece: &[u8]) {
        for byte in piece {
            let [low, ..] = (self.0 ^ u32::from(*byte)).to_le_bytes();
            // A byte indexes a table of 256: the bound is known when this is compiled.
            self.0 = TABLE[usize::from(low)] ^ (self.0 >> 8);
        }
    }

    /// The CRC.
    #[must_use]
    pub const fn value(self) -> u32 {
        !self.0
    }

    /// The CRC as the checksum field holds it: least significant byte first (RFC 9260 appendix A).
    #[must_use]
    pub const fn to_wire(self) -> [u8; 4] {
        self.value().to_le_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_3720_appendix_b_4_vectors() {
        let crc = |data: &[u8]| {
            let mut crc = Crc32c::new();
            crc.add(data);
            crc.to_wire()
        };
        assert_eq!(crc(&[0; 32]), [0xaa, 0x36, 0x91, 0x8a]);
        assert_eq!(crc(&[0xff; 32]), [0x43, 0xab, 0xa8, 0x62]);
    }
}
