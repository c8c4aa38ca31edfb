//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! Three quantities are easily confused, so each has a form of its own:
//! a *sum* is the folded one's complement sum of big-endian 16-bit words (`u16`, host order);
//! a *finished* checksum field holds the complement of the sum of everything it covers;
//! a *partial* field holds the sum, not complemented, of the pseudo-header alone: whoever sends the
//! packet on (a NIC, the kernel) adds the rest. A change of an address moves the two kinds of field in
//! opposite directions, which is why [`Delta`] has a method for each.

use crate::address::Address;

/// Adds two folded sums, end-around carry included.
#[inline]
#[must_use]
pub const fn add(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum + carry as u16
}

/// Folds a wide sum of 16-bit words to 16 bits.
#[inline]
#[must_use]
#[allow(clippy::cast_possible_truncation)] // the upper half is what is wanted
pub const fn fold(sum: u64) -> u16 {
    // Adding a number to itself with its halves swapped leaves their sum, end-around carry included, in the upper half.
    let sum = (sum.wrapping_add(sum.rotate_left(32)) >> 32) as u32;
    (sum.wrapping_add(sum.rotate_left(16)) >> 16) as u16
}

/// The sum of `data`; an odd last byte counts as the high half of a word (RFC 1071 section 4.1).
///
/// ```
/// assert_eq!(net::checksum::sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
/// ```
#[inline]
#[must_use]
pub fn sum(data: &[u8]) -> u16 {
    // A one's complement sum does not depend on the byte order it is taken in (RFC 1071 section 2),
    // so wide native loads are summed and swapped once; four lanes let the compiler use vectors.
    let (wide, rest) = data.as_chunks::<16>();
    let mut lanes = [0u64; 4];
    for chunk in wide {
        let (words, _) = chunk.as_chunks::<4>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane += u64::from(u32::from_ne_bytes(*word));
        }
    }
    let mut total = 0;
    for lane in lanes {
        total += u64::from(fold(lane));
    }
    let (words, tail) = rest.as_chunks::<4>();
    for word in words {
        total += u64::from(u32::from_ne_bytes(*word));
    }
    let mut last = [0u8; 4];
    for (into, byte) in last.iter_mut().zip(tail) {
        *into = *byte;
    }
    total += u64::from(u32::from_ne_bytes(last));
    u16::from_be(fold(total))
}

/// A sum taken over data in pieces of any length, odd ones included.
///
/// ```
/// use net::checksum::{sum, Accumulator};
/// let mut pieces = Accumulator::new();
/// pieces.add(&[1, 2, 3]);
/// pieces.add(&[4, 5]);
/// assert_eq!(pieces.sum(), sum(&[1, 2, 3, 4, 5]));
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Accumulator {
    sum: u16,
    odd: bool,
}

impl Accumulator {
    /// Starts at zero, on a word boundary.
    #[inline]
    #[must_use]
    pub const fn new() -> Accumulator {
        Accumulator { sum: 0, odd: false }
    }

    /// Starts with a sum already known, such as a pseudo-header's.
    #[inline]
    #[must_use]
    pub const fn starting_with(sum: u16) -> Accumulator {
        Accumulator { sum, odd: false }
    }

    /// Appends a piece.
    #[inline]
    pub fn add(&mut self, piece: &[u8]) {
        let piece_sum = sum(piece);
        self.sum = add(
            self.sum,
            if self.odd {
                piece_sum.swap_bytes()
            } else {
                piece_sum
            },
        );
        self.odd ^= piece.len() % 2 == 1;
    }

    /// The folded sum of what was appended so far.
    #[inline]
    #[must_use]
    pub const fn sum(self) -> u16 {
        self.sum
    }
}

/// The sum of an address's words: two for IPv4, eight for IPv6.
#[inline]
#[must_use]
pub const fn address(address: Address) -> u16 {
    // A mapped address carries one extra word, 0xffff, which is the one's complement's other zero;
    // taking only the IPv4 words keeps the canonical value.
    let bits = if address.is_v4() {
        address.v4_bits() as u128
    } else {
        address.0
    };
    let (high, low) = ((bits >> 64) as u64, (bits & 0xffff_ffff_ffff_ffff) as u64);
    fold((high >> 32) + (high & 0xffff_ffff) + (low >> 32) + (low & 0xffff_ffff))
}

/// The sum of the pseudo-header (RFC 9293 section 3.1 for IPv4, RFC 8200 section 8.1 for IPv6).
/// `length` is the transport header and payload in bytes.
#[inline]
#[must_use]
pub const fn pseudo_header(
    source: Address,
    destination: Address,
    protocol: u8,
    length: usize,
) -> u16 {
    let fixed = protocol as u64 + (length as u64 & 0xffff_ffff);
    add(add(address(source), address(destination)), fold(fixed))
}

/// By how much a sum grows when some of the words it covers change.
///
/// ```
/// use net::checksum::{sum, Delta};
/// let (old, new) = ([0x12, 0x34, 0xab, 0xcd], [0x12, 0x34, 0x00, 0x01]);
/// let delta = Delta::u16(0xabcd, 0x0001);
/// assert_eq!(delta.finished(!sum(&old)), !sum(&new));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Delta(u16);

impl Delta {
    /// Nothing changes.
    pub const NONE: Delta = Delta(0);

    /// A 16-bit word changes, at an even offset from where the sum begins.
    #[inline]
    #[must_use]
    pub const fn u16(old: u16, new: u16) -> Delta {
        Delta(add(!old, new))
    }

    /// A 32-bit word changes.
    #[inline]
    #[must_use]
    pub const fn u32(old: u32, new: u32) -> Delta {
        Delta::u16(fold(old as u64), fold(new as u64))
    }

    /// An address changes, within one family.
    #[inline]
    #[must_use]
    pub const fn address(old: Address, new: Address) -> Delta {
        Delta::u16(address(old), address(new))
    }

    /// Both changes.
    #[inline]
    #[must_use]
    pub const fn and(self, other: Delta) -> Delta {
        Delta(add(self.0, other.0))
    }

    /// The same change as seen at an odd offset from where the sum begins.
    #[inline]
    #[must_use]
    pub const fn at_odd_offset(self) -> Delta {
        Delta(self.0.swap_bytes())
    }

    /// The delta in the form that [`Delta::from_bits`] takes back, for tables.
    #[inline]
    #[must_use]
    pub const fn to_bits(self) -> u16 {
        self.0
    }

    /// The delta that [`Delta::to_bits`] gave.
    #[inline]
    #[must_use]
    pub const fn from_bits(bits: u16) -> Delta {
        Delta(bits)
    }

    /// A finished checksum field after the change (RFC 1624 equation 3).
    #[inline]
    #[must_use]
    pub const fn finished(self, field: u16) -> u16 {
        !add(!field, self.0)
    }

    /// A finished UDP checksum field after the change: none stays none, and a zero is sent as
    /// all ones (RFC 768).
    #[inline]
    #[must_use]
    pub const fn finished_udp(self, field: u16) -> u16 {
        if field == 0 {
            0
        } else {
            udp_field(self.finished(field))
        }
    }

    /// A partial field after the change: it is the sum itself.
    #[inline]
    #[must_use]
    pub const fn partial(self, field: u16) -> u16 {
        add(field, self.0)
    }
}

/// A computed UDP checksum as it is sent: zero would mean "none" (RFC 768).
#[inline]
#[must_use]
pub const fn udp_field(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    fn slow(data: &[u8]) -> u16 {
        let mut total = 0u32;
        for pair in data.chunks(2) {
            total += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |b| u32::from(*b));
            total = (total & 0xffff) + (total >> 16);
        }
        u16::try_from(total).unwrap()
    }

    #[test]
    fn sum_of_every_length_equals_the_plain_one() {
        let data: Vec<u8> = (0..300u32)
            .map(|i| u8::try_from(i * 167 % 256).unwrap())
            .collect();
        for from in 0..4 {
            for to in from..data.len() {
                assert_eq!(sum(&data[from..to]), slow(&data[from..to]), "{from}..{to}");
            }
        }
        assert_eq!(sum(&[0xff; 65_535]), slow(&[0xff; 65_535]));
    }

    #[test]
    fn fold_carries_to_the_end() {
        for value in [
            0,
            1,
            0xffff,
            0x1_0000,
            0xffff_ffff,
            0x1_0000_0000,
            u64::MAX,
            u64::MAX - 1,
            0xffff_0000_ffff_ffff,
        ] {
            let mut plain = value;
            while plain > 0xffff {
                plain = (plain & 0xffff) + (plain >> 16);
            }
            assert_eq!(u64::from(fold(value)), plain, "{value:#x}");
        }
    }

    #[test]
    fn rfc_1624_section_4_example() {
        // HC = 0xDD2F, m = 0x5555, m' = 0x3285 gives HC' = 0x0000, not 0xFFFF.
        assert_eq!(Delta::u16(0x5555, 0x3285).finished(0xdd2f), 0x0000);
    }

    #[test]
    fn udp_checksum_of_zero() {
        let delta = Delta::u16(0x5555, 0x3285);
        assert_eq!(delta.finished_udp(0), 0);
        assert_eq!(delta.finished_udp(0xdd2f), 0xffff);
    }

    #[test]
    fn partial_and_finished_move_in_opposite_directions() {
        let delta = Delta::u32(0x0a12_0002, 0x0a1e_0001);
        let field = 0x1234;
        assert_eq!(delta.partial(field), !delta.finished(!field));
    }
}
